"""What calls of NumPy's functions return, without the lists and tuples around it."""

import numpy as np

from tapegrad import Value


def parts(result):
    """All arrays and numbers that a call returns, as plain arrays."""
    if isinstance(result, list | tuple):
        return [array for part in result for array in parts(part)]
    return [np.asarray(result.data if isinstance(result, Value) else result)]

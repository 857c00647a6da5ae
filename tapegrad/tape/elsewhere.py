"""Numbers of a tape, read in a thread that it does not belong to.

Values are for one thread. But who hands a model to another process often has it pickled by a thread of his own: so do
`multiprocessing.Pool` and `concurrent.futures`.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def given_numbers(tape: Any, slot: int, count: int) -> np.ndarray:
    """A copy of the numbers of a leaf, of one axis, in any thread. Raises StaleValueError if it is gone."""
    for start, numbers in tape._data:
        if start == slot:
            return np.array(numbers, tape.dtype).reshape(-1)
    # The tape replaces these two together, and no thread comes between two assignments, nor between these two lines.
    addresses, values = tape.addresses, tape.values
    at = addresses.place(slot)
    return np.array(values[at : at + count])

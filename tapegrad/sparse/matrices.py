"""SciPy's sparse arrays. They are imported when one is first made, because importing takes a tenth of a second."""

from __future__ import annotations

from typing import Any

import numpy as np


def csr_array(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]) -> Any:
    """A `scipy.sparse.csr_array` of these arrays."""
    import scipy.sparse

    return scipy.sparse.csr_array((data, indices, indptr), shape=shape)

"""`scipy.sparse` with Values: matrices whose entries are Values, and `linalg.spsolve`.

Products of SciPy's own matrices with Values (`A @ v`, `v @ A`, `A.T @ v`) work as they are. What stands here makes
matrices of Values under SciPy's names: `csr_array`, `csc_array`, `coo_array`, `diags_array`, those that end in
`_matrix`, and `diags`. With plain numbers they are SciPy's, and so is all else.

>>> import numpy as np
>>> import tapegrad as tg
>>> from tapegrad.scipy import sparse
>>> def f(k):
...     A = sparse.diags_array([k, -2.0 * k, k], offsets=[-1, 0, 1], shape=(4, 4))
...     return np.sum(A @ np.array([0.0, 1.0, 1.0, 0.0]))
>>> tg.grad(f)(3.0)
0.0
"""

from __future__ import annotations

from typing import Any

from scipy import sparse as _sparse

from tapegrad.scipy.sparse import linalg
from tapegrad.scipy.sparse.arrays import (
    SparseValue,
    coo_array,
    coo_matrix,
    csc_array,
    csc_matrix,
    csr_array,
    csr_matrix,
    diags,
    diags_array,
)

__all__ = [
    "SparseValue", "coo_array", "coo_matrix", "csc_array", "csc_matrix", "csr_array", "csr_matrix", "diags",
    "diags_array", "linalg",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(_sparse, name)

"""`scipy.sparse.linalg` with derivatives: systems of linear equations.

>>> import numpy as np
>>> import scipy.sparse
>>> import tapegrad as tg
>>> from tapegrad.scipy import sparse
>>> A = scipy.sparse.csc_array([[2.0, 0.0], [1.0, 4.0]])
>>> tg.grad(lambda b: np.sum(sparse.linalg.spsolve(A, b)))(np.ones(2))
array([0.375, 0.25 ])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse as _sparse
from scipy.sparse import linalg as _linalg

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls.arrays import ArrayFunction, arrays_of, family
from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions.registry import holds_value
from tapegrad.functions.sparse_products import entries_of, is_sparse, times
from tapegrad.scipy.sparse.arrays import SparseValue

__all__ = ["spsolve"]

_REFUSED = ("cg", "gmres", "bicgstab", "minres", "splu", "spilu", "factorized", "spsolve_triangular", "lsqr", "lsmr")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    found = getattr(_linalg, name)
    if name not in _REFUSED:
        return found

    def call(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(x, SparseValue) or holds_value(x) for x in (*args, *kwargs.values())):
            raise UnsupportedError(f"scipy.sparse.linalg.{name} is not supported on a Value: write spsolve(A, b)")
        return found(*args, **kwargs)

    return call


class _Places:
    """Where the entries of a square matrix stand. It remembers the factors of the matrix that it was last asked for."""

    def __init__(self, row: np.ndarray, col: np.ndarray, n: int) -> None:
        self.row, self.col, self.shape = row, col, (n, n)
        self._last: tuple[np.ndarray, Any] | None = None

    def __reduce__(self) -> Any:
        return _Places, (self.row, self.col, self.shape[0])

    def solved(self, data: np.ndarray, b: np.ndarray, trans: bool) -> np.ndarray:
        """x with a x = b, or a' x = b. Raises LinAlgError."""
        dtype = np.result_type(data, b)
        if not b.size:
            return np.zeros(b.shape, dtype)
        if not (np.isfinite(data).all() and np.isfinite(b).all()):
            return np.full(b.shape, np.nan, dtype)
        last = self._last
        if last is None or last[0].dtype != dtype or not np.array_equal(last[0], data):
            matrix = _sparse.csc_array((data.astype(dtype), (self.row, self.col)), self.shape)
            try:
                factors = _linalg.splu(matrix)
            except RuntimeError:
                raise np.linalg.LinAlgError("spsolve: the matrix is singular") from None
            last = self._last = (data.astype(dtype), factors)
        return np.asarray(last[1].solve(np.ascontiguousarray(b, dtype), "T" if trans else "N"))

    def product(self, data: Any, x: Any, trans: bool) -> Any:
        """a x, or a' x, of numbers or Values."""
        row, col = (self.col, self.row) if trans else (self.row, self.col)
        if holds_values((data, x)):
            return times(data, row, col, self.shape, x)
        return _sparse.coo_array((data, (row, col)), self.shape) @ x


def _solver(places: _Places, trans: bool) -> ArrayFunction:
    """The function (data, b) -> x with a x = b, or a' x = b."""

    def vjp(w: Any, x: Any, data: Any, b: Any) -> Any:
        # g = a'^-1 w; of an element a_ij the gradient is -g_i x_j.
        g = _solver(places, not trans)(data, w)
        row, col = (places.col, places.row) if trans else (places.row, places.col)
        by_entry = -g[row] * x[col]
        return np.sum(by_entry, axis=1) if b.ndim == 2 else by_entry, g

    def jvp(t: Any, x: Any, data: Any, b: Any) -> Any:
        right = 0.0 if t[1] is None else t[1]
        return _solver(places, trans)(data, right if t[0] is None else right - places.product(t[0], x, trans))

    def shapes(data: Any, b: Any) -> Any:
        return b

    return ArrayFunction(("spsolve", places, trans), lambda data, b: places.solved(data, b, trans), shapes, vjp, jvp)


# For pickled calls alone: what is kept by a family keeps places and factors.
family("spsolve")(_solver)


def spsolve(A: Any, b: Any, permc_spec: str | None = None, use_umfpack: bool = True) -> Any:
    """x with A x = b, for a sparse matrix A, of SciPy's or with Values as its entries, and b of shape (n,) or (n, k).

    By an LU factorization, which derivatives of all orders use again. As in SciPy, b of shape (n, 1) gives (n,); the
    last two arguments change nothing. Raises ShapeError, UnsupportedError for a b that is sparse, LinAlgError for a
    singular matrix.

    >>> import tapegrad as tg
    >>> from tapegrad.scipy.sparse import csr_array
    >>> A = lambda x: csr_array((tg.stack([x, 2.0]), [0, 1], [0, 1, 2]))
    >>> tg.grad(lambda x: spsolve(A(x), np.ones(2))[0])(4.0)
    -0.0625
    """
    if not isinstance(A, SparseValue) and not holds_value(b):
        return _linalg.spsolve(A, b, permc_spec, use_umfpack)
    if not isinstance(A, SparseValue) and not is_sparse(A):
        raise UnsupportedError(f"spsolve: A is a sparse matrix, not {type(A).__name__}: write np.linalg.solve(A, b)")
    if is_sparse(b) or isinstance(b, SparseValue):
        raise UnsupportedError("spsolve: b is an array where there are Values, not a sparse matrix: write b.toarray()")
    data, row, col = (A.data, A.row, A.col) if isinstance(A, SparseValue) else entries_of(A, "spsolve")
    data, b = arrays_of("spsolve", data, b)
    n = A.shape[0]
    if A.shape != (n, n) or b.ndim not in (1, 2) or b.shape[0] != n:
        raise ShapeError(f"spsolve: a matrix of shape {A.shape} and a right side of shape {b.shape} do not fit")
    b = b.reshape(n) if b.shape[1:] == (1,) else b
    return _solver(_Places(row, col, n), False)(data, b)

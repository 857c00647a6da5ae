"""Sparse matrices with Values as their entries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from scipy import sparse as _sparse

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions import stack
from tapegrad.functions.registry import holds_value
from tapegrad.functions.sparse_products import entries_of, is_sparse, times
from tapegrad.value import Value, as_value, contiguous, structured, tape_of

__all__ = [
    "SparseValue", "coo_array", "coo_matrix", "csc_array", "csc_matrix", "csr_array", "csr_matrix", "diags",
    "diags_array",
]  # fmt: skip


class SparseValue:
    """A sparse matrix whose entries are Values, at places that are plain integers; entries at equal places add up.

    There are products by @ with vectors, matrices and sparse matrices, of Values or plain numbers; + and - with sparse
    matrices; multiples by scalars; `T`, `dot`, `sum`, `diagonal`, `toarray`. Elements are not read or written singly:
    compute with `data`.

    Attributes:
        data: the entries, a Value of shape (nnz,).
        row, col: where they stand.
        shape: the numbers of rows and of columns.
    """

    # NumPy's arrays leave operators to this class, and sparse matrices of SciPy's do so too.
    __array_ufunc__ = None
    __array_priority__ = 1001.0

    def __init__(self, data: Value, row: np.ndarray, col: np.ndarray, shape: tuple[int, int]) -> None:
        self.data, self.row, self.col, self.shape = data, row, col, shape

    ndim = 2
    nnz = property(lambda self: len(self.row), doc="The number of entries.")
    dtype = property(lambda self: self.data.dtype, doc="float64 or float32.")
    T = property(lambda self: SparseValue(self.data, self.col, self.row, self.shape[::-1]), doc="The transpose.")

    def __repr__(self) -> str:
        return f"<SparseValue of shape {self.shape} with {self.nnz} entries of {self.dtype}>"

    def transpose(self) -> SparseValue:
        """The transpose."""
        return self.T

    def tocoo(self) -> SparseValue:
        """Itself: there is one form."""
        return self

    tocsr = tocsc = tocoo

    # Products

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, SparseValue) or is_sparse(other):
            return _product(self, _sparse_value(other, self))
        return times(self.data, self.row, self.col, self.shape, _dense(other))

    def __rmatmul__(self, other: Any) -> Any:
        if is_sparse(other):
            return _product(_sparse_value(other, self), self)
        other = _dense(other)
        if other.ndim not in (1, 2) or other.shape[-1] != self.shape[0]:
            raise ShapeError(f"matmul: shapes {other.shape} and {self.shape}, of a sparse matrix, do not fit")
        return (self.T @ other.T).transpose()

    def dot(self, other: Any) -> Any:
        """The product with a vector, a matrix or a sparse matrix; a multiple, of a scalar."""
        return self * other if not is_sparse(other) and np.ndim(other) == 0 else self @ other

    def __mul__(self, other: Any) -> SparseValue:
        if isinstance(other, SparseValue) or is_sparse(other) or np.ndim(other):
            raise UnsupportedError(
                "multiply: a sparse matrix of Values is multiplied by a scalar: write A @ x for the product, or "
                "compute with the entries, A.data"
            )
        return SparseValue(self.data * other, self.row, self.col, self.shape)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> SparseValue:
        return self * (1.0 / other)

    def __neg__(self) -> SparseValue:
        return SparseValue(-self.data, self.row, self.col, self.shape)

    # Sums

    def __add__(self, other: Any) -> SparseValue:
        if not isinstance(other, SparseValue) and not is_sparse(other):
            raise UnsupportedError("add: to a sparse matrix of Values another sparse one is added: write A.toarray()")
        other = _sparse_value(other, self)
        if other.shape != self.shape:
            raise ShapeError(f"add: sparse matrices of shapes {self.shape} and {other.shape} do not fit")
        row, col = (np.concatenate(pair) for pair in ((self.row, other.row), (self.col, other.col)))
        return SparseValue(cast(Any, np.concatenate)([self.data, other.data]), row, col, self.shape)

    __radd__ = __add__

    def __sub__(self, other: Any) -> SparseValue:
        return self + -other

    def __rsub__(self, other: Any) -> SparseValue:
        return -self + other

    def sum(self, axis: int | None = None, dtype: None = None, out: None = None) -> Value:
        """The sum of all elements, or of each column (axis 0) or row (axis 1)."""
        if axis is None:
            return np.sum(self.data)
        if axis not in (0, 1, -1, -2):
            raise ShapeError(f"sum: a matrix has the axes 0 and 1, not {axis}")
        a = self.T if axis % 2 == 0 else self
        return a @ np.ones(a.shape[1], self.dtype)

    def diagonal(self, k: int = 0) -> Value:
        """The elements (i, i + k)."""
        m, n = self.shape
        length = max(min(m + min(k, 0), n - max(k, 0)), 0)
        on = np.flatnonzero(self.col - self.row == k)
        places = self.row[on] + min(k, 0)
        return _added(self.data[on], places, length)

    def toarray(self) -> Value:
        """All elements, (m, n)."""
        m, n = self.shape
        return _added(self.data, self.row * n + self.col, m * n).reshape(m, n)

    todense = toarray


def _dense(x: Any) -> Any:
    return x if isinstance(x, Value) else stack(x) if holds_value(x) else np.asarray(x)


def _added(data: Value, places: np.ndarray, size: int) -> Value:
    """Zeros, to which numbers are added at places."""
    if not len(places):
        return as_value(np.zeros(size, data.dtype), data._tape, "sparse")
    index = contiguous(as_value(places, data._tape, "sparse"))
    return structured("scatter", data._tape, (size,), [contiguous(data), index], [1, size, 1, len(places)])


def _sparse_value(a: Any, like: SparseValue) -> SparseValue:
    if isinstance(a, SparseValue):
        return a
    data, row, col = entries_of(a, "a sparse matrix")
    return SparseValue(as_value(data, like.data._tape, "sparse"), row.astype(np.int64), col.astype(np.int64), a.shape)


def _product(a: SparseValue, b: SparseValue) -> SparseValue:
    """The sum, over pairs of entries of which one ends where the other begins, of their products."""
    if a.shape[1] != b.shape[0]:
        raise ShapeError(f"matmul: sparse matrices of shapes {a.shape} and {b.shape} do not fit")
    order = np.argsort(b.row, kind="stable")
    counts = np.bincount(b.row, minlength=b.shape[0])
    begins, partners = np.cumsum(counts) - counts, counts[a.col]
    left = np.repeat(np.arange(a.nnz), partners)
    within = np.arange(len(left)) - np.repeat(np.cumsum(partners) - partners, partners)
    right = order[begins[a.col[left]] + within]
    return SparseValue(a.data[left] * b.data[right], a.row[left], b.col[right], (a.shape[0], b.shape[1]))


# Making them


def _as_scipy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: call SciPy's function of that name where there is no Value among the arguments."""

    @functools.wraps(function)
    def either(first: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(first, SparseValue) or holds_value(first):
            return function(first, *args, **kwargs)
        return getattr(_sparse, function.__name__)(first, *args, **kwargs)

    return either


def _integers(what: str, x: Any) -> np.ndarray:
    found = np.asarray(x)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ShapeError(f"{what}: places are one axis of integers, not {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def _made(what: str, arg1: Any, shape: Any, compressed: str) -> SparseValue:
    if isinstance(arg1, SparseValue):
        return arg1
    if not isinstance(arg1, tuple) or len(arg1) not in (2, 3) or (len(arg1) == 3 and not compressed):
        raise UnsupportedError(
            f"{what}: a sparse matrix of Values is made of (data, (row, col))"
            + (" or (data, indices, indptr)" if compressed else "")
            + "; a Value of two axes is multiplied as it is"
        )
    data = arg1[0] if isinstance(arg1[0], Value) else stack(arg1[0])
    if len(arg1) == 2:
        row, col = (_integers(what, x) for x in arg1[1])
    else:
        within, ends = _integers(what, arg1[1]), _integers(what, arg1[2])
        if not len(ends) or ends[0] or ends[-1] != len(within) or np.any(np.diff(ends) < 0):
            raise ShapeError(f"{what}: indptr must ascend from 0 to the number of entries, {len(within)}")
        lines = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        row, col = (lines, within) if compressed == "row" else (within, lines)
        if shape is None:
            other = int(within.max()) + 1 if len(within) else 0
            shape = (len(ends) - 1, other) if compressed == "row" else (other, len(ends) - 1)
        elif shape[0 if compressed == "row" else 1] != len(ends) - 1:
            raise ShapeError(f"{what}: an indptr of {len(ends)} numbers does not fit the shape {tuple(shape)}")
    if data.ndim != 1 or not len(data) == len(row) == len(col):
        raise ShapeError(f"{what}: data of shape {data.shape} for {len(row)} rows and {len(col)} columns")
    if shape is None:
        shape = tuple(int(x.max()) + 1 if len(x) else 0 for x in (row, col))
    if len(shape) != 2:
        raise ShapeError(f"{what}: a sparse matrix of Values has two axes, not the shape {tuple(shape)}")
    m, n = (int(k) for k in shape)
    if len(row) and (min(row.min(), col.min()) < 0 or row.max() >= m or col.max() >= n):
        raise IndexError(f"{what}: a place lies outside of the shape {(m, n)}")
    return SparseValue(data, row, col, (m, n))


@_as_scipy
def csr_array(arg1: Any, shape: Any = None) -> SparseValue:
    """A matrix of (data, indices, indptr), row by row, or of (data, (row, col)).

    Raises ShapeError, IndexError, UnsupportedError for what else SciPy takes.

    >>> import tapegrad as tg
    >>> csr_array((tg.Value([1.0, 2.0]), [0, 1], [0, 1, 2])) @ np.array([3.0, 4.0])
    Value([3., 8.])
    """
    return _made("csr_array", arg1, shape, "row")


@_as_scipy
def csc_array(arg1: Any, shape: Any = None) -> SparseValue:
    """A matrix of (data, indices, indptr), column by column, or of (data, (row, col)). Raises as `csr_array`."""
    return _made("csc_array", arg1, shape, "column")


@_as_scipy
def coo_array(arg1: Any, shape: Any = None) -> SparseValue:
    """A matrix of (data, (row, col)). Raises as `csr_array`.

    >>> import tapegrad as tg
    >>> coo_array((tg.Value([1.0, 2.0]), ([0, 0], [1, 1]))).toarray()
    Value([[0., 3.]])
    """
    return _made("coo_array", arg1, shape, "")


@_as_scipy
def csr_matrix(arg1: Any, shape: Any = None) -> SparseValue:
    """As `csr_array`. Of Values `*` is no product of matrices: write @."""
    return csr_array(arg1, shape)


@_as_scipy
def csc_matrix(arg1: Any, shape: Any = None) -> SparseValue:
    """As `csc_array`. Of Values `*` is no product of matrices: write @."""
    return csc_array(arg1, shape)


@_as_scipy
def coo_matrix(arg1: Any, shape: Any = None) -> SparseValue:
    """As `coo_array`. Of Values `*` is no product of matrices: write @."""
    return coo_array(arg1, shape)


@_as_scipy
def diags_array(diagonals: Any, /, *, offsets: Any = 0, shape: Any = None, format: Any = None) -> SparseValue:
    """A matrix of its diagonals: `offsets` k says which, that of elements (i, i + k).

    A single number, or a Value without axes, fills its diagonal, where a shape is given. Raises ShapeError.

    >>> import tapegrad as tg
    >>> diags_array([tg.Value([1.0, 2.0]), 5.0], offsets=[0, 1], shape=(2, 2)).toarray()
    Value([[1., 5.],
           [0., 2.]])
    """
    if np.ndim(offsets) == 0:
        offsets, diagonals = [offsets], [diagonals] if np.ndim(diagonals) == 1 else diagonals
    parts = [x if isinstance(x, Value) else stack(x) if holds_value(x) else np.asarray(x, float) for x in diagonals]
    offsets = _integers("diags_array", offsets)
    if len(parts) != len(offsets) or len(set(offsets.tolist())) != len(offsets):
        raise ShapeError(f"diags_array: {len(parts)} diagonals want as many different offsets, not {offsets.tolist()}")
    if shape is None:
        n = max(np.size(x) + abs(int(k)) for x, k in zip(parts, offsets, strict=True))
        shape = (n, n)
    (m, n), tape, data, places = shape, tape_of(parts), [], []
    for x, k in zip(parts, offsets.tolist(), strict=True):
        length = min(m + min(k, 0), n - max(k, 0))
        if length <= 0:
            raise ShapeError(f"diags_array: there is no diagonal {k} in the shape {(m, n)}")
        if np.size(x) != length and np.size(x) != 1:
            raise ShapeError(f"diags_array: diagonal {k} of a matrix {(m, n)} has {length} elements, not {np.size(x)}")
        x = as_value(x, tape, "diags_array").reshape(-1)
        data.append(x if x.size == length else np.broadcast_to(x, (length,)))
        places.append(np.arange(length))
    row = np.concatenate([i - min(k, 0) for i, k in zip(places, offsets.tolist(), strict=True)])
    col = np.concatenate([i + max(k, 0) for i, k in zip(places, offsets.tolist(), strict=True)])
    return SparseValue(cast(Any, np.concatenate)(data), row, col, (m, n))


@_as_scipy
def diags(diagonals: Any, offsets: Any = 0, shape: Any = None, format: Any = None) -> SparseValue:
    """As `diags_array`."""
    return diags_array(diagonals, offsets=offsets, shape=shape)

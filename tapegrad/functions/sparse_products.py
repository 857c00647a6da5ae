"""Products with sparse matrices: elements are gathered, multiplied and added up on the tape.

So no more than the entries that there are is computed, derivatives of every kind follow, and the patterns of sparse
Jacobians and Hessians are exact.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.value import Value, as_value, contiguous, gather, structured


def is_sparse(x: Any) -> bool:
    """Whether something is a sparse matrix or array of SciPy's, which is not imported for this."""
    if isinstance(x, Value | np.ndarray):
        return False
    sparse: Any = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(x))


def entries_of(a: Any, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of a sparse matrix of SciPy's, their rows and their columns; equal places are added up.

    Raises ShapeError for other than two axes, UnsupportedError for complex numbers.
    """
    if a.ndim != 2:
        raise ShapeError(f"{what}: a sparse array has two axes where it meets a Value, not shape {a.shape}")
    entries = a.tocoo()
    data = entries.data
    if data.dtype.kind not in "fiub":
        raise UnsupportedError(f"{what}: a sparse matrix of {data.dtype} cannot be used with a Value")
    return data if data.dtype.kind == "f" else data.astype(float), entries.row, entries.col


def times(entries: Any, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], v: Any) -> Value:
    """A sparse matrix times a vector (n,) or columns (n, k); entries or v, or both, are Values.

    Raises ShapeError.
    """
    (m, n), like = shape, v if isinstance(v, Value) else entries
    tape = like._tape
    v, entries = as_value(v, tape, "matmul"), as_value(entries, tape, "matmul")
    if v.ndim not in (1, 2) or v.shape[0] != n:
        raise ShapeError(
            f"matmul: a sparse matrix of shape {shape} is multiplied by a vector of {n} numbers or a matrix of {n} "
            f"rows, not by shape {v.shape}"
        )
    rest, count = v.shape[1:], len(rows)
    inner = math.prod(rest)
    if not count or not m * inner:
        return as_value(np.zeros((m, *rest), v.dtype), tape, "matmul")
    if v.dtype == np.float32 and m > 2**24:
        raise ShapeError(f"matmul: a float32 tape cannot index {m} rows: numbers above 2**24 are not exact there")
    picked = gather(v, as_value(columns, tape, "matmul"), 1, n, inner, (count, *rest))
    products = contiguous(picked * (entries.reshape(count, 1) if rest else entries))
    places = contiguous(as_value(rows, tape, "matmul"))
    return structured("scatter", tape, (m, *rest), [products, places], [1, m, inner, count])


def product(x: Any, y: Any) -> Value:
    """x @ y, where one of them is a sparse matrix of SciPy's, and the other a Value of one or two axes."""
    if is_sparse(x):
        data, rows, columns = entries_of(x, "matmul")
        return times(data, rows, columns, x.shape, y)
    data, rows, columns = entries_of(y, "matmul")
    if x.ndim not in (1, 2) or x.shape[-1] != y.shape[0]:
        raise ShapeError(f"matmul: shapes {x.shape} and {y.shape}, of a sparse matrix, do not fit")
    return times(data, columns, rows, y.shape[::-1], x.transpose()).transpose()

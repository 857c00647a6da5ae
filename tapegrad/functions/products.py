"""Products of matrices and vectors."""

from __future__ import annotations

import builtins
import math
from typing import Any, cast

import numpy as np

from tapegrad.errors import ShapeError
from tapegrad.functions.reductions import sum
from tapegrad.functions.registry import implements, is_flags, numbers_for_numbers, only_default
from tapegrad.functions.shapes import broadcast_to, diagonal
from tapegrad.functions.sparse_products import is_sparse
from tapegrad.functions.sparse_products import product as sparse_product
from tapegrad.layout import broadcast_shapes, merge_axes
from tapegrad.tape import Tape
from tapegrad.value import Value, as_value, contiguous, structured, tape_of


def _matrix(x: Value) -> tuple[Value, int, int]:
    """A matrix, or a batch of them, that BLAS can read: (value, stored transposed, leading dimension)."""
    layout = x._layout_or_scalar()
    (m, n), (row, column) = layout.shape[-2:], layout.strides[-2:]
    top = 2**31 - 1
    if (column == 1 or n == 1) and (row >= n or m == 1) and 0 <= row <= top:
        return x, 0, builtins.max(row, n, 1)
    if (row == 1 or m == 1) and (column >= m or n == 1) and 0 <= column <= top:
        return x, 1, builtins.max(column, m, 1)
    return contiguous(x), 0, builtins.max(n, 1)


@implements(np.matmul)
def matmul(x: Any, y: Any) -> Value:
    """The matrix product, batched and broadcast over leading axes as in NumPy; one operand may be sparse, of SciPy."""
    if is_sparse(x) or is_sparse(y):
        return sparse_product(x, y)
    tape = tape_of((x, y))
    x, y = as_value(x, tape, "matmul"), as_value(y, tape, "matmul")
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(f"matmul: shapes {x.shape} and {y.shape} do not fit (the inner lengths must be equal)")
    a = x[None, :] if x.ndim == 1 else x
    b = y[:, None] if y.ndim == 1 else y
    product = _multiply_matrices(tape, a, b)
    if x.ndim == 1:
        product = product[..., 0, :]
    product = product[..., 0] if y.ndim == 1 else product
    # Of truth values, whether there is a pair that both hold, not how many.
    return product != 0.0 if is_flags(x) and is_flags(y) else product


def _multiply_matrices(tape: Tape, a: Value, b: Value) -> Value:
    (m, k), n = a.shape[-2:], b.shape[-1]
    if a.ndim > 2 and b.ndim == 2:
        # One product of all the rows is faster than one product a batch.
        rows = contiguous(a).reshape(math.prod(a.shape[:-1]), k)
        return _multiply_matrices(tape, rows, b).reshape(*a.shape[:-1], n)
    batch = broadcast_shapes([a.shape[:-2], b.shape[:-2]], f"matmul of {a.shape} and {b.shape}")
    a, ta, lda = _matrix(a)
    b, tb, ldb = _matrix(b)
    count = math.prod(batch)
    a, sa = _batched(a, batch)
    b, sb = _batched(b, batch)
    if sa is None:
        a, ta, lda, sa = _side_by_side(a, ta)
    if sb is None:
        b, tb, ldb, sb = _side_by_side(b, tb)
    return structured("matmul", tape, (*batch, m, n), [a, b], [count, m, k, n, sa, ta, lda, sb, tb, ldb])


def _side_by_side(x: Value, transposed: int) -> tuple[Value, int, int, int]:
    """A copy of a batch of matrices that lie one after the other, each stored as it was, so that rows are copied and
    not single numbers; (value, stored transposed, leading dimension, batch stride)."""
    m, n = x.shape[-2:]
    if transposed:
        rows = contiguous(cast(Value, np.swapaxes(x, -1, -2)))
        return cast(Value, np.swapaxes(rows, -1, -2)), 1, builtins.max(m, 1), m * n
    return contiguous(x), 0, builtins.max(n, 1), m * n


@numbers_for_numbers
def affine(x: Any, w: Any, b: Any) -> Value:
    """x W + b in one operation: x of shape (..., k), W of (k, n), b of (n,).

    Raises ShapeError for other shapes.

    >>> affine(Value([1.0, 2.0]), np.eye(2), np.ones(2)).numpy()
    array([2., 3.])
    """
    tape = tape_of((x, w, b))
    x, w, b = (as_value(operand, tape, "affine") for operand in (x, w, b))
    if not x.ndim or w.shape != (*x.shape[-1:], *b.shape) or b.ndim != 1:
        raise ShapeError(f"affine: x of shape {x.shape}, W of {w.shape} and b of {b.shape} do not fit")
    (k, n), m = w.shape, math.prod(x.shape[:-1])
    rows, tx, ldx = _matrix(x if x.ndim == 2 else contiguous(x).reshape(m, k))
    w, tw, ldw = _matrix(w)
    z = structured("affine", tape, (m, n), [rows, w, contiguous(b)], [1, m, k, n, 0, tx, ldx, 0, tw, ldw])
    return z if x.ndim == 2 else z.reshape(*x.shape[:-1], n)


def _batched(x: Value, batch: tuple[int, ...]) -> tuple[Value, int | None]:
    """The value broadcast over the batch, and its one batch stride, or None where there is none."""
    full = broadcast_to(x, (*batch, *x.shape[-2:]))
    shape, (strides,) = merge_axes(batch, [full._layout_or_scalar().strides[:-2]])
    return full, strides[0] if len(shape) == 1 else None


@implements(np.dot)
def dot(x: Any, y: Any, out: Any = None) -> Value:
    """The product as `np.dot` has it: scalars multiply, else the last axis meets the last but one."""
    only_default("dot", out=out)
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    if np.ndim(y) <= 2:
        return matmul(x, y)
    return cast(Value, np.tensordot(x, y, axes=((np.ndim(x) - 1,), (np.ndim(y) - 2,))))


@implements(np.vdot)
def vdot(x: Any, y: Any) -> Value:
    """The inner product of the flattened operands."""
    return matmul(np.ravel(x), np.ravel(y))


@implements(np.inner)
def inner(x: Any, y: Any) -> Value:
    """The product over the last axes."""
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    return cast(Value, np.tensordot(x, y, axes=((np.ndim(x) - 1,), (np.ndim(y) - 1,))))


@implements(np.outer)
def outer(x: Any, y: Any, out: Any = None) -> Value:
    """x_i y_j of the flattened operands."""
    only_default("outer", out=out)
    return cast(Value, np.ravel(x)[:, None] * np.ravel(y)[None, :])


@implements(np.trace)
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Value:
    """The sum of a diagonal."""
    only_default("trace", dtype=dtype, out=out)
    return sum(diagonal(x, offset, axis1, axis2), -1)

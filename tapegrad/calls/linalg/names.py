"""Norms, powers, products and traces by their names in `np.linalg`: put together of other functions."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.calls.arrays import arrays_of, require
from tapegrad.calls.linalg.basic import eye, matrices, square
from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.functions import einsum, products, shapes
from tapegrad.functions.reductions import reduce
from tapegrad.functions.registry import implements, keeps, to_value
from tapegrad.layout import normalize_axes, normalize_axis


def _in_order(axis: Any, ndim: int, what: str) -> list[int]:
    given = range(ndim) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    return [normalize_axis(i, ndim, what) for i in given]


# Norms


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: Any = False) -> Any:
    """Norms of vectors (one axis) and matrices (two), every `ord` of NumPy; derivative 0 at 0 for the 2-norm and "fro".

    Those of matrices are by singular values for 2, -2 and "nuc". Where a largest or smallest is taken and several are,
    it is that of the operations max, min and svdvals. Raises ShapeError for more than two axes, OperationError for an
    `ord` that does not exist.
    """
    (x,) = arrays_of("np.linalg.norm", x)
    count, keep = len(normalize_axes(axis, x.ndim, "norm")), keeps(keepdims)
    if count > 2 and (axis is not None or ord is not None):
        raise ShapeError(f"norm: a norm is over one axis or two, not over {count} (axis={axis!r}, shape {x.shape})")
    if ord is None or (count == 1 and ord == 2) or (count == 2 and ord in ("fro", "f")):
        return reduce("norm", to_value(x, "norm"), axis, keep)
    if count == 1:
        return _norm_of_vectors(x, ord, axis, keep)
    require(count == 2, f"norm: ord={ord!r} is for vectors and matrices, not for shape {x.shape}")
    return _norm_of_matrices(x, ord, _in_order(axis, x.ndim, "norm"), keep)


def _norm_of_vectors(x: Any, ord: Any, axis: Any, keep: bool) -> Any:
    if isinstance(ord, str):
        raise OperationError(f"norm: there is no norm {ord!r} of vectors; there are numbers, np.inf and -np.inf")
    if ord == 0:
        return np.sum(np.where(x != 0.0, 1.0, 0.0), axis, keepdims=keep)
    size = np.abs(x)
    if abs(ord) == np.inf:
        return (np.max if ord > 0 else np.min)(size, axis, keepdims=keep)
    return np.sum(size, axis, keepdims=keep) if ord == 1 else np.sum(size**ord, axis, keepdims=keep) ** (1.0 / ord)


def _norm_of_matrices(x: Any, ord: Any, axes: Sequence[int], keep: bool) -> Any:
    rows, columns = axes
    if ord in (2, -2, "nuc"):
        # Of no singular values there is a sum, but no largest one.
        full = ord == "nuc" or (x.shape[rows] and x.shape[columns])
        require(full, f"norm {ord!r} of matrices without elements, shape {x.shape}")
        s = np.linalg.svdvals(np.moveaxis(x, (rows, columns), (-2, -1)))
        found = np.sum(s, -1) if ord == "nuc" else s[..., 0 if ord == 2 else -1]
    elif not isinstance(ord, str) and abs(ord) in (1, np.inf):
        summed, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
        sums = np.sum(np.abs(x), summed, keepdims=True)
        found = (np.max if ord > 0 else np.min)(np.moveaxis(sums, (summed, kept), (-2, -1)), (-2, -1))
    else:
        raise OperationError(
            f"norm: there is no norm {ord!r} of matrices; there are 'fro', 'nuc', 1, -1, 2, -2, np.inf and -np.inf"
        )
    return found.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keep else found


@implements(np.linalg.vector_norm)
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """The norm of vectors along one axis, or of all elements over several axes or all."""
    (x,) = arrays_of("np.linalg.vector_norm", x)
    axes = _in_order(axis, x.ndim, "vector_norm")
    rest = [i for i in range(x.ndim) if i not in axes]
    line = x.transpose((*rest, *axes)).reshape(*(x.shape[i] for i in rest), math.prod(x.shape[i] for i in axes))
    found = norm(line, ord, -1)
    return found.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keepdims else found


@implements(np.linalg.matrix_norm)
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """The norm of matrices, over the last two axes."""
    return norm(matrices("np.linalg.matrix_norm", x), ord, (-2, -1), keepdims)


# Powers and products


@implements(np.linalg.matrix_power)
def matrix_power(a: Any, n: Any) -> Any:
    """a @ a @ ... of square matrices, n times, by squaring; of the inverse for negative n. Raises ShapeError."""
    a = square("np.linalg.matrix_power", a)
    if int(n) != n:
        raise OperationError(f"np.linalg.matrix_power: the exponent must be a whole number, not {n!r}")
    n = int(n)
    if n == 0:
        # Chosen, not added to a product with zero, which would be NaN for infinite elements.
        return np.where(np.ones(a.shape, bool), eye(a.shape[-1], a.dtype), a)
    base, left, found = (np.linalg.inv(a) if n < 0 else a), abs(n), None
    while True:
        if left & 1:
            found = base if found is None else np.matmul(found, base)
        left >>= 1
        if not left:
            return found
        base = np.matmul(base, base)


@implements(np.linalg.multi_dot)
def multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Any:
    """The product of matrices in the order that takes fewest multiplications; the first and last may be vectors."""
    if out is not None:
        raise UnsupportedError("np.linalg.multi_dot with out= is not supported on a Value")
    given = arrays_of("np.linalg.multi_dot", *arrays)
    sizes = [x.shape for x in given]
    require(len(given) > 1, f"np.linalg.multi_dot takes two arrays or more, not {len(given)}")
    require(
        all(x.ndim == 2 or (x.ndim == 1 and i in (0, len(given) - 1)) for i, x in enumerate(given))
        and all(x.shape[-1] == y.shape[0] for x, y in itertools.pairwise(given)),
        f"np.linalg.multi_dot: shapes {sizes} do not fit (matrices, vectors at the ends, inner lengths equal)",
    )
    letters = string.ascii_letters[: len(given) + 1]
    terms = [letters[i : i + 2] for i in range(len(given))]
    terms[0] = terms[0][2 - given[0].ndim :]
    terms[-1] = terms[-1][: given[-1].ndim]
    ends = (letters[0] if given[0].ndim == 2 else "") + (letters[-1] if given[-1].ndim == 2 else "")
    return np.einsum(",".join(terms) + "->" + ends, *given, optimize="optimal")


@implements(np.linalg.tensorsolve)
def tensorsolve(a: Any, b: Any, axes: Any = None) -> Any:
    """x with tensordot(a, x, x.ndim) = b. Raises ShapeError where a is not square when seen as a matrix."""
    a, b = arrays_of("np.linalg.tensorsolve", a, b)
    if axes is not None:
        own = _in_order(axes, a.ndim, "tensorsolve")
        a = a.transpose((*(i for i in range(a.ndim) if i not in own), *own))
    shape = a.shape[b.ndim :]
    n = math.prod(shape)
    require(
        math.prod(a.shape) == n * n and b.size == n,
        f"np.linalg.tensorsolve: a of shape {a.shape} is not square for b of shape {b.shape}",
    )
    return np.linalg.solve(a.reshape(n, n), b.reshape(n)).reshape(shape)


@implements(np.linalg.tensorinv)
def tensorinv(a: Any, ind: int = 2) -> Any:
    """The inverse with respect to tensordot(a, x, ind). Raises ShapeError where a is no square matrix, so seen."""
    (a,) = arrays_of("np.linalg.tensorinv", a)
    if ind <= 0:
        raise OperationError(f"np.linalg.tensorinv: ind must be positive, not {ind}")
    n = math.prod(a.shape[ind:])
    require(math.prod(a.shape[:ind]) == n, f"np.linalg.tensorinv: a of shape {a.shape} is not square with ind={ind}")
    return np.linalg.inv(a.reshape(n, n)).reshape((*a.shape[ind:], *a.shape[:ind]))


@implements(np.linalg.vecdot)
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Inner products along an axis, the others broadcast."""
    x1, x2 = arrays_of("np.linalg.vecdot", x1, x2)
    require(
        x1.ndim and x2.ndim and x1.shape[axis] == x2.shape[axis],
        f"np.linalg.vecdot: shapes {x1.shape} and {x2.shape} differ in length along axis {axis}",
    )
    return np.sum(np.moveaxis(x1, axis, -1) * np.moveaxis(x2, axis, -1), -1)


@implements(np.linalg.cross)
def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Vector products of vectors of three elements along an axis, the others broadcast."""
    x1, x2 = arrays_of("np.linalg.cross", x1, x2)
    require(
        x1.ndim and x2.ndim and x1.shape[axis] == 3 and x2.shape[axis] == 3,
        f"np.linalg.cross takes vectors of three elements along axis {axis}, not shapes {x1.shape} and {x2.shape}",
    )
    a, b = np.moveaxis(x1, axis, 0), np.moveaxis(x2, axis, 0)
    return np.stack([a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))], axis)


@implements(np.linalg.outer)
def outer(x1: Any, x2: Any, /) -> Any:
    """x_i y_j of two vectors."""
    x1, x2 = arrays_of("np.linalg.outer", x1, x2)
    require(x1.ndim == x2.ndim == 1, f"np.linalg.outer takes vectors, not shapes {x1.shape} and {x2.shape}")
    return products.outer(x1, x2)


@implements(np.linalg.matmul)
def matmul(x1: Any, x2: Any, /) -> Any:
    """As np.matmul."""
    return np.matmul(x1, x2)


@implements(np.linalg.tensordot)
def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    """As np.tensordot."""
    return einsum.tensordot(x1, x2, axes)


@implements(np.linalg.diagonal)
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """Diagonals of matrices, over the last two axes."""
    return shapes.diagonal(matrices("np.linalg.diagonal", x), offset, -2, -1)


@implements(np.linalg.trace)
def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """Sums of the diagonals of matrices, over the last two axes."""
    return products.trace(matrices("np.linalg.trace", x), offset, -2, -1, dtype=dtype)


@implements(np.matrix_transpose, np.linalg.matrix_transpose)
def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged."""
    return matrices("np.linalg.matrix_transpose", x).swapaxes(-1, -2)

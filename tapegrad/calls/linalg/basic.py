"""Solving, inverses, determinants, and the factor of Cholesky, of one matrix or of many.

The rules are those of M. B. Giles, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation (2008); that of Cholesky is also in I. Murray, Differentiation of the Cholesky decomposition (2016).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, arrays_of, family, require
from tapegrad.functions.registry import implements
from tapegrad.layout import broadcast_shapes
from tapegrad.ops import BY_NAME
from tapegrad.storage import own_named_tuple
from tapegrad.value import Value


def transposed(a: Any) -> Any:
    """The last two axes exchanged."""
    return a.swapaxes(-1, -2)


def by_matrix(x: Any) -> Any:
    """Numbers, one a matrix, with two axes more, so that they can be multiplied with the matrices."""
    return x.reshape(*x.shape, 1, 1)


def square(what: str, a: Any) -> Any:
    """An argument as square matrices. Raises ShapeError."""
    (a,) = arrays_of(what, a)
    require(
        a.ndim >= 2 and a.shape[-1] == a.shape[-2],
        f"{what} takes square matrices, the last two axes of a being equally long, not shape {a.shape}",
    )
    return a


def matrices(what: str, a: Any) -> Any:
    """An argument as matrices. Raises ShapeError."""
    (a,) = arrays_of(what, a)
    require(a.ndim >= 2, f"{what} takes matrices, of two axes or more, not shape {a.shape}")
    return a


def sum_of(*terms: Any) -> Any:
    """The sum of those terms that are not None."""
    return functools.reduce(lambda x, y: x + y, [t for t in terms if t is not None])


@functools.cache
def eye(n: int, dtype: Any) -> Any:
    """The identity, in a dtype. It is shared, so nobody may change it."""
    made = np.eye(n, dtype=dtype)
    made.flags.writeable = False
    return made


@functools.cache
def lower_half(n: int, dtype: Any) -> Any:
    """Ones below the diagonal, halves on it, zeros above: this of a symmetric matrix makes it, with its transpose."""
    made = np.tril(np.ones((n, n), dtype)) - np.eye(n, dtype=dtype) * dtype.type(0.5)
    made.flags.writeable = False
    return made


# Triangular matrices


@functools.cache
def _trsm(dtype: Any) -> Any:
    # Importing SciPy's linear algebra takes longer than a first gradient.
    from scipy.linalg import blas

    return blas.strsm if dtype == np.float32 else blas.dtrsm


# Many triangular matrices of at most so many rows are solved by one call of NumPy.
_SMALL = 16


def _solved_small(a: Any, b: Any, lower: bool, trans: bool, unit: bool) -> Any:
    # NumPy solves them as general matrices. Of upper triangular ones it finds that nothing is to be eliminated, so that
    # only the substitution is left; lower ones become upper ones when the order of rows and of columns is turned round.
    part = (np.tril if lower else np.triu)(a, (-1 if lower else 1) if unit else 0)
    part = part + eye(a.shape[-1], a.dtype) if unit else part
    part = transposed(part) if trans else part
    if lower == trans:
        return np.linalg.solve(part, b)
    return np.linalg.solve(part[..., ::-1, ::-1], b[..., ::-1, :])[..., ::-1, :]


def _solved_triangular(a: Any, b: Any, lower: bool, trans: bool, unit: bool, strict: bool) -> Any:
    dtype = np.result_type(a, b)
    if a.ndim > 2 and a.shape[-1] <= _SMALL and (unit or np.diagonal(a, 0, -2, -1).all()):
        return _solved_small(a, b, lower, trans, unit)
    if a.ndim > 2 or not b.size:
        out = np.empty(b.shape, dtype)
        for i in np.ndindex(*a.shape[:-2]):
            if b[i].size:
                out[i] = _solved_triangular(a[i], b[i], lower, trans, unit, strict)
        return out
    if not unit and not a.diagonal().all():
        if strict:
            raise np.linalg.LinAlgError("solve_triangular: an element of the diagonal is zero")
        # Zeros are solved by zeros all the same.
        return np.where((b != 0.0).any(0), dtype.type(np.nan), np.zeros_like(b, dtype))
    # BLAS wants columns where arrays have rows: it is given the transposes, x' a' = b'. LAPACK's `trtrs` is not used,
    # since that of OpenBLAS starts threads for matrices of any size, which can take a millisecond.
    return _trsm(dtype)(1.0, a.T, b.T, side=1, lower=not lower, trans_a=trans, diag=unit).T


@family("solve_triangular")
def triangular(lower: bool, trans: bool = False, unit: bool = False, strict: bool = False) -> ArrayFunction:
    """The function (a, b) -> x with a x = b, or a' x = b, for triangular a and columns b; NaN for a singular matrix, or
    LinAlgError where it is `strict`."""

    def part(g: Any) -> Any:
        # What counts of a, and so gets a gradient.
        return (np.tril if lower else np.triu)(g, (-1 if lower else 1) if unit else 0)

    def vjp(w: Any, x: Any, a: Any, b: Any) -> Any:
        adjoint = triangular(lower, not trans, unit)(a, w)
        return part(-np.matmul(x, transposed(adjoint)) if trans else -np.matmul(adjoint, transposed(x))), adjoint

    def jvp(ts: Any, x: Any, a: Any, b: Any) -> Any:
        da = None if ts[0] is None else part(ts[0])
        own = None if da is None else -np.matmul(transposed(da) if trans else da, x)
        return triangular(lower, trans, unit)(a, sum_of(own, ts[1]))

    return ArrayFunction(
        ("solve_triangular", lower, trans, unit, strict),
        lambda a, b: _solved_triangular(a, b, lower, trans, unit, strict), lambda a, b: b, vjp, jvp,
    )  # fmt: skip


# Solving and inverses


def _solve_vjp(w: Any, x: Any, a: Any, b: Any) -> Any:
    adjoint = _solve(transposed(a), w)
    return -np.matmul(adjoint, transposed(x)), adjoint


def _solve_jvp(ts: Any, x: Any, a: Any, b: Any) -> Any:
    return _solve(a, sum_of(None if ts[0] is None else -np.matmul(ts[0], x), ts[1]))


_solve = ArrayFunction(("solve",), np.linalg.solve, lambda a, b: b, _solve_vjp, _solve_jvp)


def fitting(what: str, a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Square matrices and as many columns, broadcast over the leading axes; and what makes of the solution an array of
    the right shape. A `b` of one axis is one column, as in NumPy. Raises ShapeError."""
    a, b = arrays_of(what, a, b)
    square(what, a)
    column = b.ndim == 1
    require(
        b.ndim and b.shape[-1 if column else -2] == a.shape[-1],
        f"{what}: a of shape {a.shape} and b of shape {b.shape} do not fit: b must have {a.shape[-1]} rows",
    )
    if a.ndim == 2 and b.ndim > 2:
        # One matrix: all columns at once, so that it is factored once.
        n, order = a.shape[-1], (*range(b.ndim - 2), b.ndim - 1)
        rest = [b.shape[i] for i in order]
        columns = np.moveaxis(b, -2, 0).reshape(n, math.prod(rest))
        return a, columns, lambda x: np.moveaxis(x.reshape(n, *rest), 0, -2)
    b = b.reshape(-1, 1) if column else b
    batch = broadcast_shapes([a.shape[:-2], b.shape[:-2]], f"{what} of {a.shape} and {b.shape}")
    a, b = (x if x.shape[:-2] == batch else np.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    return a, b, (lambda x: x[..., 0]) if column else lambda x: x


@implements(np.linalg.solve)
def solve(a: Any, b: Any) -> Any:
    """x with a x = b: a of shape (..., n, n), b one column (n,) or columns (..., n, k).

    Raises ShapeError where they do not fit, LinAlgError for a singular matrix.
    """
    a, b, restored = fitting("np.linalg.solve", a, b)
    return restored(_solve(a, b))


def _inverse_or_nan(a: Any) -> Any:
    try:
        return np.linalg.inv(a)
    except np.linalg.LinAlgError:
        if a.ndim == 2:
            return np.full(a.shape, np.nan, a.dtype)
        return np.array([_inverse_or_nan(x) for x in a])


def _inv_vjp(w: Any, z: Any, a: Any) -> Any:
    zt = transposed(z)
    return (-np.matmul(np.matmul(zt, w), zt),)


def _inv_jvp(ts: Any, z: Any, a: Any) -> Any:
    return -np.matmul(np.matmul(z, ts[0]), z)


_inv = ArrayFunction(("inv",), np.linalg.inv, lambda a: a, _inv_vjp, _inv_jvp)


def _where_used(w: Any, y: Any) -> Any:
    # Zero where the whole matrix w is zero, though y is NaN: so nothing passes a branch that was not taken.
    size = np.sum(np.abs(w), axis=(-2, -1), keepdims=True)
    if isinstance(size, Value) or isinstance(y, Value):
        return BY_NAME["shield"](size, y)
    return np.where((size == 0.0) & ~np.isfinite(y), y.dtype.type(0.0), y)


# Where a rule needs an inverse that a singular matrix lacks, the derivative is NaN.
_inv_or_nan = ArrayFunction(
    ("inverse",), _inverse_or_nan, lambda a: a,
    lambda w, z, a: (_where_used(w, _inv_vjp(w, z, a)[0]),), lambda ts, z, a: _where_used(ts[0], _inv_jvp(ts, z, a)),
)  # fmt: skip


@implements(np.linalg.inv)
def inv(a: Any) -> Any:
    """The inverses of square matrices (..., n, n). Raises ShapeError, LinAlgError for a singular matrix."""
    return _inv(square("np.linalg.inv", a))


# Determinants


def _cofactors_of(a: Any) -> Any:
    # From the singular values, so that it is right for a singular matrix too.
    if not np.isfinite(a).all():
        return np.full(a.shape, np.nan, a.dtype)
    u, s, vt = np.linalg.svd(a)
    ones = np.ones((*s.shape[:-1], 1), s.dtype)
    before = np.concatenate([ones, np.cumprod(s, -1)[..., :-1]], -1)[..., : s.shape[-1]]
    after = np.concatenate([np.cumprod(s[..., ::-1], -1)[..., ::-1][..., 1:], ones], -1)[..., : s.shape[-1]]
    signs = np.linalg.det(u) * np.linalg.det(vt)
    return by_matrix(np.asarray(signs, a.dtype)) * np.matmul(u * (before * after)[..., None, :], vt)


def _cofactors_along(e: Any, z: Any, a: Any) -> Any:
    # With z = det(a) g, g the transposed inverse: det(a) (<g, e> g - g e' g). Linear and symmetric in e.
    g = transposed(_inv_or_nan(a))
    return by_matrix(np.sum(g * e, (-2, -1))) * z - np.matmul(np.matmul(z, transposed(e)), g)


_cofactors = ArrayFunction(
    ("cofactors",), _cofactors_of, lambda a: a,
    lambda w, z, a: (_cofactors_along(w, z, a),), lambda ts, z, a: _cofactors_along(ts[0], z, a),
)  # fmt: skip
_det = ArrayFunction(
    ("det",), np.linalg.det, lambda a: a[:-2],
    lambda w, z, a: (by_matrix(w) * _cofactors(a),), lambda ts, z, a: np.sum(_cofactors(a) * ts[0], (-2, -1)),
)  # fmt: skip


@implements(np.linalg.det)
def det(a: Any) -> Any:
    """The determinants of square matrices (..., n, n); derivatives of any order where they are regular.

    The first derivative is right for a singular matrix too. The second takes the inverse, and is NaN there.
    Raises ShapeError.
    """
    return _det(square("np.linalg.det", a))


def _chain(w: Any, x: Any) -> Any:
    # Zero where w is zero, whatever x is: so nothing passes a branch that was not taken.
    if isinstance(w, Value) or isinstance(x, Value):
        return BY_NAME["chain"](w, x)
    return np.where(w == 0.0, 0.0, w * x)


# The sign is piecewise constant, so its derivative is zero.
_slogdet = ArrayFunction(
    ("slogdet",), lambda a: tuple(np.linalg.slogdet(a)), lambda a: [a[:-2], a[:-2]],
    lambda w, z, a: (_chain(by_matrix(w[1]), transposed(_inv_or_nan(a))),),
    lambda ts, z, a: (0.0 * z[0], np.sum(transposed(_inv_or_nan(a)) * ts[0], (-2, -1))),
)  # fmt: skip
SlogdetResult = type(np.linalg.slogdet(np.eye(1)))
own_named_tuple(SlogdetResult)


@implements(np.linalg.slogdet)
def slogdet(a: Any) -> Any:
    """Signs and logarithms of the absolute determinants of (..., n, n), as a named tuple; the derivative is that of the
    logarithm, NaN for a singular matrix. Raises ShapeError."""
    return SlogdetResult(*_slogdet(square("np.linalg.slogdet", a)))


# Cholesky


def _cholesky_vjp(w: Any, z: Any, a: Any) -> Any:
    back = triangular(True, True)
    inner = np.matmul(transposed(z), w) * lower_half(a.shape[-1], a.dtype)
    half = back(z, transposed(back(z, inner)))
    return ((half + transposed(half)) * a.dtype.type(0.5),)


def _cholesky_jvp(ts: Any, z: Any, a: Any) -> Any:
    forward = triangular(True)
    along = (ts[0] + transposed(ts[0])) * a.dtype.type(0.5)
    inner = forward(z, transposed(forward(z, along)))
    return np.matmul(z, inner * lower_half(a.shape[-1], a.dtype))


_cholesky = ArrayFunction(("cholesky",), np.linalg.cholesky, lambda a: a, _cholesky_vjp, _cholesky_jvp)


@implements(np.linalg.cholesky)
def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """The lower triangular factors of symmetric positive definite matrices (..., n, n); the upper ones if asked for.

    Only one triangle is read. Derivatives take the matrix for symmetric: gradients are, and of a tangent the symmetric
    part counts. Raises ShapeError, LinAlgError where a matrix is not positive definite.
    """
    a = square("np.linalg.cholesky", a)
    return transposed(_cholesky(transposed(a))) if upper else _cholesky(a)

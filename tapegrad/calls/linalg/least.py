"""Orthogonal factors, pseudo-inverses, least squares.

The rule of `qr` is that of S. F. Walter and L. Lehmann, Algorithmic differentiation of linear algebra functions (2010);
that of `pinv`, and of least squares, is that of G. H. Golub and V. Pereyra, The differentiation of pseudo-inverses and
nonlinear least squares problems whose variables separate (1973).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, Shape, arrays_of, family, require
from tapegrad.calls.linalg.basic import lower_half, matrices, square, sum_of, transposed, triangular
from tapegrad.calls.linalg.eigen import largest, rounding
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.functions.registry import implements
from tapegrad.value import Value


class QRResult(NamedTuple):
    """What `np.linalg.qr` returns."""

    Q: Any
    R: Any


def _dependent(r: Any, used: Any) -> Any:
    # NaN, to be added, for a matrix whose columns are linearly dependent, where `used` is not zero.
    sizes = np.abs(np.diagonal(r, 0, -2, -1))
    lost = np.sum(np.where(sizes <= rounding(sizes, r.shape[-1]), np.nan, 0.0), -1, keepdims=True)
    return np.where(used == 0.0, 0.0, lost.reshape(*lost.shape, 1))


def _qr_vjp(g: Any, z: Any, a: Any) -> Any:
    (gq, gr), (q, r) = g, z
    gr = np.triu(gr)
    m = np.matmul(r, transposed(gr)) - np.matmul(transposed(gq), q)
    # The lower triangle, and its mirror image: symmetric.
    below = m * lower_half(m.shape[-1], m.dtype)
    inner = gq + np.matmul(q, below + transposed(below))
    return (transposed(triangular(False)(r, transposed(inner))) + _dependent(r, largest(gq) + largest(gr)),)


def _qr_jvp(ts: Any, z: Any, a: Any) -> Any:
    q, r = z
    c = transposed(triangular(False, True)(r, transposed(ts[0]))) + _dependent(r, largest(ts[0]))
    inner = np.matmul(transposed(q), c)
    below = np.tril(inner, -1)
    turned = below - transposed(below)
    return c + np.matmul(q, turned - inner), np.matmul(np.triu(inner - turned), r)


def _qr_shapes(a: Shape) -> list[Shape]:
    return [a, (*a[:-2], a[-1], a[-1])]


def _qr_kink(a: Any) -> float:
    sizes = np.abs(np.diagonal(np.linalg.qr(a, "r"), 0, -2, -1))
    if not sizes.size:
        return np.inf
    return float(np.min(np.where(sizes <= rounding(sizes, a.shape[-1]), 0.0, sizes)))


_qr = ArrayFunction(("qr",), lambda a: tuple(np.linalg.qr(a)), _qr_shapes, _qr_vjp, _qr_jvp, _qr_kink)


@implements(np.linalg.qr)
def qr(a: Any, mode: str = "reduced") -> Any:
    """q with orthonormal columns and the upper triangular r, a = q r, of matrices (..., m, n); `mode` "reduced" or "r".

    The derivative is NaN where the first min(m, n) columns are linearly dependent. Raises ShapeError, UnsupportedError
    for other modes ("complete" has columns that a does not determine).
    """
    a = matrices("np.linalg.qr", a)
    if mode not in ("reduced", "r"):
        raise UnsupportedError(f"np.linalg.qr of a Value with mode={mode!r} is not supported: use 'reduced' or 'r'")
    m, n = a.shape[-2:]
    if m >= n:
        q, r = _qr(a)
    else:
        q, r = _qr(a[..., :m])
        r = np.concatenate([r, np.matmul(transposed(q), a[..., m:])], -1)
    return r if mode == "r" else QRResult(q, r)


# Pseudo-inverses


def _pinv_jvp(ts: Any, p: Any, a: Any) -> Any:
    da, pt = ts[0], transposed(p)
    dat = transposed(da)
    left = np.matmul(np.matmul(p, pt), dat)
    right = np.matmul(np.matmul(dat, pt), p)
    outside = left - np.matmul(np.matmul(left, a), p) + right - np.matmul(p, np.matmul(a, right))
    return outside - np.matmul(np.matmul(p, da), p)


def _pinv_vjp(w: Any, p: Any, a: Any) -> Any:
    pt, wt = transposed(p), transposed(w)
    first, second = np.matmul(wt, np.matmul(p, pt)), np.matmul(np.matmul(pt, p), wt)
    total = first - np.matmul(a, np.matmul(p, first)) + second - np.matmul(np.matmul(second, p), a)
    return (total - np.matmul(np.matmul(pt, w), pt),)


def _rank_kink(cut: Any) -> Any:
    def kink(a: Any, *rest: Any) -> float:
        s = np.linalg.svd(a, compute_uv=False)
        if not s.size:
            return np.inf
        return float(np.min(np.maximum(s - cut(a) * s[..., :1], 0.0)))

    return kink


@family("pinv")
def _pinv(rcond: float) -> ArrayFunction:
    return ArrayFunction(
        ("pinv", rcond), functools.partial(np.linalg.pinv, rcond=rcond), lambda a: (*a[:-2], a[-1], a[-2]), _pinv_vjp,
        _pinv_jvp, _rank_kink(lambda a: rcond),
    )  # fmt: skip


@implements(np.linalg.pinv)
def pinv(a: Any, rcond: Any = None, hermitian: bool = False, *, rtol: Any = np._NoValue) -> Any:
    """Pseudo-inverses (..., n, m) of matrices (..., m, n); singular values below `rcond` times the largest count as 0.

    The derivative is that among matrices of the same rank. `hermitian` changes nothing but NumPy's algorithm. Raises
    ShapeError, UnsupportedError where `rcond` is an array.
    """
    a = matrices("np.linalg.pinv", a)
    if rtol is not np._NoValue:
        rcond = max(a.shape[-2:]) * float(np.finfo(a.dtype).eps) if rtol is None else rtol
    rcond = 1e-15 if rcond is None else rcond
    if np.ndim(rcond) or isinstance(rcond, Value):
        raise UnsupportedError("np.linalg.pinv of a Value takes one number for rcond")
    return _pinv(float(rcond))(a)


# Least squares


@family("lstsq")
def _lstsq(rcond: float) -> ArrayFunction:
    pseudo = _pinv(rcond)

    def vjp(w: Any, x: Any, a: Any, b: Any) -> Any:
        p = pseudo(a)
        pt, residual = transposed(p), b - np.matmul(a, x)
        adjoint = np.matmul(pt, w)
        inside = np.matmul(p, adjoint)
        outside = w - np.matmul(transposed(a), adjoint)
        ga = np.matmul(residual, transposed(inside)) - np.matmul(adjoint, transposed(x))
        return ga + np.matmul(np.matmul(pt, x), transposed(outside)), adjoint

    def jvp(ts: Any, x: Any, a: Any, b: Any) -> Any:
        p = pseudo(a)
        da, db = ts
        if da is None:
            return np.matmul(p, db)
        dat, residual = transposed(da), b - np.matmul(a, x)
        moved = np.matmul(p, sum_of(db, -np.matmul(da, x)) + np.matmul(transposed(p), np.matmul(dat, residual)))
        outside = np.matmul(dat, np.matmul(transposed(p), x))
        return moved + outside - np.matmul(p, np.matmul(a, outside))

    def shapes(a: Shape, b: Shape) -> Shape:
        return a[1], b[1]

    return ArrayFunction(
        ("lstsq", rcond), lambda a, b: np.linalg.lstsq(a, b, rcond)[0], shapes, vjp, jvp, _rank_kink(lambda a: rcond)
    )


@implements(np.linalg.lstsq)
def lstsq(a: Any, b: Any, rcond: Any = None) -> tuple[Any, Any, int, Any]:
    """(x, sums of squared residuals, rank, singular values): x of least norm that minimises |b - a x|.

    a has shape (m, n), b (m,) or (m, k). The rank is a plain number, and a guard in a recording. Residuals are empty
    where NumPy's are: where the rank is less than n, or m at most n. Raises ShapeError.
    """
    a, b = arrays_of("np.linalg.lstsq", a, b)
    require(
        a.ndim == 2 and b.ndim in (1, 2) and a.shape[0] == b.shape[0],
        f"np.linalg.lstsq: shapes {a.shape} of a and {b.shape} of b do not fit: a is one matrix, b has as many rows",
    )
    (m, n), eps = a.shape, float(np.finfo(a.dtype).eps)
    rcond = eps * max(m, n) if rcond is None else eps if rcond == -1 else float(rcond)
    columns = b.reshape(-1, 1) if b.ndim == 1 else b
    x = _lstsq(rcond)(a, columns)
    s = np.linalg.svdvals(a)
    rank = _rank_of(s, rcond)
    left = np.sum((columns - np.matmul(a, x)) ** 2, 0) if rank == n < m else np.zeros(0, a.dtype)
    return x[:, 0] if b.ndim == 1 else x, left, rank, s


def _rank_of(s: Any, rcond: Any) -> int:
    return int(np.sum(np.where(s > rcond * np.max(s), 1.0, 0.0))) if s.size else 0


@implements(np.linalg.matrix_rank)
def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> int:
    """The rank of one matrix, as NumPy counts it: a plain number, and a guard in a recording.

    Raises ShapeError for more than one matrix, OperationError where both `tol` and `rtol` are given.
    """
    (a,) = arrays_of("np.linalg.matrix_rank", A)
    if tol is not None and rtol is not None:
        raise OperationError("np.linalg.matrix_rank takes tol or rtol, not both")
    if a.ndim < 2:
        return int(np.any(a != 0.0))
    require(a.ndim == 2, f"np.linalg.matrix_rank of a Value takes one matrix, not shape {a.shape}")
    s = np.linalg.svdvals(a)
    if tol is not None:
        return int(np.sum(np.where(s > tol, 1.0, 0.0)))
    return _rank_of(s, max(a.shape) * float(np.finfo(a.dtype).eps) if rtol is None else rtol)


@implements(np.linalg.cond)
def cond(x: Any, p: Any = None) -> Any:
    """Condition numbers of matrices: by singular values for p None, 2 and -2, else |x| |x^-1| in the norm p."""
    if p in (None, 2, -2):
        x = matrices("np.linalg.cond", x)
        require(min(x.shape[-2:]), f"np.linalg.cond is not defined for matrices without elements, shape {x.shape}")
        s = np.linalg.svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    a = square("np.linalg.cond", x)
    return np.linalg.norm(a, p, axis=(-2, -1)) * np.linalg.norm(np.linalg.inv(a), p, axis=(-2, -1))

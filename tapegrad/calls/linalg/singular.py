"""Singular values and vectors.

With a = u diag(s) v': ds = diag(u' da v), and du, dv by F_ij = 1 / (s_j^2 - s_i^2) off the diagonal (J. Townsend,
Differentiating the singular value decomposition, 2016). What is said in `eigen` of equal eigenvalues holds of equal
singular values. A singular value of zero has no derivative (it is an absolute value there), nor have vectors that
belong to it in a matrix that is not square; nor have the further vectors of `full_matrices` where there are several.
(The space that they span has: its projector is 1 - u u' with the u of full_matrices=False.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, Shape, family
from tapegrad.calls.linalg.basic import matrices, sum_of, transposed
from tapegrad.calls.linalg.eigen import (
    diagonal_matrix,
    equal,
    gap,
    involved,
    largest,
    noticeable,
    pairs,
    quotients,
    rounding,
    undefined,
    unlike,
)
from tapegrad.functions.registry import implements


class SVDResult(NamedTuple):
    """What `np.linalg.svd` returns."""

    U: Any
    S: Any
    Vh: Any


def _columns(x: Any) -> Any:
    """Numbers, one a column, to be multiplied with the columns."""
    return x.reshape(*x.shape[:-1], 1, x.shape[-1])


def _zero(s: Any) -> Any:
    return s <= rounding(s, s.shape[-1])


def _inverse(s: Any, zero: Any) -> Any:
    return np.where(zero, 0.0, 1.0 / np.where(zero, 1.0, s))


def _outside(u: Any, x: Any) -> Any:
    """What of the columns of x is outside of the space that those of u span."""
    return x - np.matmul(u, np.matmul(transposed(u), x))


def _by_squares(x: Any, s: Any, same: Any) -> Any:
    right, left = pairs(s)
    return quotients(x, (right - left) * (right + left), same)


def _one_side(u: Any, gu: Any, s: Any, zero: Any) -> Any:
    """The gradient by the part of u's columns that leaves the space they span, in that space: columns divided by s."""
    outside = _outside(u, gu)
    return outside * _columns(_inverse(s, zero)) + undefined(_columns(zero), noticeable(outside, gu))


def _further(u: Any, more: Any, gmore: Any, s: Any, zero: Any) -> Any:
    """The same by the further columns `more` that make u a square matrix."""
    m = np.matmul(transposed(u), gmore)
    turned = 0.0 if more.shape[-1] == 1 else np.where(largest(gmore) > 0.0, np.nan, 0.0)
    used = np.sum(np.where(noticeable(m, gmore), 1.0, 0.0), -1)
    lost = undefined(_columns(zero), _columns(used) > 0.0)
    return turned + lost - np.matmul(more, transposed(m)) * _columns(_inverse(s, zero))


def _svd_vjp(g: Any, z: Any, a: Any) -> Any:
    (gu, gs, gvh), (u, s, vh) = g, z
    (m, n), k = a.shape[-2:], s.shape[-1]
    v, gv = transposed(vh), transposed(gvh)
    u1, v1, gu1, gv1 = u[..., :k], v[..., :k], gu[..., :k], gv[..., :k]
    same, zero = equal(s), _zero(s)
    mu, mv = np.matmul(transposed(u1), gu1), np.matmul(transposed(v1), gv1)
    by_u, by_v = (_by_squares(x - transposed(x), s, same) for x in (mu, mv))
    right, left = pairs(s)
    inner = by_u * right + left * by_v + diagonal_matrix(gs)
    inner = inner + undefined(same, involved(gu1) | involved(gv1) | unlike(gs))
    inner = inner + diagonal_matrix(np.where(zero & (gs != 0.0), np.nan, 0.0))
    total = np.matmul(np.matmul(u1, inner), transposed(v1))
    if m > k:
        total = total + np.matmul(_one_side(u1, gu1, s, zero), transposed(v1))
        if u.shape[-1] > k:
            total = total + np.matmul(_further(u1, u[..., k:], gu[..., k:], s, zero), transposed(v1))
    if n > k:
        total = total + np.matmul(u1, transposed(_one_side(v1, gv1, s, zero)))
        if v.shape[-1] > k:
            total = total + np.matmul(u1, transposed(_further(v1, v[..., k:], gv[..., k:], s, zero)))
    return (total,)


def _svd_jvp(ts: Any, z: Any, a: Any) -> Any:
    da, (u, s, vh) = ts[0], z
    (m, n), k = a.shape[-2:], s.shape[-1]
    u1, v1 = u[..., :k], transposed(vh)[..., :k]
    moved, back = np.matmul(da, v1), np.matmul(transposed(da), u1)
    p = np.matmul(transposed(u1), moved)
    same, zero, (right, left) = equal(s), _zero(s), pairs(s)
    lost = undefined(same, largest(da) > 0.0)
    nowhere = undefined(_columns(zero), largest(da) > 0.0)
    scale = _columns(_inverse(s, zero)) + nowhere
    turned = p * right, left * transposed(p), left * p, transposed(p) * right
    du = np.matmul(u1, _by_squares(turned[0] + turned[1], s, same) + lost)
    dv = np.matmul(v1, _by_squares(turned[2] + turned[3], s, same) + lost)
    du = du + _outside(u1, moved) * scale if m > k else du
    dv = dv + _outside(v1, back) * scale if n > k else dv
    if u.shape[-1] > k:
        du = np.concatenate([du, _further_along(u1, u[..., k:], moved * scale, da)], -1)
    if vh.shape[-2] > k:
        dv = np.concatenate([dv, _further_along(v1, transposed(vh)[..., k:], back * scale, da)], -1)
    return du, np.diagonal(p, 0, -2, -1) + nowhere[..., 0, :], transposed(dv)


def _further_along(u: Any, more: Any, moved: Any, da: Any) -> Any:
    turned = 0.0 if more.shape[-1] == 1 else np.where(largest(da) > 0.0, np.nan, 0.0)
    return turned - np.matmul(u, np.matmul(transposed(moved), more))


def _svd_shapes(full: bool) -> Any:
    def shapes(a: Shape) -> list[Shape]:
        *batch, m, n = a
        k = min(m, n)
        return [(*batch, m, m if full else k), (*batch, k), (*batch, n if full else k, n)]

    return shapes


def _kink(a: Any) -> float:
    s = np.linalg.svd(a, compute_uv=False)
    zeros = np.append(s, np.zeros((*s.shape[:-1], 1), s.dtype), -1)
    return gap(zeros, s.shape[-1] + 1)


@family("svd")
def _svd(full: bool) -> ArrayFunction:
    def value(a: Any) -> Any:
        return tuple(np.linalg.svd(a, full_matrices=full))

    return ArrayFunction(("svd", full), value, _svd_shapes(full), _svd_vjp, _svd_jvp, _kink)


def _values_vjp(g: Any, s: Any, a: Any) -> Any:
    u, _, vh = _svd(False)(a)
    inner = diagonal_matrix(g) + undefined(equal(s), unlike(g))
    inner = inner + diagonal_matrix(np.where(_zero(s) & (g != 0.0), np.nan, 0.0))
    return (np.matmul(np.matmul(u, inner), vh),)


def _values_jvp(ts: Any, s: Any, a: Any) -> Any:
    u, _, vh = _svd(False)(a)
    along = np.sum(u * np.matmul(ts[0], transposed(vh)), -2)
    return sum_of(along, undefined(_zero(s), largest(ts[0])[..., 0] > 0.0))


_svdvals = ArrayFunction(
    ("svdvals",), lambda a: np.linalg.svd(a, compute_uv=False), lambda a: (*a[:-2], min(a[-2:])), _values_vjp,
    _values_jvp, _kink,
)  # fmt: skip


@implements(np.linalg.svd)
def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    """The singular value decomposition of matrices (..., m, n): u, singular values in descending order, and v'.

    `hermitian` changes nothing but NumPy's algorithm, and is not needed here. Where singular values are equal or zero,
    gradients that involve what has no derivative are NaN. Raises ShapeError.
    """
    a = matrices("np.linalg.svd", a)
    return SVDResult(*_svd(bool(full_matrices))(a)) if compute_uv else _svdvals(a)


@implements(np.linalg.svdvals)
def svdvals(x: Any, /) -> Any:
    """Singular values of matrices (..., m, n) in descending order.

    The gradient is right for equal ones too, if the function treats them alike, and NaN if it does not, or involves a
    singular value of zero.
    """
    return _svdvals(matrices("np.linalg.svdvals", x))

"""NumPy's linear algebra on Values: one instruction each, by LAPACK, with rules written in NumPy.

The rules are those of M. B. Giles, Collected matrix derivative results for forward and reverse mode algorithmic
differentiation (2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.calls.custom import external
from tapegrad.errors import ShapeError
from tapegrad.functions.registry import implements
from tapegrad.value import Value


def _transposed(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def _as_columns(a: Any, b: Any) -> Any:
    return b[:, None] if np.ndim(b) == 1 else b


def _solve_vjp(w: Any, x: Any, a: Any, b: Any) -> Any:
    adjoint = np.linalg.solve(_transposed(a), w)
    return -np.matmul(_as_columns(a, adjoint), _transposed(_as_columns(a, x))), adjoint


_solve = external(
    np.linalg.solve,
    _solve_vjp,
    lambda ts, x, a, b: np.linalg.solve(
        a, (0.0 if ts[1] is None else ts[1]) - (0.0 if ts[0] is None else np.matmul(ts[0], x)) + 0.0 * x
    ),
    numpy_rules=True,
)
_inv = external(
    np.linalg.inv,
    lambda w, z, a: -np.matmul(np.matmul(_transposed(z), w), _transposed(z)),
    lambda ts, z, a: -np.matmul(np.matmul(z, ts[0]), z),
    numpy_rules=True,
)


def _cofactors(z: Any, a: Any) -> Any:
    # The derivative of the determinant z. On numbers it is computed from the singular values, so that it is right for a
    # singular matrix too. On Values it takes the inverse, which a singular matrix lacks.
    if isinstance(a, Value):
        return z * _transposed(np.linalg.inv(a))
    u, s, vt = np.linalg.svd(a)
    others = np.array([np.prod(np.delete(s, i)) for i in range(len(s))])
    return np.linalg.det(u) * np.linalg.det(vt) * ((u * others) @ vt)


_det = external(np.linalg.det, lambda w, z, a: w * _cofactors(z, a), numpy_rules=True)
# The sign is piecewise constant, so its derivative is zero.
_slogdet = external(
    lambda a: tuple(np.linalg.slogdet(a)), lambda w, z, a: w[1] * _transposed(np.linalg.inv(a)), numpy_rules=True
)


def _lower_half(a: Any) -> Any:
    # The lower triangle, with half of the diagonal.
    return np.tril(a) - 0.5 * (a * np.eye(np.shape(a)[-1], dtype=np.int64))


def _cholesky_vjp(w: Any, z: Any, a: Any) -> Any:
    inner = _lower_half(np.matmul(_transposed(z), w))
    half = np.linalg.solve(_transposed(z), np.matmul(inner, np.linalg.inv(z)))
    return 0.5 * (half + _transposed(half))


_cholesky = external(np.linalg.cholesky, _cholesky_vjp, numpy_rules=True)


def _square(a: Any, what: str) -> None:
    if np.ndim(a) != 2 or np.shape(a)[0] != np.shape(a)[1]:
        raise ShapeError(f"{what} of Values takes one square matrix, not shape {np.shape(a)}")


@implements(np.linalg.solve)
def solve(a: Any, b: Any) -> Any:
    """x with a x = b: a square, b one column (n,) or several (n, k)."""
    _square(a, "np.linalg.solve")
    if np.ndim(b) not in (1, 2) or np.shape(b)[0] != np.shape(a)[0]:
        raise ShapeError(f"np.linalg.solve: a has shape {np.shape(a)}, b {np.shape(b)}")
    return _solve(a, b)


@implements(np.linalg.inv)
def inv(a: Any) -> Any:
    """The inverse of a square matrix."""
    _square(a, "np.linalg.inv")
    return _inv(a)


@implements(np.linalg.det)
def det(a: Any) -> Any:
    """The determinant of a square matrix. Its second derivative takes the inverse, which a singular matrix lacks."""
    _square(a, "np.linalg.det")
    return _det(a)


@implements(np.linalg.slogdet)
def slogdet(a: Any) -> Any:
    """The sign and the logarithm of the absolute determinant of a square matrix."""
    _square(a, "np.linalg.slogdet")
    return _slogdet(a)


@implements(np.linalg.cholesky)
def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """The lower triangular factor of a symmetric positive definite matrix; the upper one, transposed, if asked for."""
    _square(a, "np.linalg.cholesky")
    return _transposed(_cholesky(a)) if upper else _cholesky(a)

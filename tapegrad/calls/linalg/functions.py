"""Functions of matrices as SciPy has them: exponential, logarithm, square root; equations of Sylvester; LU factors.

The derivative of f at a along e is the upper right block of f([[a, e], [0, a]]) (N. J. Higham, Functions of Matrices,
2008, section 3.2), so derivatives of any order are values of f at larger matrices. That of the square root s solves
s x + x s = e. With p a = l u at fixed pivots, and m = l^-1 p da u^-1, dl = l tril(m, -1) and du = triu(m) u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, Shape
from tapegrad.calls.linalg.basic import eye, sum_of, transposed, triangular
from tapegrad.errors import OperationError


def _each(f: Callable[..., Any], shape: Shape, *arrays: Any) -> Any:
    """A function of single matrices for all of a batch."""
    out = np.empty(shape, np.result_type(*arrays))
    for i in np.ndindex(*shape[:-2]):
        out[i] = f(*(x[i] for x in arrays)) if shape[-1] and shape[-2] else 0.0
    return out


def _real(name: str, z: Any) -> Any:
    if np.iscomplexobj(z):
        if np.abs(z.imag).max() > 1e3 * np.finfo(z.dtype).eps * np.abs(z).max():
            raise OperationError(f"{name} of a Value must be real; this matrix has eigenvalues that are not positive")
        return z.real
    return z


def _block(a: Any, e: Any) -> Any:
    """[[a, e], [0, a]]."""
    return np.concatenate([np.concatenate([a, e], -1), np.concatenate([0.0 * e, a], -1)], -2)


def _primary(name: str, of_one: Callable[[Any], Any], along_one: Callable[[Any, Any], Any]) -> ArrayFunction:
    """A function of matrices. `of_one` is its value at one matrix, `along_one` its derivative along another one."""

    def pulled(w: Any, z: Any, a: Any, e: Any) -> Any:
        n = a.shape[-1]
        found = along(transposed(_block(a, e)), np.concatenate(
            [np.concatenate([0.0 * w, w], -1), np.concatenate([0.0 * w, 0.0 * w], -1)], -2
        ))  # fmt: skip
        return found[..., :n, :n] + found[..., n:, n:], found[..., :n, n:]

    def pushed(ts: Any, z: Any, a: Any, e: Any) -> Any:
        n = a.shape[-1]
        da, de = (0.0 * e if t is None else t for t in ts)
        return along(_block(a, e), _block(da, de))[..., :n, n:]

    along = ArrayFunction(
        (f"the derivative of {name}",), lambda a, e: _each(along_one, a.shape, a, e), lambda a, e: a, pulled, pushed
    )
    return ArrayFunction(
        (name,), lambda a: _each(of_one, a.shape, a), lambda a: a,
        lambda w, z, a: (along(transposed(a), w),), lambda ts, z, a: along(a, ts[0]),
    )  # fmt: skip


def _expm(a: Any) -> Any:
    import scipy.linalg

    return scipy.linalg.expm(a)


def _expm_along(a: Any, e: Any) -> Any:
    import scipy.linalg

    if not (np.isfinite(a).all() and np.isfinite(e).all()):
        return np.full(a.shape, np.nan)
    return scipy.linalg.expm_frechet(a.astype(float), e.astype(float), compute_expm=False)


def _logm(a: Any) -> Any:
    import scipy.linalg

    return _real("logm", scipy.linalg.logm(a.astype(float)))


def _logm_along(a: Any, e: Any) -> Any:
    # The block is scaled so that both parts are of one size; the derivative is linear in e.
    n, size = len(a), np.abs(e).max()
    if not size or not np.isfinite(size):
        return e * np.zeros_like(a)
    scale = size / (np.abs(a).max() or 1.0)
    return scale * _logm(_block(a, e / scale))[:n, n:]


expm = _primary("expm", _expm, _expm_along)
logm = _primary("logm", _logm, _logm_along)


# Equations of Sylvester, and square roots


def _sylvester_of_one(a: Any, b: Any, q: Any) -> Any:
    import scipy.linalg

    return scipy.linalg.solve_sylvester(a, b, q)


def _sylvester_vjp(w: Any, x: Any, a: Any, b: Any, q: Any) -> Any:
    y = sylvester(transposed(a), transposed(b), w)
    return -np.matmul(y, transposed(x)), -np.matmul(transposed(x), y), y


def _sylvester_jvp(ts: Any, x: Any, a: Any, b: Any, q: Any) -> Any:
    da, db, dq = ts
    terms = None if da is None else -np.matmul(da, x), None if db is None else -np.matmul(x, db), dq
    return sylvester(a, b, sum_of(*terms))


sylvester = ArrayFunction(
    ("solve_sylvester",), lambda a, b, q: _each(_sylvester_of_one, q.shape, a, b, q), lambda a, b, q: q,
    _sylvester_vjp, _sylvester_jvp,
)  # fmt: skip


def _sqrtm(a: Any) -> Any:
    import scipy.linalg

    return _real("sqrtm", scipy.linalg.sqrtm(a.astype(float)))


def _sqrtm_vjp(w: Any, s: Any, a: Any) -> Any:
    st = transposed(s)
    return (sylvester(st, st, w),)


sqrtm = ArrayFunction(
    ("sqrtm",), lambda a: _each(_sqrtm, a.shape, a), lambda a: a, _sqrtm_vjp, lambda ts, s, a: sylvester(s, s, ts[0])
)


# LU


def _lu(a: Any) -> Any:
    import scipy.linalg

    if not a.size:
        return a, np.zeros(a.shape[:-1])
    lu, pivots = scipy.linalg.lu_factor(a)
    return lu, pivots.astype(a.dtype)


def _permutation_of(pivots: Any) -> Any:
    n = pivots.shape[-1]
    out = np.zeros((*pivots.shape, n), pivots.dtype)
    for i in np.ndindex(*pivots.shape[:-1]):
        order = np.arange(n)
        for k, other in enumerate(pivots[i].astype(int)):
            order[[k, other]] = order[[other, k]]
        out[i][np.arange(n), order] = 1.0
    return out


# For pivots, which do not change smoothly, p with p a = l u.
permutation = ArrayFunction(
    ("permutation",), _permutation_of, lambda pivots: (*pivots, pivots[-1]), lambda w, z, pivots: (None,),
    lambda ts, z, pivots: 0.0 * z,
)  # fmt: skip


def _lu_vjp(g: Any, z: Any, a: Any) -> Any:
    (g, _), (lu, pivots) = g, z
    unit = eye(a.shape[-1], a.dtype)
    below = np.tril(np.matmul(transposed(np.tril(lu, -1) + unit), np.tril(g, -1)), -1)
    above = np.triu(np.matmul(np.triu(g), transposed(np.triu(lu))))
    left = triangular(True, True, True)(lu, below + above)
    inner = transposed(triangular(False)(lu, transposed(left)))
    return (np.matmul(transposed(permutation(pivots)), inner),)


def _lu_jvp(ts: Any, z: Any, a: Any) -> Any:
    lu, pivots = z
    left = triangular(True, False, True)(lu, np.matmul(permutation(pivots), ts[0]))
    inner = transposed(triangular(False, True)(lu, transposed(left)))
    lower = np.tril(lu, -1) + eye(a.shape[-1], a.dtype)
    return np.matmul(lower, np.tril(inner, -1)) + np.matmul(np.triu(inner), np.triu(lu)), 0.0 * pivots


# The factors in one matrix, and the pivots.
lu = ArrayFunction(("lu_factor",), _lu, lambda a: [a, a[:-1]], _lu_vjp, _lu_jvp)

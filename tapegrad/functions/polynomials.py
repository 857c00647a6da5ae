"""NumPy's polynomials with coefficients from the highest power down: `polyval` and its like."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.functions.calculus import convolve
from tapegrad.functions.joining import concatenate, stack, values
from tapegrad.functions.registry import implements, refuse
from tapegrad.value import Value

refuse(
    "the roots of a polynomial are eigenvalues, real or not; a root that you know of is differentiable by "
    "tg.implicit_root(lambda x, p: np.polyval(p, x), solver)",
    np.roots,
)  # fmt: skip


def _coefficients(what: str, *given: Any) -> list[Value]:
    found = [x.reshape(1) if not x.ndim else x for x in values(what, *given)]
    if any(x.ndim != 1 for x in found):
        raise ShapeError(f"{what}: coefficients are one axis, not shapes {' and '.join(str(x.shape) for x in found)}")
    return found


@implements(np.polyval)
def polyval(p: Any, x: Any) -> Value:
    """p_0 x^(n-1) + ... + p_(n-1), by Horner's rule."""
    if isinstance(x, np.poly1d):
        raise UnsupportedError("np.polyval of a np.poly1d and Values: put its values together by np.polymul")
    p, x = values("polyval", p, x)
    found = x * 0.0
    for k in range(len(p)):
        found = found * x + p[k]
    return cast(Value, found)


@implements(np.polyadd)
def polyadd(a1: Any, a2: Any) -> Value:
    """The coefficients of the sum of two polynomials."""
    a, b = _aligned("polyadd", a1, a2)
    return a + b


@implements(np.polysub)
def polysub(a1: Any, a2: Any) -> Value:
    """The coefficients of the difference of two polynomials."""
    a, b = _aligned("polysub", a1, a2)
    return a - b


def _aligned(what: str, *given: Any) -> list[Value]:
    found = _coefficients(what, *given)
    n = max(map(len, found))
    return [concatenate([np.zeros(n - len(x), x.dtype), x]) if len(x) < n else x for x in found]


@implements(np.polymul)
def polymul(a1: Any, a2: Any) -> Value:
    """The coefficients of the product of two polynomials."""
    a, b = _coefficients("polymul", a1, a2)
    return convolve(a, b)


@implements(np.polydiv)
def polydiv(u: Any, v: Any) -> tuple[Value, Value]:
    """The coefficients of quotient and remainder. Coefficients that vanish are not left out of the remainder."""
    u, v = _coefficients("polydiv", u, v)
    if not u.size or not v.size:
        raise ShapeError(f"polydiv: polynomials of {len(u)} and {len(v)} coefficients cannot be divided")
    count = len(u) - len(v) + 1
    if count < 1:
        return values("polydiv", u, np.zeros(1, u.dtype))[1], u
    rest, quotient = u, []
    for _ in range(count):
        factor = rest[0] / v[0]
        quotient.append(factor)
        rest = concatenate([rest[1 : len(v)] - factor * v[1:], rest[len(v) :]])
    return stack(quotient), rest if len(rest) else values("polydiv", u, np.zeros(1, u.dtype))[1]


@implements(np.polyder)
def polyder(p: Any, m: int = 1) -> Value:
    """The coefficients of a derivative."""
    (p,) = _coefficients("polyder", p)
    if m < 0:
        raise OperationError(f"polyder: the order must not be negative, it is {m}")
    for _ in range(m):
        p = p[:-1] * np.arange(len(p) - 1, 0, -1).astype(p.dtype)
    return p


@implements(np.polyint)
def polyint(p: Any, m: int = 1, k: Any = None) -> Value:
    """The coefficients of an integral, with constants k, the first of the first integration."""
    p, constants = values("polyint", p, 0.0 if k is None else k)
    if m < 0:
        raise OperationError(f"polyint: the order must not be negative, it is {m}")
    constants = constants.reshape(-1)
    if len(constants) not in (1, m):
        raise OperationError(f"polyint: {m} integrations take one constant or as many, not {len(constants)}")
    for i in range(m):
        divisors = np.arange(len(p), 0, -1).astype(p.dtype)
        p = concatenate([p / divisors, constants[[i if len(constants) == m else 0]]])
    return cast(Value, p)


@implements(np.poly)
def poly(seq_of_zeros: Any) -> Any:
    """The coefficients of the polynomial with these zeros, whose highest is 1."""
    (zeros,) = values("poly", seq_of_zeros)
    if zeros.ndim > 1:
        raise UnsupportedError(
            "np.poly of a matrix is not supported on a Value: its zeros are eigenvalues; np.linalg.det(x * np.eye(n) - "
            "A) is the polynomial at x"
        )
    if not zeros.size:
        return 1.0
    nothing = np.zeros(1, zeros.dtype)
    found = values("poly", zeros, np.ones(1, zeros.dtype))[1]
    for zero in zeros.reshape(-1):
        found = concatenate([found, nothing]) - zero * concatenate([nothing, found])
    return found


@implements(np.vander)
def vander(x: Any, N: Any = None, increasing: bool = False) -> Value:
    """The powers of numbers, one row each, from the highest down."""
    if x.ndim != 1:
        raise ShapeError(f"vander: numbers are one axis, not shape {x.shape}")
    powers = np.arange(len(x) if N is None else N, dtype=x.dtype)
    return cast(Value, x[:, None] ** (powers if increasing else powers[::-1]))


@implements(np.polyfit)
def polyfit(
    x: Any, y: Any, deg: int, rcond: Any = None, full: bool = False, w: Any = None, cov: bool = False
) -> Value:
    """The coefficients of the polynomial that fits points best, for plain x and weights: a matrix times y.

    Raises UnsupportedError for x or weights that are Values.
    """
    if isinstance(x, Value) or isinstance(w, Value) or full or cov:
        raise UnsupportedError(
            "np.polyfit on a Value takes plain x and w, and returns coefficients only: write A = np.vander(x, deg + 1) "
            "and np.linalg.solve(A.T @ A, A.T @ y), or tapegrad.optimize.least_squares"
        )
    x = np.asarray(x, y.dtype)
    if x.ndim != 1 or y.ndim not in (1, 2) or len(x) != len(y) or not len(x):
        raise ShapeError(f"polyfit: points of shapes {x.shape} and {y.shape} do not fit")
    rows = np.vander(x.astype(float), deg + 1)
    weights = np.ones(len(x)) if w is None else np.asarray(w, float)
    rows *= weights[:, None]
    size = np.sqrt((rows * rows).sum(0))
    size[size == 0.0] = 1.0
    matrix = np.linalg.pinv(rows / size, rcond=len(x) * np.finfo(y.dtype).eps if rcond is None else rcond)
    return cast(Value, np.matmul((matrix / size[:, None] * weights).astype(y.dtype), y))

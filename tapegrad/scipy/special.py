"""`scipy.special` with derivatives: what is not a ufunc, and all ufuncs, which work on Values as they are.

>>> from tapegrad.scipy import special
>>> import tapegrad as tg
>>> round(tg.grad(special.gammaln)(1.0), 6), round(tg.grad(lambda x: special.polygamma(0, x))(1.0), 6)
(-0.577216, 1.644934)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special as _special

from tapegrad import functions
from tapegrad.calls import external, stop_gradient
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.flow import where
from tapegrad.functions.registry import holds_value
from tapegrad.functions.special import no_gradient, register

__all__ = [
    "comb", "diric", "factorial", "hyp2f1", "log_softmax", "logsumexp", "multigammaln", "perm", "polygamma",
    "sinc", "softmax", "softplus", "spherical_in", "spherical_jn", "spherical_kn", "spherical_yn", "zeta",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # All else is SciPy's: ufuncs ask Values what to do, and all that is not a ufunc refuses them.
    found = getattr(_special, name)
    if name.startswith("_"):
        raise AttributeError(name)
    if callable(found) and not isinstance(found, np.ufunc | type) and name not in __all__:
        return _refusing(name, found)
    return found


def __dir__() -> list[str]:
    return sorted({*dir(_special), *__all__})


def _refusing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """SciPy's function, which says what to do where it is called with Values."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if holds_value([*args, *kwargs.values()]):
            raise UnsupportedError(
                f"scipy.special.{name} is not supported on a Value: {_INSTEAD.get(name, _UNKNOWN)}; wrap it in "
                "tapegrad.external(f, vjp) with a rule of your own for its derivative"
            )
        return function(*args, **kwargs)

    call.__refused__ = True  # type: ignore[attr-defined]
    return call


_UNKNOWN = "no derivative is known here"
_INSTEAD = {
    "lambertw": "its results are complex; for x > 0 it is wrightomega(log(x))",
    "factorial2": "write it with gamma", "factorialk": "write it with gamma",
    "jvp": "derivatives of jv are found by tapegrad.grad", "yvp": "derivatives of yv are found by tapegrad.grad",
    "ivp": "derivatives of iv are found by tapegrad.grad", "kvp": "derivatives of kv are found by tapegrad.grad",
    "legendre_p": "eval_legendre is supported", "assoc_legendre_p": "lpmv is supported",
}


def _operation(name: str) -> Any:
    from tapegrad.ops import BY_NAME

    register(_special.psi)
    return BY_NAME[name]


def logsumexp(
    a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False
) -> Any:
    """ln of the sum of b e^a over axes, all of them where none is given; `b` is 1 by default, and broadcast.

    With `return_sign` two results: the logarithm of the absolute value of the sum, and its sign. Without it, a sum that
    is negative gives NaN.

    >>> float(logsumexp([1000.0, 1000.0], b=[1.0, 3.0]) - np.log(4.0))
    1000.0
    """
    if not holds_value((a, b)):
        return _special.logsumexp(a, axis=axis, b=b, keepdims=keepdims, return_sign=return_sign)
    if b is None:
        result = functions.logsumexp(a, axis, keepdims)
        # The sum of exponentials is positive, or NaN.
        return (result, np.ones(np.shape(result))) if return_sign else result
    if not holds_value(b):
        # What is multiplied by zero is left out, even if it is infinite.
        a = where(np.asarray(b) == 0.0, -np.inf, a)
    top = stop_gradient(np.max(a + 0.0 * b if np.ndim(b) else a, axis=axis, keepdims=True))
    top = where(np.isfinite(top), top, 0.0)
    total = np.sum(b * np.exp(a - top), axis=axis, keepdims=True)
    sign = np.sign(total)
    size = np.log(total * stop_gradient(sign)) if return_sign else np.log(total)
    result = where(total == 0.0, -np.inf, size) + top
    shape = np.shape(np.sum(np.empty(np.shape(result)), axis=_axes(axis, np.ndim(result)), keepdims=keepdims))
    result = result.reshape(shape)
    return (result, sign.reshape(shape)) if return_sign else result


def _axes(axis: Any, ndim: int) -> Any:
    return tuple(range(ndim)) if axis is None else axis


def softmax(x: Any, axis: Any = None) -> Any:
    """e^x divided by its sum over axes, all of them where none is given.

    >>> softmax([0.0, 0.0]).tolist()
    [0.5, 0.5]
    """
    return np.exp(log_softmax(x, axis)) if holds_value(x) else _special.softmax(x, axis=axis)


def log_softmax(x: Any, axis: Any = None) -> Any:
    """x minus ln of the sum of e^x over axes, all of them where none is given.

    >>> log_softmax([1000.0, 0.0]).tolist()
    [0.0, -1000.0]
    """
    if not holds_value(x):
        return _special.log_softmax(x, axis=axis)
    return x - functions.logsumexp(x, axis, True)


def polygamma(n: Any, x: Any) -> Any:
    """Derivative n of the digamma function. No gradient flows to n, which is whole: that is refused.

    >>> float(np.round(polygamma(1, 1.0) * 6.0 / np.pi**2, 12))
    1.0
    """
    if not holds_value((n, x)):
        return _special.polygamma(n, x)[()]
    no_gradient("polygamma", (n, x), (0,))
    return _operation("special_polygamma")(n, x)


def zeta(x: Any, q: Any = None) -> Any:
    """The sum of (k + q)^-x over k = 0, 1, ...; q is 1 by default. A gradient flows to q; one to x is refused.

    >>> import tapegrad as tg
    >>> float(np.round(zeta(2.0) * 6.0 / np.pi**2, 12)), round(tg.grad(lambda q: zeta(2.0, q))(1.0), 6)
    (1.0, -2.404114)
    """
    if not holds_value((x, q)):
        return _special.zeta(x, q)
    no_gradient("zeta", (x, q), (0,))
    if q is None:
        # A constant on the tape; SciPy has it left of 1 too.
        return _zeta(x)
    return _operation("special_zeta")(x, q)


_zeta = external(lambda x: _special.zeta(x), lambda w, z, x: None)


def multigammaln(a: Any, d: int) -> Any:
    """ln of the multivariate gamma function of dimension d, for a > (d - 1) / 2.

    Raises OperationError where `d` is not a whole number above 0.

    >>> bool(np.isclose(multigammaln(3.0, 2), np.log(np.pi) / 2 + math.lgamma(3.0) + math.lgamma(2.5)))
    True
    """
    if not holds_value(a):
        return _special.multigammaln(a, d)
    if d != int(d) or d < 1:
        raise OperationError(f"multigammaln: d must be a whole number above 0, not {d!r}")
    terms = [_special.gammaln(a - 0.5 * j) for j in range(int(d))]
    return sum(terms[1:], terms[0]) + 0.25 * d * (d - 1) * math.log(math.pi)


def comb(N: Any, k: Any, *, exact: bool = False, repetition: bool = False) -> Any:
    """The binomial coefficient N over k, by `binom` where Values are given, and 0 outside of 0 <= k <= N.

    Raises UnsupportedError for `exact` with Values.

    >>> comb(5, 2)
    np.float64(10.0)
    """
    if not holds_value((N, k)):
        return _special.comb(N, k, exact=exact, repetition=repetition)
    if exact:
        raise UnsupportedError("scipy.special.comb with exact=True counts whole numbers: leave it out for Values")
    if repetition:
        return comb(N + k - 1, k)
    # N <= 0 is outside for any k above N, and negative N for all.
    inside = (k <= N) * (N >= 0) * (k >= 0)
    return where(inside, _special.binom(where(inside, N, 1.0), where(inside, k, 0.0)), 0.0)


def perm(N: Any, k: Any, exact: bool = False) -> Any:
    """N! / (N - k)!, and 0 outside of 0 <= k <= N. Raises UnsupportedError for `exact` with Values."""
    if not holds_value((N, k)):
        return _special.perm(N, k, exact=exact)
    if exact:
        raise UnsupportedError("scipy.special.perm with exact=True counts whole numbers: leave it out for Values")
    inside = (k <= N) * (N >= 0) * (k >= 0)
    return where(inside, _special.poch(where(inside, N - k + 1.0, 1.0), where(inside, k, 0.0)), 0.0)


def factorial(n: Any, exact: bool = False) -> Any:
    """Gamma(n + 1), and 0 for n < 0. Raises UnsupportedError for `exact` with Values."""
    if not holds_value(n):
        return _special.factorial(n, exact=exact)
    if exact:
        raise UnsupportedError("scipy.special.factorial with exact=True counts whole numbers: leave it out for Values")
    return where(n < 0.0, 0.0, _special.gamma(where(n < 0.0, 0.0, n) + 1.0))


def softplus(x: Any) -> Any:
    """ln(1 + e^x), without overflow.

    >>> softplus(1000.0)
    np.float64(1000.0)
    """
    return np.logaddexp(0.0, x)


def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), and 1 at 0, smooth there to any order.

    >>> import tapegrad as tg
    >>> round(tg.grad(tg.grad(sinc))(0.0) * 3.0 / np.pi**2, 12)
    -1.0
    """
    if not holds_value(x):
        return np.sinc(x)[()]
    return _special.hyp0f1(1.5, -0.25 * np.pi**2 * x * x)


def diric(x: Any, n: int) -> Any:
    """The Dirichlet kernel sin(n x / 2) / (n sin(x / 2)), for whole n above 0: a Chebyshev polynomial of cos(x / 2)."""
    if not holds_value(x):
        return _special.diric(x, n)
    return _special.eval_chebyu(n - 1, np.cos(0.5 * x)) / n


def _spherical(name: str, own: Any, sign: float) -> Callable[..., Any]:
    @functools.lru_cache(64)
    def of_order(n: int) -> Any:
        """The function of an order, and its derivative."""

        def second(z: Any) -> Any:
            # z^2 f'' + 2 z f' + (sign z^2 - n (n + 1)) f = 0.
            return -2.0 * slope(z) / z - (sign - n * (n + 1) / (z * z)) * function(z)

        function = external(lambda z: own(n, z), lambda w, f, z: w * slope(z), numpy_rules=True)
        slope = external(lambda z: own(n, z, True), lambda w, f, z: w * second(z), numpy_rules=True)
        return function, slope

    def value(n: Any, z: Any, derivative: bool = False) -> Any:
        if not holds_value((n, z)):
            return own(n, z, derivative)
        no_gradient(name, (n, z), (0,))
        if holds_value((n,)) or np.ndim(n) or n != int(n):
            raise UnsupportedError(f"scipy.special.{name}: with Values the order must be one plain whole number")
        return of_order(int(n))[bool(derivative)](z)

    value.__name__ = value.__qualname__ = name
    value.__doc__ = (
        f"SciPy's {name}: a spherical Bessel function, or its derivative. The order is a plain whole number; the "
        "derivative has none at z = 0."
    )
    return value


spherical_jn = _spherical("spherical_jn", _special.spherical_jn, 1.0)
spherical_yn = _spherical("spherical_yn", _special.spherical_yn, 1.0)
spherical_in = _spherical("spherical_in", _special.spherical_in, -1.0)
spherical_kn = _spherical("spherical_kn", _special.spherical_kn, -1.0)


def hyp2f1(a: Any, b: Any, c: Any, z: Any) -> Any:
    """Gauss' hypergeometric function. A gradient flows to z; a, b and c are plain numbers.

    >>> import tapegrad as tg
    >>> bool(np.isclose(tg.grad(lambda z: hyp2f1(1.0, 1.0, 2.0, z))(0.5), 4.0 - 4.0 * np.log(2.0)))
    True
    """
    if not holds_value((a, b, c, z)):
        return _special.hyp2f1(a, b, c, z)
    if holds_value((a, b, c)):
        raise UnsupportedError(f"scipy.special.hyp2f1: a, b and c must be plain numbers: {_UNKNOWN}")
    rule = external(
        lambda z: _special.hyp2f1(a, b, c, z),
        lambda w, f, z: w * (np.multiply(a, b) / c * hyp2f1(np.add(a, 1.0), np.add(b, 1.0), np.add(c, 1.0), z)),
        numpy_rules=True,
    )
    shape = np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c), np.shape(z))
    return rule(z if np.shape(z) == shape else np.broadcast_to(z, shape))


"""`scipy.stats` with derivatives: densities and distribution functions, in all their arguments.

Values are SciPy's, also outside of the support, where the density is 0 and no gradient flows. Distribution functions of
families with shapes (gamma, beta, t, chi2) have no derivative by the shapes: a gradient to one is refused.

>>> import tapegrad as tg
>>> from tapegrad.scipy import stats
>>> tg.grad(lambda x, mu, sigma: stats.norm.logpdf(x, mu, sigma), argnums=(0, 1, 2))(1.0, 0.0, 2.0)
(-0.25, 0.25, -0.375)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls import stop_gradient
from tapegrad.flow import where
from tapegrad.functions import stack
from tapegrad.functions.registry import holds_value
from tapegrad.scipy.multivariate import dirichlet, multivariate_normal
from tapegrad.scipy.special import softplus
from tapegrad.value import Value

__all__ = [
    "Continuous", "Discrete", "Frozen", "bernoulli", "beta", "binom", "cauchy", "chi2", "dirichlet", "expon", "gamma",
    "laplace", "logistic", "lognorm", "multivariate_normal", "norm", "poisson", "t", "uniform",
]  # fmt: skip

_Rule = Callable[..., Any]
_LN2 = math.log(2.0)
_LN_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def _given(*xs: Any) -> list[Any]:
    """Arguments as Values, numbers and arrays; whole numbers become floats, of the Values' dtype where there are some."""
    dtypes = [x.dtype for x in xs if isinstance(x, Value)]

    def one(x: Any) -> Any:
        if isinstance(x, Value | float):
            return x
        if holds_value(x):
            return x if isinstance(x, np.ndarray) else stack(x)
        array = np.asarray(x)
        return np.asarray(array, array.dtype if array.dtype.kind == "f" else dtypes[0] if dtypes else float)[()]

    return [one(x) for x in xs]


class Frozen:
    """A family with its parameters: `norm(0.0, 2.0).logpdf(x)` is `norm.logpdf(x, 0.0, 2.0)`."""

    def __init__(self, family: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.family, self._args, self._kwargs = family, args, kwargs

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.family, name)
        if name in ("mean", "var", "std"):
            return lambda: method(*self._args, **self._kwargs)
        return lambda x: method(x, *self._args, **self._kwargs)


class _Family:
    """What continuous and discrete families share: parameters by position or by name, as SciPy takes them."""

    def __init__(self, name: str, shapes: str, rest: tuple[str, ...], valid: _Rule | None = None) -> None:
        self.name, self.shapes = name, tuple(shapes.split())
        self._names, self._valid = (*self.shapes, *rest), valid

    def __call__(self, *args: Any, **kwargs: Any) -> Frozen:
        self._parameters("", args, kwargs)
        return Frozen(self, args, kwargs)

    def _parameters(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *first: Any) -> list[Any]:
        """What comes first, then the parameters in order."""
        what = f"{self.name}.{method}" if method else self.name
        if len(args) > len(self._names):
            raise TypeError(f"{what} takes the parameters {', '.join(self._names)}: {len(args)} were given")
        given = dict(zip(self._names, args, strict=False))
        for name, x in kwargs.items():
            if name not in self._names:
                raise TypeError(f"{what} takes the parameters {', '.join(self._names)}, not {name!r}")
            if name in given:
                raise TypeError(f"{what}: {name!r} was given twice")
            given[name] = x
        missing = [name for name in self.shapes if name not in given]
        if missing:
            raise TypeError(f"{what} needs the parameter {', '.join(missing)}")
        return _given(*first, *[given.get(name, 1.0 if name == "scale" else 0.0) for name in self._names])

    def _checked(self, result: Any, shapes: list[Any], *conditions: Any) -> Any:
        """The result, and NaN where parameters are none of the family's."""
        good = [*conditions] if self._valid is None else [self._valid(*shapes), *conditions]
        for condition in good:
            if holds_values((condition,)) or not np.all(condition):
                result = where(condition, result, np.nan)
        return result


def _log(p: Any, rest: Any) -> Any:
    # ln p, where p + rest = 1: of the smaller of both, which has all its digits.
    small = p < 0.5
    return where(small, np.log(where(small, p, 0.5)), np.log1p(-where(small, 0.5, rest)))


class Continuous(_Family):
    """A family of distributions with location and scale, given by its standard member.

    Args:
        name: the family's.
        shapes: the names of its other parameters.
        logpdf: the rule for the logarithm of the standard density, of x and the shapes.
        cdf, sf, logcdf, logsf, ppf, isf: the rules for the distribution function, 1 minus it, their logarithms, and their
            inverses. Those that are not given follow from the others.
        support: from where to where the density is not 0.
        inside: a number between.
        moments: the rule for mean and variance, of the shapes.
        valid: the rule that says whether shapes are the family's.
    """

    def __init__(
        self, name: str, shapes: str, logpdf: _Rule, *, cdf: _Rule, sf: _Rule, ppf: _Rule | None = None,
        logcdf: _Rule | None = None, logsf: _Rule | None = None, isf: _Rule | None = None, moments: _Rule,
        support: tuple[float, float] = (-math.inf, math.inf), inside: float = 0.5, valid: _Rule | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, shapes, ("loc", "scale"), valid)
        self.support, self._inside, self._moments = support, inside, moments
        self._rules: dict[str, _Rule | None] = {
            "logpdf": logpdf, "cdf": cdf, "sf": sf, "ppf": ppf, "isf": isf,
            "logcdf": logcdf or (lambda *xs: _log(cdf(*xs), sf(*xs))),
            "logsf": logsf or (lambda *xs: _log(sf(*xs), cdf(*xs))),
        }  # fmt: skip

    def _standard(self, method: str, x: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any], Any]:
        x, *shapes, loc, scale = self._parameters(method, args, kwargs, x)
        return (x - loc) / scale, shapes, scale

    def logpdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the density, -infinity outside of the support; parameters are the shapes, loc and scale."""
        y, shapes, scale = self._standard("logpdf", x, args, kwargs)
        (low, high), rule = self.support, self._rules["logpdf"]
        assert rule is not None
        if (low, high) == (-math.inf, math.inf):
            result = rule(y, *shapes)
        else:
            # Outside, nothing is computed of the number itself, so that no NaN comes back from there.
            at = (y >= low) * (y <= high)
            out = where(y != y, np.nan, -np.inf)
            result = where(at, rule(where(at, y, self._inside), *shapes), out)
        return self._checked(result - np.log(where(scale > 0.0, scale, 1.0)), shapes, scale > 0.0)

    def pdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The density, 0 outside of the support."""
        return np.exp(self.logpdf(x, *args, **kwargs))

    def _function(self, method: str, below: float, above: float, x: Any, args: Any, kwargs: Any) -> Any:
        y, shapes, scale = self._standard(method, x, args, kwargs)
        (low, high), rule = self.support, self._rules[method]
        assert rule is not None
        at = (y > low) * (y < high)
        out = where(y != y, np.nan, where(y <= low, below, above))
        return self._checked(where(at, rule(where(at, y, self._inside), *shapes), out), shapes, scale > 0.0)

    def cdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The distribution function: the probability of at most x."""
        return self._function("cdf", 0.0, 1.0, x, args, kwargs)

    def sf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of more than x."""
        return self._function("sf", 1.0, 0.0, x, args, kwargs)

    def logcdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the distribution function."""
        return self._function("logcdf", -math.inf, 0.0, x, args, kwargs)

    def logsf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of more than x."""
        return self._function("logsf", 0.0, -math.inf, x, args, kwargs)

    def ppf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of the distribution function."""
        q, *shapes, loc, scale = self._parameters("ppf", args, kwargs, q)
        rule = self._rules["ppf"]
        assert rule is not None
        return self._checked(rule(q, *shapes) * scale + loc, shapes, scale > 0.0)

    def isf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of `sf`."""
        q, *shapes, loc, scale = self._parameters("isf", args, kwargs, q)
        inverse, rule = self._rules["isf"], self._rules["ppf"]
        assert rule is not None
        y = inverse(q, *shapes) if inverse is not None else rule(1.0 - q, *shapes)
        return self._checked(y * scale + loc, shapes, scale > 0.0)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean."""
        *shapes, loc, scale = self._parameters("mean", args, kwargs)
        return self._checked(loc + scale * self._moments(*shapes)[0], shapes, scale > 0.0)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """The variance."""
        *shapes, _, scale = self._parameters("var", args, kwargs)
        return self._checked(scale * scale * self._moments(*shapes)[1], shapes, scale > 0.0)

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """The standard deviation."""
        return np.sqrt(self.var(*args, **kwargs))


class Discrete(_Family):
    """A family of distributions on whole numbers from 0 on. No gradient flows to the numbers, at which it jumps.

    Args:
        name, shapes, valid: as of `Continuous`.
        logpmf, cdf, sf: the rules, of k and the shapes.
        high: the rule for the largest number, of the shapes.
        moments: the rule for mean and variance, of the shapes.
    """

    def __init__(
        self, name: str, shapes: str, logpmf: _Rule, *, cdf: _Rule, sf: _Rule, high: _Rule, moments: _Rule, valid: _Rule
    ) -> None:
        super().__init__(name, shapes, ("loc",), valid)
        self._logpmf, self._cdf, self._sf, self._high, self._moments = logpmf, cdf, sf, high, moments

    def _number(self, method: str, k: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
        k, *shapes, loc = self._parameters(method, args, kwargs, k)
        return stop_gradient(k - loc), shapes

    def logpmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of k, -infinity where that is 0; parameters are the shapes and loc."""
        k, shapes = self._number("logpmf", k, args, kwargs)
        at = (k >= 0.0) * (k <= self._high(*shapes)) * (k == np.floor(k))
        out = where(k != k, np.nan, -np.inf)
        return self._checked(where(at, self._logpmf(where(at, k, 0.0), *shapes), out), shapes)

    def pmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of k."""
        return np.exp(self.logpmf(k, *args, **kwargs))

    def _function(self, method: str, rule: _Rule, below: float, above: float, k: Any, args: Any, kwargs: Any) -> Any:
        k, shapes = self._number(method, k, args, kwargs)
        k, high = np.floor(k), self._high(*shapes)
        at = (k >= 0.0) * (k < high)
        out = where(k != k, np.nan, where(k < 0.0, below, above))
        return self._checked(where(at, rule(where(at, k, 0.0), *shapes), out), shapes)

    def cdf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of at most k."""
        return self._function("cdf", self._cdf, 0.0, 1.0, k, args, kwargs)

    def sf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of more than k."""
        return self._function("sf", self._sf, 1.0, 0.0, k, args, kwargs)

    def logcdf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of at most k."""
        with np.errstate(divide="ignore"):
            return np.log(self.cdf(k, *args, **kwargs))

    def logsf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of more than k."""
        with np.errstate(divide="ignore"):
            return np.log(self.sf(k, *args, **kwargs))

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean."""
        *shapes, loc = self._parameters("mean", args, kwargs)
        return self._checked(loc + self._moments(*shapes)[0], shapes)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """The variance."""
        *shapes, _ = self._parameters("var", args, kwargs)
        return self._checked(self._moments(*shapes)[1], shapes)

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """The standard deviation."""
        return np.sqrt(self.var(*args, **kwargs))


def _log_expm1(y: Any) -> Any:
    # ln(1 - e^-y) for y > 0, accurate at both ends.
    near = y < _LN2
    return where(near, np.log(-np.expm1(-where(near, y, 0.5))), np.log1p(-np.exp(-where(near, 1.0, y))))


def _positive(*shapes: Any) -> Any:
    result = shapes[0] > 0.0
    for x in shapes[1:]:
        result = result * (x > 0.0)
    return result


_HALF = (0.0, math.inf)

norm = Continuous("norm", "",
    lambda y: -0.5 * y * y - _LN_SQRT_2PI,
    cdf=lambda y: special.ndtr(y), sf=lambda y: special.ndtr(-y),
    logcdf=lambda y: special.log_ndtr(y), logsf=lambda y: special.log_ndtr(-y),
    ppf=lambda q: special.ndtri(q), isf=lambda q: -special.ndtri(q), moments=lambda: (0.0, 1.0))

t = Continuous("t", "df",
    lambda y, v: -0.5 * (v + 1.0) * np.log1p(y * y / v) - 0.5 * np.log(v) - special.betaln(0.5, 0.5 * v),
    cdf=lambda y, v: special.stdtr(v, y), sf=lambda y, v: special.stdtr(v, -y),
    ppf=lambda q, v: special.stdtrit(v, q), isf=lambda q, v: -special.stdtrit(v, q), valid=_positive,
    moments=lambda v: (where(v > 1.0, 0.0, np.inf), where(v > 2.0, v / where(v > 2.0, v - 2.0, 1.0),
                                                         where(v > 1.0, np.inf, np.nan))))

gamma = Continuous("gamma", "a",
    lambda y, a: special.xlogy(a - 1.0, y) - y - special.gammaln(a), support=_HALF, valid=_positive,
    cdf=lambda y, a: special.gammainc(a, y), sf=lambda y, a: special.gammaincc(a, y),
    ppf=lambda q, a: special.gammaincinv(a, q), isf=lambda q, a: special.gammainccinv(a, q),
    moments=lambda a: (a, a))

chi2 = Continuous("chi2", "df",
    lambda y, v: special.xlogy(0.5 * v - 1.0, y) - 0.5 * y - special.gammaln(0.5 * v) - 0.5 * _LN2 * v,
    support=_HALF, valid=_positive,
    cdf=lambda y, v: special.chdtr(v, y), sf=lambda y, v: special.chdtrc(v, y),
    ppf=lambda q, v: 2.0 * special.gammaincinv(0.5 * v, q), isf=lambda q, v: special.chdtri(v, q),
    moments=lambda v: (v, 2.0 * v))

beta = Continuous("beta", "a b",
    lambda y, a, b: special.xlog1py(b - 1.0, -y) + special.xlogy(a - 1.0, y) - special.betaln(a, b),
    support=(0.0, 1.0), valid=_positive,
    cdf=lambda y, a, b: special.betainc(a, b, y), sf=lambda y, a, b: special.betaincc(a, b, y),
    ppf=lambda q, a, b: special.betaincinv(a, b, q), isf=lambda q, a, b: special.betainccinv(a, b, q),
    moments=lambda a, b: (a / (a + b), a * b / ((a + b) * (a + b) * (a + b + 1.0))))

expon = Continuous("expon", "",
    lambda y: -y, support=_HALF,
    cdf=lambda y: -np.expm1(-y), sf=lambda y: np.exp(-y), logcdf=_log_expm1, logsf=lambda y: -y,
    ppf=lambda q: -np.log1p(-q), isf=lambda q: -np.log(q), moments=lambda: (1.0, 1.0))


def _laplace(y: Any) -> Any:
    half = 0.5 * np.exp(-abs(y))
    return where(y < 0.0, half, 1.0 - half)


def _log_laplace(y: Any) -> Any:
    return where(y < 0.0, y - _LN2, np.log1p(-0.5 * np.exp(-abs(y))))


def _laplace_inverse(q: Any) -> Any:
    left = q < 0.5
    return where(left, np.log(2.0 * where(left, q, 0.25)), -np.log(2.0 * (1.0 - where(left, 0.75, q))))


laplace = Continuous("laplace", "",
    lambda y: -abs(y) - _LN2,
    cdf=_laplace, sf=lambda y: _laplace(-y), logcdf=_log_laplace, logsf=lambda y: _log_laplace(-y),
    ppf=_laplace_inverse, isf=lambda q: -_laplace_inverse(q), moments=lambda: (0.0, 2.0))

logistic = Continuous("logistic", "",
    lambda y: -abs(y) - 2.0 * softplus(-abs(y)),
    cdf=lambda y: special.expit(y), sf=lambda y: special.expit(-y),
    logcdf=lambda y: -softplus(-y), logsf=lambda y: -softplus(y),
    ppf=lambda q: special.logit(q), isf=lambda q: -special.logit(q), moments=lambda: (0.0, math.pi**2 / 3.0))


def _log_of(y: Any) -> Any:
    # At 0 the density is 0, and so is what follows from this number.
    return np.log(where(y > 0.0, y, 1.0))


lognorm = Continuous("lognorm", "s",
    lambda y, s: where(y > 0.0, -0.5 * (_log_of(y) / s) ** 2 - np.log(s) - _log_of(y) - _LN_SQRT_2PI, -np.inf),
    support=_HALF, valid=_positive,
    cdf=lambda y, s: special.ndtr(np.log(y) / s), sf=lambda y, s: special.ndtr(-np.log(y) / s),
    logcdf=lambda y, s: special.log_ndtr(np.log(y) / s), logsf=lambda y, s: special.log_ndtr(-np.log(y) / s),
    ppf=lambda q, s: np.exp(s * special.ndtri(q)), isf=lambda q, s: np.exp(-s * special.ndtri(q)),
    moments=lambda s: (np.exp(0.5 * s * s), np.expm1(s * s) * np.exp(s * s)))

uniform = Continuous("uniform", "",
    lambda y: 0.0 * y, support=(0.0, 1.0),
    cdf=lambda y: y, sf=lambda y: 1.0 - y, logsf=lambda y: np.log1p(-y),
    ppf=lambda q: q, moments=lambda: (0.5, 1.0 / 12.0))

cauchy = Continuous("cauchy", "",
    lambda y: -math.log(math.pi) - np.log1p(y * y),
    cdf=lambda y: np.arctan2(1.0, -y) / math.pi, sf=lambda y: np.arctan2(1.0, y) / math.pi,
    ppf=lambda q: -1.0 / np.tan(math.pi * q), isf=lambda q: 1.0 / np.tan(math.pi * q),
    moments=lambda: (math.nan, math.nan))

poisson = Discrete("poisson", "mu",
    lambda k, m: special.xlogy(k, m) - special.gammaln(k + 1.0) - m,
    cdf=lambda k, m: special.pdtr(k, m), sf=lambda k, m: special.pdtrc(k, m),
    high=lambda m: np.inf, moments=lambda m: (m, m), valid=lambda m: m >= 0.0)


def _log_binomial(k: Any, n: Any, p: Any) -> Any:
    # Where k is above n nothing is computed: SciPy's gammaln has poles there.
    rest = where(k <= n, n - k, 0.0)
    chosen = special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(rest + 1.0)
    return chosen + special.xlogy(k, p) + special.xlog1py(rest, -p)


def _trials(n: Any, p: Any) -> Any:
    return (n >= 0.0) * (n == np.floor(n)) * (p >= 0.0) * (p <= 1.0)


binom = Discrete("binom", "n p", _log_binomial,
    cdf=lambda k, n, p: special.bdtr(k, n, p), sf=lambda k, n, p: special.bdtrc(k, n, p),
    high=lambda n, p: n, moments=lambda n, p: (n * p, n * p * (1.0 - p)), valid=_trials)

bernoulli = Discrete("bernoulli", "p",
    lambda k, p: special.xlogy(k, p) + special.xlog1py(1.0 - k, -p),
    cdf=lambda k, p: 1.0 - p + 0.0 * k, sf=lambda k, p: p + 0.0 * k,
    high=lambda p: 1.0, moments=lambda p: (p, p * (1.0 - p)), valid=lambda p: (p >= 0.0) * (p <= 1.0))

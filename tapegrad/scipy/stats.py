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
from typing import Any

import numpy as np
from scipy import special

from tapegrad.flow import where
from tapegrad.scipy.families import Continuous, Discrete, Frozen
from tapegrad.scipy.multivariate import dirichlet, multivariate_normal
from tapegrad.scipy.special import softplus

__all__ = [
    "Continuous", "Discrete", "Frozen", "bernoulli", "beta", "binom", "cauchy", "chi2", "dirichlet", "expon", "gamma",
    "laplace", "logistic", "lognorm", "multivariate_normal", "norm", "poisson", "t", "uniform",
]  # fmt: skip

_LN2 = math.log(2.0)
_LN_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_HALF = (0.0, math.inf)


def _log_expm1(y: Any) -> Any:
    # ln(1 - e^-y) for y > 0, accurate at both ends.
    near = y < _LN2
    return where(near, np.log(-np.expm1(-where(near, y, 0.5))), np.log1p(-np.exp(-where(near, 1.0, y))))


def _positive(*shapes: Any) -> Any:
    result = shapes[0] > 0.0
    for x in shapes[1:]:
        result = result * (x > 0.0)
    return result


norm = Continuous("norm", "",
    lambda y: -0.5 * y * y - _LN_SQRT_2PI,
    cdf=lambda y: special.ndtr(y), sf=lambda y: special.ndtr(-y),
    logcdf=lambda y: special.log_ndtr(y), logsf=lambda y: special.log_ndtr(-y),
    ppf=lambda q: special.ndtri(q), isf=lambda q: -special.ndtri(q), moments=lambda: (0.0, 1.0))


def _t_inverse(q: Any, v: Any) -> Any:
    # SciPy's inverse gives infinity at 0 too.
    return where(q == 0.0, -np.inf, special.stdtrit(v, where(q == 0.0, 0.5, q)))


t = Continuous("t", "df",
    lambda y, v: -0.5 * (v + 1.0) * np.log1p(y * y / v) - 0.5 * np.log(v) - special.betaln(0.5, 0.5 * v),
    cdf=lambda y, v: special.stdtr(v, y), sf=lambda y, v: special.stdtr(v, -y),
    ppf=lambda q, v: _t_inverse(q, v), isf=lambda q, v: -_t_inverse(q, v), valid=_positive,
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

def _cauchy_inverse(q: Any) -> Any:
    # By the distance from the nearest of 0, 1/2 and 1, which is exact.
    middle, left = abs(q - 0.5) < 0.25, q < 0.5
    tail = math.pi * where(middle, 0.25, where(left, q, 1.0 - q))
    far = where(tail == 0.0, np.inf, 1.0 / np.tan(where(tail == 0.0, 1.0, tail)))
    return where(middle, np.tan(math.pi * (where(middle, q, 0.5) - 0.5)), where(left, -far, far))


cauchy = Continuous("cauchy", "",
    lambda y: -math.log(math.pi) - np.log1p(y * y),
    cdf=lambda y: np.arctan2(1.0, -y) / math.pi, sf=lambda y: np.arctan2(1.0, y) / math.pi,
    ppf=_cauchy_inverse, isf=lambda q: -_cauchy_inverse(q),
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

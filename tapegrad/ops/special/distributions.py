"""Distribution functions. Their parameters are plain numbers where the derivative is not elementary."""

import numpy as np
from scipy import special

from tapegrad.ops.selection import where
from tapegrad.ops.spec import POSITIVE, REALS, Interval
from tapegrad.ops.special.declare import function
from tapegrad.ops.special.gamma import PART, beta_density, betaln, gamma_density, gammaln
from tapegrad.ops.special.information import xlogy

FREE = Interval(1.5, 5.0)
COUNT = Interval(2.0, 2.0)
TRIALS = Interval(6.0, 6.0)


def _t_density(v, t):
    return np.exp(-0.5 * (v + 1.0) * np.log1p(t * t / v) - betaln(0.5, 0.5 * v)) / np.sqrt(v)


def _f_density(n, d, x):
    # By x: of the beta distribution at n x / (n x + d).
    whole = n * x + d
    return beta_density(0.5 * n, 0.5 * d, n * x / whole) * n * d / (whole * whole)


def _poisson(k, m):
    return np.exp(xlogy(k, m) - m - gammaln(k + 1.0))


bdtr = function(special.bdtr, "z = binomial distribution: at most k of n, each of probability p",
    lambda k, n, p, z: (0.0, 0.0, -beta_density(np.floor(k) + 1.0, n - np.floor(k), p)),
    held=(0, 1), kink=lambda k, n, p: np.where((k >= 0.0) & (n >= k), p * (1.0 - p), 0.0),
    samples=(COUNT, TRIALS, PART))

bdtrc = function(special.bdtrc, "z = binomial distribution: more than k of n, each of probability p",
    lambda k, n, p, z: (0.0, 0.0, beta_density(np.floor(k) + 1.0, n - np.floor(k), p)),
    held=(0, 1), kink=lambda k, n, p: np.where((k >= 0.0) & (n >= k), p * (1.0 - p), 0.0),
    samples=(COUNT, TRIALS, PART))

bdtri = function(special.bdtri, "z = p with bdtr(k, n, p) = y",
    lambda k, n, y, z: (0.0, 0.0, -1.0 / beta_density(np.floor(k) + 1.0, n - np.floor(k), z)),
    held=(0, 1), kink=lambda k, n, y: y * (1.0 - y), samples=(COUNT, TRIALS, PART))

nbdtr = function(special.nbdtr, "z = negative binomial distribution: at most k failures before n successes",
    lambda k, n, p, z: (0.0, 0.0, beta_density(n, np.floor(k) + 1.0, p)),
    held=(0, 1), kink=lambda k, n, p: np.where(k >= 0.0, p * (1.0 - p), 0.0), samples=(COUNT, TRIALS, PART))

nbdtrc = function(special.nbdtrc, "z = negative binomial distribution: more than k failures before n successes",
    lambda k, n, p, z: (0.0, 0.0, -beta_density(n, np.floor(k) + 1.0, p)),
    held=(0, 1), kink=lambda k, n, p: np.where(k >= 0.0, p * (1.0 - p), 0.0), samples=(COUNT, TRIALS, PART))

pdtr = function(special.pdtr, "z = Poisson distribution: at most k events, m expected",
    lambda k, m, z: (0.0, -_poisson(np.floor(k), m)),
    held=(0,), samples=(COUNT, POSITIVE))

pdtrc = function(special.pdtrc, "z = Poisson distribution: more than k events, m expected",
    lambda k, m, z: (0.0, _poisson(np.floor(k), m)),
    held=(0,), samples=(COUNT, POSITIVE))

pdtri = function(special.pdtri, "z = m with pdtr(k, m) = y",
    lambda k, y, z: (0.0, -1.0 / _poisson(np.floor(k), z)),
    held=(0,), kink=lambda k, y: np.where(k >= 0.0, y * (1.0 - y), 0.0), samples=(COUNT, PART))

chdtr = function(special.chdtr, "z = chi-squared distribution, from 0 to x",
    lambda v, x, z: (0.0, 0.5 * gamma_density(0.5 * v, 0.5 * x)),
    held=(0,), kink=lambda v, x: x, samples=(FREE, POSITIVE))

chdtrc = function(special.chdtrc, "z = chi-squared distribution, from x to infinity",
    lambda v, x, z: (0.0, where(x < 0.0, 0.0, -0.5 * gamma_density(0.5 * v, 0.5 * abs(x)))),
    held=(0,), kink=lambda v, x: x, samples=(FREE, POSITIVE))

chdtri = function(special.chdtri, "z = x with chdtrc(v, x) = p",
    lambda v, p, z: (0.0, -2.0 / gamma_density(0.5 * v, 0.5 * z)),
    held=(0,), kink=lambda v, p: p * (1.0 - p), samples=(FREE, PART))

fdtr = function(special.fdtr, "z = F distribution, from 0 to x",
    lambda n, d, x, z: (0.0, 0.0, _f_density(n, d, x)),
    held=(0, 1), kink=lambda n, d, x: x, samples=(FREE, FREE, POSITIVE))

fdtrc = function(special.fdtrc, "z = F distribution, from x to infinity",
    lambda n, d, x, z: (0.0, 0.0, -_f_density(n, d, x)),
    held=(0, 1), kink=lambda n, d, x: x, samples=(FREE, FREE, POSITIVE))

fdtri = function(special.fdtri, "z = x with fdtr(n, d, x) = p",
    lambda n, d, p, z: (0.0, 0.0, 1.0 / _f_density(n, d, z)),
    held=(0, 1), kink=lambda n, d, p: p * (1.0 - p), samples=(FREE, FREE, PART))

gdtr = function(special.gdtr, "z = gamma distribution of rate a and shape b, from 0 to x",
    lambda a, b, x, z: (x * gamma_density(b, a * x), 0.0, a * gamma_density(b, a * x)),
    held=(1,), kink=lambda a, b, x: a * x, samples=(POSITIVE, FREE, POSITIVE))

gdtrc = function(special.gdtrc, "z = gamma distribution of rate a and shape b, from x to infinity",
    lambda a, b, x, z: (-x * gamma_density(b, a * x), 0.0, -a * gamma_density(b, a * x)),
    held=(1,), kink=lambda a, b, x: a * x, samples=(POSITIVE, FREE, POSITIVE))

stdtr = function(special.stdtr, "z = Student's t distribution of v degrees of freedom",
    lambda v, t, z: (0.0, _t_density(v, t)),
    held=(0,), samples=(FREE, REALS))

stdtrit = function(special.stdtrit, "z = t with stdtr(v, t) = p",
    lambda v, p, z: (0.0, 1.0 / _t_density(v, z)),
    held=(0,), kink=lambda v, p: p * (1.0 - p), samples=(FREE, PART))

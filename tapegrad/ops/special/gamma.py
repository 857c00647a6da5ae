"""The gamma and beta functions, their logarithms and derivatives, and the incomplete ones."""

import math

import numpy as np
from scipy import special

from tapegrad.ops.selection import where
from tapegrad.ops.spec import POSITIVE, Interval, binary
from tapegrad.ops.special.calls import number
from tapegrad.ops.special.declare import function
from tapegrad.ops.special.information import xlog1py, xlogy

LARGE = Interval(0.5, 5.0)
PART = Interval(0.1, 0.9)


def pole(x):
    # The distance from the nearest pole of Gamma.
    return np.where(x > 0.0, x, np.abs(x - np.rint(x)))


psi_of = number(special.psi)
gamma_of = number(special.gamma)


def hurwitz(s, q):
    # Hurwitz' zeta function, the sum of (q + k)^-s, by the formula of Euler and Maclaurin. SciPy has it too, but
    # does not say where compiled code finds it.
    if not s > 1.0 or not q > -1e6:
        return np.inf if s == 1.0 else np.nan
    if q <= 0.0 and q == np.floor(q):
        return np.inf
    total, a = 0.0, q
    while a < 10.0 + s:
        term = a ** (-s)
        total += term
        # For large s the terms fall fast. What is left, bounded by an integral, is lost in rounding.
        if a > 0.0 and term * (1.0 + a / (s - 1.0)) <= 1e-18 * total:
            return total
        a += 1.0
    if np.isinf(a):
        return total
    power = a ** (-s)
    total += power * (a / (s - 1.0) + 0.5)
    # Bernoulli's numbers, each divided by a factorial.
    term = s * power / a
    total += term / 12.0
    term *= (s + 1.0) * (s + 2.0) / (a * a)
    total -= term / 720.0
    term *= (s + 3.0) * (s + 4.0) / (a * a)
    total += term / 30240.0
    term *= (s + 5.0) * (s + 6.0) / (a * a)
    total -= term / 1209600.0
    term *= (s + 7.0) * (s + 8.0) / (a * a)
    total += term / 47900160.0
    term *= (s + 9.0) * (s + 10.0) / (a * a)
    total -= term / 1892437580.3183791
    term *= (s + 11.0) * (s + 12.0) / (a * a)
    return total + term / 74724249600.0


def polygamma_of(n, x):
    if n == 0.0:
        return psi_of(x)
    size = gamma_of(n + 1.0) * hurwitz(n + 1.0, x)
    return -size if 2.0 * np.rint(0.5 * n) == np.rint(n) else size


# SciPy has these two, but not as ufuncs.
polygamma = binary("special_polygamma", "z = derivative n of the digamma function at x", held=(0,),
    value=polygamma_of,
    partials=lambda n, x, z: (0.0, polygamma(n + 1.0, x)),
    samples=(Interval(1.0, 1.0), POSITIVE))

zeta = binary("special_zeta", "z = sum of (x + k)^-s over k = 0, 1, ...", held=(0,),
    value=hurwitz,
    partials=lambda s, x, z: (0.0, -s * zeta(s + 1.0, x)),
    samples=(Interval(1.5, 4.0), POSITIVE))

psi = function(special.psi, "z = digamma x, the derivative of ln Gamma(x)",
    lambda x, z: polygamma(1.0, x),
    samples=POSITIVE)

gamma = function(special.gamma, "z = Gamma(x)",
    lambda x, z: z * psi(x),
    samples=POSITIVE)

gammaln = function(special.gammaln, "z = ln |Gamma(x)|",
    lambda x, z: psi(x),
    samples=POSITIVE)

loggamma = function(special.loggamma, "z = ln Gamma(x)",
    lambda x, z: psi(x),
    samples=POSITIVE)

gammasgn = function(special.gammasgn, "z = sign of Gamma(x)",
    lambda x, z: 0.0,
    kink=lambda x: pole(x),
    samples=POSITIVE)


def rgamma_slope(x, z):
    # By reflection where 1 / Gamma has its zeros, at which digamma has poles.
    at = where(x < 0.5, 1.0 - x, 1.0)
    angle = math.pi * (x - 2.0 * np.rint(0.5 * x))
    reflected = gamma(at) * (np.cos(angle) - np.sin(angle) * psi(at) / math.pi)
    return where(x < 0.5, reflected, -z * psi(where(x < 0.5, 1.0, x)))


rgamma = function(special.rgamma, "z = 1 / Gamma(x)",
    rgamma_slope)


def psi_difference(a, b):
    # psi(a) - psi(a + b). Of large numbers nearly all digits would cancel, so there it is taken from their series.
    c = a + b
    far = (a > 100.0) * (c > 100.0)
    u, v = where(far, a, 1.0), where(far, c, 1.0)
    p, q = 1.0 / (u * u), 1.0 / (v * v)
    series = -np.log1p(where(far, b, 0.0) / u) - 0.5 * b / (u * v) - (p - q) / 12.0 + (p * p - q * q) / 120.0
    return where(far, series, psi(a) - psi(c))


beta = function(special.beta, "z = Gamma(x) Gamma(y) / Gamma(x + y)",
    lambda x, y, z: (z * psi_difference(x, y), z * psi_difference(y, x)),
    kink=lambda x, y: np.minimum(np.minimum(pole(x), pole(y)), pole(x + y)),
    samples=POSITIVE)

betaln = function(special.betaln, "z = ln |beta(x, y)|",
    lambda x, y, z: (psi_difference(x, y), psi_difference(y, x)),
    kink=lambda x, y: np.minimum(np.minimum(pole(x), pole(y)), pole(x + y)),
    samples=POSITIVE)

poch = function(special.poch, "z = Gamma(x + m) / Gamma(x)",
    lambda x, m, z: (-z * psi_difference(x, m), z * psi(x + m)),
    kink=lambda x, m: np.minimum(pole(x), pole(x + m)),
    samples=POSITIVE)


def _binom_slopes(n, k, z):
    # Where there are poles, 1 / Gamma is taken, which has none.
    rest = n - k
    regular = (rest > -1.0) * (k > -1.0)
    a, b = where(regular, k + 1.0, 1.0), where(regular, rest + 1.0, 1.0)
    left, right = rgamma(k + 1.0), rgamma(rest + 1.0)
    top, slope = gamma(n + 1.0), rgamma_slope(rest + 1.0, right)
    return (
        where(regular, z * (psi(n + 1.0) - psi(b)), top * left * (psi(n + 1.0) * right + slope)),
        where(regular, z * (psi(b) - psi(a)), top * (rgamma_slope(k + 1.0, left) * right - left * slope)))


binom = function(special.binom, "z = binomial coefficient n over k",
    _binom_slopes,
    kink=lambda n, k: n + 1.0,
    samples=(Interval(2.0, 5.0), Interval(0.2, 1.8)))


def gamma_density(a, x):
    # Of the gamma distribution of shape a and scale 1.
    return np.exp(xlogy(a - 1.0, x) - x - gammaln(a))


def beta_density(a, b, x):
    return np.exp(xlogy(a - 1.0, x) + xlog1py(b - 1.0, -x) - betaln(a, b))


# At 0 a density may be infinite.
gammainc = function(special.gammainc, "z = regularized incomplete gamma function, from 0 to x",
    lambda a, x, z: (0.0, gamma_density(a, x)),
    held=(0,), kink=lambda a, x: x, samples=(LARGE, POSITIVE))

gammaincc = function(special.gammaincc, "z = regularized incomplete gamma function, from x to infinity",
    lambda a, x, z: (0.0, -gamma_density(a, x)),
    held=(0,), kink=lambda a, x: x, samples=(LARGE, POSITIVE))

gammaincinv = function(special.gammaincinv, "z = x with gammainc(a, x) = p",
    lambda a, p, z: (0.0, 1.0 / gamma_density(a, z)),
    held=(0,), kink=lambda a, p: np.where(a > 0.0, p, 0.0), samples=(LARGE, PART))

gammainccinv = function(special.gammainccinv, "z = x with gammaincc(a, x) = p",
    lambda a, p, z: (0.0, -1.0 / gamma_density(a, z)),
    held=(0,), kink=lambda a, p: np.where(a > 0.0, 1.0 - p, 0.0), samples=(LARGE, PART))

betainc = function(special.betainc, "z = regularized incomplete beta function, from 0 to x",
    lambda a, b, x, z: (0.0, 0.0, beta_density(a, b, x)),
    held=(0, 1), kink=lambda a, b, x: x * (1.0 - x), samples=(LARGE, LARGE, PART))

betaincc = function(special.betaincc, "z = regularized incomplete beta function, from x to 1",
    lambda a, b, x, z: (0.0, 0.0, -beta_density(a, b, x)),
    held=(0, 1), kink=lambda a, b, x: x * (1.0 - x), samples=(LARGE, LARGE, PART))

betaincinv = function(special.betaincinv, "z = x with betainc(a, b, x) = p",
    lambda a, b, p, z: (0.0, 0.0, 1.0 / beta_density(a, b, z)),
    held=(0, 1), kink=lambda a, b, p: p * (1.0 - p), samples=(LARGE, LARGE, PART))

betainccinv = function(special.betainccinv, "z = x with betaincc(a, b, x) = p",
    lambda a, b, p, z: (0.0, 0.0, -1.0 / beta_density(a, b, z)),
    held=(0, 1), kink=lambda a, b, p: p * (1.0 - p), samples=(LARGE, LARGE, PART))

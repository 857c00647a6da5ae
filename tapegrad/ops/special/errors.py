"""The error function and its relatives, the normal distribution, exponential integrals and their like."""

import math

import numpy as np
from scipy import special

from tapegrad.ops.activation import ONE_OVER_SQRT_2PI, SQRT_HALF, sigmoid
from tapegrad.ops.arithmetic import cbrt
from tapegrad.ops.selection import where
from tapegrad.ops.spec import POSITIVE, Interval
from tapegrad.ops.special.declare import SAME, function
from tapegrad.ops.transcendental import LN10, TWO_OVER_SQRT_PI, erf, exp2, expm1, log1p

SQRT_PI = math.sqrt(math.pi)
SQRT_2PI = math.sqrt(2.0 * math.pi)
HALF_SQRT_PI = 0.5 * SQRT_PI
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
PROBABILITY = Interval(0.05, 0.95)

SAME[special.cbrt] = cbrt
SAME[special.erf] = erf
SAME[special.expit] = sigmoid
SAME[special.exp2] = exp2
SAME[special.expm1] = expm1
SAME[special.log1p] = log1p

erfc = function(special.erfc, "z = 1 - erf x",
    lambda x, z: -TWO_OVER_SQRT_PI * np.exp(-(x * x)))


# Of large numbers, erfcx x = 1/(sqrt(pi) x) (1 - 1/(2 x^2) + ...) and dawsn x = 1/(2 x) (1 + 1/(2 x^2) + ...). There
# the derivatives are taken from these series, because in the formulas nearly all digits cancel.
def _slope_of_tail(q, s):
    # 1 - 3 s q + 15 q^2 - 105 s q^3 + ..., where q = 1 / (2 x^2) and s is 1 or -1.
    return 1.0 + q * (-3.0 * s + q * (15.0 + q * (-105.0 * s + q * (945.0 + q * (-10395.0 * s + q * 135135.0)))))


erfcx = function(special.erfcx, "z = e^(x^2) erfc x",
    lambda x, z: where(
        x > 25.0, -_slope_of_tail(0.5 / (x * x), 1.0) / (SQRT_PI * x * x), 2.0 * x * z - TWO_OVER_SQRT_PI))

erfi = function(special.erfi, "z = -i erf(i x)",
    lambda x, z: TWO_OVER_SQRT_PI * np.exp(x * x))

dawsn = function(special.dawsn, "z = e^(-x^2) * integral of e^(t^2) from 0 to x",
    lambda x, z: where(
        abs(x) > 25.0, -_slope_of_tail(0.5 / (x * x), -1.0) * 0.5 / (x * x), 1.0 - 2.0 * x * z))

erfinv = function(special.erfinv, "z = inverse of erf",
    lambda x, z: HALF_SQRT_PI * np.exp(z * z),
    samples=Interval(-0.9, 0.9))

erfcinv = function(special.erfcinv, "z = inverse of erfc",
    lambda x, z: -HALF_SQRT_PI * np.exp(z * z),
    samples=Interval(0.1, 1.9))

ndtr = function(special.ndtr, "z = Phi(x), the normal distribution function",
    lambda x, z: ONE_OVER_SQRT_2PI * np.exp(-0.5 * x * x))

# The density divided by Phi: with erfcx neither overflows nor cancels, however far to the left.
log_ndtr = function(special.log_ndtr, "z = ln Phi(x)",
    lambda x, z: SQRT_2_OVER_PI / erfcx(-SQRT_HALF * x))

ndtri = function(special.ndtri, "z = inverse of Phi",
    lambda x, z: SQRT_2PI * np.exp(0.5 * z * z),
    samples=PROBABILITY)

ndtri_exp = function(special.ndtri_exp, "z = inverse of ln Phi",
    lambda x, z: erfcx(-SQRT_HALF * z) / SQRT_2_OVER_PI,
    kink=lambda x: x,
    samples=Interval(-4.0, -0.1))

logit = function(special.logit, "z = ln(x / (1 - x))",
    lambda x, z: 1.0 / (x * (1.0 - x)),
    samples=PROBABILITY)

log_expit = function(special.log_expit, "z = ln(1 / (1 + e^-x))",
    lambda x, z: sigmoid(-x))

exp10 = function(special.exp10, "z = 10^x",
    lambda x, z: LN10 * z)

# Kummer's function. The derivatives by a and b are not elementary.
hyp1f1 = function(special.hyp1f1, "z = 1F1(a; b; x)",
    lambda a, b, x, z: (0.0, 0.0, a / b * hyp1f1(a + 1.0, b + 1.0, x)),
    held=(0, 1), kink=lambda a, b, x: np.where(b > 0.0, np.inf, np.abs(b - np.rint(b))),
    samples=(Interval(0.5, 2.0), Interval(1.2, 3.0), Interval(-2.0, 2.0)))

hyp0f1 = function(special.hyp0f1, "z = 0F1(; b; x)",
    lambda b, x, z: (0.0, hyp0f1(b + 1.0, x) / b),
    held=(0,), samples=(Interval(0.5, 3.0), Interval(-2.0, 2.0)))

hyperu = function(special.hyperu, "z = U(a, b, x)",
    lambda a, b, x, z: (0.0, 0.0, -a * hyperu(a + 1.0, b + 1.0, x)),
    held=(0, 1), kink=lambda a, b, x: np.where(a > 0.0, x, 0.0),
    samples=(Interval(0.5, 2.0), Interval(1.2, 2.8), Interval(0.5, 3.0)))


def growth(x):
    # 1F1(2; 3; x) = 2 (1 + (x - 1) e^x) / x^2, by Kummer's function near 0, where that formula cancels. SciPy's Kummer
    # function does not come to an end for very large x.
    near = abs(x) < 1.0
    u = where(near, 2.0, x)
    return where(near, hyp1f1(2.0, 3.0, where(near, x, 0.0)), 2.0 * (1.0 + (u - 1.0) * np.exp(u)) / (u * u))


exprel = function(special.exprel, "z = (e^x - 1) / x",
    lambda x, z: 0.5 * growth(x))

expi = function(special.expi, "z = integral of e^t / t from -infinity to x",
    lambda x, z: np.exp(x) / x,
    samples=POSITIVE)

exp1 = function(special.exp1, "z = integral of e^-t / t from x to infinity",
    lambda x, z: -np.exp(-x) / x,
    samples=POSITIVE)

expn = function(special.expn, "z = integral of e^(-x t) / t^n from 1 to infinity",
    lambda n, x, z: (0.0, where(n < 1.0, -z * (1.0 + 1.0 / x), -expn(where(n < 1.0, 0.0, n - 1.0), x))),
    held=(0,), kink=lambda n, x: x, samples=(Interval(2.0, 2.0), POSITIVE))

sine_integral = function(special.sici, "z = integral of sin t / t from 0 to x", output=0,
    # sin x / x, as a function that is smooth at 0.
    partials=lambda x, z: hyp0f1(1.5, -0.25 * x * x))

cosine_integral = function(special.sici, "z = gamma + ln x + integral of (cos t - 1) / t from 0 to x", output=1,
    partials=lambda x, z: np.cos(x) / x,
    samples=POSITIVE)

sinh_integral = function(special.shichi, "z = integral of sinh t / t from 0 to x", output=0,
    partials=lambda x, z: 0.5 * (exprel(x) + exprel(-x)))

cosh_integral = function(special.shichi, "z = gamma + ln x + integral of (cosh t - 1) / t from 0 to x", output=1,
    partials=lambda x, z: np.cosh(x) / x,
    samples=POSITIVE)

fresnel_sine = function(special.fresnel, "z = integral of sin(pi t^2 / 2) from 0 to x", output=0,
    partials=lambda x, z: np.sin(0.5 * math.pi * x * x))

fresnel_cosine = function(special.fresnel, "z = integral of cos(pi t^2 / 2) from 0 to x", output=1,
    partials=lambda x, z: np.cos(0.5 * math.pi * x * x))

owens_t = function(special.owens_t, "z = Owen's T(h, a)",
    lambda h, a, z: (-0.5 * ONE_OVER_SQRT_2PI * np.exp(-0.5 * h * h) * erf(SQRT_HALF * a * h),
                     np.exp(-0.5 * h * h * (1.0 + a * a)) / (2.0 * math.pi * (1.0 + a * a))))

# ln x / (1 - x), by its series near x = 1, where the digits of higher derivatives would cancel.

def _log_ratio(t):
    return -1.0 + t * (1 / 2 + t * (-1 / 3 + t * (1 / 4 + t * (-1 / 5 + t * (1 / 6 + t * (-1 / 7 + t * (
        1 / 8 + t * (-1 / 9 + t * 0.1))))))))


spence = function(special.spence, "z = integral of ln t / (1 - t) from 1 to x",
    lambda x, z: where(abs(x - 1.0) < 0.02, _log_ratio(x - 1.0), np.log(x) / (1.0 - x)),
    kink=lambda x: x,
    samples=POSITIVE)

wrightomega = function(special.wrightomega, "z + ln z = x",
    lambda x, z: z / (1.0 + z))

DEGREE = math.pi / 180.0

cosdg = function(special.cosdg, "z = cos of x degrees",
    lambda x, z: -DEGREE * sindg(x))

sindg = function(special.sindg, "z = sin of x degrees",
    lambda x, z: DEGREE * cosdg(x))

tandg = function(special.tandg, "z = tan of x degrees",
    lambda x, z: DEGREE * (1.0 + z * z))

cotdg = function(special.cotdg, "z = cot of x degrees",
    lambda x, z: -DEGREE * (1.0 + z * z),
    samples=POSITIVE)

cosm1 = function(special.cosm1, "z = cos x - 1",
    lambda x, z: -np.sin(x))

radian = function(special.radian, "z = d degrees, m minutes and s seconds in radians",
    lambda d, m, s, z: (DEGREE, DEGREE / 60.0, DEGREE / 3600.0))

rounded = function(special.round, "z = x rounded to the nearest integer, ties to even",
    lambda x, z: 0.0,
    kink=lambda x: x - np.floor(x) - 0.5)

"""Products with logarithms, entropies, losses of Huber's kind, and the transformations of Box and Cox."""

import numpy as np
from scipy import special

from tapegrad.ops.selection import where
from tapegrad.ops.spec import ABOVE_MINUS_ONE, POSITIVE, REALS, Interval
from tapegrad.ops.special.declare import function
from tapegrad.ops.special.errors import growth

# 0 ln 0 is 0 here. Its derivative by the factor is the logarithm, -infinity; that by the other operand is 0, as on the
# whole line x = 0.
xlogy = function(special.xlogy, "z = x ln y, and 0 where x = 0",
    lambda x, y, z: (np.log(y), where(x == 0.0, 0.0, x / y)),
    kink=lambda x, y: np.maximum(y, 0.0),
    samples=(REALS, POSITIVE))

xlog1py = function(special.xlog1py, "z = x ln(1 + y), and 0 where x = 0",
    lambda x, y, z: (np.log1p(y), where(x == 0.0, 0.0, x / (1.0 + y))),
    kink=lambda x, y: np.maximum(1.0 + y, 0.0),
    samples=(REALS, ABOVE_MINUS_ONE))

entr = function(special.entr, "z = -x ln x, and 0 at x = 0",
    lambda x, z: -np.log(x) - 1.0,
    kink=lambda x: x,
    samples=POSITIVE)

rel_entr = function(special.rel_entr, "z = x ln(x / y), and 0 at x = 0",
    lambda x, y, z: (np.log(x / y) + 1.0, where(x == 0.0, 0.0, -x / y)),
    kink=lambda x, y: x,
    samples=POSITIVE)

kl_div = function(special.kl_div, "z = x ln(x / y) - x + y",
    lambda x, y, z: (np.log(x / y), where(x == 0.0, 1.0, 1.0 - x / y)),
    kink=lambda x, y: x,
    samples=POSITIVE)

huber = function(special.huber, "z = r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)",
    lambda d, r, z: (where(abs(r) <= d, 0.0, abs(r) - d), where(abs(r) <= d, r, d * np.sign(r))),
    samples=(Interval(0.5, 2.0), REALS))


def _pseudo_huber_slopes(d, r, z):
    # Without a difference of nearly equal numbers where r is small.
    ratio = r / d
    s = np.hypot(1.0, ratio)
    q = ratio * ratio
    return where(d == 0.0, 0.0, d * q * q / (s * (1.0 + s) * (1.0 + s))), where(d == 0.0, 0.0, r / s)


pseudo_huber = function(special.pseudo_huber, "z = delta^2 (sqrt(1 + (r / delta)^2) - 1)",
    _pseudo_huber_slopes,
    samples=(Interval(0.5, 2.0), REALS))


def _by_power(u, lam):
    # The derivative of (e^(lam u) - 1) / lam by lam, smooth at lam = 0.
    return 0.5 * u * u * growth(lam * u)


boxcox = function(special.boxcox, "z = (x^y - 1) / y, and ln x at y = 0",
    lambda x, y, z: (x ** (y - 1.0), where(x == 0.0, 1.0 / (y * y), _by_power(np.log(where(x == 0.0, 1.0, x)), y))),
    kink=lambda x, y: x,
    samples=(POSITIVE, Interval(-2.0, 2.0)))

boxcox1p = function(special.boxcox1p, "z = ((1 + x)^y - 1) / y, and ln(1 + x) at y = 0",
    lambda x, y, z: (
        (1.0 + x) ** (y - 1.0),
        where(x == -1.0, 1.0 / (y * y), _by_power(np.log1p(where(x == -1.0, 0.0, x)), y))),
    kink=lambda x, y: x + 1.0,
    samples=(ABOVE_MINUS_ONE, Interval(-2.0, 2.0)))


def _log_slope(t):
    # The derivative of ln(1 + t) / t, by its series near 0.
    near = abs(t) < 0.02
    u = where(near, 1.0, t)
    series = -1 / 2 + t * (2 / 3 + t * (-3 / 4 + t * (4 / 5 + t * (-5 / 6 + t * (6 / 7 + t * (-7 / 8 + t * (
        8 / 9 - 0.9 * t)))))))
    return where(near, series, (1.0 / (1.0 + u) - np.log1p(u) / u) / u)


inv_boxcox = function(special.inv_boxcox, "z = (1 + x y)^(1 / y), and e^x at y = 0",
    lambda x, y, z: (z / (1.0 + x * y), z * x * x * _log_slope(x * y)),
    kink=lambda x, y: 1.0 + x * y,
    samples=(Interval(-1.0, 1.0), Interval(-0.9, 0.9)))

inv_boxcox1p = function(special.inv_boxcox1p, "z = (1 + x y)^(1 / y) - 1, and e^x - 1 at y = 0",
    lambda x, y, z: ((1.0 + z) / (1.0 + x * y), (1.0 + z) * x * x * _log_slope(x * y)),
    kink=lambda x, y: 1.0 + x * y,
    samples=(Interval(-1.0, 1.0), Interval(-0.9, 0.9)))

powm1 = function(special.powm1, "z = x^y - 1",
    lambda x, y, z: (y * x ** (y - 1.0), (1.0 + z) * np.log(where(x == 0.0, 1.0, x))),
    kink=lambda x, y: np.maximum(x, 0.0),
    samples=(POSITIVE, REALS))

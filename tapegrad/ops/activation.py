"""Activation functions of neural networks."""

import math

import numpy as np

from tapegrad.ops.spec import Interval, binary, unary
from tapegrad.ops.transcendental import erf

SQRT_HALF = math.sqrt(0.5)
ONE_OVER_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

# Neither tail overflows: the exponential is only ever taken of a negative number, and of one alone for both tails.
sigmoid = unary("sigmoid", "z = 1 / (1 + e^-x)", inline=True,
    value=lambda x: (1.0 if x >= 0.0 else np.exp(-abs(x))) / (1.0 + np.exp(-abs(x))),
    partials=lambda x, z: z * (1.0 - z))

softplus = unary("softplus", "z = ln(1 + e^x)",
    value=lambda x: (0.0 if x <= 0.0 else x) + np.log1p(np.exp(-abs(x))),
    partials=lambda x, z: sigmoid(x))

# Written as a comparison that NaN fails, so that a NaN passes through instead of becoming 0.
relu = unary("relu", "z = max(x, 0)", inline=True, selects=True,
    value=lambda x: 0.0 if x <= 0.0 else x,
    partials=lambda x, z: 1.0 * (x > 0.0),
    kink=lambda x: x,
    convention="derivative 0 at x = 0")

leaky_relu = binary("leaky_relu", "z = x if x > 0, else slope x",
    value=lambda x, slope: x if x > 0.0 else slope * x,
    partials=lambda x, slope, z: (1.0 * (x > 0.0) + slope * (x <= 0.0), x * (x <= 0.0)),
    samples=(Interval(-3.0, 3.0), Interval(0.05, 0.3)),
    kink=lambda x, slope: x,
    convention="derivative `slope` at x = 0")

gelu = unary("gelu", "z = x Phi(x), Phi the normal distribution function",
    value=lambda x: 0.5 * x * (1.0 + erf(SQRT_HALF * x)),
    partials=lambda x, z: 0.5 * (1.0 + erf(SQRT_HALF * x)) + ONE_OVER_SQRT_2PI * x * np.exp(-0.5 * x * x))

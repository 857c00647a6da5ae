"""Exponentials, logarithms, trigonometric and hyperbolic functions and their inverses, the error function."""

import math

import numpy as np

from tapegrad.ops.selection import where
from tapegrad.ops.spec import ABOVE_MINUS_ONE, ABOVE_ONE, POSITIVE, REALS, UNIT, Interval, binary, unary

LN2 = math.log(2.0)
LN10 = math.log(10.0)
TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

exp = unary("exp", "z = e^x", inline=True, ufunc=np.exp,
    value=lambda x: np.exp(x),
    partials=lambda x, z: z)

exp2 = unary("exp2", "z = 2^x", ufunc=np.exp2,
    value=lambda x: np.exp2(x),
    partials=lambda x, z: LN2 * z)

expm1 = unary("expm1", "z = e^x - 1", ufunc=np.expm1,
    value=lambda x: np.expm1(x),
    partials=lambda x, z: z + 1.0)

log = unary("log", "z = ln x", inline=True, ufunc=np.log,
    value=lambda x: np.log(x),
    partials=lambda x, z: 1.0 / x,
    samples=POSITIVE)

log2 = unary("log2", "z = log2 x", ufunc=np.log2,
    value=lambda x: np.log2(x),
    partials=lambda x, z: 1.0 / (LN2 * x),
    samples=POSITIVE)

log10 = unary("log10", "z = log10 x", ufunc=np.log10,
    value=lambda x: np.log10(x),
    partials=lambda x, z: 1.0 / (LN10 * x),
    samples=POSITIVE)

log1p = unary("log1p", "z = ln(1 + x)", ufunc=np.log1p,
    value=lambda x: np.log1p(x),
    partials=lambda x, z: 1.0 / (1.0 + x),
    samples=ABOVE_MINUS_ONE)

sin = unary("sin", "z = sin x", inline=True, ufunc=np.sin,
    value=lambda x: np.sin(x),
    partials=lambda x, z: np.cos(x))

cos = unary("cos", "z = cos x", inline=True, ufunc=np.cos,
    value=lambda x: np.cos(x),
    partials=lambda x, z: -np.sin(x))

tan = unary("tan", "z = tan x", ufunc=np.tan,
    value=lambda x: np.tan(x),
    partials=lambda x, z: 1.0 + z * z,
    samples=Interval(-1.2, 1.2))

arcsin = unary("arcsin", "z = arcsin x", ufunc=np.arcsin,
    value=lambda x: np.arcsin(x),
    partials=lambda x, z: 1.0 / np.sqrt((1.0 - x) * (1.0 + x)),
    kink=lambda x: 1.0 - np.abs(x),
    samples=UNIT)

arccos = unary("arccos", "z = arccos x", ufunc=np.arccos,
    value=lambda x: np.arccos(x),
    partials=lambda x, z: -1.0 / np.sqrt((1.0 - x) * (1.0 + x)),
    kink=lambda x: 1.0 - np.abs(x),
    samples=UNIT)

arctan = unary("arctan", "z = arctan x", ufunc=np.arctan,
    value=lambda x: np.arctan(x),
    partials=lambda x, z: 1.0 / (1.0 + x * x))

arctan2 = binary("arctan2", "z = angle of the point (y, x)", ufunc=np.arctan2,
    value=lambda x, y: np.arctan2(x, y),
    partials=lambda x, y, z: (y / np.hypot(x, y) / np.hypot(x, y), -x / np.hypot(x, y) / np.hypot(x, y)),
    # It jumps by a full turn where x changes its sign left of the origin.
    kink=lambda x, y: np.where(y > 0.0, np.hypot(x, y), x),
    samples=(REALS, POSITIVE))

sinh = unary("sinh", "z = sinh x", ufunc=np.sinh,
    value=lambda x: np.sinh(x),
    partials=lambda x, z: np.cosh(x))

cosh = unary("cosh", "z = cosh x", ufunc=np.cosh,
    value=lambda x: np.cosh(x),
    partials=lambda x, z: np.sinh(x))

tanh = unary("tanh", "z = tanh x", inline=True, ufunc=np.tanh,
    value=lambda x: np.tanh(x),
    partials=lambda x, z: 1.0 - z * z)

arcsinh = unary("arcsinh", "z = arcsinh x", ufunc=np.arcsinh,
    value=lambda x: np.arcsinh(x),
    partials=lambda x, z: 1.0 / np.hypot(1.0, x))

arccosh = unary("arccosh", "z = arccosh x", ufunc=np.arccosh,
    value=lambda x: np.arccosh(x),
    partials=lambda x, z: 1.0 / (np.sqrt(x - 1.0) * np.sqrt(x + 1.0)),
    kink=lambda x: x - 1.0,
    samples=ABOVE_ONE)

arctanh = unary("arctanh", "z = arctanh x", ufunc=np.arctanh,
    value=lambda x: np.arctanh(x),
    partials=lambda x, z: 1.0 / ((1.0 - x) * (1.0 + x)),
    samples=UNIT)

# Written around the larger operand, so that nothing overflows; equal infinities are their own result.
logaddexp = binary("logaddexp", "z = ln(e^x + e^y)", ufunc=np.logaddexp,
    value=lambda x, y: x + LN2 if x == y else (x if x > y else y) + np.log1p(np.exp(-abs(x - y))),
    partials=lambda x, y, z: (
        where((x == y) * (abs(x) == np.inf), 0.5, np.exp(x - z)),
        where((x == y) * (abs(x) == np.inf), 0.5, np.exp(y - z))))

erf = unary("erf", "z = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x",
    value=lambda x: math.erf(x),
    partials=lambda x, z: TWO_OVER_SQRT_PI * np.exp(-(x * x)))

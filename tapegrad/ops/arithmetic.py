"""Arithmetic: one row an operation, value and partial derivatives side by side."""

import numpy as np

from tapegrad.ops.selection import logical_and, logical_or, where
from tapegrad.ops.spec import POSITIVE, REALS, binary, unary

NO_TRUTHS = "use ~ or ^, or multiply by 1.0 first"

add = binary("add", "z = x + y", inline=True, inline_float32=True, ufunc=np.add,
    neutral=(0.0, 0.0), commutes=True, on_truths=logical_or,
    value=lambda x, y: x + y,
    partials=lambda x, y, z: (1.0, 1.0))

subtract = binary("subtract", "z = x - y", inline=True, inline_float32=True, ufunc=np.subtract,
    neutral=(None, 0.0), on_truths=NO_TRUTHS,
    value=lambda x, y: x - y,
    partials=lambda x, y, z: (1.0, -1.0))

multiply = binary("multiply", "z = x y", inline=True, inline_float32=True, ufunc=np.multiply,
    neutral=(1.0, 1.0), commutes=True, on_truths=logical_and,
    value=lambda x, y: x * y,
    partials=lambda x, y, z: (y, x))

divide = binary("divide", "z = x / y", inline=True, inline_float32=True, ufunc=np.divide, neutral=(None, 1.0),
    value=lambda x, y: x / y,
    partials=lambda x, y, z: (1.0 / y, -z / y),
    samples=(REALS, POSITIVE))

# Both operands vary. At x = 0 the logarithm is left out: d/dy 0^y is taken as 0.
power = binary("power", "z = x^y", ufunc=np.power,
    value=lambda x, y: x**y,
    partials=lambda x, y, z: (
        where((x == 0.0) * (y == 0.0), 0.0, y * x ** (y - 1.0)), z * np.log(where(x == 0.0, 1.0, x))),
    kink=lambda x, y: x,
    samples=(POSITIVE, REALS),
    convention="d/dx x^0 = 0 and d/dy 0^y = 0")

# The exponent is a constant of the tape, so the base may be negative: no logarithm is ever taken.
power_constant = binary("power_constant", "z = x^c, c constant", inline=True, held=(1,),
    value=lambda x, c: x**c,
    partials=lambda x, c, z: (where(c == 0.0, 0.0, c * x ** (c - 1.0)), 0.0),
    kink=lambda x, c: np.where((c >= 0.0) & (c == np.floor(c)), np.inf, x),
    samples=(POSITIVE, REALS),
    convention="d/dx x^0 = 0")

negative = unary("negative", "z = -x", inline=True, inline_float32=True, ufunc=np.negative, on_truths=NO_TRUTHS,
    value=lambda x: -x,
    partials=lambda x, z: -1.0)

absolute = unary("absolute", "z = |x|", inline=True, ufunc=np.absolute, kind_of=(0,),
    value=lambda x: abs(x),
    partials=lambda x, z: np.sign(x),
    kink=lambda x: x,
    convention="derivative 0 at x = 0")

sign = unary("sign", "z = sign x", ufunc=np.sign,
    value=lambda x: np.sign(x),
    partials=lambda x, z: 0.0,
    kink=lambda x: x)

floor = unary("floor", "z = floor x", ufunc=np.floor,
    value=lambda x: np.floor(x),
    partials=lambda x, z: 0.0,
    kink=lambda x: x - np.rint(x))

ceil = unary("ceil", "z = ceil x", ufunc=np.ceil,
    value=lambda x: np.ceil(x),
    partials=lambda x, z: 0.0,
    kink=lambda x: x - np.rint(x))

trunc = unary("trunc", "z = trunc x", ufunc=np.trunc,
    value=lambda x: np.trunc(x),
    partials=lambda x, z: 0.0,
    kink=lambda x: np.where(np.abs(x) < 0.5, np.copysign(1.0 - np.abs(x), x), x - np.rint(x)))

rint = unary("rint", "z = x rounded to the nearest integer, ties to even", ufunc=np.rint,
    value=lambda x: np.rint(x),
    partials=lambda x, z: 0.0,
    kink=lambda x: x - np.floor(x) - 0.5)

remainder = binary("remainder", "z = x - y floor(x / y)", ufunc=np.remainder,
    value=lambda x, y: np.remainder(x, y),
    partials=lambda x, y, z: (1.0, -np.floor(x / y)),
    kink=lambda x, y: np.minimum(np.remainder(x, y), y - np.remainder(x, y)),
    samples=(REALS, POSITIVE))

# Not floor(x / y): 1.0 / 0.1 rounds up to 10, and 0.1 goes into 1.0 nine times. As NumPy has it, from the remainder.
floor_divide = binary("floor_divide", "z = x // y", ufunc=np.floor_divide,
    value=lambda x, y: x / y if y == 0.0 or x != x else (
        (-1.0 if x * y < 0.0 else 0.0) if np.isinf(y) and not np.isinf(x) else np.rint((x - np.remainder(x, y)) / y)),
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: np.minimum(np.remainder(x, y), y - np.remainder(x, y)),
    samples=(REALS, POSITIVE))

square = unary("square", "z = x^2", inline=True, inline_float32=True, ufunc=np.square,
    value=lambda x: x * x,
    partials=lambda x, z: 2.0 * x)

reciprocal = unary("reciprocal", "z = 1 / x", inline=True, ufunc=np.reciprocal,
    value=lambda x: 1.0 / x,
    partials=lambda x, z: -z * z,
    samples=POSITIVE)

sqrt = unary("sqrt", "z = sqrt x", inline=True, ufunc=np.sqrt,
    value=lambda x: np.sqrt(x),
    partials=lambda x, z: 0.5 / z,
    kink=lambda x: x,
    samples=POSITIVE)

cbrt = unary("cbrt", "z = cube root of x", ufunc=np.cbrt,
    value=lambda x: np.cbrt(x),
    partials=lambda x, z: 1.0 / (3.0 * z * z),
    kink=lambda x: x,
    samples=POSITIVE)

hypot = binary("hypot", "z = sqrt(x^2 + y^2)", ufunc=np.hypot,
    value=lambda x, y: np.hypot(x, y),
    partials=lambda x, y, z: (where(z == 0.0, 0.0, x / z), where(z == 0.0, 0.0, y / z)),
    kink=lambda x, y: np.hypot(x, y),
    convention="derivative 0 at the origin")

# Derivatives that are written as instructions multiply by `chain`. The product of a zero adjoint or tangent with any
# partial derivative, even an infinite one, is zero; and so is that of an infinite adjoint with a partial derivative of
# zero. Otherwise it would be NaN, and a branch that was not taken would spoil the derivative of the one that was. The
# partial derivatives of `chain` go through `shield`, so that its own derivatives have the same property.
shield = binary("shield", "z = y, and 0 where x = 0 and y is infinite or NaN", selects=True,
    value=lambda x, y: 0.0 if x == 0.0 and not abs(y) < np.inf else y,
    partials=lambda x, y, z: (0.0, 1.0 * (z == y)))

chain = binary("chain", "z = x y, and 0 where x = 0 or y = 0", inline=True, selects=True,
    neutral=(1.0, 1.0), commutes=True, unmasked=multiply,
    value=lambda x, y: x * y if x != 0.0 and y != 0.0 else 0.0,
    partials=lambda x, y, z: (shield(x, y), shield(y, x)))

# The identity. `copy` makes a dense run of a strided view; `detach` lets no gradient through.
copy = unary("copy", "z = x", moves=1, inline=True, ufunc=np.positive,
    value=lambda x: x,
    partials=lambda x, z: 1.0)

detach = unary("detach", "z = x, held constant", moves=1, held=(0,),
    value=lambda x: x,
    partials=lambda x, z: 0.0)

"""Choosing between values: comparisons (1 or 0, zero derivative), minimum, maximum, clip, where."""

import numpy as np

from tapegrad.ops.spec import Elementwise, Interval, binary, ternary

less = binary("less", "z = [x < y]", inline=True, truth=True, ufunc=np.less,
    value=lambda x, y: 1.0 if x < y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

less_equal = binary("less_equal", "z = [x <= y]", inline=True, truth=True, ufunc=np.less_equal,
    value=lambda x, y: 1.0 if x <= y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

greater = binary("greater", "z = [x > y]", inline=True, truth=True, ufunc=np.greater,
    value=lambda x, y: 1.0 if x > y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

greater_equal = binary("greater_equal", "z = [x >= y]", inline=True, truth=True, ufunc=np.greater_equal,
    value=lambda x, y: 1.0 if x >= y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

equal = binary("equal", "z = [x = y]", truth=True, commutes=True, ufunc=np.equal,
    value=lambda x, y: 1.0 if x == y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

not_equal = binary("not_equal", "z = [x != y]", truth=True, commutes=True, ufunc=np.not_equal,
    value=lambda x, y: 1.0 if x != y else 0.0,
    partials=lambda x, y, z: (0.0, 0.0),
    kink=lambda x, y: x - y)

logical_and = binary("logical_and", "z = [x and y]", truth=True, commutes=True, ufunc=np.logical_and,
    value=lambda x, y: 1.0 if x != 0.0 and y != 0.0 else 0.0,
    partials=lambda x, y, z: (0.0, 0.0))

logical_or = binary("logical_or", "z = [x or y]", truth=True, commutes=True, ufunc=np.logical_or,
    value=lambda x, y: 1.0 if x != 0.0 or y != 0.0 else 0.0,
    partials=lambda x, y, z: (0.0, 0.0))

logical_xor = binary("logical_xor", "z = [x or y, not both]", truth=True, commutes=True, ufunc=np.logical_xor,
    value=lambda x, y: 1.0 if (x != 0.0) != (y != 0.0) else 0.0,
    partials=lambda x, y, z: (0.0, 0.0))

# A NaN operand makes the result NaN, as in NumPy. A tie is shared equally, as in a maximum over an axis.
maximum = binary("maximum", "z = max(x, y)", inline=True, selects=True, kind_of=(0, 1), ufunc=np.maximum,
    on_truths=logical_or,
    value=lambda x, y: x if x > y or x != x else y,
    partials=lambda x, y, z: (0.5 * (x > y) + 0.5 * (x >= y), 0.5 * (y > x) + 0.5 * (y >= x)),
    kink=lambda x, y: x - y,
    convention="at a tie each operand has derivative 1/2")

minimum = binary("minimum", "z = min(x, y)", inline=True, selects=True, kind_of=(0, 1), ufunc=np.minimum,
    on_truths=logical_and,
    value=lambda x, y: x if x < y or x != x else y,
    partials=lambda x, y, z: (0.5 * (x < y) + 0.5 * (x <= y), 0.5 * (y < x) + 0.5 * (y <= x)),
    kink=lambda x, y: x - y,
    convention="at a tie each operand has derivative 1/2")

clip = ternary("clip", "z = min(max(x, low), high)", selects=True,
    value=lambda x, low, high: low + high if low != low or high != high else (
        high if high <= low else (low if x < low else (high if x > high else x))),
    partials=lambda x, low, high, z: (
        1.0 * (x >= low) * (x <= high) * (low < high),
        1.0 * (x < low) * (low < high),
        where(low < high, 1.0 * (x > high), 1.0)),
    samples=(Interval(-3.0, 3.0), Interval(-1.5, -0.5), Interval(0.5, 1.5)),
    kink=lambda x, low, high: np.where(np.abs(x - low) < np.abs(high - x), x - low, high - x),
    convention="derivative 1 with respect to x at either bound; high wins where low >= high")

where: Elementwise = ternary("where", "z = x if c, else y", selects=True, kind_of=(1, 2),
    value=lambda c, x, y: x if c != 0.0 else y,
    partials=lambda c, x, y, z: (0.0, 1.0 * (c != 0.0), 1.0 * (c == 0.0)))

"""An oracle for derivatives that shares nothing with the package: numbers that carry their derivatives along.

A `Hyper` is x + x_u u + x_v v + x_uv u v with u u = v v = 0: one evaluation of a NumPy program gives its value, its
derivatives along two directions and its second derivative along both, in extended precision, without a step size.
NumPy's functions take such numbers through NumPy's protocols, as they take ours. Every part is an array of
`longdouble`. Functions of whole arrays stand in `hyper_arrays`.

`World` says how near the program came to a kink or to another branch (`margin`), and can disturb every result by
roundings (`noise`), which tells how far roundings of that size may take a correct program.
"""

import numpy as np

WIDE = np.longdouble


class World:
    """What one evaluation finds out, and how it is disturbed."""

    def __init__(self, noise=0.0, seed=0, tiny=0.0):
        self.noise, self.tiny = noise, tiny
        self.rng = np.random.default_rng(seed)
        self.margin = np.inf

    def near(self, distances):
        """Take note of distances to where the program would do something else."""
        distances = np.nan_to_num(np.abs(np.asarray(distances, float)), posinf=np.inf)
        if distances.size:
            self.margin = min(self.margin, float(distances.min()))

    def rounded(self, *parts):
        """The numbers, disturbed."""
        if not self.noise:
            return parts
        return [p * (1 + self.noise * self.rng.uniform(-1, 1, np.shape(p))) for p in parts]

    def watched(self, x):
        """Take note of numbers that the program's dtype is too narrow for."""
        if self.tiny and np.any((np.abs(x) < self.tiny) & (x != 0)):
            self.margin = 0.0


world = World()
# Filled by `hyper_arrays`: what stands for NumPy's functions of arrays, and for the `reduce` of its ufuncs.
FUNCTIONS, REDUCE = {}, {}


class Hyper:
    """A number, or an array, with its derivatives along two directions."""

    def __init__(self, parts):
        self.parts = [np.asarray(p, WIDE) for p in world.rounded(*parts)]
        world.watched(self.parts[0])
        self.shape, self.ndim, self.size = self.parts[0].shape, self.parts[0].ndim, self.parts[0].size

    # Arrays

    def __len__(self):
        return len(self.parts[0])

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return Hyper([p[index] for p in self.parts])

    @property
    def T(self):
        return np.transpose(self)

    def __bool__(self):
        raise TypeError("a Hyper is no truth value: compare it")

    def __int__(self):
        x = float(self.parts[0].reshape(()))
        world.near(x - np.round(x))
        return int(x) if np.isfinite(x) else 0

    __hash__ = None

    # NumPy

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if kwargs:
            raise TypeError(f"{ufunc.__name__} with {sorted(kwargs)}")
        if method == "reduce":
            return REDUCE[ufunc](*inputs)
        name = ufunc.__name__
        if name in COMPARISONS:
            a, b = (x.parts[0] if isinstance(x, Hyper) else np.asarray(x) for x in inputs)
            world.near(np.subtract(a, b, dtype=WIDE))
            return ufunc(a, b)
        if name in BILINEAR:
            return multilinear(ufunc, inputs)
        if name in ONE:
            return unary(name, inputs[0])
        return TWO[name](*inputs)

    def __array_function__(self, func, types, args, kwargs):
        return FUNCTIONS[func](*args, **kwargs)


def _operator(ufunc):
    return lambda self, other: ufunc(self, other), lambda self, other: ufunc(other, self)


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power,
    "mod": np.remainder, "floordiv": np.floor_divide, "matmul": np.matmul,
}.items():  # fmt: skip
    setattr(Hyper, f"__{_name}__", _operator(_ufunc)[0])
    setattr(Hyper, f"__r{_name}__", _operator(_ufunc)[1])
for _name, _ufunc in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}.items():
    setattr(Hyper, f"__{_name}__", _operator(_ufunc)[0])
Hyper.__neg__ = lambda self: np.negative(self)
Hyper.__abs__ = lambda self: np.absolute(self)
for _f in (np.sum, np.mean, np.max, np.min, np.prod, np.ravel, np.cumsum, np.std, np.var, np.dot, np.trace, np.clip):
    setattr(Hyper, _f.__name__, lambda self, *args, _f=_f, **kwargs: _f(self, *args, **kwargs))
Hyper.reshape = lambda self, *shape: np.reshape(self, shape[0] if len(shape) == 1 else shape)

COMPARISONS = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}
BILINEAR = {"add", "subtract", "multiply", "matmul"}


def parts_of(x):
    if isinstance(x, Hyper):
        return x.parts
    x = np.asarray(x, WIDE)
    zero = np.zeros_like(x)
    return [x, zero, zero, zero]


def of(f, x):
    """Two derivatives of f, given as (f, f', f'') at x."""
    d0, d1, d2 = world.rounded(*f)
    _, a, b, c = parts_of(x)
    return Hyper([d0, d1 * a, d1 * b, d2 * a * b + d1 * c])


def unary(name, x):
    with np.errstate(all="ignore"):
        return of(ONE[name](parts_of(x)[0]), x)


def _steps(x, f):
    world.near(x - np.round(x) if f is not np.round else x - np.floor(x) - 0.5)
    return f(x), 0 * x, 0 * x


def _absolute(x):
    if world.noise == 0:
        world.near(x)
    return np.abs(x), np.sign(x), 0 * x


def _sign(x):
    world.near(x)
    return np.sign(x), 0 * x, 0 * x


# f, f' and f'' of functions of one number.
ONE = {
    "negative": lambda x: (-x, -1 + 0 * x, 0 * x),
    "positive": lambda x: (x, 1 + 0 * x, 0 * x),
    "sin": lambda x: (np.sin(x), np.cos(x), -np.sin(x)),
    "cos": lambda x: (np.cos(x), -np.sin(x), -np.cos(x)),
    "tan": lambda x: (np.tan(x), 1 + np.tan(x) ** 2, 2 * np.tan(x) * (1 + np.tan(x) ** 2)),
    "exp": lambda x: (np.exp(x),) * 3,
    "exp2": lambda x: (np.exp2(x), np.exp2(x) * np.log(WIDE(2)), np.exp2(x) * np.log(WIDE(2)) ** 2),
    "expm1": lambda x: (np.expm1(x), np.exp(x), np.exp(x)),
    "log": lambda x: (np.log(x), 1 / x, -1 / x**2),
    "log2": lambda x: (np.log2(x), 1 / x / np.log(WIDE(2)), -1 / x**2 / np.log(WIDE(2))),
    "log1p": lambda x: (np.log1p(x), 1 / (1 + x), -1 / (1 + x) ** 2),
    "sqrt": lambda x: (np.sqrt(x), 0.5 / np.sqrt(x), -0.25 / (x * np.sqrt(x))),
    "cbrt": lambda x: (np.cbrt(x), np.cbrt(x) / (3 * x), -2 * np.cbrt(x) / (9 * x * x)),
    "square": lambda x: (x * x, 2 * x, 2 + 0 * x),
    "reciprocal": lambda x: (1 / x, -1 / x**2, 2 / x**3),
    "tanh": lambda x: (np.tanh(x), 1 - np.tanh(x) ** 2, -2 * np.tanh(x) * (1 - np.tanh(x) ** 2)),
    "sinh": lambda x: (np.sinh(x), np.cosh(x), np.sinh(x)),
    "cosh": lambda x: (np.cosh(x), np.sinh(x), np.cosh(x)),
    "arctan": lambda x: (np.arctan(x), 1 / (1 + x * x), -2 * x / (1 + x * x) ** 2),
    "arcsin": lambda x: (np.arcsin(x), 1 / np.sqrt(1 - x * x), x / (1 - x * x) ** WIDE(1.5)),
    "arcsinh": lambda x: (np.arcsinh(x), 1 / np.sqrt(1 + x * x), -x / (1 + x * x) ** WIDE(1.5)),
    "absolute": _absolute,
    "sign": _sign,
    "floor": lambda x: _steps(x, np.floor),
    "ceil": lambda x: _steps(x, np.ceil),
    "rint": lambda x: _steps(x, np.round),
    "trunc": lambda x: _steps(x, np.trunc),
}


def multilinear(function, operands):
    """A function that is linear in each operand, or in both together where it adds."""
    given = [parts_of(x) if isinstance(x, Hyper) or np.asarray(x).dtype.kind in "fiub" else x for x in operands]
    if function in (np.add, np.subtract):
        x, y = given
        return Hyper([function(a, b) for a, b in zip(x, y)])
    n = len(given)

    def put(orders):
        return function(*[parts[order] for parts, order in zip(given, orders)])

    first = [[p if j == i else 0 for j in range(n)] for p in (1, 2, 3) for i in range(n)]
    both = [[1 if j == i else 2 if j == k else 0 for j in range(n)] for i in range(n) for k in range(n) if i != k]
    along = [sum(put(o) for o in first[k * n : (k + 1) * n]) for k in range(3)]
    return Hyper([put([0] * n), along[0], along[1], along[2] + sum((put(o) for o in both), 0)])


def divide(x, y):
    return np.multiply(x, unary("reciprocal", y)) if isinstance(y, Hyper) else np.multiply(x, 1 / np.asarray(y, WIDE))


def power(x, y):
    if isinstance(y, Hyper):
        return np.exp(np.multiply(y, np.log(np.multiply(x, WIDE(1)))))
    at, y = parts_of(x)[0], np.asarray(y, WIDE)
    with np.errstate(all="ignore"):
        d1 = np.where(y == 0, 0, y * at ** (y - 1))
        d2 = np.where((y == 0) | (y == 1), 0, y * (y - 1) * at ** (y - 2))
    return of((at**y, d1, d2), x)


def choose(which, x, y):
    return Hyper([np.where(which, a, b) for a, b in zip(parts_of(x), parts_of(y))])


def tied(a, b):
    """Distances of numbers to choose between; those that agree in all their parts may be mistaken for each other."""
    a, b = np.broadcast_arrays(np.stack(np.broadcast_arrays(*a)), np.stack(np.broadcast_arrays(*b)))
    world.near(np.where((a == b).all(0), np.inf, a[0] - b[0]))


def _larger(sign):
    def larger(x, y):
        a, b = parts_of(x), parts_of(y)
        shape = np.broadcast_shapes(a[0].shape, b[0].shape)
        a, b = ([np.broadcast_to(p, shape) for p in q] for q in (a, b))
        if world.noise == 0:
            tied(a, b)
        return choose(sign * a[0] > sign * b[0], x, y)

    return larger


def remainder(x, y):
    whole = parts_of(x)[0] / np.asarray(y, WIDE)
    world.near(whole - np.round(whole))
    return x - np.floor(whole) * y


def floor_divide(x, y):
    whole = parts_of(x)[0] / np.asarray(y, WIDE)
    world.near(whole - np.round(whole))
    return multilinear(np.multiply, [x, 0.0]) + np.floor(whole)


def hypot(x, y):
    return np.sqrt(np.square(x * WIDE(1)) + np.square(y * WIDE(1)))


def arctan2(y, x):
    (y0, ya, yb, yc), (x0, xa, xb, xc) = parts_of(y), parts_of(x)
    r = x0 * x0 + y0 * y0
    dy, dx = world.rounded(x0 / r, -y0 / r)
    dyy, dxx = world.rounded(-2 * x0 * y0 / r**2, 2 * x0 * y0 / r**2)
    (dxy,) = world.rounded((y0 * y0 - x0 * x0) / r**2)
    second = dyy * ya * yb + dxx * xa * xb + dxy * (xa * yb + xb * ya)
    return Hyper([np.arctan2(y0, x0), dy * ya + dx * xa, dy * yb + dx * xb, second + dy * yc + dx * xc])


def logaddexp(x, y):
    return y + np.log1p(np.exp(x - y))


TWO = {
    "divide": divide, "power": power, "maximum": _larger(1), "minimum": _larger(-1), "remainder": remainder,
    "floor_divide": floor_divide, "hypot": hypot, "arctan2": arctan2, "logaddexp": logaddexp,
}  # fmt: skip

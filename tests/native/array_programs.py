"""Random functions of arrays, as text: elementwise operations, slices, broadcasts, sums along axes, what joins arrays,
and gradients inside.

Each line makes one name of earlier ones. All numbers stay between about -3 and 3, so that results of different orders
of summation agree to rounding.
"""

import numpy as np

import tapegrad as tg

SIZES = (3, 17, 64, 100, 257, 1000)
SLICES = (":", ":", "1:", ":-1", "::2", "1::2", "::-1", "::3", "2:-2", "3:", "int", "None", "::-2")
# What is differentiated inside of a function: gradients put arrays together of parts.
INNER = (
    "t[1:] * t[:-1]", "t[::2]", "np.tanh(t[1:] - t[:-1])", "t[::-1] * t", "t[2:] * t[:-2] * t[1:-1]", "t * np.mean(t)",
    "t[..., 1:] * t[..., :-1]", "t[..., 0] * np.mean(t)", "np.max(t, axis=0)", "t[3:] - t[:-3]", "t[0] * t",
    "t[1:, ..., 1:] * t[:-1, ..., :-1]",
)  # fmt: skip


class Function:
    """A random function of some arrays: `lines` of text, `f` that returns all results, and `loss`, one number."""

    def __init__(self, seed, sizes=SIZES, dtype=np.float64, guards=False, length=12):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.lines = []
        self.shapes = {}
        rng = self.rng
        n = int(rng.choice(sizes))
        m = int(rng.choice([1, 2, 3, 4, 5, 8, 11, n])) if n <= 100 else int(rng.choice([1, 2, 3, 4, 7]))
        k = int(rng.choice([2, 3, 4, 16]))
        self.extents = n, m, k
        choices = [(n,), (n, m), (m, n), (n, m, k), (m,), (), (n,), (k, n)]
        choices = [shape for shape in choices if np.prod(shape) <= 20_000]
        self.arguments = {}
        for i in range(int(rng.integers(1, 4))):
            self.arguments[f"a{i}"] = choices[int(rng.integers(len(choices)))] if i else choices[int(rng.integers(3))]
            if np.prod(self.arguments[f"a{i}"]) > 20_000:
                self.arguments[f"a{i}"] = (n,)
        self.shapes |= self.arguments
        for _ in range(length):
            self.step(guards)
        names = [name for name in self.shapes if name not in self.arguments] or list(self.shapes)
        chosen = rng.choice(names, size=min(len(names), int(rng.integers(1, 4))), replace=False)
        self.results = sorted(str(name) for name in set([*chosen, names[-1]]))

    def add(self, text, shape):
        if np.prod(shape) > 20_000 or 0 in shape:
            return
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.shapes[name] = tuple(int(n) for n in shape)

    def pick(self, at_least=0):
        names = [name for name, shape in self.shapes.items() if len(shape) >= at_least]
        if not names:
            return None
        recent = names[-4:] if self.rng.random() < 0.7 else names
        return str(self.rng.choice(recent))

    def step(self, guards):
        kinds = ["unary", "binary", "binary", "slice", "slice", "stencil", "reduce", "shape", "join", "where", "outer",
                 "reduce", "update", "unary", "inner", "inner"]  # fmt: skip
        if guards:
            kinds.append("guard")
        getattr(self, str(self.rng.choice(kinds)))()

    def unary(self):
        x = self.pick()
        forms = ["np.sin({})", "np.tanh({})", "np.abs({})", "-{}", "np.cos({} * 2.0)", "0.5 * {}",
                 "np.exp(-np.abs({}))", "{} * {} * 0.3", "np.sqrt({} * {} + 0.1)", "np.maximum({}, 0.1)",
                 "np.arctan({})", "1.0 / (1.0 + {} * {})"]  # fmt: skip
        self.add(str(self.rng.choice(forms)).replace("{}", x), self.shapes[x])

    def binary(self):
        x = self.pick()
        fitting = []
        for name, shape in self.shapes.items():
            try:
                fitting.append((name, np.broadcast_shapes(shape, self.shapes[x])))
            except ValueError:
                continue
        y, shape = fitting[int(self.rng.integers(len(fitting)))]
        forms = ["0.5 * ({} + {})", "0.5 * ({} - {})", "np.sin({}) * {}", "np.maximum({}, {})", "np.minimum({}, {})",
                 "np.tanh({} * {})", "{} / (1.5 + np.cos({}))"]  # fmt: skip
        form = str(self.rng.choice(forms))
        pair = (x, y) if self.rng.random() < 0.5 else (y, x)
        self.add(form.format(*pair), shape)

    def slice(self):
        x = self.pick(1)
        if x is None:
            return
        parts, shape = [], []
        for n in self.shapes[x]:
            kind = str(self.rng.choice(SLICES))
            if kind == "int":
                at = int(self.rng.integers(n))
                parts.append(str(at))
                continue
            if kind == "None":
                parts.append("None, :")
                shape += [1, n]
                continue
            parts.append(kind)
            shape.append(len(range(n)[eval(f"slice({_slice(kind)})")]))
        self.add(f"{x}[{', '.join(parts)}]", shape)

    def stencil(self):
        x = self.pick(1)
        if x is None:
            return
        axis = int(self.rng.integers(len(self.shapes[x])))
        n, order = self.shapes[x][axis], int(self.rng.integers(1, 4))
        if n <= order + 1:
            return
        terms = [f"{x}[{':, ' * axis}{i}:{n - order + i}]" for i in range(order + 1)]
        weights = [round(float(w), 2) for w in self.rng.uniform(-0.7, 0.7, size=order + 1)]
        shape = list(self.shapes[x])
        shape[axis] = n - order
        form = " + ".join(f"{w} * {t}" for w, t in zip(weights, terms))
        if self.rng.random() < 0.3:
            form = f"np.sin({terms[0]}) - {terms[-1]} * 0.5"
        self.add(form, shape)

    def reduce(self):
        x = self.pick(1)
        if x is None:
            return
        shape = self.shapes[x]
        axis = int(self.rng.integers(len(shape)))
        if self.rng.random() < 0.25:
            f = str(self.rng.choice(["np.mean", "np.max", "np.min"]))
            self.add(f"{f}({x})", ())
            return
        f = str(self.rng.choice(["np.mean", "np.max", "np.min", "np.sum"]))
        keep = self.rng.random() < 0.4
        scale = f" / {shape[axis]}" if f == "np.sum" else ""
        left = [1 if i == axis and keep else n for i, n in enumerate(shape) if keep or i != axis]
        self.add(f"{f}({x}, axis={axis}{', keepdims=True' if keep else ''}){scale}", left)

    def shape(self):
        x = self.pick(1)
        if x is None:
            return
        shape = self.shapes[x]
        kind = str(self.rng.choice(["T", "ravel", "split", "swap", "diagonal"]))
        if kind == "T":
            self.add(f"{x}.T", shape[::-1])
        elif kind == "ravel":
            self.add(f"{x}.reshape(-1)", (int(np.prod(shape)),))
        elif kind == "split":
            total = int(np.prod(shape))
            divisors = [d for d in (2, 3, 4, 5, 7, 10) if total % d == 0]
            if divisors:
                d = int(self.rng.choice(divisors))
                new = (total // d, d) if self.rng.random() < 0.7 else (d, total // d)
                self.add(f"{x}.reshape({new})", new)
        elif kind == "swap" and len(shape) > 1:
            a, b = self.rng.choice(len(shape), size=2, replace=False)
            new = list(shape)
            new[a], new[b] = new[b], new[a]
            self.add(f"np.swapaxes({x}, {a}, {b})", new)
        elif kind == "diagonal" and len(shape) == 2:
            self.add(f"np.diagonal({x})", (min(shape),))

    def join(self):
        x = self.pick(1)
        if x is None:
            return
        shape = self.shapes[x]
        same = [name for name, s in self.shapes.items() if s == shape]
        y = str(self.rng.choice(same))
        axis = int(self.rng.integers(len(shape)))
        if self.rng.random() < 0.5:
            new = list(shape)
            new[axis] *= 2
            self.add(f"np.concatenate([{x}, {y}], axis={axis})", new)
        else:
            axis = int(self.rng.integers(len(shape) + 1))
            self.add(f"np.stack([{y}, {x}], axis={axis})", (*shape[:axis], 2, *shape[axis:]))

    def where(self):
        x = self.pick()
        shape = self.shapes[x]
        y = str(self.rng.choice([name for name, s in self.shapes.items() if s == shape]))
        form = str(self.rng.choice(["tg.where({0} > {1}, {0} * 0.5, {1})", "tg.where({0} < 0.2, {1}, {0})"]))
        self.add(form.format(x, y), shape)

    def outer(self):
        vectors = [name for name, s in self.shapes.items() if len(s) == 1]
        if len(vectors) < 1:
            return
        x, y = str(self.rng.choice(vectors)), str(self.rng.choice(vectors))
        form = str(self.rng.choice(["np.sin({0}[:, None] - {1}[None, :])", "{0}[:, None] * {1}"]))
        self.add(form.format(x, y), (*self.shapes[x], *self.shapes[y]))

    def update(self):
        # A number of an array in the middle of scalar arithmetic.
        x = self.pick(1)
        if x is None:
            return
        at = ", ".join(str(int(self.rng.integers(n))) for n in self.shapes[x])
        y = self.pick()
        self.add(f"np.sin({x}[{at}]) * {y} + 0.1", self.shapes[y])

    def inner(self):
        x = self.pick(1)
        if x is None or min(self.shapes[x]) < 4:
            return
        form = str(self.rng.choice(INNER))
        if "..., " in form and len(self.shapes[x]) < 2:
            return
        self.add(f"np.tanh(tg.grad(lambda t: np.sum(np.sin({form})))({x}))", self.shapes[x])

    def guard(self):
        x = self.pick(1)
        if x is None:
            return
        at = ", ".join(str(int(self.rng.integers(n))) for n in self.shapes[x])
        self.add(f"np.sin({x}) if {x}[{at}] > 0.0 else {x} * 2.0", self.shapes[x])

    @property
    def text(self):
        head = f"def f({', '.join(self.arguments)}):  # {self.arguments}"
        return "\n    ".join([head, *self.lines, f"return ({', '.join(self.results)},)"])

    def function(self):
        space = {"np": np, "tg": tg}
        exec(self.text, space)
        return space["f"]

    def loss(self):
        f = self.function()

        def loss(*args):
            return sum(np.sum(np.sin(y)) if np.shape(y) else np.sin(y) for y in f(*args))

        return loss

    def point(self):
        return [draw(self.rng, shape, self.dtype) for shape in self.arguments.values()]


def draw(rng, shape, dtype):
    x = rng.uniform(-2.0, 2.0, size=shape).astype(dtype)
    return x if shape else float(x)


def _slice(kind):
    parts = [p or "None" for p in kind.split(":")]
    return ", ".join(parts)


def variants(function):
    """Functions to record, by name, with their arguments: the values of a random function and derivatives of it."""
    f, loss, args = function.function(), function.loss(), function.point()
    every, n = tuple(range(len(args))), len(args)
    tangents = [draw(function.rng, np.shape(x), function.dtype) for x in args]
    gradient = tg.grad(loss, argnums=every)
    return {
        "value": (f, args),
        "grad": (lambda *args: gradient(*args), args),
        "jvp": (lambda *both: tg.jvp(f, both[:n], both[n:]), [*args, *tangents]),
        "hvp": (lambda *both: tg.jvp(gradient, both[:n], both[n:]), [*args, *tangents]),
    }

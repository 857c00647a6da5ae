"""Writes random programs, as the text of Python functions on NumPy.

A program is written line by line. Each piece is run at three points while it is written, on plain numbers, and thrown
away where NumPy raises, numbers grow large, or shapes differ between the points: so what is left runs everywhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import flow
from .pieces import BLOCKS, FAMILIES

SMALL = [(3,), (2,), (4,), (1,), (2, 3), (3, 3), (3, 2), (2, 2), (4, 1), (1, 3), (2, 3, 2), (3, 1, 2), (5,), (17,)]
LARGE = [(40,), (1100,), (9, 7), (33, 40), (2100,), (20, 3), (4, 5, 6)]
# Of numbers: their size, how many in one array, and how many a loop of Python goes through.
LARGEST, MOST, LONGEST = 50.0, 4000, 20


class Program(NamedTuple):
    """A program, and the points where it was tried."""

    text: str
    constants: dict[str, np.ndarray]
    points: list[tuple[Any, ...]]
    dtype: Any
    name: str

    def functions(self, **names: Any) -> dict[str, Any]:
        """What the text defines, `loss` and `outputs`, with other meanings for some names."""
        space = names_for(self.dtype) | self.constants | names
        exec(compile(self.text, f"<{self.name}>", "exec"), space)
        return space


def names_for(dtype: Any) -> dict[str, Any]:
    """What programs name, besides their own variables."""
    return {"np": np, "eye": lambda n: np.eye(n, dtype=dtype), **flow.FUNCTIONS}


def write(seed: int, number: int) -> Program:
    """Program `number` of a seed."""
    return Writer(np.random.default_rng([seed, number]), f"program {number} of seed {seed}").program()


class Writer:
    def __init__(self, rng: np.random.Generator, name: str) -> None:
        self.rng, self.name = rng, name
        self.dtype = np.float32 if rng.random() < 0.3 else np.float64
        self.large = rng.random() < 0.08
        self.lines: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self.captures = 0
        self.scopes: list[dict[str, Any]] = []
        self.variables: list[str] = []

    def program(self) -> Program:
        points, names = self.arguments()
        for _ in range(self.rng.integers(2, 15)):
            for _ in range(30):
                if self.piece():
                    break
        used = [v for v in self.variables if self.rng.random() < 0.8] or self.variables[-1:]
        weights = [round(float(self.rng.uniform(0.2, 1.5)), 2) for _ in used]
        total = " + ".join(f"{w} * np.sum(np.sin({v}))" for w, v in zip(weights, used))
        shown = list(self.rng.permutation(self.variables)[:3])
        parts = {1: "{}", 2: "({}, {})", 3: '{{"a": {}, "b": [{}, {}]}}'}[len(shown)].format(*shown)
        body = "\n".join("    " + line for text in self.lines for line in text.split("\n"))
        text = "".join(
            f"def {name}({', '.join(names)}):\n{body}\n    return {result}\n\n"
            for name, result in (("loss", total), ("outputs", parts))
        )
        return Program(text, self.constants, points, self.dtype, self.name)

    # Arguments

    def arguments(self) -> tuple[list[tuple[Any, ...]], list[str]]:
        rng = self.rng
        shapes: dict[str, Any] = {"x": self.shape()}
        if rng.random() < 0.7:
            shapes["s"] = ()
        if rng.random() < 0.5:
            shapes["A"] = self.shape()
        if rng.random() < 0.3:
            shapes["p"] = {"w": self.shape(), "b": ()} if rng.random() < 0.5 else (self.shape(), [(), self.shape()])
        points = [tuple(self.numbers(shape) for shape in shapes.values()) for _ in range(3)]
        names = list(shapes)
        if rng.random() < 0.15:
            # Whole numbers, which differ between the points: a replay gathers elsewhere.
            points = [(*point, rng.integers(0, np.shape(points[0][0])[0], 3)) for point in points]
            names.append("index")
        self.scopes = [dict(zip(names, map(wide, point))) for point in points]
        self.variables = [name for name in ("x", "s", "A") if name in shapes]
        if "p" in shapes:
            keys = '["w"]', '["b"]' if isinstance(shapes["p"], dict) else ""
            picked = ["p" + key for key in keys] if isinstance(shapes["p"], dict) else ["p[0]", "p[1][0]", "p[1][1]"]
            for name, text in zip("wbg", picked):
                assert self.attempt(f"{name} = {text}", name)
        return points, names

    def shape(self) -> tuple[int, ...]:
        table = LARGE if self.large else SMALL
        return table[self.rng.integers(len(table))]

    def numbers(self, shape: Any) -> Any:
        if isinstance(shape, dict):
            return {name: self.numbers(s) for name, s in shape.items()}
        if not all(isinstance(n, int) for n in shape):
            return type(shape)(self.numbers(s) for s in shape)
        drawn = self.rng.normal(scale=0.9, size=shape).astype(self.dtype)
        if not shape:
            return float(drawn)
        kind = self.rng.random()
        if kind < 0.1:
            return np.asfortranarray(drawn)
        if kind < 0.2:
            return np.repeat(drawn, 2, axis=0)[::2]
        return drawn

    # Pieces

    def piece(self) -> bool:
        families, chances = zip(*FAMILIES)
        table = families[self.rng.choice(len(families), p=chances)]
        template = table[self.rng.integers(len(table))]
        name = f"v{len(self.lines)}"
        if "index" in template and "index" not in self.scopes[0]:
            return False
        fillings = self.fillings()
        shape = np.shape(self.scopes[0][fillings["x"]])
        if not shape and "axis=" in template:
            return False  # NumPy takes an axis of a number, we do not
        length = shape[:1] or (1,)
        each = template in ("sum({x})", "max({x})") or "in {x}" in template or "len({x})" in template
        if each and length[0] > LONGEST:
            return False  # Python would go through it element by element
        text = template.format(n=name, **fillings)
        return self.attempt(text if table is BLOCKS else f"{name} = {text}", name)

    def fillings(self) -> dict[str, str]:
        rng = self.rng
        # Late variables are taken more often, so that programs grow deep.
        late = [self.variables[-1 - min(int(rng.exponential(3)), len(self.variables) - 1)] for _ in range(3)]
        scalars = [v for v in self.variables if np.ndim(self.scopes[0][v]) == 0]
        if scalars:
            s, t = (scalars[rng.integers(len(scalars))] for _ in range(2))
        else:
            s, t = f"np.sum({late[0]})", f"np.mean({late[1]})"
        shape = np.shape(self.scopes[0][late[0]])
        return {
            "x": late[0], "y": late[1], "z": late[2], "s": s, "t": t, "c": str(round(float(rng.uniform(-1.2, 1.5)), 2)),
            "k": str(rng.integers(1, 5)), "M": self.captured(shape), "I": self.positions(late[0]),
            "B": self.mask(late[0]),
        }  # fmt: skip

    def captured(self, shape: tuple[int, ...]) -> str:
        shape = shape[::-1] if self.rng.random() < 0.3 else shape
        # Numbers that float32 has, too.
        return self.constant(np.round(self.rng.normal(size=shape) * 8) / 8)

    def positions(self, name: str) -> str:
        n = max(min(np.shape(self.scopes[0][name]) or (1,)), 1)
        return self.constant(self.rng.integers(-n, n, self.rng.integers(1, 5)))

    def mask(self, name: str) -> str:
        n = (np.shape(self.scopes[0][name]) or (1,))[0]
        return self.constant(self.rng.random(n) < 0.7)

    def constant(self, array: Any) -> str:
        self.captures += 1
        name = f"C{self.captures}_"
        array = np.asarray(array)
        self.constants[name] = array.astype(self.dtype) if array.dtype.kind == "f" else array
        return name

    def attempt(self, text: str, name: str) -> bool:
        """Add a piece of text that gives a variable a value, if it runs at all points."""
        code = compile(text, self.name, "exec")
        found, shapes = [], set()
        for scope in self.scopes:
            # One namespace, so that functions and comprehensions in the piece find everything.
            space = names_for(self.dtype) | self.constants | scope
            try:
                with np.errstate(over="raise", invalid="raise", divide="raise"):
                    exec(code, space)
                result = space[name]
                array = np.asarray(result, float)
            except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, np.linalg.LinAlgError):
                return False
            if array.dtype.kind != "f" or array.ndim > 4 or not 0 < array.size <= MOST or not np.isfinite(array).all():
                return False
            if np.abs(array).max() > LARGEST or isinstance(result, list | tuple | bool | np.bool_):
                return False
            found.append(result)
            shapes.add(array.shape)
        if len(shapes) > 1:
            return False
        for scope, result in zip(self.scopes, found):
            scope[name] = result
        for constant in [c for c in self.constants if c not in text and not any(c in line for line in self.lines)]:
            del self.constants[constant]
        self.lines.append(text)
        self.variables.append(name)
        return True


def wide(x: Any) -> Any:
    """An argument in double precision."""
    if isinstance(x, dict):
        return {name: wide(y) for name, y in x.items()}
    if isinstance(x, tuple | list):
        return type(x)(map(wide, x))
    return np.array(x, float) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

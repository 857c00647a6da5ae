"""Holds derivatives of a random program against an oracle.

A program is recorded at its first point and replayed at the others, run on Values, and differentiated in each mode.
Every result is compared along two random directions with what `hyper` finds.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import tapegrad as tg

from . import hyper, hyper_arrays  # noqa: F401  (the latter fills tables of the former)
from .writing import Program

FLOW = {"cond": tg.cond, "fori_loop": tg.fori_loop, "while_loop": tg.while_loop, "scan": tg.scan}
# Relative to the terms of a sum: what is asked at once, and how near to a kink a program must not come. What is worse
# than asked is held against roundings, which may be large where a program is badly conditioned.
CLOSE = {np.float64: 1e-11, np.float32: 2e-5}
KINK = {np.float64: 1e-9, np.float32: 1e-3}
ROUNDINGS = 30.0  # how many times the effect of random roundings a result may be off


# Nested arguments, by rules of our own

def leaves(tree: Any) -> list[Any]:
    """The arrays and numbers of nested tuples, lists and dicts."""
    if isinstance(tree, dict):
        return [x for y in tree.values() for x in leaves(y)]
    if isinstance(tree, tuple | list):
        return [x for y in tree for x in leaves(y)]
    return [tree]


def mapped(f: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: mapped(f, y) for name, y in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(f, y) for y in tree)
    return f(tree)


def whole(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "i"


class Expected:
    """What an oracle finds at one point, along two directions."""

    def __init__(self, program: Program, point: tuple[Any, ...], rng: np.random.Generator) -> None:
        self.program, self.point = program, point
        self.u, self.v = (mapped(lambda x: direction(x, program.dtype, rng), point) for _ in range(2))
        self.loss, self.outputs, self.margin = self.evaluate(0.0, 0)
        self.kinked = not self.margin > KINK[program.dtype] or not all(np.isfinite(p).all() for p in self.loss)
        self.spreads: dict[str, Any] = {}

    def evaluate(self, noise: float, seed: int) -> Any:
        hyper.world = hyper.World(noise, seed, float(np.finfo(self.program.dtype).tiny))
        us, vs = iter(leaves(self.u)), iter(leaves(self.v))

        def number(x: Any) -> Any:
            u, v = next(us), next(vs)
            return x if whole(x) else hyper.Hyper([x, u, v, np.zeros(np.shape(x))])

        args = mapped(number, self.point)
        functions = self.program.functions()
        with np.errstate(all="ignore"):
            loss = hyper.parts_of(functions["loss"](*args))
            outputs = [hyper.parts_of(x) for x in leaves(functions["outputs"](*args))]
        return loss, outputs, hyper.world.margin

    def spread(self, read: Any) -> float:
        """How far roundings of the program's dtype move a number that is read of (loss, outputs)."""
        exact, eps = read(self.loss, self.outputs), float(np.finfo(self.program.dtype).eps)
        return max(np.max(np.abs(np.asarray(read(*self.evaluate(eps, k)[:2]) - exact, float))) for k in range(4))


def direction(x: Any, dtype: Any, rng: np.random.Generator) -> Any:
    if whole(x):
        return None
    drawn = rng.normal(size=np.shape(x)).astype(dtype)
    return drawn if drawn.ndim else float(drawn)


class Held:
    """The outcome for one program: what was wrong, what was refused, how many results were compared."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.wrong: list[str] = []
        self.refused: list[str] = []
        self.compared = self.kinks = 0
        self.points: list[Expected] = []

    def compare(self, what: str, at: Expected, found: Any, read: Any, scale: float = 0.0) -> None:
        """found() against the number or array that `read` takes of what the oracle found."""
        if at.kinked:
            self.kinks += 1
            return
        expected = np.asarray(read(at.loss, at.outputs), float)
        got, own = found()
        got = np.asarray(got, float)
        self.compared += 1
        if got.shape != expected.shape:
            self.wrong.append(f"{what}: shape {got.shape}, expected {expected.shape}")
            return
        scale = 1.0 + max(own, scale, float(np.abs(expected).max(initial=0.0)))
        error = np.abs(got - expected).max(initial=0.0) if np.isfinite(got).all() else np.inf
        if error <= CLOSE[self.program.dtype] * scale:
            return
        spread = at.spread(read)
        if not np.isfinite(spread) or error <= ROUNDINGS * spread:
            self.kinks += not np.isfinite(spread)
            return
        self.wrong.append(f"{what}: {got!r}, expected {expected!r}; off by {error:.1e}, roundings {spread:.1e}")

    def attempt(self, what: str, work: Any) -> None:
        """Carry out comparisons, and take note of exceptions."""
        try:
            work()
        except (tg.errors.UnsupportedError, tg.errors.ShapeError, tg.errors.DTypeError) as error:
            self.refused.append(f"{what}: {type(error).__name__}: {error}")
        except tg.errors.GuardError as error:
            # Where rounding decides a branch, replays and recordings may take another one each, which is said so.
            if any(point.kinked for point in self.points):
                self.kinks += 1
            else:
                self.wrong.append(f"{what}: {type(error).__name__}: {error}")
        except Exception as error:  # whatever else it is, it is a finding
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")


def along(gradient: Any, direction: Any) -> tuple[float, float]:
    """A gradient's part along a direction, and how large its terms are."""
    total = size = 0.0
    for g, d in zip(leaves(gradient), leaves(direction), strict=True):
        if d is not None:
            if np.shape(g) != np.shape(d):
                raise AssertionError(f"a gradient has shape {np.shape(g)}, its argument {np.shape(d)}")
            terms = np.asarray(g, float) * d
            total, size = total + float(terms.sum()), size + float(np.abs(terms).sum())
    return total, size


def hold(program: Program, seed: int = 0) -> Held:
    """Compare all modes."""
    held = Held(program)
    rng = np.random.default_rng([seed, 1])
    try:
        points = [Expected(program, point, rng) for point in program.points]
    except IndexError:
        # Of equal numbers another one is the largest there, by a rounding, at a position that is out of range.
        held.kinks += 1
        return held
    held.points = points
    functions = program.functions(**FLOW)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        _first(held, functions["loss"], points)
        _second(held, functions["loss"], points, rng)
        _many(held, functions["loss"], functions["outputs"], points, rng)
    return held


def _floats(point: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(i for i, x in enumerate(point) if not whole(x))


def _part(k: int) -> Any:
    return lambda loss, outputs: loss[k]


def _first(held: Held, loss: Any, points: list[Expected]) -> None:
    wanted = _floats(points[0].point)
    both = tg.value_and_grad(loss, argnums=wanted)
    for name, at in zip(("recorded", "replayed", "replayed again", "back at the first point"), [*points, points[0]]):
        def recorded(at: Expected = at, name: str = name) -> None:
            value, gradient = both(*at.point)
            u = [at.u[i] for i in wanted]
            held.compare(f"value, {name}", at, lambda: (value, 0.0), _part(0))
            held.compare(f"gradient, {name}", at, lambda: along(gradient, u), _part(1))

        held.attempt(f"gradient, {name}", recorded)

    at = points[1]

    def eager() -> None:
        values = mapped(lambda x: x if whole(x) else tg.Value(x if np.ndim(x) else held.program.dtype(x)), at.point)
        result = loss(*values)
        value = result.data if isinstance(result, tg.Value) else result
        if isinstance(result, tg.Value):
            result.backward()
        gradient = mapped(lambda x: None if whole(x) else x.grad, values)
        held.compare("value, eager", at, lambda: (value, 0.0), _part(0))
        held.compare("gradient, eager", at, lambda: along(gradient, at.u), _part(1))

    held.attempt("eager", eager)


def _second(held: Held, loss: Any, points: list[Expected], rng: np.random.Generator) -> None:
    recording: Any = None

    def record() -> None:
        nonlocal recording
        recording = tg.record(loss, *points[0].point)

    held.attempt("record", record)
    if recording is None:
        return
    wanted = _floats(points[0].point)
    for name, at in zip(("at the point recorded", "elsewhere", "at a third point"), points):
        def products(at: Expected = at, name: str = name) -> None:
            tangents, u = tuple(at.v[i] for i in wanted), [at.u[i] for i in wanted]
            _, slope = recording.jvp(at.point, at.v)
            held.compare(f"jvp {name}", at, lambda: (slope, 0.0), _part(2), along_scale(at))
            product = recording.hvp(at.point, tangents, argnums=wanted)
            held.compare(f"hvp {name}", at, lambda: along(product, u), _part(3))

        held.attempt(f"second order {name}", products)
    at = points[1 + int(rng.integers(2))]

    def nested() -> None:
        v = [x for x in leaves(at.v) if x is not None]

        def slope(*args: Any) -> Any:
            gradient = tg.grad(loss, argnums=wanted)(*args)
            return sum(np.sum(g * d) for g, d in zip([x for x in leaves(gradient) if x is not None], v))

        product = tg.grad(slope, argnums=wanted)(*at.point)
        held.compare("gradient of a gradient", at, lambda: along(product, [at.u[i] for i in wanted]), _part(3))

    def mixed() -> None:
        def slope(*args: Any) -> Any:
            return tg.jvp(loss, args, at.v)[1]

        product = tg.grad(slope, argnums=wanted)(*at.point)
        held.compare("gradient of a jvp", at, lambda: along(product, [at.u[i] for i in wanted]), _part(3))

    held.attempt("nested", nested if rng.random() < 0.5 else mixed)


def along_scale(at: Expected) -> float:
    return sum(float(np.abs(x).sum()) for x in leaves(at.v) if x is not None)


def _many(held: Held, loss: Any, outputs: Any, points: list[Expected], rng: np.random.Generator) -> None:
    wanted = _floats(points[0].point)
    at = points[1]
    weights = [direction(p[0], held.program.dtype, rng) for p in at.outputs]

    def shown() -> None:
        recording = tg.record(outputs, *points[0].point)
        found, tangents = recording.jvp(at.point, at.v)
        for k, (x, t) in enumerate(zip(leaves(found), leaves(tangents), strict=True)):
            held.compare(f"output {k}", at, lambda x=x: (x, 0.0), lambda _, o, k=k: o[k][0])
            held.compare(f"tangent of output {k}", at, lambda t=t: (t, 0.0), lambda _, o, k=k: o[k][2], along_scale(at))
        structure = iter(weights)
        cotangent = mapped(lambda _: next(structure), found)
        _, pullback = recording.vjp(*at.point)
        gradients = pullback(cotangent)
        held.compare(
            "vjp", at, lambda: along([gradients[i] for i in wanted], [at.u[i] for i in wanted]),
            lambda _, o: sum(np.sum(p[1] * w) for p, w in zip(o, weights)),
        )  # fmt: skip

    held.attempt("outputs", shown)

    def matrices() -> None:
        sparse = bool(rng.random() < 0.5)
        flat = np.concatenate([np.ravel(x) for x in leaves(at.v) if x is not None])
        other = np.concatenate([np.ravel(x) for x in leaves(at.u) if x is not None])
        hessian = tg.hessian(loss, argnums=wanted, sparse=sparse)(*at.point)
        hessian = hessian.toarray() if sparse else _matrix(hessian, at.point, wanted)
        scale = float(np.abs(hessian).max(initial=0.0))
        held.compare(f"hessian, sparse={sparse}", at, lambda: (other @ hessian @ flat, scale), _part(3))
        jacobian = tg.jacobian(outputs, argnums=wanted, sparse=True)(*at.point) @ flat
        expected = lambda _, o: np.concatenate([np.ravel(p[2]) for p in o])
        held.compare("jacobian", at, lambda: (jacobian, 0.0), expected, along_scale(at))

    if rng.random() < 0.3 and sum(np.size(x) for x in leaves(at.point)) < 60:
        held.attempt("matrices", matrices)


def _matrix(blocks: Any, point: tuple[Any, ...], wanted: tuple[int, ...]) -> np.ndarray:
    """Blocks of second derivatives, nested as the arguments and nested so again, as one matrix."""
    sizes = [np.size(x) for i in wanted for x in leaves(point[i])]
    found = leaves(blocks)
    rows = [found[k : k + len(sizes)] for k in range(0, len(found), len(sizes))]
    return np.block([[np.reshape(b, (m, k)) for b, k in zip(row, sizes)] for row, m in zip(rows, sizes)])

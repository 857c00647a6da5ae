"""`check_grads`: the derivatives of a function, of any order, against differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.functions import checked, holds_values
from tapegrad.arguments import argument_numbers, owners
from tapegrad.checking.differences import STEP, Slope, slope
from tapegrad.checking.report import Ledger, Report, difference_text, element, farthest, short
from tapegrad.errors import CheckError, CutGradientError, IntegerInputError, StructureError
from tapegrad.recording import Recording, record
from tapegrad.value import Value

_MODES = ("fwd", "rev")
# An argument of no more elements than this is searched for the one that is wrong.
_SEARCHED = 64

Arrays = Sequence[np.ndarray]


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    *,
    argnums: int | Sequence[int] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    eps: float | None = None,
    seed: int = 0,
) -> Report:
    """Check derivatives of f at a point against central differences.

    Args:
        f: a function of numbers, arrays, or nested structures of them, that returns the same.
        args: its arguments, a tuple. All floats among them are taken as float64; integers, strings and so on stay as
            they are.
        order: up to which order of derivative.
        modes: "fwd", "rev" or both; for higher orders in every succession.
        argnums: the argument, or arguments, to differentiate with respect to; by default all that hold floats.
        rtol, atol: |found - differences| <= atol + rtol max(|found|, |differences|), and what the differences
            themselves are uncertain by.
        eps: the first step of the differences, relative to the size of each argument; by default 1/32. Seven smaller
            ones follow, and all are extrapolated to zero.
        seed: of the random directions.

    Along a random direction v, with a random cotangent w: "fwd" compares J v, and "rev" <w'J, v>, with
    (f(x + h v) - f(x - h v)) / 2h for h -> 0. The next order does the same with the function (x, v) -> J v, or
    (x, w) -> w'J. Differences are those of f on NumPy's numbers where f takes them, else of replays; a value that a
    replay computes otherwise than NumPy is an error too.

    The idea is that of HIPS Autograd's `check_grads` (D. Maclaurin, D. Duvenaud, M. Johnson, J. Townsend, autograd,
    test_util.py).

    Raises CheckError, which is an AssertionError, where numbers differ, are NaN or infinite, or where f has a kink at the
    point: the differences from the left and from the right differ. IntegerInputError where there is no float to
    differentiate with respect to, StructureError where f returns none, ValueError for an unknown mode or order, and what
    `record` raises.

    >>> import numpy as np
    >>> report = check_grads(lambda x, y: np.sum(np.sin(x) * y), (np.array([0.5, 1.0]), 2.0))
    >>> report.worst < 1e-6
    True
    >>> check_grads(lambda x: abs(x), (0.0,), order=1)
    Traceback (most recent call last):
        ...
    tapegrad.errors.CheckError: <lambda>: order 1 (fwd): in argument 0: ...
    """
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or not set(modes) <= set(_MODES):
        raise ValueError(f"modes must be some of {_MODES}, not {modes!r}")
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"order must be a whole number from 1 on, not {order!r}")
    name = str(getattr(f, "__name__", None) or repr(f))
    level, point = _first_level(f, args, argnums, Ledger(name))
    run = _Run(level.ledger, modes, rtol, atol, STEP if eps is None else float(eps), seed)
    run.check(level, point, int(order), ())
    return level.ledger.report()


class _Level:
    """A function of arrays with several results, its recording, and names for its arguments and results."""

    def __init__(
        self, call: Callable[..., Any], plain: Callable[..., Any] | None, point: Arrays, names: list[str], ledger: Ledger
    ) -> None:
        self.recording: Recording = record(call, *point)
        self.plain = plain
        self.names = names
        self.ledger = ledger
        self.results: list[str] = []

    def values(self, point: Arrays) -> list[np.ndarray]:
        """All results; NaN where there are none."""
        if self.plain is None:
            found = self.recording(*point)
        else:
            try:
                found = self.plain(*[np.array(x)[()] for x in point])
            except (ValueError, ArithmeticError, IndexError):
                found = [np.full(np.shape(y), np.nan) for y in self.recording(*point)]
        return [np.asarray(y, float) for y in found]

    def along(self, point: Arrays, v: Arrays, step: float) -> Slope:
        """The derivative of all results along v, by differences, one after the other in one array."""
        return slope(lambda t: _flat(self.values([x + t * d for x, d in zip(point, v, strict=True)])), step)

    def push(self, point: Arrays, v: Arrays) -> list[np.ndarray]:
        return [np.asarray(t, float) for t in self.recording.jvp(tuple(point), tuple(v))[1]]

    def pull(self, point: Arrays, w: Arrays) -> list[np.ndarray]:
        return [np.asarray(g, float) for g in self.recording.vjp(*point)[1](tuple(w))]

    def next(self, mode: str, point: Arrays, along: Arrays) -> _Level:
        """The derivative, as a function of the point and of the direction or cotangent."""
        r, n, which = self.recording, len(point), "tangent" if mode == "fwd" else "cotangent"
        if mode == "fwd":
            call: Callable[..., Any] = lambda *xs: r.jvp(xs[:n], xs[n:])[1]
            results = [f"the tangent of {name}" for name in self.results]
        else:
            call = lambda *xs: r.vjp(*xs[:n])[1](xs[n:])
            results = [f"the gradient by {name}" for name in self.names]
        of = self.names if mode == "fwd" else self.results
        names = [*self.names, *(f"the {which} of {x}" for x in of)]
        # On plain numbers `call` sweeps; what is recorded of it are instructions.
        level = _Level(call, call, [*point, *along], names, self.ledger)
        level.results = results
        return level

    def compare_value(self, what: str, point: Arrays, sides: tuple[str, str]) -> None:
        """Compare what a replay computes with what the function does on plain numbers."""
        recorded = [np.asarray(y, float) for y in self.recording(*point)]
        for name, a, b in zip(self.results, recorded, self.values(point), strict=True):
            scale = float(np.max(np.abs(b), initial=0.0))
            self.ledger.compare(f"{what}{name}", a, b, rtol=1e-9, atol=1e-12, scale=scale, sides=sides)


def _flat(arrays: Sequence[Any]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.reshape(x, -1) for x in arrays)])


def _first_level(f: Callable[..., Any], args: Any, argnums: Any, ledger: Ledger) -> tuple[_Level, list[np.ndarray]]:
    """The function itself, of those leaves of its arguments that are floats. Checks its value."""
    if not isinstance(args, tuple | list):
        raise StructureError(f"args must be a tuple of arguments, not {type(args).__name__}: write (x,) for one")
    leaves, structure = pytree.flatten(tuple(args))
    if holds_values(leaves):
        raise CutGradientError("args must be plain numbers, not Values: the check moves them about; pass v.data")
    chosen = _chosen(leaves, owners(structure), argnums, len(args))
    paths = [f"argument {path[1:].replace(']', '', 1)}" for path in _paths(tuple(args), "")]
    leaves = [np.asarray(x, float)[()] if _is_float(x) else x for x in leaves]
    kept: list[tuple[int, str]] = []

    def call(*xs: Any) -> tuple[Any, ...]:
        given = list(leaves)
        for i, x in zip(chosen, xs, strict=True):
            given[i] = x
        result = f(*pytree.unflatten(structure, given))
        outputs, _ = pytree.flatten(result)
        if not kept:
            named = list(_paths(result, "result"))
            kept.extend((i, named[i]) for i, y in enumerate(outputs) if isinstance(y, Value) or _is_float(y, objects=True))
            if not kept:
                what = ", ".join(type(y).__name__ for y in outputs) or "nothing"
                raise StructureError(f"{ledger.subject} returned {what}: there is no float to differentiate")
        return tuple(outputs[i] for i, _ in kept)

    point = [np.asarray(leaves[i], float) for i in chosen]
    for i, x in zip(chosen, point, strict=True):
        if not np.all(np.isfinite(x)):
            raise CheckError(f"{ledger.subject}: {paths[i]} is {x[~np.isfinite(x)][0]}: differences need finite numbers")
    point = [x[()] for x in point]
    level = _Level(call, call, point, [paths[i] for i in chosen], ledger)
    level.results = [name for _, name in kept]
    recorded = [np.asarray(y, float) for y in level.recording(*point)]
    for name, y in zip(level.results, recorded, strict=True):
        if not np.all(np.isfinite(y)):
            i = tuple(int(n) for n in np.argwhere(~np.isfinite(y))[0])
            raise CheckError(f"{ledger.subject}: {element(name, i)} is {y[i]}: there is nothing to differentiate")
    try:
        with np.errstate(all="ignore"):
            _ = [np.asarray(y, float) for y in call(*[np.array(x)[()] for x in point])]
    except Exception:
        # It does not work on plain numbers; differences are then those of replays.
        level.plain = None
    level.compare_value("the value of ", point, ("by replay", "by NumPy"))
    return level, point


def _is_float(x: Any, objects: bool = False) -> bool:
    kinds = "fO" if objects else "f"
    return isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind in kinds)


def _chosen(leaves: Sequence[Any], owner: Sequence[int], argnums: Any, count: int) -> list[int]:
    numbers = None if argnums is None else checked(argument_numbers(argnums), count)
    for n in numbers or ():
        if not any(_is_float(x) for x, of in zip(leaves, owner, strict=True) if of == n):
            raise IntegerInputError(f"argument {n} holds no floats: convert it with float(...) or .astype(float)")
    found = [i for i, x in enumerate(leaves) if _is_float(x) and np.size(x) and (numbers is None or owner[i] in numbers)]
    if not found:
        raise IntegerInputError("none of the arguments holds a float: there is nothing to differentiate with respect to")
    return found


def _paths(x: Any, path: str) -> Iterator[str]:
    """How Python would write each leaf of a nested structure."""
    parts, node = pytree.flatten_once(x)
    if node is None:
        yield path
        return
    fields = getattr(node.kind, "_fields", None)
    for i, part in enumerate(parts):
        if isinstance(x, dict):
            step = f"[{node.extra[i]!r}]"  # type: ignore[index]
        elif fields or (isinstance(node.extra, tuple) and len(node.extra) == len(parts)):
            step = f".{(fields or node.extra)[i]}"  # type: ignore[index]
        else:
            step = f"[{i}]"
        yield from _paths(part, path + step)


class _Culprit(NamedTuple):
    place: str
    v: np.ndarray
    found: float
    expected: float
    found_in: str
    slope: Slope


class _Run:
    """The checks of one call."""

    def __init__(
        self, ledger: Ledger, modes: tuple[str, ...], rtol: float, atol: float, step: float, seed: int
    ) -> None:
        self.ledger, self.modes, self.rtol, self.atol, self.step, self.seed = ledger, modes, rtol, atol, step, seed
        self.rng = np.random.default_rng(seed)

    def drawn(self, shape: tuple[int, ...]) -> Any:
        """Random numbers; a number for a number."""
        return np.asarray(self.rng.normal(size=shape))[()]

    def check(self, level: _Level, point: Arrays, order: int, path: tuple[str, ...]) -> None:
        """Check the derivative of a function, then that of its derivatives."""
        values = level.values(point)
        v = [self.drawn(np.shape(x)) * (np.sqrt(np.mean(np.square(x))) or 1.0) for x in point]
        w = [self.drawn(y.shape) for y in values]
        measured = level.along(point, v, self.step)
        for mode in self.modes:
            self.compare(level, point, mode, (mode, *path), v, w, measured)
        if order > 1:
            for mode in self.modes:
                along = v if mode == "fwd" else w
                try:
                    child = level.next(mode, point, along)
                    what = f"{_title((mode, *path))} as instructions: "
                    child.compare_value(what, [*point, *along], ("by replay", "by sweeps"))
                    self.check(child, [*point, *along], order - 1, (mode, *path))
                except CheckError:
                    raise
                except Exception as error:
                    error.add_note(f"while checking {_title((self.modes[0], mode, *path), several=True)}")
                    raise

    def numbers(
        self, level: _Level, point: Arrays, mode: str, v: Arrays, w: Arrays, measured: Slope
    ) -> tuple[np.ndarray, np.ndarray, Any, float]:
        """What the derivative says, what differences say, by how much these may be off, and a size to compare with."""
        if mode == "fwd":
            return _flat(level.push(point, v)), measured.value, measured.error, 0.0
        terms = [np.sum(g * d) for g, d in zip(level.pull(point, w), v, strict=True)]
        weights = _flat(w)
        with np.errstate(invalid="ignore"):
            weighted = weights * measured.value
            error = np.sum(np.abs(weights) * measured.error)
            return np.sum(terms), np.sum(weighted), error, float(np.sqrt(np.sum(np.square(weighted))))

    def compare(
        self, level: _Level, point: Arrays, mode: str, path: tuple[str, ...], v: Arrays, w: Arrays, measured: Slope
    ) -> None:
        """Compare a derivative along one direction, and name what is wrong. Raises CheckError."""
        found, expected, error, scale = self.numbers(level, point, mode, v, w, measured)
        self.ledger.checks += 1
        options = {"rtol": self.rtol, "atol": self.atol}
        if np.size(expected):
            _, over = farthest(np.asarray(found), np.asarray(expected), error=error, scale=scale, **options)
            if over > 1.0 or measured.kink.any():
                raise CheckError(self.message(level, point, mode, path, v, w))
        sizes = np.maximum(np.maximum(np.abs(found), np.abs(expected)), max(scale, self.atol / (self.rtol or 1.0), 1e-300))
        worst = float(np.max(np.abs(found - expected) / sizes, initial=0.0))
        if worst >= self.ledger.worst:
            self.ledger.worst, self.ledger.where = worst, _title(path)

    def suspects(self, level: _Level, point: Arrays, mode: str, v: Arrays, w: Arrays) -> Iterator[tuple[float, _Culprit]]:
        """How far off the derivative is along the part of the direction that belongs to each argument."""
        names = [(name, i) for name, y in zip(level.results, level.values(point), strict=True) for i in np.ndindex(y.shape)]
        for i, name in enumerate(level.names):
            own = [d if i == j else 0.0 * d for j, d in enumerate(v)]
            measured = level.along(point, own, self.step)
            found, expected, error, scale = self.numbers(level, point, mode, own, w, measured)
            at, over = farthest(
                np.asarray(found), np.asarray(expected), rtol=self.rtol, atol=self.atol, error=error, scale=scale
            )
            over = np.inf if measured.kink.any() else over
            if measured.kink.any() and mode == "fwd":
                at = (int(np.argmax(measured.kink)),)
            where = f"in {element(*names[at[0]])}" if mode == "fwd" else "in the weighted sum of all results"
            yield over, _Culprit(
                name, v[i], float(np.asarray(found)[at]), float(np.asarray(expected)[at]), where, measured
            )

    def message(self, level: _Level, point: Arrays, mode: str, path: tuple[str, ...], v: Arrays, w: Arrays) -> str:
        """What is wrong: where it shows, along which direction, and both numbers."""
        _, culprit = max(self.suspects(level, point, mode, v, w), key=lambda pair: pair[0])
        number = level.names.index(culprit.place)
        place = element(culprit.place, self.coordinate(level, point, mode, v, w, number))
        text = f"{self.ledger.subject}: {_title(path)}: in {place}: "
        text += difference_text(culprit.found, culprit.expected, ("derivative", "differences"))
        text += f" {culprit.found_in}, along the direction {short(np.asarray(culprit.v))} drawn with seed {self.seed}"
        measured = culprit.slope
        if not np.all(np.isfinite(measured.value)):
            return text + "; differences are not finite: the point lies at the edge of where the function is defined"
        apart = np.abs(measured.right - measured.left) > 1e-2 * np.maximum(np.abs(measured.left), np.abs(measured.right))
        if (measured.kink | apart).any():
            i = int(np.argmax(measured.kink if measured.kink.any() else apart))
            text += (
                f"; differences from the left ({measured.left[i]:.6g}) and from the right ({measured.right[i]:.6g}) differ: "
                "is there a kink at the point?"
            )
        return text

    def coordinate(
        self, level: _Level, point: Arrays, mode: str, v: Arrays, w: Arrays, number: int
    ) -> tuple[int, ...]:
        """The element of an argument along which alone the derivative is farthest off; () where that is not searched."""
        if not 1 < np.size(v[number]) <= _SEARCHED:
            return ()
        worst: tuple[float, tuple[int, ...]] = (1.0, ())
        for i in np.ndindex(np.shape(v[number])):
            own = [np.zeros(np.shape(d)) for d in v]
            own[number][i] = v[number][i]
            measured = level.along(point, own, self.step)
            found, expected, error, scale = self.numbers(level, point, mode, own, w, measured)
            options = {"rtol": self.rtol, "atol": self.atol, "error": error, "scale": scale}
            _, over = farthest(np.asarray(found), np.asarray(expected), **options)
            over = np.inf if measured.kink.any() else over
            worst = max(worst, (over, i), key=lambda pair: pair[0])
        return worst[1]


def _title(path: tuple[str, ...], several: bool = False) -> str:
    """The order of a derivative and how it was taken.

    >>> _title(("rev", "fwd"))
    'order 2 (rev of fwd)'
    """
    return f"order {len(path)}" + ("" if several else f" ({' of '.join(path)})")

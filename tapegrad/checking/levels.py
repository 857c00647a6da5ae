"""A function to be checked, its derivatives as functions, and names for what goes in and comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import checked, holds_values
from tapegrad.arguments import argument_numbers, owners
from tapegrad.checking.differences import Slope, slope
from tapegrad.checking.report import Ledger, element
from tapegrad.errors import CheckError, CutGradientError, IntegerInputError, StructureError
from tapegrad.recording import record
from tapegrad.value import Value

Arrays = Sequence[Any]


class Level:
    """A function of numbers and arrays that returns a tuple of them: the one to be checked, or a derivative of it.

    It is called with plain numbers for its values, and recorded for its derivatives. A derivative called with plain
    numbers is computed by sweeps, and what is recorded of it are instructions, so that the next derivative is checked
    against the sweeps of this one.
    """

    def __init__(
        self, call: Callable[..., Any], point: Arrays, names: list[str], results: list[str], subject: str
    ) -> None:
        self.call = call
        self.names, self.results, self.subject = names, results, subject
        self.recording = record(call, *point)
        self.recorded = self._checked(self.recording(*point))
        self.plain = True
        try:
            self.values(point)
        except Exception:
            # It does not work on plain numbers: differences are then those of replays.
            self.plain = False

    def _checked(self, found: Any) -> list[np.ndarray]:
        values = [np.asarray(y, float) for y in found]
        for name, y in zip(self.results, values, strict=True):
            for i in np.argwhere(~np.isfinite(y))[:1].tolist():
                place = element(name, tuple(i))
                raise CheckError(f"{self.subject}: {place} is {y[tuple(i)]}: there is nothing to differentiate")
        return values

    def values(self, point: Arrays) -> list[np.ndarray]:
        """All results, of the function itself if it takes plain numbers."""
        with np.errstate(all="ignore"):
            found = self.call(*map(_copied, point)) if self.plain else self.recording(*point)
            return [np.asarray(y, float) for y in found]

    def along(self, point: Arrays, v: Arrays, step: float) -> Slope:
        """The derivative along v by differences, of all results one after the other."""

        def moved(t: float) -> np.ndarray:
            try:
                return flat(self.values([x + t * d for x, d in zip(point, v, strict=True)]))
            except (ValueError, ArithmeticError, IndexError):
                if t == 0.0:
                    raise
                return np.full(flat(self.recorded).shape, np.nan)

        return slope(moved, step)

    def push(self, point: Arrays, v: Arrays) -> np.ndarray:
        """J v, of all results one after the other."""
        return flat(self.recording.jvp(tuple(point), tuple(v))[1])

    def pull(self, point: Arrays, w: Arrays) -> list[np.ndarray]:
        """w'J, one for each argument."""
        return [np.asarray(g, float) for g in self.recording.vjp(*point)[1](tuple(w))]

    def places(self) -> list[str]:
        """Names of all elements of the results."""
        named = zip(self.results, self.recorded, strict=True)
        return [element(name, i) for name, y in named for i in np.ndindex(y.shape)]

    def derivative(self, mode: str, point: Arrays, along: Arrays) -> Level:
        """J v as a function of the point and v ("fwd"), or w'J as one of the point and w ("rev")."""
        recording, n = self.recording, len(point)
        if mode == "fwd":
            call: Callable[..., Any] = lambda *xs: recording.jvp(xs[:n], xs[n:])[1]
            of, which, results = self.names, "tangent", [f"the tangent of {name}" for name in self.results]
        else:
            call = lambda *xs: recording.vjp(*xs[:n])[1](xs[n:])
            of, which, results = self.results, "cotangent", [f"the gradient by {name}" for name in self.names]
        names = [*self.names, *(f"the {which} of {name}" for name in of)]
        return Level(call, [*point, *along], names, results, self.subject)

    def compare_value(self, ledger: Ledger, what: str, point: Arrays, sides: tuple[str, str]) -> None:
        """Compare what a replay computes with what the function does on plain numbers. Raises CheckError."""
        for name, a, b in zip(self.results, self.recorded, self.values(point), strict=True):
            scale = float(np.max(np.abs(b), initial=0.0))
            ledger.compare(f"{what}{name}", a, b, rtol=1e-9, atol=1e-12, scale=scale, sides=sides)


def flat(arrays: Arrays) -> np.ndarray:
    """All numbers of some arrays in one."""
    return np.concatenate([np.zeros(0), *(np.reshape(np.asarray(x, float), -1) for x in arrays)])


def size_of(x: Any) -> float:
    """How large an array's numbers are: their root mean square, 1 where that is 0."""
    return float(np.sqrt(np.mean(np.square(x)))) or 1.0 if np.size(x) else 1.0


def _copied(x: Any) -> Any:
    # f gets copies, because it may change its arguments in place.
    return np.array(x)[()]


def first_level(f: Callable[..., Any], args: Any, argnums: Any, subject: str) -> tuple[Level, list[Any]]:
    """The function to be checked, as a function of those leaves of its arguments that are floats; and these leaves.

    Raises StructureError, CutGradientError, IntegerInputError, CheckError for numbers that are not finite.
    """
    if not isinstance(args, tuple | list):
        raise StructureError(f"args must be a tuple of arguments, not {type(args).__name__}: write (x,) for one")
    leaves, structure = pytree.flatten(tuple(args))
    if holds_values(leaves):
        raise CutGradientError("args must be plain numbers, not Values: f is called at other points too; pass v.data")
    chosen = _chosen(leaves, owners(structure), argnums, len(args))
    paths = [f"argument {path[1:].replace(']', '', 1)}" for path in pytree.paths(structure, "")]
    leaves = [np.asarray(x, float)[()] if _is_float(x) else x for x in leaves]
    kept: list[int] = []
    results: list[str] = []

    def call(*xs: Any) -> tuple[Any, ...]:
        given = list(leaves)
        for i, x in zip(chosen, xs, strict=True):
            given[i] = x
        result = f(*pytree.unflatten(structure, given))
        outputs, nesting = pytree.flatten(result)
        if not kept:
            for i, (y, path) in enumerate(zip(outputs, pytree.paths(nesting, "result"), strict=True)):
                if isinstance(y, Value) or _is_float(y) or (isinstance(y, np.ndarray) and y.dtype == object):
                    kept.append(i)
                    results.append(path)
        if not kept:
            what = ", ".join(type(y).__name__ for y in outputs) or "nothing"
            raise StructureError(f"{subject} returned {what}: there is no float to differentiate")
        return tuple(outputs[i] for i in kept)

    point = [leaves[i] for i in chosen]
    for i, x in zip(chosen, point, strict=True):
        if not np.all(np.isfinite(x)):
            bad = np.asarray(x)[~np.isfinite(x)].reshape(-1)[0]
            raise CheckError(f"{subject}: {paths[i]} holds {bad}: differences need finite numbers")
    return Level(call, point, [paths[i] for i in chosen], results, subject), point


def _is_float(x: Any) -> bool:
    return isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")


def _chosen(leaves: Sequence[Any], owner: Sequence[int], argnums: Any, count: int) -> list[int]:
    """The leaves that are floats, of the arguments numbered."""
    numbers = range(count) if argnums is None else checked(argument_numbers(argnums), count)
    found = [i for i, x in enumerate(leaves) if _is_float(x) and owner[i] in numbers]
    for n in numbers if argnums is not None else ():
        if n not in [owner[i] for i in found]:
            raise IntegerInputError(f"argument {n} holds no floats: convert it with float(...) or .astype(float)")
    if not found:
        raise IntegerInputError("no argument holds a float: there is nothing to differentiate with respect to")
    return found

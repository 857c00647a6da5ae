"""Nested numbers as the one vector that SciPy's solvers work on, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation
from tapegrad.errors import CutGradientError, DTypeError, OperationError, ShapeError, StructureError
from tapegrad.recording import on_values
from tapegrad.tape import recording_on


class Nesting:
    """How nested numbers and arrays lie in one vector, leaf after leaf, each in C order."""

    def __init__(self, structure: Any, shapes: Sequence[tuple[int, ...] | None]) -> None:
        self.structure = structure
        # None for a plain number, which comes back as one.
        self.shapes = tuple(shapes)
        sizes = [math.prod(s or ()) for s in self.shapes]
        self.ends = np.cumsum([0, *sizes]).tolist()
        self.size: int = self.ends[-1]
        self.is_vector = pytree.is_leaf(structure) and self.shapes[0] == (self.size,)

    def nest(self, x: Any) -> Any:
        """The numbers of a vector, an array or a Value, nested; arrays are views of it."""
        if self.is_vector:
            return x
        leaves = []
        for shape, start, end in zip(self.shapes, self.ends, self.ends[1:]):
            if shape is not None:
                leaves.append(x[start:end].reshape(shape))
            else:
                leaves.append(float(x[start]) if isinstance(x, np.ndarray) else x[start])
        return pytree.unflatten(self.structure, leaves)

    def columns(self, y: Any, count: int) -> Any:
        """Many vectors, (size, count), nested: arrays with one axis more, the last."""
        if self.is_vector:
            return y
        columns = np.reshape(y, (self.size, count))
        parts = [
            columns[start:end].reshape((*(shape or ()), count))
            for shape, start, end in zip(self.shapes, self.ends, self.ends[1:])
        ]
        return pytree.unflatten(self.structure, parts)

    def vector(self, nested: Any, what: str) -> np.ndarray:
        """A vector from what is nested so, or is a vector already. Raises ShapeError for anything else."""
        if isinstance(nested, np.ndarray) and nested.shape == (self.size,):
            return nested.astype(float)
        try:
            leaves = pytree.leaves_as(self.structure, _as_scipy(nested))
        except StructureError:
            raise ShapeError(f"{what} must be nested as the start, or a vector of {self.size}") from None
        found = []
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            array = np.asarray(leaf, float)
            if array.shape != (shape or ()):
                raise ShapeError(f"{what}: a part has shape {array.shape}, the start has {shape or ()} there")
            found.append(array.reshape(-1))
        return np.concatenate([np.zeros(0), *found])

    def spread(self, nested: Any, what: str) -> Any:
        """As `vector`, where a number also stands for all elements of a part. Raises ShapeError."""
        nested = _as_scipy(nested)
        if self.is_vector or np.isscalar(nested) or (isinstance(nested, np.ndarray) and nested.shape == (self.size,)):
            return nested
        try:
            leaves = pytree.leaves_as(self.structure, nested)
        except StructureError:
            raise ShapeError(f"{what} must be a number, a vector of {self.size}, or nested as x0") from None
        try:
            parts = [np.broadcast_to(np.asarray(x, float), s or ()).reshape(-1) for x, s in zip(leaves, self.shapes)]
        except ValueError:
            raise ShapeError(f"{what} has a part of another shape than x0") from None
        return np.concatenate(parts)

    def pairs(self, bounds: Any) -> list[tuple[float, float]]:
        """A (low, high) for each element, from a nesting that has one in the place of each leaf.

        None stands for no bound. Raises StructureError, ShapeError for what does not fit.
        """
        found: list[tuple[float, float]] = []
        shapes = iter(self.shapes)

        def visit(node: Any, given: Any) -> None:
            if pytree.is_leaf(node):
                shape = next(shapes) or ()
                found.extend(_broadcast(given, shape))
                return
            names = pytree.names(node)
            children, own = pytree.flatten_once(given)
            if isinstance(given, dict) and given.keys() == set(names):
                children = [given[key] for key in names]
            elif pytree.is_leaf(own) or pytree.kind(own) is not pytree.kind(node) or pytree.names(own) != names:
                raise StructureError("bounds must be nested as x0, with a pair (low, high) in the place of each part")
            for part, child in zip(pytree.children(node), children):
                visit(part, child)

        visit(self.structure, bounds)
        return found


def _broadcast(pair: Any, shape: tuple[int, ...]) -> list[tuple[float, float]]:
    """A (low, high) for each element of a part, from one for all of it, or from None."""
    if pair is None:
        pair = (None, None)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise StructureError(f"a bound must be a pair (low, high), not {pair!r}")
    low = -np.inf if pair[0] is None else pair[0]
    high = np.inf if pair[1] is None else pair[1]
    try:
        ends = [np.broadcast_to(np.asarray(end, float), shape).reshape(-1).tolist() for end in (low, high)]
    except ValueError:
        raise ShapeError(f"the bounds {pair!r} do not fit a part of shape {shape}") from None
    return list(zip(*ends))


def nesting_of(leaves: Sequence[Any], structure: Any) -> Nesting:
    """The nesting of what `pytree.flatten` took apart."""
    # A plain number has no shape, and is no array of one element.
    shapes = (getattr(x, "shape", ()) for x in leaves)
    return Nesting(structure, [s if s or isinstance(x, np.ndarray) else None for x, s in zip(leaves, shapes)])


def _as_scipy(x: Any) -> Any:
    # SciPy's users write vectors as lists and tuples.
    if type(x) in (list, tuple) and x and all(isinstance(e, int | float | np.number) for e in x):
        return np.asarray(x)
    return x


def start(x0: Any, what: str) -> tuple[Nesting, np.ndarray]:
    """The nesting of a start, and its numbers as a vector of float64.

    Raises CutGradientError for Values, DTypeError for what holds no real numbers, StructureError for anything but
    numbers and arrays, ValueError where there are none, or one that is not finite.
    """
    leaves, structure = pytree.flatten(_as_scipy(x0))
    check_plain(leaves, what)
    for leaf in leaves:
        if not isinstance(leaf, np.ndarray | int | float | np.generic | complex):
            raise StructureError(f"{what} holds a {type(leaf).__name__}; it may hold numbers and arrays, nested")
        if np.asarray(leaf).dtype.kind not in "fiu":
            raise DTypeError(f"{what} holds {np.asarray(leaf).dtype} numbers; they must be real")
    nesting = nesting_of(leaves, structure)
    vector = np.concatenate([np.zeros(0), *(np.asarray(x, float).reshape(-1) for x in leaves)])
    if not vector.size:
        raise OperationError(f"{what} holds no numbers")
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise OperationError(f"{what} must be finite: element {bad[0]} is {vector[bad[0]]}")
    return nesting, vector


def check_plain(x: Any, what: str) -> None:
    """Raise CutGradientError where there are Values."""
    if evaluation.holds_values(pytree.flatten(x)[0]):
        raise CutGradientError(
            f"{what} holds Values, but the solvers of tapegrad.optimize work on plain numbers, which would cut the "
            "gradient: pass v.data, or differentiate through the solution by tg.implicit_root"
        )


def arguments(args: Any) -> tuple[Any, ...]:
    """Further arguments as a tuple. Arrays of other floats become float64, so that they fit the recording."""
    leaves, structure = pytree.flatten(args if isinstance(args, tuple) else (args,))
    check_plain(leaves, "args")
    wide = [x.astype(float) if isinstance(x, np.ndarray) and x.dtype in (np.float32, np.float16) else x for x in leaves]
    return tuple(pytree.unflatten(structure, wide))


def off_tape() -> AbstractContextManager[Any]:
    """Within the block nothing is recorded, even if the solver is called while a function is being recorded."""
    return recording_on(None)


def called_with(f: Callable[..., Any], nesting: Nesting, args: tuple[Any, ...]) -> Callable[[np.ndarray], Any]:
    """A function of the caller's, of nested numbers and args, as a function of a vector."""
    f = on_values(f)
    return functools.wraps(f)(lambda x: f(nesting.nest(x), *args))

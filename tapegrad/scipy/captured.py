"""Values that a function takes from around it, made into arguments of it.

A solver calls a function on numbers, and a recording of the function refuses Values of another tape. So Values that
stand in cells of its closure, among its defaults, or in a `functools.partial` are taken out, and put in again where
it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import CellType, FunctionType
from typing import Any

from tapegrad import pytree
from tapegrad.value import Value


class Captured:
    """A function without the Values around it.

    Attributes:
        values: the Values, in the order in which they were found. Whoever keeps this object sets it to an empty list,
            as a Value keeps its tape.
        template: the function with a `Hole` in the place of each; the function itself where there are none.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self.values: list[Value] = []
        self.template: Any = _Rebuilding(self._hole)(f)

    def _hole(self, x: Any) -> Any:
        if not isinstance(x, Value):
            return x
        for i, known in enumerate(self.values):
            if known is x:
                return Hole(i)
        self.values.append(x)
        return Hole(len(self.values) - 1)


class Hole:
    """Where a Value stood."""

    def __init__(self, number: int) -> None:
        self.number = number


def filled(template: Any, values: Sequence[Any]) -> Any:
    """The function, with other numbers or Values in the places of those that were taken out."""
    return _Rebuilding(lambda x: values[x.number] if isinstance(x, Hole) else x)(template) if values else template


class _Rebuilding:
    """A function from what a function is made of to the same with some leaves replaced; what has none stays itself."""

    def __init__(self, replace: Callable[[Any], Any]) -> None:
        self._replace = replace
        # Functions that refer to themselves are met again while they are gone through.
        self._met: dict[int, Any] = {}

    def __call__(self, x: Any) -> Any:
        if id(x) in self._met:
            return self._met[id(x)]
        if isinstance(x, FunctionType):
            self._met[id(x)] = x
            self._met[id(x)] = self._function(x)
            return self._met[id(x)]
        if isinstance(x, functools.partial):
            parts = [self(x.func), self._nested(x.args), self._nested(x.keywords)]
            same = all(a is b for a, b in zip(parts, (x.func, x.args, x.keywords), strict=True))
            return x if same else functools.partial(parts[0], *parts[1], **parts[2])
        return self._nested(x)

    def _nested(self, x: Any) -> Any:
        if not isinstance(x, Value | Hole | tuple | list | dict):
            return x
        leaves, structure = pytree.flatten(x)
        replaced = [self(leaf) if callable(leaf) else self._replace(leaf) for leaf in leaves]
        same = all(a is b for a, b in zip(leaves, replaced, strict=True))
        return x if same else pytree.unflatten(structure, replaced)

    def _function(self, f: FunctionType) -> FunctionType:
        cells = f.__closure__ or ()
        own = tuple(map(self._cell, cells))
        defaults, keywords = self._nested(f.__defaults__), self._nested(f.__kwdefaults__)
        changed = any(a is not b for a, b in zip(cells, own, strict=True))
        if not changed and defaults is f.__defaults__ and keywords is f.__kwdefaults__:
            return f
        made = FunctionType(f.__code__, f.__globals__, f.__name__, defaults, own if cells else None)
        made.__kwdefaults__ = keywords
        made.__qualname__, made.__module__ = f.__qualname__, f.__module__
        return made

    def _cell(self, cell: CellType) -> CellType:
        try:
            found = cell.cell_contents
        except ValueError:
            # It is not bound yet.
            return cell
        replaced = self(found)
        return cell if replaced is found else CellType(replaced)

"""What a Numba function returned, taken apart: plain numbers, and the rows on the tape that they stand in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import matching
from tapegrad.errors import NonScalarError


class Number(NamedTuple):
    """A recorded number that a function returned: its value, and its row on the tape, 0 for none."""

    value: Any
    row: Any


class Numbers(NamedTuple):
    """The same of an array."""

    values: Any
    rows: Any


class Result:
    """Attributes: `structure` and `leaves`, plain numbers and arrays; `rows`, for each leaf its rows, None for one that
    depends on nothing."""

    def __init__(self, returned: Any) -> None:
        self.value = mapped(returned, lambda value, rows: value)
        rows: list[Any] = []
        mapped(returned, lambda value, row: rows.append(row), lambda x: rows.append(None))
        self.leaves, self.structure = pytree.flatten(self.value)
        # None is no leaf.
        self.rows = rows if len(rows) == len(self.leaves) else [r for r, x in zip(rows, _all(returned), strict=True)
                                                                if x is not None]  # fmt: skip

    @property
    def size(self) -> int:
        """The number of numbers."""
        return sum(np.size(x) for x in self.leaves)

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the leaves."""
        return [np.shape(x) for x in self.leaves]


def _all(returned: Any) -> list[Any]:
    found: list[Any] = []
    mapped(returned, lambda value, row: found.append(value), found.append)
    return found


def mapped(returned: Any, recorded: Callable[[Any, Any], Any], other: Callable[[Any], Any] = lambda x: x) -> Any:
    """What was returned, with recorded(value, rows) in place of what was recorded, and other(x) of all else."""
    if isinstance(returned, tuple):
        if isinstance(returned, Number | Numbers):
            return recorded(*returned)
        parts = [mapped(x, recorded, other) for x in returned]
        return type(returned)(*parts) if hasattr(returned, "_fields") else tuple(parts)
    return other(returned)


def scalar(result: Result, has_aux: bool) -> Any:
    """The row of the number that is differentiated; None where it depends on nothing.

    Raises NonScalarError, StructureError, DTypeError where the function returned no number.
    """
    matching.check_one_result(result.structure, has_aux)
    y = result.leaves[0]
    if isinstance(y, np.ndarray) and y.size != 1:
        raise NonScalarError(f"a gradient needs a scalar result, the function returned shape {y.shape}: sum it first")
    if isinstance(y, bool | np.bool_):
        raise matching.truth_result()
    if not isinstance(y, int | float | np.number | np.ndarray):
        raise NonScalarError(f"the function returned {type(y).__name__}, not a number")
    row = result.rows[0]
    return row.reshape(-1)[0] if isinstance(row, np.ndarray) else row


def seeds(result: Result, cotangent: Any) -> list[tuple[Any, Any]]:
    """(rows, adjoints) for a cotangent of what was returned."""
    given = matching.matching(cotangent, result.structure, result.shapes(), "cotangent", "result")
    return [
        (rows, matching.real_numbers(w, np.float64, "a cotangent"))
        for rows, w in zip(result.rows, given, strict=True)
        if w is not None and rows is not None
    ]


def nested(result: Result, leaves: Sequence[Any]) -> Any:
    """Leaves, one for each of a result, nested as that is."""
    return pytree.unflatten(result.structure, leaves)

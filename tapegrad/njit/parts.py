"""What a function has returned whose gradient is computed in Numba code: its value, and the row of that. Imports Numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types
from numba.extending import overload

from tapegrad.errors import NonScalarError, StructureError
from tapegrad.njit.numbers import is_plain
from tapegrad.njit.products import function_of
from tapegrad.njit.results import Number, Numbers


def row_of(found):
    """The row of the number that a function returned, 0 where it depends on nothing."""


@overload(row_of)
def _row_of(found):
    named = getattr(found, "instance_class", None)
    if named is Number:
        return lambda found: found.row
    if named is Numbers:
        raise NonScalarError("a gradient needs a scalar result, the function returns an array: sum it first")
    if isinstance(found, types.BaseTuple):
        raise StructureError("the function returns several things: return one number, or use has_aux=True")
    if not is_plain(found) or isinstance(found, types.Boolean):
        raise NonScalarError(f"the function returns {found}, not a number")
    return lambda found: 0


def plain(found):
    """What a function returned, with plain numbers in place of recorded ones."""


@overload(plain)
def _plain(found):
    named = getattr(found, "instance_class", None)
    if named is Number:
        return lambda found: found.value
    if named is Numbers:
        return lambda found: found.values
    if isinstance(found, types.BaseTuple):
        return function_of("found", [f"return {tuple_text(found, [f'plain(found[{i}])' for i in range(len(found))])}"],
                           plain=plain, cls=named)  # fmt: skip
    return lambda found: found


def tuple_text(t: Any, parts: Sequence[str]) -> str:
    """Text that puts parts together as a tuple type has them; a named tuple's class is called `cls`."""
    named = getattr(t, "instance_class", None)
    return f"cls({', '.join(parts)})" if named is not None else f"({', '.join(parts)},)" if parts else "()"


def check_pair(found):
    """Raise StructureError where a function does not return (number, anything else)."""


@overload(check_pair)
def _check_pair(found):
    if not isinstance(found, types.BaseTuple) or len(found) != 2:
        raise StructureError("with has_aux a function returns (number, anything else)")
    return lambda found: None

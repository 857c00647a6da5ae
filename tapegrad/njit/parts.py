"""What a gradient in Numba code is put together from: what a function has returned, and the gradient by each argument.
Imports Numba."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba import types
from numba.core.imputils import lower_constant
from numba.extending import overload

from tapegrad.errors import NonScalarError, StructureError
from tapegrad.njit.arrays import loops
from tapegrad.njit.numbers import Kind, is_plain
from tapegrad.njit.products import function_of
from tapegrad.njit.results import Number, Numbers


@lower_constant(Kind)
def _kind(context, builder, t, value):
    return context.get_dummy_value()


def as_given(x):
    """An argument, or the default where it is left out."""


@overload(as_given)
def _as_given(x):
    if isinstance(x, types.Omitted):
        value = x.value
        return lambda x: value
    return lambda x: x


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


def size_of(x):
    """How many numbers are differentiated in an argument."""


@overload(size_of)
def _size_of(x):
    return (lambda x: x.size) if isinstance(x, types.Array) else (lambda x: 1)


def slope_of(x, adjoints, at):
    """The gradient by an argument, of which the adjoints begin at a position."""


@overload(slope_of)
def _slope_of(x, adjoints, at):
    if not isinstance(x, types.Array):
        return lambda x, adjoints, at: adjoints[at]
    axes = list(range(x.ndim))
    index = ", ".join(f"i{k}" for k in axes) or "()"
    body = [f"out[{index}] = adjoints[at]", "at += 1"]
    lines = [f"out = np.empty(x.shape, np.{x.dtype})", *loops(axes, [f"x.shape[{k}]" for k in axes], body)]
    return function_of("x, adjoints, at", [*lines, "return out"])


def check_pair(found):
    """Raise StructureError where a function does not return (number, anything else)."""


@overload(check_pair)
def _check_pair(found):
    if not isinstance(found, types.BaseTuple) or len(found) != 2:
        raise StructureError("with has_aux a function returns (number, anything else)")
    return lambda found: None

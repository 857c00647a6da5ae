"""Nested types in compiled code, and the text of functions that go through what is nested. Imports Numba."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from tapegrad.njit.arrays import loops
from tapegrad.njit.numbers import (
    OPERATIONS,
    PARTIALS,
    Kind,
    Recorded,
    constant,
    given,
    is_plain,
    is_recorded,
    jit,
    recorded_array,
)
from tapegrad.njit.products import function_of

NAME = "checkpointed_loop"


class Given(NamedTuple):
    """The plain numbers of an argument that was recorded."""

    numbers: Any


def _kind(of: Recorded) -> Any:
    @intrinsic
    def kind(typingctx):
        return Kind(of)(), lambda context, builder, signature, args: context.get_dummy_value()

    return kind


KINDS = {of: _kind(of) for of in (PARTIALS, OPERATIONS)}


# Types


def parts(t: Any, path: str = "x") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested type, with the text that takes each out of `x`."""
    t = types.unliteral(t)
    if isinstance(t, types.BaseTuple) and not is_given(t):
        for i, part in enumerate(t):
            yield from parts(part, f"{path}[{i}]")
    else:
        yield path, t


def is_given(t: Any) -> bool:
    """Whether a type is that of a `Given`."""
    return getattr(t, "instance_class", None) is Given


def nested(t: Any, made: Iterator[str], space: dict[str, Any]) -> str:
    """The text of what is nested as a type, put together of texts for its leaves."""
    t = types.unliteral(t)
    if not isinstance(t, types.BaseTuple) or is_given(t):
        return next(made)
    inner = "".join(f"{nested(part, made, space)}, " for part in t)
    cls = getattr(t, "instance_class", tuple)
    if cls is tuple:
        return f"({inner})" if len(t) else "()"
    name = f"class{len(space)}"
    space[name] = cls
    return f"{name}({inner})"


def _is_number_array(t: Any) -> bool:
    return isinstance(t, types.Array) and is_plain(t.dtype)


def is_float(t: Any) -> bool:
    """Whether a leaf is floats, recorded or not, and of a state always recorded where anything is."""
    element = t.dtype if isinstance(t, types.Array) else t
    return is_recorded(element) or isinstance(element, types.Float)


def check_state(t: Any) -> None:
    """Raise TypingError where a type is no state."""
    for _, leaf in parts(t):
        if not (is_recorded(leaf) or is_plain(leaf) or recorded_array(leaf) is not None or _is_number_array(leaf)):
            raise TypingError(
                f"{NAME}: the state must be a number, an array of numbers, or a (named) tuple of these; it holds {leaf}"
            )


_HANDED = types.NoneType, types.UnicodeType, types.Complex


def check_arguments(args: Sequence[Any]) -> None:
    """Raise TypingError where what is handed to all steps is nothing that can be kept for the way back."""
    for leaf in (leaf for t in args if not isinstance(t, types.Dispatcher) for _, leaf in parts(t)):
        known = is_recorded(leaf) or is_plain(leaf) or isinstance(leaf, _HANDED)
        array = isinstance(leaf, types.Array) and isinstance(leaf.dtype, Recorded | types.Number | types.Boolean)
        if not known and not array:
            raise TypingError(
                f"{NAME}: an argument for the steps must be a number, an array of numbers, a (named) tuple of these, "
                f"or a function, not {leaf}"
            )


def recorded_type(t: Any) -> Recorded | None:
    """The type of the recorded numbers in a nested type; None where there are none."""
    for _, leaf in parts(t):
        element = leaf.dtype if isinstance(leaf, types.Array) else leaf
        if is_recorded(element):
            found: Recorded = element
            return found
    return None


def cast(t: Any, text: str) -> str:
    """The text that makes a plain number one of another type."""
    return f"bool({text})" if isinstance(t, types.Boolean) else f"np.{types.unliteral(t).name}({text})"


def over(t: Any, path: str, body: str) -> list[str]:
    """Lines that go over the elements of an array, where the body says `{x}` for each, and `{at}` for its index."""
    axes = list(range(t.ndim))
    at = ", ".join(f"i{k}" for k in axes) or "()"
    lines = body.replace("{x}", f"{path}[{at}]").replace("{at}", at).split("\n")
    return loops(axes, [f"{path}.shape[{k}]" for k in axes], lines)


def over_each(t: Any, path: str, body: str) -> list[str]:
    """The same for an array or a number."""
    return over(t, path, body) if isinstance(t, types.Array) else body.replace("{x}", path).split("\n")


@jit
def fresh(kind, tape, value):
    """A number that is given to a tape, or depends on nothing where that is 0."""
    if tape != 0:
        return given(kind, tape, value)
    return constant(kind, value)


def without(x: Any, given: Callable[[str], str], copied: bool = False) -> Any:
    """What makes of a nested `x` one with plain numbers, those that were recorded as given(text) says."""
    space: dict[str, Any] = {"Given": Given, "values_of": values_of}
    made = []
    for path, leaf in parts(x):
        if is_recorded(leaf):
            made.append(given(f"{path}._value"))
        elif recorded_array(leaf) is not None:
            made.append(given(f"values_of({path})"))
        else:
            made.append(f"{path}.copy()" if copied and isinstance(leaf, types.Array) else path)
    return function_of("x", [f"return {nested(x, iter(made), space)}"], **space)


def values_of(x):
    """The values of an array of recorded numbers."""


@overload(values_of)
def _values_of(x):
    return function_of("x", ["k = 0", "out = np.empty(x.size)", *over(x, "x", "out[k] = {x}._value\nk += 1"),
                             "return out.reshape(x.shape)"])  # fmt: skip

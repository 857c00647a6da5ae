"""The state of a loop in compiled code: taken apart into plain numbers, and put together of these. Imports Numba.

A state is a number, an array of numbers, or a (named) tuple of states. All its floats are recorded numbers, so that
steps are compiled once, whatever the first state depends on. What a loop hands to all its steps besides, its
arguments, may have plain numbers, too: of these, `Given` says which were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from tapegrad.njit.arrays import loops
from tapegrad.njit.drivers import keep
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


def _is_float(t: Any) -> bool:
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


_HANDED = types.NoneType, types.UnicodeType, types.Dispatcher, types.Complex


def check_arguments(args: Any) -> None:
    """Raise TypingError where what is handed to all steps is nothing that can be kept for the way back."""
    for _, leaf in parts(args):
        known = is_recorded(leaf) or is_plain(leaf) or isinstance(leaf, _HANDED)
        array = isinstance(leaf, types.Array) and isinstance(leaf.dtype, Recorded | types.Number | types.Boolean)
        if not known and not array:
            raise TypingError(
                f"{NAME}: an argument for the steps must be a number, an array of numbers, a function, or a (named) "
                f"tuple of these, not {leaf}"
            )


def recorded_type(t: Any) -> Recorded | None:
    """The type of the recorded numbers in a nested type; None where there are none."""
    for _, leaf in parts(t):
        element = leaf.dtype if isinstance(leaf, types.Array) else leaf
        if is_recorded(element):
            found: Recorded = element
            return found
    return None


def _cast(t: Any, text: str) -> str:
    """The text that makes a plain number one of another type."""
    return f"bool({text})" if isinstance(t, types.Boolean) else f"np.{types.unliteral(t).name}({text})"


def _loop(t: Any, path: str, body: str) -> list[str]:
    """Lines that go over the elements of an array, where the body says `{x}` for each, and `{at}` for its index."""
    axes = list(range(t.ndim))
    at = ", ".join(f"i{k}" for k in axes) or "()"
    lines = body.replace("{x}", f"{path}[{at}]").replace("{at}", at).split("\n")
    return loops(axes, [f"{path}.shape[{k}]" for k in axes], lines)


def _each(t: Any, path: str, body: str) -> list[str]:
    """The same for an array or a number."""
    return _loop(t, path, body) if isinstance(t, types.Array) else body.replace("{x}", path).split("\n")


# The state of the first step, and of those that follow


def settled(kind, x):
    """A first state as one whose floats are recorded, in memory of its own."""


@overload(settled)
def _settled(kind, x):
    check_state(x)
    plain = not isinstance(kind, Kind)
    made = []
    for path, leaf in parts(x):
        if isinstance(leaf, types.Array):
            own = plain or recorded_array(leaf) is not None or not _is_float(leaf)
            made.append(f"{path}.copy()" if own else f"keep(kind, {path})")
        elif plain or is_recorded(leaf) or not _is_float(leaf):
            made.append(path if is_recorded(leaf) else _cast(leaf, path))
        else:
            made.append(f"constant(kind, np.float64({path}))")
    space: dict[str, Any] = {"keep": keep}
    return function_of("kind, x", [f"return {nested(x, iter(made), space)}"], **space)


def renewed(like, x):
    """What a step returned, as a state of the same type as that which the step was given, `like`."""


@overload(renewed)
def _renewed(like, x):
    lines: list[str] = []
    made: list[str] = []
    _match(like, x, "like", "x", lines, made, sum(isinstance(t, types.Array) for _, t in parts(like)) == 1)
    space: dict[str, Any] = {"keep": keep}
    return function_of("like, x", [*lines, f"return {nested(like, iter(made), space)}"], **space)


def _match(like: Any, x: Any, to: str, path: str, lines: list[str], made: list[str], alone: bool) -> None:
    like, x = types.unliteral(like), types.unliteral(x)
    if isinstance(like, types.BaseTuple):
        if not isinstance(x, types.BaseTuple) or len(x) != len(like):
            raise TypingError(f"{NAME}: step must return a state like the one it is given, {like}, not {x}")
        for i, (a, b) in enumerate(zip(like, x, strict=True)):
            _match(a, b, f"{to}[{i}]", f"{path}[{i}]", lines, made, alone)
    elif isinstance(like, types.Array):
        if not isinstance(x, types.Array) or x.ndim != like.ndim:
            raise TypingError(f"{NAME}: step must return {like} where it is given one, not {x}")
        _check_numbers(like.dtype, x.dtype, x)
        lines += [f"if {path}.shape != {to}.shape:",
                  f"    raise ValueError('{NAME}: step changes the shape of an array of the state')"]  # fmt: skip
        if x == like:
            # Two arrays of a state could be one; the next step gets them apart, whoever keeps the state meanwhile.
            made.append(path if alone else f"{path}.copy()")
        elif is_recorded(like.dtype) and not is_recorded(x.dtype):
            made.append(f"keep({to}, {path})")
        else:
            made.append(f"{path}.copy()" if x.dtype == like.dtype else f"{path}.astype({to}.dtype)")
    elif is_recorded(like):
        _check_numbers(like, x, x)
        made.append(path if is_recorded(x) else f"constant({to}, np.float64({path}))")
    else:
        _check_numbers(like, x, x)
        made.append(_cast(like, path))


def _check_numbers(like: Any, x: Any, whole: Any) -> None:
    if not (is_recorded(x) or is_plain(x)):
        raise TypingError(f"{NAME}: step must return numbers where it is given some, not {whole}")
    if _is_float(x) and not _is_float(like):
        raise TypingError(
            f"{NAME}: step returns floats where the first state has {like}: start with floats, 0.0 in place of 0"
        )
    if isinstance(like, types.Boolean) and not isinstance(x, types.Boolean):
        raise TypingError(f"{NAME}: step returns {whole} where the first state has a truth value")


# Flat


def sizes(x):
    """How many floats and how many whole numbers a state has."""


@overload(sizes)
def _sizes(x):
    counts = [[], []]
    for path, leaf in parts(x):
        counts[0 if _is_float(leaf) else 1].append(f"{path}.size" if isinstance(leaf, types.Array) else "1")
    return function_of("x", [f"return ({', '.join(' + '.join(c) or '0' for c in counts)})"])


def spread(x, values, rows, whole):
    """Write the floats of a state, with their rows, and its whole numbers into flat arrays."""


@overload(spread)
def _spread(x, values, rows, whole):
    lines = ["k = 0", "j = 0"]
    for path, leaf in parts(x):
        body = "values[k] = {x}._value\nrows[k] = {x}._row\nk += 1" if _is_float(leaf) else "whole[j] = {x}\nj += 1"
        lines += _each(leaf, path, body)
    return function_of("x, values, rows, whole", [*lines, "return None"])


def plain(x):
    """A state with plain numbers: what shows its nesting and shapes."""


@overload(plain)
def _plain(x):
    return _without(x, lambda text: text)


def _without(x: Any, given: Callable[[str], str], copied: bool = False) -> Any:
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
    return function_of("x", ["k = 0", "out = np.empty(x.size)", *_loop(x, "x", "out[k] = {x}._value\nk += 1"),
                             "return out.reshape(x.shape)"])  # fmt: skip


@jit
def fresh(kind, tape, value):
    """A number that is given to a tape, or depends on nothing where that is 0."""
    if tape != 0:
        return given(kind, tape, value)
    return constant(kind, value)


def gathered(kind, tape, like, values, whole):
    """The state of flat arrays, nested and shaped as `like`; its floats are given to a tape, in order."""


@overload(gathered)
def _gathered(kind, tape, like, values, whole):
    lines = ["k = 0", "j = 0"]
    made = []
    for n, (path, leaf) in enumerate(parts(like, "like")):
        name = f"p{n}"
        made.append(name)
        if _is_float(leaf):
            value, then, dtype = "fresh(kind, tape, values[k])", "k += 1", "element_type(kind)"
        else:
            element = leaf.dtype if isinstance(leaf, types.Array) else leaf
            value, then, dtype = _cast(element, "whole[j]"), "j += 1", f"{path}.dtype"
        if isinstance(leaf, types.Array):
            lines += [f"{name} = np.empty({path}.shape, {dtype})", *_loop(leaf, name, f"{{x}} = {value}\n{then}")]
        else:
            lines += [f"{name} = {value}", then]
    space: dict[str, Any] = {"fresh": fresh}
    return function_of("kind, tape, like, values, whole", [*lines, f"return {nested(like, iter(made), space)}"],
                       **space)  # fmt: skip


# Arguments


def stripped(x):
    """Arguments with plain numbers, those that were recorded as `Given`; arrays are copies."""


@overload(stripped)
def _stripped(x):
    return _without(x, lambda text: f"Given({text})", copied=True)


def lifted(kind, tape, x):
    """Arguments of stripped ones; what is `Given` is given to a tape, in order."""


@overload(lifted)
def _lifted(kind, tape, x):
    lines, made = [], []
    for n, (path, leaf) in enumerate(parts(x)):
        if is_given(leaf) and isinstance(leaf[0], types.Array):
            made.append(f"p{n}")
            lines += [f"g{n} = {path}[0]", f"p{n} = np.empty(g{n}.shape, element_type(kind))"]
            lines += _loop(leaf[0], f"g{n}", f"p{n}[{{at}}] = fresh(kind, tape, {{x}})")
        elif is_given(leaf):
            made.append(f"p{n}")
            lines.append(f"p{n} = fresh(kind, tape, {path}[0])")
        else:
            made.append(path)
    space: dict[str, Any] = {"fresh": fresh}
    return function_of("kind, tape, x", [*lines, f"return {nested(x, iter(made), space)}"], **space)


def rows_of(x):
    """The rows of the recorded numbers among arguments, in the order in which `lifted` gives them to a tape."""


@overload(rows_of)
def _rows_of(x):
    own = [(path, leaf) for path, leaf in parts(x) if is_recorded(leaf) or recorded_array(leaf) is not None]
    counts = [f"{path}.size" if isinstance(leaf, types.Array) else "1" for path, leaf in own]
    lines = ["k = 0", f"out = np.empty({' + '.join(counts) or '0'}, np.int64)"]
    for path, leaf in own:
        lines += _each(leaf, path, "out[k] = {x}._row\nk += 1")
    return function_of("x", [*lines, "return out"])


def tape_of(x):
    """The address of the tape that nested numbers depend on; 0 where there is none."""


@overload(tape_of)
def _tape_of(x):
    lines = ["tape = 0"]
    for path, leaf in parts(x):
        if is_recorded(leaf) or recorded_array(leaf) is not None:
            lines += _each(leaf, path, "tape |= {x}._tape")
    return function_of("x", [*lines, "return tape"])


def changed(x, before):
    """Whether arrays among arguments differ from what they were, stripped; of recorded ones where `x` is lifted, of
    others where it is stripped."""


@overload(changed)
def _changed(x, before):
    lines = []
    for (path, leaf), (old, _) in zip(parts(x), parts(before, "before"), strict=True):
        if not isinstance(leaf, types.Array):
            continue
        now, then = ("{x}._value", f"{old}[0][{{at}}]") if is_recorded(leaf.dtype) else ("{x}", f"{old}[{{at}}]")
        # NaN differs from itself.
        test = f"a, b = {now}, {then}\nif a != b and (a == a or b == b):\n    return True"
        lines += _loop(leaf, path, test)
    return function_of("x, before", [*lines, "return False"])

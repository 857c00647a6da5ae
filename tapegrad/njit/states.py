"""The state of a loop in compiled code: taken apart into plain numbers, and put together of these. Imports Numba.

A state is a number, an array of numbers, or a (named) tuple of states. All its floats are recorded numbers, so that
steps are compiled once, whatever the first state depends on.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from tapegrad.njit.drivers import keep, lower
from tapegrad.njit.nesting import NAME, cast, check_state, fresh, is_float, nested, over, over_each, parts, without
from tapegrad.njit.numbers import Kind, is_plain, is_recorded, recorded_array
from tapegrad.njit.products import function_of

# The state of the first step, and of those that follow


def begun(kind, x):
    """A first state as one whose floats are recorded, in memory of its own."""


@overload(begun)
def _begun(kind, x):
    check_state(x)
    plain = not isinstance(kind, Kind)
    made = []
    for path, leaf in parts(x):
        if isinstance(leaf, types.Array):
            own = plain or recorded_array(leaf) is not None or not is_float(leaf)
            made.append(f"{path}.copy()" if own else f"keep(kind, {path})")
        elif plain or is_recorded(leaf) or not is_float(leaf):
            made.append(path if is_recorded(leaf) else cast(leaf, path))
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
        made.append(cast(like, path))


def _check_numbers(like: Any, x: Any, whole: Any) -> None:
    if not (is_recorded(x) or is_plain(x)):
        raise TypingError(f"{NAME}: step must return numbers where it is given some, not {whole}")
    if is_float(x) and not is_float(like):
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
    counts: list[list[str]] = [[], []]
    for path, leaf in parts(x):
        counts[0 if is_float(leaf) else 1].append(f"{path}.size" if isinstance(leaf, types.Array) else "1")
    return function_of("x", [f"return ({', '.join(' + '.join(c) or '0' for c in counts)})"])


def spread(x, values, rows, whole):
    """Write the floats of a state, with their rows, and its whole numbers into flat arrays."""


@overload(spread)
def _spread(x, values, rows, whole):
    lines = ["k = 0", "j = 0"]
    for path, leaf in parts(x):
        body = "values[k], rows[k] = lower({x})\nk += 1" if is_float(leaf) else "whole[j] = {x}\nj += 1"
        lines += over_each(leaf, path, body)
    return function_of("x, values, rows, whole", [*lines, "return None"], lower=lower)


def plain(x):
    """A state with plain numbers: what shows its nesting and shapes."""


@overload(plain)
def _plain(x):
    return without(x, lambda text: text)


def gathered(kind, tape, like, values, whole):
    """The state of flat arrays, nested and shaped as `like`; its floats are given to a tape, in order."""


@overload(gathered)
def _gathered(kind, tape, like, values, whole):
    lines = ["k = 0", "j = 0"]
    made = []
    for n, (path, leaf) in enumerate(parts(like, "like")):
        name = f"p{n}"
        made.append(name)
        if is_float(leaf):
            value, then, dtype = "fresh(kind, tape, values[k])", "k += 1", "element_type(kind)"
        else:
            element = leaf.dtype if isinstance(leaf, types.Array) else leaf
            value, then, dtype = cast(element, "whole[j]"), "j += 1", f"{path}.dtype"
        if isinstance(leaf, types.Array):
            lines += [f"{name} = np.empty({path}.shape, {dtype})", *over(leaf, name, f"{{x}} = {value}\n{then}")]
        else:
            lines += [f"{name} = {value}", then]
    space: dict[str, Any] = {"fresh": fresh}
    return function_of("kind, tape, like, values, whole", [*lines, f"return {nested(like, iter(made), space)}"],
                       **space)  # fmt: skip

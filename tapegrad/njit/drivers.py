"""The compiled functions through which Python calls twins: they put arguments on a tape, and take results off. Imports
Numba."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import types

from tapegrad.njit.arrays import loops
from tapegrad.njit.linked import overload
from tapegrad.njit.numbers import given, is_plain, is_recorded, jit, recorded_array, settled
from tapegrad.njit.products import function_of
from tapegrad.njit.results import Number, Numbers


def lift(kind, tape, x):
    """An argument that is differentiated, as recorded numbers."""


def keep(kind, x):
    """An argument that is not, as recorded numbers that depend on nothing, in which recorded ones can be stored."""


def put_back(x, to):
    """Copy the values of recorded numbers to the array that an argument was."""


def lower(x):
    """A result, with the rows of its numbers."""


_MADE = "out = np.empty(x.shape, element_type(kind))"


def _each(t: Any, lines: list[str], body: str) -> list[str]:
    axes = list(range(t.ndim))
    at = ", ".join(f"i{k}" for k in axes)
    return [*lines, *loops(axes, [f"x.shape[{k}]" for k in axes], [body.format(at=at or "()")])]


@overload(lift)
def _lift(kind, tape, x):
    if is_plain(x):
        return lambda kind, tape, x: given(kind, tape, np.float64(x))
    if not isinstance(x, types.Array):
        return None
    lines = _each(x, [_MADE], "out[{at}] = given(kind, tape, np.float64(x[{at}]))")
    return function_of("kind, tape, x", [*lines, "return out"], given=given)


@overload(keep)
def _keep(kind, x):
    lines = _each(x, [_MADE], "out[{at}] = constant(kind, np.float64(x[{at}]))")
    return function_of("kind, x", [*lines, "return out"])


@overload(put_back)
def _put_back(x, to):
    return function_of("x, to", [*_each(x, [], "to[{at}] = x[{at}]._value"), "return None"])


@overload(lower)
def _lower(x):
    if is_recorded(x):
        return lambda x: Number(x._value, settled(x))
    if recorded_array(x) is not None:
        lines = ["values = np.empty(x.shape)", "rows = np.empty(x.shape, np.int64)"]
        lines = [*_each(x, lines, "values[{at}] = x[{at}]._value"), *_each(x, [], "rows[{at}] = settled(x[{at}])")]
        return function_of("x", [*lines, "return Numbers(values, rows)"], Numbers=Numbers, settled=settled)
    if isinstance(x, types.BaseTuple):
        parts = ", ".join(f"lower(x[{i}])" for i in range(len(x)))
        cls = getattr(x, "instance_class", None)
        text = f"cls({parts})" if cls is not None else f"({parts},)" if len(x) else "()"
        return function_of("x", [f"return {text}"], lower=lower, cls=cls)
    return lambda x: x


GIVEN, KEPT, PLAIN = "given", "kept", "plain"


def driver(function: Any, text: str, kinds: Sequence[str], classes: dict[str, type]) -> Callable[..., Any]:
    """The compiled function (kind, tape, leaves) that calls a twin.

    `text` is how its arguments are made of the leaves `x0`, `x1` and so on; `kinds` say of each leaf whether it is
    differentiated, kept on the tape as constants, or passed as it is. `classes` are those of named tuples, by the names
    that the text has for them.
    """
    leaves = [f"x{i}" for i in range(len(kinds))]
    lines = []
    for name, kind in zip(leaves, kinds, strict=True):
        if kind == GIVEN:
            lines.append(f"a{name} = lift(kind, tape, {name})")
        elif kind == KEPT:
            lines.append(f"a{name} = keep(kind, {name})")
        else:
            lines.append(f"a{name} = {name}")
    lines.append(f"result = lower(function({text}))")
    lines += [f"put_back(a{name}, {name})" for name, kind in zip(leaves, kinds, strict=True) if kind == KEPT]
    space: dict[str, Any] = {
        "function": function, "lift": lift, "keep": keep, "lower": lower, "put_back": put_back, **classes,
    }  # fmt: skip
    whole = function_of(", ".join(["kind", "tape", *leaves]), [*lines, "return result"], **space)
    made: Callable[..., Any] = jit(no_cfunc_wrapper=True)(whole)
    return made

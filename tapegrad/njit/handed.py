"""What a loop in compiled code hands to all its steps: kept as plain numbers, and recorded again. Imports Numba.

Of numbers that are kept, `Given` says which were recorded.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from tapegrad.njit.drivers import lower
from tapegrad.njit.nesting import fresh, is_given, nested, over, over_each, parts, without
from tapegrad.njit.numbers import is_recorded, recorded_array
from tapegrad.njit.products import function_of


def stripped(x):
    """Arguments with plain numbers, those that were recorded as `Given`; arrays are copies."""


@overload(stripped)
def _stripped(x):
    return without(x, lambda text: f"Given({text})", copied=True)


def lifted(kind, tape, x):
    """Arguments of stripped ones; what is `Given` is given to a tape, in order."""


@overload(lifted)
def _lifted(kind, tape, x):
    lines, made = [], []
    for n, (path, leaf) in enumerate(parts(x)):
        if is_given(leaf) and isinstance(leaf[0], types.Array):
            made.append(f"p{n}")
            lines += [f"g{n} = {path}[0]", f"p{n} = np.empty(g{n}.shape, element_type(kind))"]
            lines += over(leaf[0], f"g{n}", f"p{n}[{{at}}] = fresh(kind, tape, {{x}})")
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
        lines += over_each(leaf, path, "out[k] = lower({x}).row\nk += 1")
    return function_of("x", [*lines, "return out"], lower=lower)


def tape_of(x):
    """The address of the tape that nested numbers depend on; 0 where there is none."""


@overload(tape_of)
def _tape_of(x):
    lines = ["tape = 0"]
    for path, leaf in parts(x):
        if is_recorded(leaf) or recorded_array(leaf) is not None:
            lines += over_each(leaf, path, "tape |= {x}._tape")
    return function_of("x", [*lines, "return tape"])


def changed(x, before):
    """Whether recorded arrays among arguments, lifted, differ from what they were."""


@overload(changed)
def _changed(x, before):
    lines = []
    for (path, leaf), (old, _) in zip(parts(x), parts(before, "before"), strict=True):
        if recorded_array(leaf) is not None:
            # NaN differs from itself.
            test = f"a, b = {{x}}._value, {old}[0][{{at}}]\nif a != b and (a == a or b == b):\n    return True"
            lines += over(leaf, path, test)
    return function_of("x, before", [*lines, "return False"])

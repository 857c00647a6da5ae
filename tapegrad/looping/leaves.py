"""The leaves of what a loop is given and returns: what they are, and how they are put on a tape."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import BY_NAME
from tapegrad.tape import Tape
from tapegrad.value import Integer, Value, apply, as_value, leaf

# What a leaf is: a float or an array of floats; integers or truth values in an array; a Python int, a truth value.
FLOATS, INTEGERS, TRUTHS, INT, BOOL = "", "i", "b", "int", "bool"


def one(x: Any, tape: Tape) -> Any:
    """A leaf, an object array of Values as one Value."""
    return as_value(x, tape, "a loop") if isinstance(x, np.ndarray) and x.dtype == object else x


def plain(x: Any) -> Any:
    """A whole number of the tape as a number like others; anything else as it is."""
    return x._plain() if isinstance(x, Integer) else x


def kind_of(x: Any) -> Any:
    """What a leaf is; None for what is no number."""
    if isinstance(x, Value):
        return INT if x._is_integer else x._tape.kind(x._slot) if x.size else FLOATS
    if isinstance(x, bool | np.bool_):
        return BOOL
    if isinstance(x, int | np.integer):
        return INT
    if isinstance(x, float | np.floating):
        return FLOATS
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        return {"f": FLOATS, "b": TRUTHS}.get(x.dtype.kind, INTEGERS)
    return None


def fits(x: Any, tape: Tape) -> bool:
    """Whether a leaf has numbers, which are of the tape's dtype if it is an array of floats."""
    if kind_of(x) is None or np.size(x) == 0:
        return False
    return not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.dtype == tape.dtype or x.ndim == 0


def integer(tape: Tape, number: int, bound: int) -> Integer:
    """A whole number of the tape that is at most so large."""
    return Integer._make(tape, tape.leaf(float(number), 1, False), number, bound)


def truth(tape: Tape, x: Any) -> Value:
    """A truth value as a number of the tape that is no other's."""
    if isinstance(x, Value):
        made = apply(BY_NAME["copy"], (x,))
    else:
        made = leaf(tape, np.asarray(float(x)))
    tape.kinds[made._slot] = TRUTHS
    return made

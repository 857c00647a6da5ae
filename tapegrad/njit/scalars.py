"""Operators and functions of recorded numbers in compiled code: which row of the operation table each of them is."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numba import types

from tapegrad.njit import numbers
from tapegrad.njit.linked import jit, overload
from tapegrad.njit.numbers import is_plain, is_recorded
from tapegrad.njit.rules import scalar
from tapegrad.ops import BY_NAME, BY_UFUNC, Elementwise

# What computes a new number, by operator; those that assign in place do the same with numbers.
OPERATORS = {
    operator.add: np.add, operator.sub: np.subtract, operator.mul: np.multiply, operator.truediv: np.divide,
    operator.floordiv: np.floor_divide, operator.mod: np.remainder, operator.neg: np.negative, abs: np.absolute,
    operator.pow: np.power,
}  # fmt: skip
IN_PLACE = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow,
}  # fmt: skip
COMPARISONS = {
    operator.lt: np.less, operator.le: np.less_equal, operator.gt: np.greater, operator.ge: np.greater_equal,
    operator.eq: np.equal, operator.ne: np.not_equal,
}  # fmt: skip
_IN_MATH = {"fabs": np.absolute, "pow": np.power}

def row_of(ufunc: Any, operands: Any) -> Elementwise:
    """The row of a ufunc for operands of these types: a power whose exponent is plain is one of its own."""
    row: Elementwise = BY_UFUNC[ufunc]
    if ufunc is np.power and is_plain(operands[1]):
        literal = operands[1].literal_value if isinstance(operands[1], types.IntegerLiteral) else None
        return BY_NAME["square" if literal == 2 else "power_constant"]
    return row


def rule(ufunc: Any, *operands: Any) -> Any:
    """The function that records a ufunc of numbers of these types; None where none is recorded, or one is no number."""
    recorded = tuple(is_recorded(t) for t in operands)
    if not any(recorded) or not all(is_recorded(t) or is_plain(t) for t in operands):
        return None
    of = operands[recorded.index(True)]
    row = row_of(ufunc, operands)
    made = scalar(row, recorded[: row.arity], of.partials)
    return made if row.arity == len(operands) else (lambda x, y: made(x))


def truth(name: str) -> Any:
    """The function that compares two numbers, of which one is recorded, by the row of that name."""
    made: Any = _TRUTHS.get(name)
    if made is None:
        made = _TRUTHS[name] = _truth(name)
    return made


_TRUTHS: dict[str, Any] = {}


def _truth(name: str) -> Any:
    sign = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!="}
    text = f"""
def both(x, y):
    found = x._value {sign[name]} y._value
    hold(operation({BY_NAME[name].opcode}, (x, y), 1.0 if found else 0.0), 1.0 if found else 0.0)
    return found
def left(x, y):
    found = x._value {sign[name]} np.float64(y)
    hold(operation({BY_NAME[name].opcode}, (x, constant(x, np.float64(y))), 1.0 if found else 0.0),
         1.0 if found else 0.0)
    return found
def right(x, y):
    found = np.float64(x) {sign[name]} y._value
    hold(operation({BY_NAME[name].opcode}, (constant(y, np.float64(x)), y), 1.0 if found else 0.0),
         1.0 if found else 0.0)
    return found
"""
    space: dict[str, Any] = {
        "hold": hold, "operation": numbers.operation, "constant": numbers.constant, "np": np,
    }  # fmt: skip
    exec(text, space)
    plain: dict[str, Any] = {"np": np}
    exec(f"""
def both(x, y):
    return x._value {sign[name]} y._value
def left(x, y):
    return x._value {sign[name]} np.float64(y)
def right(x, y):
    return np.float64(x) {sign[name]} y._value
""", plain)  # fmt: skip
    return {
        (partials, x, y): (plain if partials else space)[which]
        for partials in (True, False)
        for x, y, which in ((True, True, "both"), (True, False, "left"), (False, True, "right"))
    }


EXPECT = BY_NAME["expect"].opcode


@jit()
def hold(x: Any, found: Any) -> Any:
    """Have replays of a tape check that a number is what was found."""
    numbers.operation(EXPECT, (x, numbers.constant(x, found)), found)


def _register_operators() -> None:
    for function, ufunc in OPERATORS.items():
        if ufunc.nin == 1:
            _unary(function, ufunc)
        else:
            _binary(function, ufunc)
    for function, of in IN_PLACE.items():
        _binary(function, OPERATORS[of])
    for function, ufunc in COMPARISONS.items():
        _comparison(function, BY_UFUNC[ufunc].name)
        _comparison(ufunc, BY_UFUNC[ufunc].name)


def _unary(function: Any, ufunc: Any) -> None:
    @overload(function)
    def typed(x):
        return rule(ufunc, x)


def _binary(function: Any, ufunc: Any) -> None:
    @overload(function)
    def typed(x, y):
        return rule(ufunc, x, y)


def _comparison(function: Any, name: str) -> None:
    @overload(function)
    def typed(x, y):
        recorded = is_recorded(x), is_recorded(y)
        if not any(recorded) or not all(is_recorded(t) or is_plain(t) for t in (x, y)):
            return None
        of = x if recorded[0] else y
        return truth(name)[of.partials, *recorded]


def _register_functions() -> None:
    for ufunc, row in list(BY_UFUNC.items()):
        if not isinstance(row, Elementwise) or row.truth or row.arity > 2:
            continue
        (_unary if row.arity == 1 else _binary)(ufunc, ufunc)
    for name in dir(math):
        if name in ("floor", "ceil", "trunc", "remainder"):
            continue
        found: Any = _IN_MATH.get(name, getattr(np, name, getattr(np, f"arc{name[1:]}", None)))
        if isinstance(found, np.ufunc) and found in BY_UFUNC:
            (_unary if found.nin == 1 else _binary)(getattr(math, name), found)


def _register_rest() -> None:
    @overload(math.erf)
    def _erf(x):
        return scalar(BY_NAME["erf"], (True,), x.partials) if is_recorded(x) else None

    @overload(operator.pos)
    @overload(float)
    def _same(x):
        return (lambda x: x) if is_recorded(x) else None

    whole: Any = {math.floor: "floor", math.ceil: "ceil", math.trunc: "trunc", int: "trunc", round: "rint"}
    for function, name in whole.items():
        _whole(function, name)

    @overload(bool)
    @overload(operator.truth)
    def _bool(x):
        if not is_recorded(x):
            return None
        return lambda x: x != 0.0

    @overload(math.isnan)
    @overload(np.isnan)
    def _isnan(x):
        return (lambda x: x != x) if is_recorded(x) else None

    @overload(math.isinf)
    @overload(np.isinf)
    def _isinf(x):
        return (lambda x: abs(x) == np.inf) if is_recorded(x) else None

    @overload(math.isfinite)
    @overload(np.isfinite)
    def _isfinite(x):
        return (lambda x: abs(x) < np.inf) if is_recorded(x) else None

    _extreme(max, np.maximum)
    _extreme(min, np.minimum)


def _whole(function: Any, name: str) -> None:
    """math.floor and its like: a whole number, through which nothing flows, and which replays are held to."""

    @overload(function)
    def typed(x):
        if not is_recorded(x):
            return None
        made = jit()(scalar(BY_NAME[name], (True,), x.partials))
        if x.partials:
            return lambda x: np.int64(made(x)._value)

        def impl(x):
            found = made(x)
            hold(found, found._value)
            return np.int64(found._value)

        return impl


def _extreme(function: Any, ufunc: Any) -> None:
    """max and min of numbers, as of two at a time."""

    @overload(function)
    def typed(x, y):
        return rule(ufunc, x, y)

    @overload(function)
    def typed_of_more(x, y, z):
        if not any(map(is_recorded, (x, y, z))) or not all(is_recorded(t) or is_plain(t) for t in (x, y, z)):
            return None
        return lambda x, y, z: function(function(x, y), z)


def register() -> None:
    """Make all this known to Numba."""
    _register_operators()
    _register_functions()
    _register_rest()


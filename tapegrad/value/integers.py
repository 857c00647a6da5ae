"""Arithmetic and comparisons of whole numbers in recorded functions: what `Integer` answers when Python asks."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tapegrad.ops import BY_NAME
from tapegrad.tape import Tape
from tapegrad.value.exact import bound_of, comparison, limit
from tapegrad.value.handle import Handle
from tapegrad.value.reading import guard_truth
from tapegrad.value.value import Value

# Python's operators, by the operations that record them.
_NAMES: dict[Any, str] = {
    operator.add: "add", operator.sub: "subtract", operator.mul: "multiply", operator.truediv: "divide",
    operator.floordiv: "floor_divide", operator.mod: "remainder", max: "maximum", min: "minimum",
    operator.lt: "less", operator.le: "less_equal", operator.gt: "greater", operator.ge: "greater_equal",
    operator.eq: "equal", operator.ne: "not_equal",
}  # fmt: skip
_DIVISIONS = (operator.truediv, operator.floordiv, operator.mod)


def is_integer(x: Any) -> bool:
    """Whether something is a whole number that is being recorded."""
    return isinstance(x, Handle) and x._is_integer


def number_of(x: Any) -> Any:
    """The number of an Integer, to which a guard holds replays; anything else as it is."""
    return x._fix() if is_integer(x) else x


def _number(x: Any) -> Any:
    # The number at which the function is recorded, to which nothing is held.
    return x._number if is_integer(x) else x


def real(x: Any) -> Any:
    """An Integer as an operand of operations on floats; anything else as it is."""
    return x._plain() if is_integer(x) else x


def _is_whole(x: Any) -> bool:
    return is_integer(x) or isinstance(x, int | np.integer | np.bool_)


def is_value(x: Any) -> bool:
    """Whether something is a Value of floats, truth values or an array."""
    return isinstance(x, Value) and not x._is_integer


# Arithmetic


def combined(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op(a, b), where one of them is an Integer."""
    a, b = (_number(x) if is_integer(x) and x._fixed else x for x in (a, b))
    if not is_integer(a) and not is_integer(b):
        return op(a, b)
    if _is_whole(a) and _is_whole(b):
        return _whole_result(op, *(x if is_integer(x) else int(x) for x in (a, b)))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return _with_array(op, a, b)
    if (op in _NAMES or op is operator.pow) and all(
        isinstance(x, Value | float | np.floating) for x in (a, b) if not is_integer(x)
    ):
        return _float_result(op, a, b)
    return op(number_of(a), number_of(b))


def _whole_result(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of Integers and ints; one at least is an Integer."""
    tape = (a if is_integer(a) else b)._tape
    most, x, y = limit(tape.dtype), _number(a), _number(b)
    if op is operator.pow:
        return _power(a, b, most)
    if op in (operator.lshift, operator.rshift) and type(b) is int and 0 <= b < 64:
        op, b, y = (operator.mul if op is operator.lshift else operator.floordiv), 1 << b, 1 << y
    elif op is operator.and_ and type(b) is int and b > 0 and not b & (b + 1):
        op, b, y = operator.mod, b + 1, b + 1
    if op not in _NAMES or max(abs(x), abs(y)) > most:
        return op(number_of(a), number_of(b))
    if op in _DIVISIONS and (b._is_zero() if is_integer(b) else b == 0):
        return op(number_of(a), 0)
    if op is operator.truediv:
        return Value._apply(BY_NAME["divide"], (real(a), real(b)))
    z = op(x, y)
    for narrow in (False, True):
        if narrow:
            for n in (a, b):
                if is_integer(n):
                    n._narrow()
        bound = bound_of(op, *(n._bound if is_integer(n) else abs(n) for n in (a, b)))
        if bound <= most:
            return _recorded(tape, _NAMES[op], a, b, z, bound)
    made = _recorded(tape, _NAMES[op], a, b, z, abs(z))
    if not made._is_within(most):
        return op(number_of(a), number_of(b))
    made._bound = most
    return made


def _recorded(tape: Tape, name: str, a: Any, b: Any, z: int, bound: int) -> Any:
    made = Value._apply(BY_NAME[name], tuple(n._plain() if is_integer(n) else float(n) for n in (a, b)))
    return (a if is_integer(a) else b)._make(tape, made._slot, z, bound)


def _power(a: Any, b: Any, most: int) -> Any:
    """a ** b of Integers and ints."""
    x, y = _number(a), _number(b)
    if (b < 0) if is_integer(b) else y < 0:
        if (a._is_zero() if is_integer(a) else x == 0) or max(abs(x), abs(y)) > most:
            return number_of(a) ** number_of(b)
        return Value._apply(BY_NAME["power_constant"], (real(a), real(b)))
    if type(b) is int and b < 64:
        # By products, which are exact.
        result, square = cast(Any, None), a
        while b:
            if b & 1:
                result = square if result is None else result * square
            b >>= 1
            square = square * square if b else square
        return 1 if result is None else result
    if max(abs(x), abs(y)) > most:
        return number_of(a) ** number_of(b)
    # What is far above the limit is not computed to learn that it is.
    z = x**y if abs(x) < 2 or y * math.log2(abs(x)) < 64.0 else 2**64
    made = _recorded((a if is_integer(a) else b)._tape, "power_constant", a, b, z, abs(z))
    if not made._is_within(most):
        return number_of(a) ** number_of(b)
    made._bound = most
    return made


def _float_result(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of an Integer and a float or a Value."""
    by_python = type(a) is float or type(b) is float
    if op in _DIVISIONS and by_python and (b._is_zero() if is_integer(b) else b == 0.0):
        # Python raises for it. Where the other is a Value it is infinite, as with arrays.
        return op(number_of(a), number_of(b))
    if op is not operator.pow:
        return Value._apply(BY_NAME[_NAMES[op]], (real(a), real(b)))
    if is_integer(b):
        # The exponent is whole and has no derivative, so the base may be negative: no logarithm is ever taken.
        if type(a) is float and a == 0.0:
            return op(a, number_of(b))
        return Value._apply(BY_NAME["power_constant"], (a, real(b)))
    if isinstance(b, Value):
        return Value._apply(BY_NAME["power"], (real(a), b))
    if (b < 0.0 and a._is_zero()) or (b != math.floor(b) and a < 0) or not math.isfinite(b):
        return op(number_of(a), b)
    return Value._apply(BY_NAME["power_constant"], (real(a), b))


def _with_array(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of an Integer and an array: a Value; of integers, where the array is one of them."""
    n, array = (a, b) if is_integer(a) else (b, a)
    tape = n._tape
    if op is operator.pow and array.dtype == tape.dtype and array.ndim:
        return Value._apply(BY_NAME["power_constant" if n is b else "power"], (real(a), real(b)))
    if op in _NAMES and array.dtype == tape.dtype and array.ndim:
        return Value._apply(BY_NAME[_NAMES[op]], (real(a), real(b)))
    exact = array.dtype in (np.int64, np.bool_) and array.size and op in _NAMES
    if exact and op in _DIVISIONS:
        exact = not n._is_zero() if n is b else bool(array.all())
    if exact:
        most = max(int(array.max()), -int(array.min()))
        n._narrow()
        if most <= limit(tape.dtype) and bound_of(op, n._bound, most) <= limit(tape.dtype):
            made = Value._apply(BY_NAME[_NAMES[op]], tuple(
                real(x) if x is n else x.astype(np.int64) for x in (a, b)))  # fmt: skip
            if op is not operator.truediv:
                tape.kinds[made._slot] = "i"
            return made
    return op(number_of(a), number_of(b))


# Comparisons


def compared(op: Callable[..., Any], n: Any, other: Any) -> Any:
    """op(n, other), a comparison of an Integer: a truth, to which replays are held; with Values and arrays a Value."""
    if n._fixed:
        return op(n._number, _number(other) if is_integer(other) and other._fixed else other)
    tape, known = n._tape, _number(other)
    if is_value(other):
        return Value._apply(BY_NAME[_NAMES[op]], (n._plain(), other))
    if isinstance(known, int | float | np.integer | np.floating | np.bool_):
        truth = bool(op(n._number, known))
        if is_integer(other) and not other._fixed:
            slot = other._slot
        else:
            threshold = comparison(op, known, limit(tape.dtype))
            if threshold is None:
                return truth
            slot = tape.constant(float(threshold))
        guard_truth(tape, _NAMES[op], n._slot, slot, truth, "comparison of an integer")
        return truth
    if isinstance(other, np.ndarray) and (
        other.dtype == tape.dtype or (other.dtype.kind in "ib" and (np.abs(other) <= limit(tape.dtype)).all())
    ):
        return Value._apply(BY_NAME[_NAMES[op]], (n._plain(), other))
    if other is None or isinstance(other, str | bytes | tuple | list | dict | set | frozenset):
        return NotImplemented
    return op(number_of(n), other)

"""Whole numbers among the arguments of a recorded function: numbers of the program, that may decide something too.

An `Integer` behaves as Python's int does. Arithmetic of integers is recorded and stays an integer; with floats and
Values it gives Values. Nothing is held fast by that. Where the number decides something, a guard holds replays to what
was decided: a comparison to its truth, anything that needs the number itself (`range`, a slice, a key of a dict, the
text of it) to the number. From then on the number is known in this recording, and what is computed from it alone is
plain Python.

The number at which the function is recorded is carried along beside the slot, as Python's int. So no guard has to
compute what is on the tape first. Numbers on a tape are floats, in which integers are exact up to a limit. What may
come out above it is guarded, and computed by Python where it does.
"""

from __future__ import annotations

import math
import numbers as abstract
import operator
from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np

from tapegrad.ops import BY_NAME, BY_UFUNC
from tapegrad.tape import Tape
from tapegrad.value.exact import bound_of, comparison, limit, small
from tapegrad.value.protocol import IMPLEMENTATIONS
from tapegrad.value.reading import guard, guard_truth
from tapegrad.value.value import Value

_new = object.__new__

# Python's operators, by the operations that record them.
_NAMES: dict[Any, str] = {
    operator.add: "add", operator.sub: "subtract", operator.mul: "multiply", operator.truediv: "divide",
    operator.floordiv: "floor_divide", operator.mod: "remainder", max: "maximum", min: "minimum",
    operator.lt: "less", operator.le: "less_equal", operator.gt: "greater", operator.ge: "greater_equal",
    operator.eq: "equal", operator.ne: "not_equal",
}  # fmt: skip
_DIVISIONS = (operator.truediv, operator.floordiv, operator.mod)
_UFUNCS: dict[Any, Any] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul, np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv, np.remainder: operator.mod, np.power: operator.pow, np.negative: operator.neg,
    np.absolute: operator.abs, np.maximum: max, np.minimum: min,
}  # fmt: skip
# NumPy's functions that calculate with all their arguments. For any other, a whole number beside Values says how.
_OPERANDS = {
    np.where, np.clip, np.stack, np.vstack, np.hstack, np.concatenate, np.append, np.dot, np.inner, np.outer, np.isclose,
    np.allclose,
}  # fmt: skip
_SIZES: dict[Any, Any] = {np.shape: (), np.ndim: 0, np.size: 1}


def number_of(x: Any) -> Any:
    """The number of an Integer, to which a guard holds replays; anything else as it is."""
    return x._fix() if type(x) is Integer else x


def _number(x: Any) -> Any:
    # The number at which the function is recorded, to which nothing is held.
    return x._number if type(x) is Integer else x


def _real(x: Any) -> Any:
    # As an operand of operations on floats.
    return x._plain() if type(x) is Integer else x


def _is_whole(x: Any) -> bool:
    return type(x) is Integer or isinstance(x, int | np.integer | np.bool_)


def put_integer(tape: Tape, number: int) -> Integer:
    """A whole number that is given as an argument, on a tape that is being recorded."""
    return Integer._make(tape, tape.leaf(float(number), 1, False), number, limit(tape.dtype))


def whole(value: Value, number: int) -> Integer:
    """A Value that is known to be a whole number as an Integer; `number` is what it is while recording."""
    return Integer._make(value._tape, value._slot, number, limit(value._tape.dtype))


def _binary(op: Callable[..., Any], reflected: bool = False) -> Any:
    def method(self: Integer, other: Any) -> Any:
        return _combined(op, other, self) if reflected else _combined(op, self, other)

    return method


def _compare(op: Callable[..., Any]) -> Any:
    return lambda self, other: _compared(op, self, other)


class Integer(Value):
    """A whole number in a recorded function. It says that it is an int when `isinstance` asks."""

    __slots__ = ("_bound", "_fixed", "_number")

    _number: int
    # No number that passes the guards of this recording is larger, in absolute value.
    _bound: int
    # Whether replays are held to the number already.
    _fixed: bool
    _is_integer = True

    @classmethod
    def _make(cls, tape: Tape, slot: int, number: int, bound: int) -> Integer:
        made = _new(cls)
        made._tape, made._page, made._slot, made._layout = tape, tape.page, slot, None
        made._number, made._bound, made._fixed = int(number), bound, False
        tape.kinds[slot] = "i"
        return made

    def _plain(self) -> Value:
        """The same number as a Value like others."""
        return Value._on(self._tape, self._slot, None)

    def _fix(self) -> int:
        if not self._fixed:
            guard(self._tape, self._slot, float(self._number), "integer")
            self._fixed = True
        return self._number

    def _narrow(self) -> None:
        # One guard on a number, so that what is computed from it need not be guarded again and again.
        most = small(self._tape.dtype)
        if self._bound > most and abs(self._number) <= most:
            tape = self._tape
            size = tape.scalar(BY_NAME["absolute"].opcode, self._slot, self._slot, self._slot)
            guard_truth(tape, "less_equal", size, tape.constant(float(most)), True, "size of an integer")
            self._bound = most

    def _is_zero(self) -> bool:
        return bool(self == 0)

    # Whoever asks gets an int: functions that check their arguments take it as they take the number.
    __class__ = cast(Any, property(lambda self: int))

    # What is recorded with it by other means than the operators below is a Value.
    _on, _leaf, _of, _constant = Value._on, Value._leaf, Value._of, Value._constant
    _stacked, _structured, _apply, _truths = Value._stacked, Value._structured, Value._apply, Value._truths
    _apply_structured, _apply_operation = Value._apply_structured, Value._apply_operation

    __add__, __radd__ = _binary(operator.add), _binary(operator.add, True)
    __sub__, __rsub__ = _binary(operator.sub), _binary(operator.sub, True)
    __mul__, __rmul__ = _binary(operator.mul), _binary(operator.mul, True)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _binary(operator.truediv, True)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _binary(operator.floordiv, True)
    __mod__, __rmod__ = _binary(operator.mod), _binary(operator.mod, True)
    __pow__, __rpow__ = _binary(operator.pow), _binary(operator.pow, True)
    __and__, __rand__ = _binary(operator.and_), _binary(operator.and_, True)
    __or__, __ror__ = _binary(operator.or_), _binary(operator.or_, True)
    __xor__, __rxor__ = _binary(operator.xor), _binary(operator.xor, True)
    __lshift__, __rlshift__ = _binary(operator.lshift), _binary(operator.lshift, True)
    __rshift__, __rrshift__ = _binary(operator.rshift), _binary(operator.rshift, True)
    __matmul__, __rmatmul__ = _binary(operator.matmul), _binary(operator.matmul, True)
    __lt__, __le__, __gt__, __ge__ = map(_compare, (operator.lt, operator.le, operator.gt, operator.ge))
    __eq__, __ne__ = map(_compare, (operator.eq, operator.ne))

    def __neg__(self) -> Any:
        return _combined(operator.mul, self, -1)

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Any:
        if self._fixed:
            return abs(self._number)
        tape, row = self._tape, BY_NAME["absolute"]
        return self._make(tape, tape.scalar(row.opcode, self._slot, self._slot, self._slot), abs(self._number),
                          self._bound)  # fmt: skip

    def __invert__(self) -> Any:
        return -self - 1

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __round__(self, ndigits: Any = None) -> Any:
        return self if ndigits is None or ndigits >= 0 else round(self._fix(), number_of(ndigits))

    def __floor__(self) -> Any:
        return self

    __ceil__ = __trunc__ = __floor__

    # What decides something

    def __bool__(self) -> bool:
        return not self._is_zero()

    def __index__(self) -> int:
        return self._fix()

    __int__ = item = tolist = __index__

    def __float__(self) -> float:
        return float(self._fix())

    def __complex__(self) -> complex:
        return complex(self._fix())

    def __hash__(self) -> int:
        return hash(self._fix())

    def __repr__(self) -> str:
        return repr(self._fix())

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self._fix(), spec)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._fix(), dtype)

    def __getattr__(self, name: str) -> Any:
        if hasattr(int, name):
            return getattr(self._fix(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        return int, (self._fix(),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def copy(self) -> Self:
        """Itself: it does not change."""
        return self

    @property
    def data(self) -> Any:
        """The number; replays are held to it."""
        return self._fix()

    def numpy(self) -> np.ndarray:
        """The number as an array; replays are held to it."""
        return self.__array__()

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """Itself as an integer, or a Value as a float."""
        return self if np.dtype(dtype).kind in "iu" else self._plain().astype(dtype)

    # What NumPy calls

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        tape, op = self._tape, _UFUNCS.get(ufunc)
        if any(isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.dtype != tape.dtype for x in inputs):
            # NumPy's own arithmetic of two dtypes; a tape has one.
            return getattr(ufunc, method)(*map(number_of, inputs), **kwargs)
        if op is not None and method == "__call__" and not kwargs:
            return _combined(op, *inputs) if len(inputs) == 2 else op(*inputs)
        if ufunc not in BY_UFUNC and ufunc not in IMPLEMENTATIONS and not any(map(_is_value, inputs)):
            return getattr(ufunc, method)(*map(number_of, inputs), **kwargs)
        return self._plain().__array_ufunc__(ufunc, method, *map(_real, inputs), **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _SIZES and len(args) == 1 and not kwargs:
            return _SIZES[func]
        if func in _OPERANDS:
            args, kwargs = _nested(_real, args), _nested(_real, kwargs)
            return self._plain().__array_function__(func, types, args, kwargs)
        # Without other Values that is a call of NumPy with numbers.
        return func(*_nested(number_of, args), **_nested(number_of, kwargs))


# So that whoever asks for a number by its abstract class finds one.
abstract.Integral.register(Integer)


def _is_value(x: Any) -> bool:
    return isinstance(x, Value) and type(x) is not Integer


def _nested(change: Callable[[Any], Any], x: Any) -> Any:
    if type(x) in (list, tuple):
        return type(x)(_nested(change, part) for part in x)
    if type(x) is dict:
        return {key: _nested(change, part) for key, part in x.items()}
    return change(x)


# Arithmetic


def _combined(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op(a, b), where one of them is an Integer."""
    a, b = (_number(x) if type(x) is Integer and x._fixed else x for x in (a, b))
    if type(a) is not Integer and type(b) is not Integer:
        return op(a, b)
    if _is_whole(a) and _is_whole(b):
        return _whole_result(op, *(x if type(x) is Integer else int(x) for x in (a, b)))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return _with_array(op, a, b)
    if (op in _NAMES or op is operator.pow) and all(
        isinstance(x, Value | float | np.floating) for x in (a, b) if type(x) is not Integer
    ):
        return _float_result(op, a, b)
    return op(number_of(a), number_of(b))


def _whole_result(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of Integers and ints; one at least is an Integer."""
    tape = (a if type(a) is Integer else b)._tape
    most, x, y = limit(tape.dtype), _number(a), _number(b)
    if op is operator.pow:
        return _power(a, b, most)
    if op in (operator.lshift, operator.rshift) and type(b) is int and 0 <= b < 64:
        op, b, y = (operator.mul if op is operator.lshift else operator.floordiv), 1 << b, 1 << y
    elif op is operator.and_ and type(b) is int and b > 0 and not b & (b + 1):
        op, b, y = operator.mod, b + 1, b + 1
    if op not in _NAMES or max(abs(x), abs(y)) > most:
        return op(number_of(a), number_of(b))
    if op in _DIVISIONS and (b._is_zero() if type(b) is Integer else b == 0):
        return op(number_of(a), 0)
    if op is operator.truediv:
        return Value._apply(BY_NAME["divide"], (_real(a), _real(b)))
    z = op(x, y)
    for narrow in (False, True):
        if narrow:
            for n in (a, b):
                if type(n) is Integer:
                    n._narrow()
        bound = bound_of(op, *(n._bound if type(n) is Integer else abs(n) for n in (a, b)))
        if bound <= most:
            return _recorded(tape, _NAMES[op], a, b, z, bound)
    if abs(z) > most:
        return op(number_of(a), number_of(b))
    return _within(_recorded(tape, _NAMES[op], a, b, z, most), most)


def _recorded(tape: Tape, name: str, a: Any, b: Any, z: int, bound: int) -> Integer:
    made = Value._apply(BY_NAME[name], tuple(n._plain() if type(n) is Integer else float(n) for n in (a, b)))
    return Integer._make(tape, made._slot, z, bound)


def _within(z: Integer, most: int) -> Integer:
    """A result that may be too large to be exact, guarded."""
    tape = z._tape
    size = tape.scalar(BY_NAME["absolute"].opcode, z._slot, z._slot, z._slot)
    guard_truth(tape, "less_equal", size, tape.constant(float(most)), True, "size of an integer")
    z._bound = most
    return z


def _power(a: Any, b: Any, most: int) -> Any:
    """a ** b of Integers and ints."""
    x, y = _number(a), _number(b)
    if (b < 0) if type(b) is Integer else y < 0:
        if (a._is_zero() if type(a) is Integer else x == 0) or max(abs(x), abs(y)) > most:
            return number_of(a) ** number_of(b)
        return Value._apply(BY_NAME["power_constant"], (_real(a), _real(b)))
    if type(b) is int and b < 64:
        # By products, which are exact.
        result, square = cast(Any, None), a
        while b:
            if b & 1:
                result = square if result is None else result * square
            b >>= 1
            square = square * square if b else square
        return 1 if result is None else result
    if max(abs(x), abs(y)) > most or y * math.log2(abs(x) + 1.0) > 64.0 or abs(x**y) > most:
        return number_of(a) ** number_of(b)
    return _within(_recorded((a if type(a) is Integer else b)._tape, "power_constant", a, b, x**y, most), most)


def _float_result(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of an Integer and a float or a Value."""
    by_python = type(a) is float or type(b) is float
    if op in _DIVISIONS and by_python and (b._is_zero() if type(b) is Integer else b == 0.0):
        # Python raises for it. Where the other is a Value it is infinite, as with arrays.
        return op(number_of(a), number_of(b))
    if op is not operator.pow:
        return Value._apply(BY_NAME[_NAMES[op]], (_real(a), _real(b)))
    if type(b) is Integer:
        # The exponent is whole and has no derivative, so the base may be negative: no logarithm is ever taken.
        if type(a) is float and a == 0.0:
            return op(a, number_of(b))
        return Value._apply(BY_NAME["power_constant"], (a, _real(b)))
    if isinstance(b, Value):
        return Value._apply(BY_NAME["power"], (_real(a), b))
    if (b < 0.0 and a._is_zero()) or (b != math.floor(b) and a < 0) or not math.isfinite(b):
        return op(number_of(a), b)
    return Value._apply(BY_NAME["power_constant"], (_real(a), b))


def _with_array(op: Callable[..., Any], a: Any, b: Any) -> Any:
    """op of an Integer and an array: a Value; of integers, where the array is one of them."""
    n, array = (a, b) if type(a) is Integer else (b, a)
    tape = n._tape
    if op is operator.pow and array.dtype == tape.dtype and array.ndim:
        return Value._apply(BY_NAME["power_constant" if n is b else "power"], (_real(a), _real(b)))
    if op in _NAMES and array.dtype == tape.dtype and array.ndim:
        return Value._apply(BY_NAME[_NAMES[op]], (_real(a), _real(b)))
    exact = array.dtype in (np.int64, np.bool_) and array.size and op in _NAMES
    if exact and op in _DIVISIONS:
        exact = not n._is_zero() if n is b else bool(array.all())
    if exact:
        most = max(int(array.max()), -int(array.min()))
        n._narrow()
        if most <= limit(tape.dtype) and bound_of(op, n._bound, most) <= limit(tape.dtype):
            made = Value._apply(BY_NAME[_NAMES[op]], tuple(
                _real(x) if x is n else x.astype(np.int64) for x in (a, b)))  # fmt: skip
            if op is not operator.truediv:
                tape.kinds[made._slot] = "i"
            return made
    return op(number_of(a), number_of(b))


# Comparisons


def _compared(op: Callable[..., Any], n: Integer, other: Any) -> Any:
    if n._fixed:
        return op(n._number, _number(other) if type(other) is Integer and other._fixed else other)
    tape, known = n._tape, _number(other)
    if _is_value(other):
        return Value._apply(BY_NAME[_NAMES[op]], (n._plain(), other))
    if isinstance(known, int | float | np.integer | np.floating | np.bool_):
        truth = bool(op(n._number, known))
        if type(other) is Integer and not other._fixed:
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

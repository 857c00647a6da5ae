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

import numbers as abstract
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import numpy as np

from tapegrad.ops import BY_NAME, BY_UFUNC
from tapegrad.tape import Tape
from tapegrad.tape.ambient import ambient
from tapegrad.value.exact import limit, small
from tapegrad.value.integers import combined, compared, is_value, number_of, real
from tapegrad.value.protocol import IMPLEMENTATIONS
from tapegrad.value.reading import guard, guard_truth
from tapegrad.value.value import Value

_new = object.__new__

_UFUNCS: dict[Any, Any] = {
    np.add: operator.add, np.subtract: operator.sub, np.multiply: operator.mul, np.true_divide: operator.truediv,
    np.floor_divide: operator.floordiv, np.remainder: operator.mod, np.power: operator.pow, np.negative: operator.neg,
    np.absolute: operator.abs, np.maximum: max, np.minimum: min, np.fmax: max, np.fmin: min,
    np.conjugate: operator.pos,
}  # fmt: skip
# NumPy's functions that calculate with all their arguments. For any other, a whole number beside Values says how.
_OPERANDS = {
    np.where, np.clip, np.stack, np.vstack, np.hstack, np.concatenate, np.append, np.dot, np.inner, np.outer,
    np.isclose, np.allclose, np.interp, np.polyval, np.column_stack, np.dstack, np.select,
}  # fmt: skip
_ABSENT = frozenset(("__len__", "__iter__", "__getitem__", "__setitem__"))
_SIZES: dict[Any, Any] = {np.shape: (), np.ndim: 0, np.size: 1}


def put_integer(tape: Tape, number: int) -> Integer:
    """A whole number that is given as an argument, on a tape that is being recorded."""
    return Integer._make(tape, tape.leaf(float(number), 1, False), number, limit(tape.dtype))


def integer_at(tape: Tape, slot: int, number: int) -> Integer:
    """What a tape has at a slot, which is known to be a whole number, and `number` while recording."""
    return Integer._make(tape, slot, number, limit(tape.dtype))


def _of_value(method: Any) -> Any:
    # A class method of Value, which makes Values, as it is.
    return method


def _binary(op: Callable[..., Any], reflected: bool = False) -> Any:
    def method(self: Integer, other: Any) -> Any:
        return combined(op, other, self) if reflected else combined(op, self, other)

    return method


def _compare(op: Callable[..., Any]) -> Any:
    return lambda self, other: compared(op, self, other)


class Integer(Value):
    """A whole number in a recorded function. It says that it is an int when `isinstance` asks."""

    __slots__ = ("_asked", "_bound", "_fixed", "_number")

    _number: int
    # No number that passes the guards of this recording is larger, in absolute value.
    _bound: int
    # Whether it was asked already whether it is small.
    _asked: bool
    # Whether replays are held to the number already.
    _fixed: bool
    _is_integer = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Whoever makes another one, as type(n)(5), gets an int."""
        return int(*args, **kwargs)

    @classmethod
    def _make(cls, tape: Tape, slot: int, number: int, bound: int) -> Integer:
        made = _new(cls)
        made._tape, made._page, made._slot, made._layout = tape, tape.page, slot, None
        made._number, made._bound, made._fixed, made._asked = int(number), bound, False, False
        tape.kinds[slot] = "i"
        return made

    def _plain(self) -> Value:
        """The same number as a Value like others."""
        return Value._on(self._tape, self._slot, None)

    def _fix(self) -> int:
        if not self._fixed:
            guard(self._tape, self._slot, float(self._number), "integer")
            self._remember()
            self._fixed = True
        return self._number

    def _remember(self) -> None:
        # The guard that follows may be cut off the tape again.
        if ambient.guarded is not None:
            ambient.guarded.setdefault(id(self), (self, self._fixed, self._asked, self._bound))

    def _narrow(self) -> None:
        # One guard on a number, so that what is computed from it need not be guarded again and again.
        most = small(self._tape.dtype)
        if self._bound > most and not self._asked:
            self._remember()
            self._asked = True
            self._bound = most if self._is_within(most) else self._bound

    def _is_within(self, most: int) -> bool:
        """Whether it is at most so large, to which replays are held."""
        tape, is_within = self._tape, abs(self._number) <= most
        size = tape.scalar(BY_NAME["absolute"].opcode, self._slot, self._slot, self._slot)
        guard_truth(tape, "less_equal", size, tape.constant(float(most)), is_within, "size of an integer")
        return is_within

    def _is_zero(self) -> bool:
        return bool(self == 0)

    # Whoever asks gets an int: functions that check their arguments take it as they take the number.
    __class__ = cast(Any, property(lambda self: int))

    # An int has no length and no elements. Who asks by isinstance or by hasattr finds none.
    __len__ = __iter__ = __getitem__ = __setitem__ = cast(Any, None)

    def __getattribute__(self, name: str) -> Any:
        if name in _ABSENT:
            raise AttributeError(f"'int' object has no attribute {name!r}")
        return object.__getattribute__(self, name)

    # What is recorded with it by other means than the operators below is a Value.
    _on, _leaf, _of, _constant = map(_of_value, (Value._on, Value._leaf, Value._of, Value._constant))
    _stacked, _structured, _truths = map(_of_value, (Value._stacked, Value._structured, Value._truths))
    _apply, _apply_structured = map(_of_value, (Value._apply, Value._apply_structured))
    _apply_operation = _of_value(Value._apply_operation)

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
        return combined(operator.mul, self, -1)

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
        raise AttributeError(f"'int' object has no attribute {name!r}")

    def __reduce__(self) -> Any:
        return int, (self._fix(),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def copy(self) -> Self:
        """Itself: it does not change."""
        return self

    @property  # type: ignore[misc]
    def data(self) -> Any:
        """The number; replays are held to it."""
        return self._fix()

    def numpy(self) -> np.ndarray:
        """The number as an array; replays are held to it."""
        return self.__array__()

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """Itself as an integer, or a Value as a float."""
        return self if np.dtype(dtype).kind in "iu" else self._plain().astype(dtype)

    imag = cast(Any, property(lambda self: 0))

    # What NumPy calls

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        tape, op = self._tape, _UFUNCS.get(ufunc)
        if any(isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.dtype != tape.dtype for x in inputs):
            # NumPy's own arithmetic of two dtypes; a tape has one.
            return getattr(ufunc, method)(*map(number_of, inputs), **kwargs)
        if op is not None and method == "__call__" and not kwargs:
            return combined(op, *inputs) if len(inputs) == 2 else op(*inputs)
        if ufunc is np.divmod and method == "__call__" and not kwargs and not any(map(np.ndim, inputs)):
            return divmod(inputs[0], inputs[1])
        if ufunc not in BY_UFUNC and ufunc not in IMPLEMENTATIONS and not any(map(is_value, inputs)):
            return getattr(ufunc, method)(*map(number_of, inputs), **kwargs)
        return self._plain().__array_ufunc__(ufunc, method, *map(real, inputs), **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _SIZES and len(args) == 1 and not kwargs:
            return _SIZES[func]
        if func in _OPERANDS:
            args, kwargs = _nested(real, args), _nested(real, kwargs)
            return self._plain().__array_function__(func, types, args, kwargs)
        # Without other Values that is a call of NumPy with numbers.
        return func(*_nested(number_of, args), **_nested(number_of, kwargs))


# So that whoever asks for a number by its abstract class finds one.
abstract.Integral.register(Integer)


@contextmanager
def guards_forgotten() -> Iterator[None]:
    """At its end whole numbers know of no guard that was written within it: what is recorded there is cut off again."""
    before, ambient.guarded = ambient.guarded, {}
    try:
        yield
    finally:
        for number, fixed, asked, bound in ambient.guarded.values():
            number._fixed, number._asked, number._bound = fixed, asked, bound
        ambient.guarded = before


def _nested(change: Callable[[Any], Any], x: Any) -> Any:
    if type(x) in (list, tuple):
        return type(x)(_nested(change, part) for part in x)
    if type(x) is dict:
        return {key: _nested(change, part) for key, part in x.items()}
    return change(x)

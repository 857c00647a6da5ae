"""Python's operators on Values, and a method for every unary operation.

An operation on two scalars, or on a scalar and a number that is a constant of the tape already, is appended right here
and not by `apply`: recording it takes so little time that each attribute read on the way counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.layout import FlagLayout
from tapegrad.ops import BY_NAME, Elementwise, Operation
from tapegrad.value.apply import R, Recorder, power
from tapegrad.value.handle import Handle
from tapegrad.value.numbers import refuse_sparse

_new = object.__new__


def _binary_operator(name: str, *, reflected: bool = False) -> Callable[[R, Any], R]:
    operation = BY_NAME[name]
    opcode = operation.opcode
    assert isinstance(operation, Elementwise)

    def method(self: R, other: Any) -> R:
        tape = self._tape
        slot = tape.top
        if slot >= tape.limit:
            tape.turn_page()
            slot = tape.top
        kind = other.__class__
        own = self.__class__
        if kind is own:
            if other._layout is not None or self._layout is not None or other._tape is not tape:
                return self._apply(operation, (other, self) if reflected else (self, other))
            b = other._slot
        elif kind is float or kind is int:
            found = tape.constants.get(other) if other else tape.zeros.get(math.copysign(1.0, other))
            if found is None or self._layout is not None:
                return self._apply(operation, (other, self) if reflected else (self, other))
            b = found
        elif isinstance(other, Handle | np.ndarray | np.generic | list | tuple | bool):
            if isinstance(other, np.ndarray) and other.dtype == object:
                return NotImplemented
            return self._apply(operation, (other, self) if reflected else (self, other))
        else:
            refuse_sparse(other, name)
            return NotImplemented
        tape.top = slot + 1
        if reflected:
            tape.push((opcode, slot, b, self._slot, b))
        else:
            tape.push((opcode, slot, self._slot, b, b))
        value = _new(own)
        value._tape = tape
        value._page = tape.page
        value._slot = slot
        value._layout = None
        return value

    method.__name__ = name
    method.__doc__ = operation.formula
    return method


def _logic_operator(name: str, sign: str) -> Callable[[R, Any], R]:
    operation = BY_NAME[name]

    def method(self: R, other: Any) -> R:
        if isinstance(other, np.ndarray) and other.dtype == object:
            return NotImplemented
        for x in (self, other):
            what = _not_truths(x)
            if what:
                raise UnsupportedError(
                    f"{sign} is for truth values, comparisons and boolean arrays, and not for {what}: numbers on a "
                    f"tape have no bits. Compare first, as in x != 0, or write np.{name}(x, y)"
                )
        return self._apply(operation, (self, other))

    method.__name__ = name
    method.__doc__ = f"{operation.formula}, of truth values."
    return method


def _not_truths(x: Any) -> str:
    """What an operand of logic is, if it holds no truth values; "" where it does, or is a single number, 1 or 0."""
    if isinstance(x, Handle):
        if x._layout is None:
            # Most tapes have no integers, and to ask what a slot holds takes longer than to record.
            return "integers" if x._tape.kinds and x._tape.kind(x._slot) == "i" else ""
        if x._layout.__class__ is FlagLayout or not x.size:
            return ""
        return "integers" if x._tape.kind(x._slot) == "i" else "floats"
    if isinstance(x, bool | np.bool_) or (np.ndim(x) == 0 and x in (0, 1)):
        return ""
    found = np.asarray(x).dtype
    return "" if found.kind in "bO" else "integers" if found.kind in "iu" else str(found)


def _unary_method(name: str) -> Callable[[R], R]:
    operation = BY_NAME[name]
    opcode = operation.opcode
    assert isinstance(operation, Elementwise)

    def method(self: R) -> R:
        tape = self._tape
        slot = tape.top
        if slot >= tape.limit:
            tape.turn_page()
            slot = tape.top
        if self._layout is not None:
            return self._apply(operation, (self,))
        operand = self._slot
        tape.top = slot + 1
        tape.push((opcode, slot, operand, operand, operand))
        value = _new(self.__class__)
        value._tape = tape
        value._page = tape.page
        value._slot = slot
        value._layout = None
        return value

    method.__name__ = operation.name
    method.__doc__ = operation.formula
    return method


def add_method(kind: Any, operation: Operation) -> None:
    """Give the class of Values a method for a unary operation."""
    if isinstance(operation, Elementwise) and operation.arity == 1 and not hasattr(kind, operation.name):
        setattr(kind, operation.name, _unary_method(operation.name))


class Operators(Recorder):
    """The part of Value that does arithmetic."""

    __slots__ = ()

    __add__ = _binary_operator("add")
    __radd__ = _binary_operator("add", reflected=True)
    __sub__ = _binary_operator("subtract")
    __rsub__ = _binary_operator("subtract", reflected=True)
    __mul__ = _binary_operator("multiply")
    __rmul__ = _binary_operator("multiply", reflected=True)
    __truediv__ = _binary_operator("divide")
    __rtruediv__ = _binary_operator("divide", reflected=True)
    __mod__ = _binary_operator("remainder")
    __rmod__ = _binary_operator("remainder", reflected=True)
    __neg__ = _unary_method("negative")
    __abs__ = _unary_method("absolute")
    # Comparisons give 1 or 0, with no derivative. Branching on one is a guard in a recording.
    __lt__ = _binary_operator("less")
    __le__ = _binary_operator("less_equal")
    __gt__ = _binary_operator("greater")
    __ge__ = _binary_operator("greater_equal")
    __eq__ = _binary_operator("equal")  # type: ignore[assignment]
    __ne__ = _binary_operator("not_equal")  # type: ignore[assignment]
    __and__ = __rand__ = _logic_operator("logical_and", "&")
    __or__ = __ror__ = _logic_operator("logical_or", "|")
    __xor__ = __rxor__ = _logic_operator("logical_xor", "^")

    def __hash__(self) -> int:
        if self._tape.recording and not self._tape.finished:
            # `x in {1.0}` would compare identities, and a replay would not notice.
            raise UnsupportedError("a Value cannot be hashed inside a recorded function: compare numbers by ==")
        return id(self)

    def __invert__(self) -> Self:
        if self._tape.kind(self._slot) != "b":
            raise UnsupportedError("~ is for truth values: comparisons and boolean arrays")
        return self._apply(BY_NAME["equal"], (self, 0.0))

    def __pow__(self, other: Any) -> Self:
        return power(self, other)

    def __rpow__(self, other: Any) -> Self:
        return self._apply(BY_NAME["power"], (other, self))

    def __matmul__(self, other: Any) -> Self:
        if getattr(other, "__array_ufunc__", self) is None:
            # It multiplies itself.
            return NotImplemented
        return cast(Self, np.matmul(cast(Any, self), other))

    def __rmatmul__(self, other: Any) -> Self:
        return cast(Self, np.matmul(other, cast(Any, self)))

    def __floordiv__(self, other: Any) -> Self:
        return self._apply(BY_NAME["floor_divide"], (self, other))

    def __rfloordiv__(self, other: Any) -> Self:
        return self._apply(BY_NAME["floor_divide"], (other, self))

    def __divmod__(self, other: Any) -> tuple[Self, Self]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Self, Self]:
        return other // self, other % self

    def __pos__(self) -> Self:
        return self

    def __round__(self, ndigits: int | None = None) -> Self:
        return cast(Self, np.round(cast(Any, self), ndigits or 0))

    def copy(self) -> Self:
        """A copy, recorded as an operation."""
        return self._apply(BY_NAME["copy"], (self,))

    def leaky_relu(self, slope: float = 0.01) -> Self:
        """x where x > 0, else slope * x."""
        return self._apply(BY_NAME["leaky_relu"], (self, slope))

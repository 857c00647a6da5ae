"""`Value`: numbers on a tape, scalar or array, that behave like a NumPy array and remember how they were computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import (
    CutGradientError,
    DTypeError,
    IntegerInputError,
    NonScalarError,
    ShapeError,
    UnsupportedError,
)
from tapegrad.ops import BY_NAME
from tapegrad.tape import EXPECT, current_tape
from tapegrad.value.apply import apply
from tapegrad.value.handle import handle_class, leaf
from tapegrad.value.numbers import numbers
from tapegrad.value.operators import Operators, add_method
from tapegrad.value.protocol import Protocol
from tapegrad.value.views import Views


@handle_class
class Value(Operators, Views, Protocol):
    """A number, or an array of numbers, that remembers how it was computed.

    Args:
        data: a number or an array of floats. Integer arrays are taken only with `requires_grad=False`.
        label: a name for pictures, listings and messages.
        requires_grad: whether `backward` is to reach it.
        dtype: float64 or float32; by default that of `data`, float64 for plain numbers.

    Raises DTypeError, IntegerInputError.

    >>> a, b = Value(2.0, label="a"), Value(-3.0, label="b")
    >>> c = a * b + a
    >>> c.backward()
    >>> c.data, a.grad, b.grad
    (-4.0, -2.0, 2.0)
    >>> x = Value([1.0, 2.0, 3.0])
    >>> (x * x).sum().backward()
    >>> x.grad.tolist()
    [2.0, 4.0, 6.0]
    """

    __slots__ = ()

    def __init__(self, data: Any, label: str = "", requires_grad: bool = True, *, dtype: Any = None) -> None:
        if isinstance(data, Value):
            raise CutGradientError("Value(v) of a Value would cut its gradient: use v itself, or Value(v.data)")
        array, dtype = _given(data, dtype)
        if requires_grad and array.dtype.kind in "iub" and array.ndim:
            raise IntegerInputError(
                f"an array of {array.dtype} has no gradient: write Value(x.astype(float)) or requires_grad=False"
            )
        made = leaf(current_tape(dtype), array, bool(requires_grad))
        self._tape, self._page, self._slot, self._layout = made._tape, made._page, made._slot, made._layout
        if label:
            self.label = label

    @property
    def data(self) -> Any:
        """Its number, or a read-only array of its numbers. Assigning gives a leaf new numbers.

        Raises InPlaceError when assigned to a result, or inside a recording; ShapeError for another shape.
        """
        self._tape.evaluate()
        self._freeze()
        if self._layout is None:
            return float(self._tape.values[self._tape.locate(self._slot)])
        return numbers(self._window(self._tape.values))

    @data.setter
    def data(self, data: Any) -> None:
        array = self._accept(data, "data")
        if self.size:
            self._tape.evaluate()
            low, high = self._layout_or_scalar().reach()
            place = self._tape.locate(self._slot)
            if self._layout is not None and not self._layout.dense:
                places: Any = self._places()
            else:
                places = slice(place + low, place + high)
            self._tape.edit(self._slot + low, places, array.reshape(-1), high - low)

    def _accept(self, data: Any, what: str) -> np.ndarray:
        if isinstance(data, Value):
            raise CutGradientError(f"assigning a Value to `{what}` would cut its gradient: assign v.data")
        array = np.asarray(data)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"`{what}` must be real numbers, not {array.dtype}")
        if array.shape != self.shape:
            if array.ndim:
                raise ShapeError(f"`{what}` has shape {array.shape}, the Value has shape {self.shape}")
            array = np.broadcast_to(array, self.shape)
        return array

    @property
    def grad(self) -> Any:
        """The gradient accumulated by `backward`, 0 before it; None where no gradient is wanted. Can be assigned."""
        self._tape.flush()
        if self.size == 0:
            return numbers(np.zeros(self.shape, self.dtype))
        place = self._tape.locate(self._slot)
        if not self._tape.wants_grad(self._slot):
            return None
        grads = self._tape.grown_grads()
        if self._layout is None:
            return float(grads[place])
        return numbers(self._window(grads))

    @grad.setter
    def grad(self, grad: Any) -> None:
        array = self._accept(0.0 if grad is None else grad, "grad")
        self._tape.flush()
        self._tape.grown_grads()[self._places()] = array.reshape(-1)

    def zero_grad(self) -> None:
        """Set the accumulated gradient to zero."""
        self.grad = 0.0

    def item(self) -> float:
        """The number of a Value of one element. Raises ShapeError for more."""
        if self.size != 1:
            raise ShapeError(f"item() of a Value of shape {self.shape}: it has {self.size} elements, not one")
        return float(np.asarray(self.data).reshape(-1)[0])

    def numpy(self) -> np.ndarray:
        """Its numbers as a plain array of its own."""
        return np.array(self.data, self.dtype)

    def tolist(self) -> Any:
        """Its numbers as nested lists."""
        return self.numpy().tolist()

    def detach(self) -> Value:
        """The same numbers, through which no gradient flows."""
        return apply(BY_NAME["detach"], (self,))

    def backward(self, seed: Any = None) -> None:
        """Add to the `grad` of every value the derivative of this one with respect to it.

        Args:
            seed: the adjoint to start from, of this value's shape; 1 for a single element. With a seed, what is added
                is the gradient of sum(seed * self).

        Raises NonScalarError for an array without a seed, ShapeError for a seed of another shape.

        >>> a = Value(3.0)
        >>> b = a + a
        >>> b.backward()
        >>> a.grad
        2.0
        """
        if seed is None:
            if self.size != 1:
                raise NonScalarError(
                    f"backward() of a Value of shape {self.shape} needs a seed of that shape, or a scalar to start from"
                )
            seed = np.ones(self.shape)
        seed = self._accept(seed, "seed")
        if self._tape.recording and not self._tape.finished:
            raise UnsupportedError("backward() inside a recorded function: use tg.grad(f) on the function instead")
        if self.size:
            self._tape.evaluate()
            self._tape.backward(self._places(), seed.reshape(-1).astype(self.dtype))

    def _freeze(self) -> None:
        # A number read while recording is good for this replay only: a guard holds it to that.
        if self._tape.recording and not self._tape.finished:
            for slot in self._slots():
                expected = self._tape.constant(float(self._tape.values[self._tape.locate(slot)]))
                self._tape.scalar(EXPECT, slot, expected, expected)
            self._tape.flush()

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(f"the truth of a Value of shape {self.shape} is ambiguous: use np.where, or v.data")
        if not self._tape.recording:
            return self.item() != 0.0
        condition = self if self._tape.kind(self._slot) == "b" else self != 0.0
        return bool(condition.item())

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        self._tape.evaluate()
        self._freeze()
        if self._layout is None:
            number = float(self._tape.values[self._tape.locate(self._slot)])
            return f"Value({number!r}{label})"
        text = np.array2string(np.array(self._window(self._tape.values)), separator=", ", prefix="Value(")
        kind = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        return f"Value({text}{kind}{label})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def astype(self, dtype: Any, copy: bool = True) -> Value:
        """Itself, for its own dtype. Raises DTypeError for another: a tape has one dtype."""
        if np.dtype(dtype) != self.dtype:
            raise DTypeError(f"a Value of {self.dtype} cannot become {np.dtype(dtype)}: a tape has one dtype")
        return self


def _given(data: Any, dtype: Any) -> tuple[np.ndarray, np.dtype]:
    if isinstance(data, list | tuple) and _holds_value(data):
        raise CutGradientError("Value([...]) of Values would cut their gradients: use tg.stack([...])")
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        found = type(data).__name__ if array.dtype == object else array.dtype
        raise DTypeError(f"a Value holds real numbers, not {found}")
    if dtype is None:
        dtype = np.float32 if array.dtype in (np.float32, np.float16) else np.float64
    dtype = np.dtype(dtype)
    if dtype not in (np.float64, np.float32):
        raise DTypeError(f"a Value is float64 or float32, not {dtype}")
    return array, dtype


def _holds_value(data: Any) -> bool:
    return isinstance(data, Value) or (isinstance(data, list | tuple) and any(map(_holds_value, data)))


for _row in list(BY_NAME.values()):
    add_method(Value, _row)

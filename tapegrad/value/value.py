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
from tapegrad.tape import current_tape
from tapegrad.value.declared import Declared
from tapegrad.value.methods import Methods
from tapegrad.value.numbers import refuse_unlike
from tapegrad.value.operators import Operators, add_method
from tapegrad.value.views import Views


class Value(Operators, Views, Methods, Declared):
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
        made = self._leaf(current_tape(dtype), array, bool(requires_grad))
        self._tape, self._page, self._slot, self._layout = made._tape, made._page, made._slot, made._layout
        if label:
            self.label = label

    def detach(self) -> Value:
        """The same numbers, through which no gradient flows."""
        return self._apply(BY_NAME["detach"], (self,))

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

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(f"the truth of a Value of shape {self.shape} is ambiguous: use np.where, or v.data")
        if not self._tape.recording:
            return self.item() != 0.0
        condition = self if self._tape.kind(self._slot) == "b" else self != 0.0
        return bool(condition._item("truth"))

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        if self._tape.recording and not self._tape.finished:
            # Its number would be good for one replay only, and to hold replays to it would make a branch of each.
            return f"Value(<being recorded>, shape={self.shape}{label})"
        self._tape.evaluate()
        if self._layout is None:
            number = float(self._tape.values[self._tape.locate(self._slot)])
            return f"Value({number!r}{label})"
        text = np.array2string(np.array(self._window(self._tape.values)), separator=", ", prefix="Value(")
        kind = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        return f"Value({text}{kind}{label})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self._tape.recording else str(self)



def _given(data: Any, dtype: Any) -> tuple[np.ndarray, np.dtype]:
    if isinstance(data, list | tuple) and _holds_value(data):
        raise CutGradientError("Value([...]) of Values would cut their gradients: use tg.stack([...])")
    refuse_unlike(data, "Value(x)")
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

# What the rest of the library makes Values with.
handle, leaf, as_value = Value._on, Value._leaf, Value._of
apply, structured = Value._apply, Value._structured

"""The numbers of a handle. They are computed when they are first read; reading one while recording records a guard."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import CutGradientError, DTypeError, ShapeError
from tapegrad.ops import BY_NAME
from tapegrad.tape import EXPECT, Tape
from tapegrad.tape.lines import line_here
from tapegrad.value.handle import Handle
from tapegrad.value.numbers import numbers, refuse_unlike


def guard(tape: Tape, slot: int, number: float, what: str) -> None:
    """Hold replays to the number that a slot has; `what` was read, for the message when replays often find another."""
    expected = tape.constant(number)
    tape.reads[tape.scalar(EXPECT, slot, expected, expected)] = (*line_here(2)[:2], what)


def guard_truth(tape: Tape, name: str, a: int, b: int, truth: bool, what: str) -> None:
    """Hold replays to the truth of a comparison of two slots, which is known."""
    guard(tape, tape.scalar(BY_NAME[name].opcode, a, b, b), float(truth), what)


class Reader(Handle):
    """The part of Value that shows numbers and gradients, and takes new ones."""

    __slots__ = ()

    @property
    def data(self) -> Any:
        """Its number, or a read-only array of its numbers. Assigning gives a leaf new numbers.

        Raises InPlaceError when assigned to a result, or inside a recording; ShapeError for another shape.
        """
        return self._read("number")

    @data.setter
    def data(self, data: Any) -> None:
        array = self._accept(data, "data")
        if self.size:
            self._tape.evaluate()
            low, high = self._layout_or_scalar().reach
            place = self._tape.locate(self._slot)
            if self._layout is not None and not self._layout.dense:
                places: Any = self._places()
            else:
                places = slice(place + low, place + high)
            self._tape.edit(self._slot + low, places, array.reshape(-1), high - low)

    def _read(self, what: str) -> Any:
        tape = self._tape
        tape.evaluate()
        if self._layout is None:
            number = float(tape.values[tape.locate(self._slot)])
            if tape.recording and not tape.finished:
                guard(tape, self._slot, number, what)
            return number
        self._freeze(what)
        return numbers(self._window(self._tape.values))

    def _accept(self, data: Any, what: str) -> np.ndarray:
        if isinstance(data, Handle):
            raise CutGradientError(f"assigning a Value to `{what}` would cut its gradient: assign v.data")
        refuse_unlike(data, f"`{what}`")
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
        return self._item("number")

    def _item(self, what: str) -> float:
        if self.size != 1:
            raise ShapeError(f"item() of a Value of shape {self.shape}: it has {self.size} elements, not one")
        return float(np.asarray(self._read(what)).reshape(-1)[0])

    def numpy(self) -> np.ndarray:
        """Its numbers as a plain array of its own."""
        return np.array(self.data, self.dtype)

    def _freeze(self, what: str) -> None:
        # What is recorded next may depend on a number that is read, so a guard checks that replays find the same.
        tape = self._tape
        if tape.recording and not tape.finished:
            for slot in self._slots():
                guard(tape, slot, float(tape.values[tape.locate(slot)]), what)

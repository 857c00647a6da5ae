"""Handles: a tape, a slot and, for arrays, a layout. All parts of `Value` are subclasses of `Handle`.

`Value` is put together from these parts, each a class in a module of its own, which does not import `Value`. So a part
that makes a new Value uses the class of its operands, or the class that it was called on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, TypeVar

import numpy as np

from tapegrad.errors import UnsupportedAttributeError
from tapegrad.layout import FlagLayout, Layout, dense, flags
from tapegrad.tape import Tape

H = TypeVar("H", bound="Handle")

_new = object.__new__
_SCALAR = Layout((), ())


class Handle:
    """What a Value is, without what it does."""

    __slots__ = ("_layout", "_page", "_slot", "_tape")

    _tape: Tape
    _page: Any
    _slot: int
    _layout: Layout | None
    # Whether it is a whole number that was given to a recorded function, or follows from such: see `integer`.
    _is_integer = False

    @classmethod
    def _on(cls, tape: Tape, slot: int, layout: Layout | None) -> Self:
        """A handle to what was just recorded on `tape`. The constructor is not called: it would record a leaf."""
        value = _new(cls)
        value._tape = tape
        value._page = tape.page
        value._slot = slot
        value._layout = layout
        return value

    @classmethod
    def _leaf(cls, tape: Tape, array: np.ndarray, wants_grad: bool = False) -> Self:
        """Given numbers on a tape, which remembers where they were integers or truth values."""
        slot = tape.leaf(array if array.ndim else float(array), array.size, wants_grad)
        layout: Layout | None = dense(array.shape) if array.ndim else None
        if array.ndim and array.dtype.kind in "iub":
            tape.kinds[slot] = "b" if array.dtype.kind == "b" else "i"
        return cls._on(tape, slot, flags(layout) if array.dtype.kind == "b" else layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; () for a scalar."""
        return () if self._layout is None else self._layout.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return 0 if self._layout is None else len(self._layout.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return 1 if self._layout is None else self._layout.size

    @property
    def dtype(self) -> np.dtype:
        """float64 or float32."""
        return self._tape.dtype

    @property
    def tape(self) -> Tape:
        """The tape that it is on."""
        return self._tape

    @property
    def label(self) -> str:
        """A name for pictures, listings and messages."""
        return self._tape.labels.get((self._slot, self.size), "")

    @label.setter
    def label(self, label: str) -> None:
        self._tape.labels[self._slot, self.size] = str(label)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can flow to it."""
        return self._tape.wants_grad(self._slot) if self.size else False

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        raise UnsupportedAttributeError(
            "v.requires_grad cannot be set: it is given when a Value is made, Value(x, requires_grad=False); in a "
            "function, tg.stop_gradient(v) lets no gradient through. To freeze a part of a model, make the optimiser "
            "with the other parts, as optim.Adam(model.head), or give the part a rate of 0, as "
            'optim.Adam(model, groups=[{"params": "body.*", "lr": 0.0}])'
        )

    def _layout_or_scalar(self) -> Layout:
        return self._layout or _SCALAR

    def _window(self, arena: np.ndarray) -> np.ndarray:
        place = self._tape.locate(self._slot) if self.size else 0
        layout = self._layout_or_scalar()
        strides = tuple(s * arena.itemsize for s in layout.strides)
        return np.lib.stride_tricks.as_strided(arena[place:], layout.shape, strides)

    def _places(self) -> np.ndarray:
        return self._tape.locate(self._slot) + self._layout_or_scalar().offsets()

    def _slots(self) -> Iterator[int]:
        layout = self._layout_or_scalar()
        for index in np.ndindex(layout.shape):
            yield self._slot + sum(i * s for i, s in zip(index, layout.strides, strict=True))


def view(of: H, slot: int, layout: Layout | None) -> H:
    """Another handle to the same numbers; nothing is recorded."""
    if of._layout.__class__ is FlagLayout:
        layout = flags(layout)
    value = _new(of.__class__)
    value._tape = of._tape
    value._page = of._page
    value._slot = slot
    value._layout = layout
    return value

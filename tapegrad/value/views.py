"""Values as sequences and arrays: indexing, reshaping, transposing. These make views; only index arrays, and reshaping
where the layout does not allow a view, record an operation."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar, cast

import numpy as np

from tapegrad.errors import InPlaceError, ShapeError, UnsupportedError
from tapegrad.layout import Layout, dense, normalize_axis, reshaped, sliced
from tapegrad.ops import BY_NAME
from tapegrad.value.apply import Recorder, contiguous
from tapegrad.value.gathering import gather, indexed
from tapegrad.value.handle import Handle, view

V = TypeVar("V", bound="Views")


class Views(Recorder):
    """The part of Value that makes views: other shapes and selections of the same numbers."""

    __slots__ = ()

    def __len__(self) -> int:
        if self._layout is None:
            raise TypeError("len() of a scalar Value")
        return self._layout.shape[0]

    def __iter__(self) -> Iterator[Self]:
        if self._layout is None:
            raise TypeError("iteration over a scalar Value")
        return (self[i] for i in range(self._layout.shape[0]))

    def __getitem__(self, index: Any) -> Self:
        layout = self._layout
        if layout is not None and len(layout.shape) == 1:
            # What programs do most: one number, or a slice, of a vector.
            if type(index) is int:
                n = layout.shape[0]
                if -n <= index < n:
                    return view(self, self._slot + (index % n) * layout.strides[0], None)
            elif index.__class__ is slice:
                offset, part = sliced(layout, *index.indices(layout.shape[0]))
                return view(self, self._slot + offset, part)
        return _index(self, index)

    @property
    def T(self) -> Self:
        """The axes in reverse order."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Self:
        """The axes in another order, reversed by default. A view."""
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
            axes = tuple(axes[0] or ())
        layout = self._layout_or_scalar()
        ndim = len(layout.shape)
        order = tuple(normalize_axis(a, ndim, "transpose") for a in axes) if axes else tuple(reversed(range(ndim)))
        if sorted(order) != list(range(ndim)):
            raise ShapeError(f"transpose: axes {axes} are no order of the {ndim} axes of shape {layout.shape}")
        if self._layout is None:
            return self
        return view(self, self._slot, Layout(
            tuple(layout.shape[a] for a in order), tuple(layout.strides[a] for a in order)))

    def tolist(self) -> Any:
        """Its numbers as nested lists; inside a recorded function, where numbers would have no gradient, its elements.

        Truth values and integers, which have none, are numbers there too, held by guards.
        """
        tape = self._tape
        if tape.recording and not tape.finished and self.size and not tape.kind(self._slot):
            return self if self._layout is None else [row.tolist() for row in self]
        return self.numpy().tolist()

    def flatten(self, order: str = "C") -> Self:
        """A copy with one axis."""
        flat = contiguous(self).reshape(-1, order=order)
        return flat._apply(BY_NAME["copy"], (flat,))

    def reshape(self, *shape: Any, order: str = "C") -> Self:
        """Another shape of the same size; one length may be -1. A view where the layout allows, else a copy.

        Elements are read and put in row-major order, or, where `order` is "F", in column-major order. Raises ShapeError
        for a shape of another size, UnsupportedError for other orders.
        """
        if len(shape) == 1 and isinstance(shape[0], Sequence):
            shape = tuple(shape[0])
        if order == "F":
            return self.transpose().reshape(*shape[::-1]).transpose()
        if order != "C":
            raise UnsupportedError(
                f"the order of elements must be 'C' or 'F', not {order!r}: how a Value lies in memory is not its own"
            )
        wanted = [operator.index(n) for n in shape]
        if wanted.count(-1) == 1:
            rest = math.prod(n for n in wanted if n != -1)
            if rest and self.size % rest == 0:
                wanted[wanted.index(-1)] = self.size // rest
        if any(n < 0 for n in wanted) or math.prod(wanted) != self.size:
            raise ShapeError(f"reshape: shape {self.shape} of {self.size} elements cannot become {tuple(shape)}")
        if not wanted:
            return view(self, self._slot, None)
        layout = reshaped(self._layout_or_scalar(), tuple(wanted))
        if layout is None:
            return view(copied := contiguous(self), copied._slot, dense(tuple(wanted)))
        return view(self, self._slot, layout)

    def _strided(self, offset: int, shape: Sequence[int], strides: Sequence[int]) -> Self:
        """A view by strides, from `offset` on, of the elements in row-major order."""
        dense_self = contiguous(self)
        return view(dense_self, dense_self._slot + offset, Layout(tuple(shape), tuple(strides)) if len(shape) else None)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise InPlaceError(
            "a Value cannot be changed in place: use np.where or np.concatenate, assign to `data` of a leaf, or work "
            "with an object array of scalar Values"
        )


def _index(value: V, index: Any) -> V:
    """Basic indexing, a view; index arrays gather."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, Handle) and p._is_integer for p in parts):
        return _by_integers(value, parts)
    if any(isinstance(p, list | np.ndarray | Handle) for p in parts):
        return indexed(value, parts)
    layout = value._layout_or_scalar()
    given = sum(p is not None and p is not Ellipsis for p in parts)
    if given > len(layout.shape):
        raise ShapeError(f"{given} indices for a Value of {len(layout.shape)} dimensions (shape {layout.shape})")
    slot, shape, strides = value._slot, [], []
    axis = 0
    for part in _without_ellipsis(parts, len(layout.shape) - given):
        if part is None:
            shape.append(1)
            strides.append(0)
            continue
        n, stride = layout.shape[axis], layout.strides[axis]
        if isinstance(part, slice):
            start, stop, step = part.indices(n)
            length = len(range(start, stop, step))
            if length:
                slot += start * stride
            shape.append(length)
            strides.append(step * stride)
        else:
            try:
                i = operator.index(part)
            except TypeError:
                if isinstance(part, Sequence) and not isinstance(part, str):
                    return indexed(value, tuple(np.asarray(p) if isinstance(p, Sequence) else p for p in parts))
                raise UnsupportedError(f"a Value cannot be indexed by {type(part).__name__}") from None
            if isinstance(part, bool | np.bool_):
                raise UnsupportedError("a Value cannot be indexed by a single boolean")
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of range for axis {axis} of size {n}")
            slot += (i % n) * stride
        axis += 1
    return view(value, slot, Layout(tuple(shape), tuple(strides)) if shape else None)


def _by_integers(value: V, parts: tuple[Any, ...]) -> V:
    """Indexing where some parts are whole numbers on the tape: replays may find other elements there."""
    if any(isinstance(p, list | np.ndarray) or (isinstance(p, Handle) and not p._is_integer) for p in parts):
        return indexed(value, tuple(operator.index(cast(Any, p)) if isinstance(p, Handle) else p for p in parts))
    layout = value._layout_or_scalar()
    given = sum(p is not None and p is not Ellipsis for p in parts)
    if given > len(layout.shape):
        raise ShapeError(f"{given} indices for a Value of {len(layout.shape)} dimensions (shape {layout.shape})")
    parts = tuple(_without_ellipsis(parts, len(layout.shape) - given))
    value = _index(value, tuple(slice(None) if isinstance(p, Handle) else p for p in parts))
    # Numbers among the parts take an axis away.
    parts = tuple(p for p in parts if p is None or isinstance(p, slice | Handle))
    for axis in reversed([i for i, p in enumerate(parts) if isinstance(p, Handle)]):
        shape, index = value.shape, parts[axis]
        if not -shape[axis] <= index < shape[axis]:
            raise IndexError(f"index {index} is out of range for axis {axis} of size {shape[axis]}")
        n, rest = shape[axis], (*shape[:axis], *shape[axis + 1 :])
        value = gather(value, index, math.prod(shape[:axis]), n, math.prod(shape[axis + 1 :]), rest)
    return value


def _without_ellipsis(parts: tuple[Any, ...], missing: int) -> list[Any]:
    whole = [slice(None)] * missing
    if any(p is Ellipsis for p in parts):
        if sum(p is Ellipsis for p in parts) > 1:
            raise IndexError("an index can have only one ellipsis")
        i = next(i for i, p in enumerate(parts) if p is Ellipsis)
        return [*parts[:i], *whole, *parts[i + 1 :]]
    return [*parts, *whole]

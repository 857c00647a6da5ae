"""Shapes and strides of views on the arena, in elements. A view is an offset and a layout; nothing is copied."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError

# Layouts of each class that are remembered; programs have far fewer.
_REMEMBERED = 1 << 13


class Layout:
    """Shape and strides (in elements) of an array of Values. A scalar has none (None stands for it).

    The same shape and strides give the same object mostly, so that what follows from layouts can be remembered too.

    Attributes:
        size: the number of elements.
        dense: whether the elements stand in row-major order without gaps.
        reach: the offsets, from the first element, of the lowest element and past the highest.
    """

    __slots__ = ("dense", "reach", "shape", "size", "strides")

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    dense: bool
    reach: tuple[int, int]

    @functools.lru_cache(_REMEMBERED)  # type: ignore[misc]
    def __new__(cls, shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout:
        made = object.__new__(cls)
        # This is remembered for equal shapes, and integers of NumPy are equal to Python's: keep only the latter.
        made.shape, made.strides = tuple(map(int, shape)), tuple(map(int, strides))
        made.size = math.prod(made.shape)
        made.dense = is_dense(made.shape, made.strides)
        made.reach = _reach(made.shape, made.strides)
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape}, {self.strides})"

    def __reduce__(self) -> Any:
        return type(self), (self.shape, self.strides)

    def offsets(self) -> np.ndarray:
        """The offset of each element from the first, in row-major order."""
        found = np.zeros(self.shape, np.int64)
        for axis, (n, s) in enumerate(zip(self.shape, self.strides, strict=True)):
            found += (np.arange(n) * s).reshape([-1 if i == axis else 1 for i in range(len(self.shape))])
        return found.reshape(-1)


class FlagLayout(Layout):
    """The layout of an array of truth values, on which arithmetic is logic, as it is in NumPy."""

    __slots__ = ()


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    if 0 in shape:
        return 0, 0
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    return sum(s for s in steps if s < 0), 1 + sum(s for s in steps if s > 0)


def flags(layout: Layout | None) -> Layout | None:
    """The same layout, of truth values."""
    return None if layout is None else FlagLayout(layout.shape, layout.strides)


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides of a shape."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether the elements stand in row-major order without gaps; strides of axes of length 1 do not matter."""
    step = 1
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n == 0:
            return True
        if n != 1 and s != step:
            return False
        step *= n
    return True


def dense(shape: Sequence[int]) -> Layout:
    """The row-major layout of a shape."""
    return Layout(tuple(shape), dense_strides(shape))


@functools.lru_cache(_REMEMBERED)
def sliced(layout: Layout, start: int, stop: int, step: int) -> tuple[int, Layout]:
    """A slice of the only axis, its bounds as `slice.indices` gives them: the first element's offset, and a layout."""
    (stride,) = layout.strides
    length = len(range(start, stop, step))
    return start * stride if length else 0, Layout((length,), (step * stride,))


def normalize_axis(axis: Any, ndim: int, what: str) -> int:
    """An axis from 0 to ndim - 1. Raises ShapeError naming the operation."""
    try:
        index = operator.index(axis)
    except TypeError:
        raise ShapeError(f"{what}: an axis must be an integer, not {axis!r}") from None
    if not -ndim <= index < ndim:
        raise ShapeError(f"{what}: axis {index} is out of range for an array of {ndim} dimensions")
    return index % ndim


def normalize_axes(axis: Any, ndim: int, what: str) -> tuple[int, ...]:
    """Axes as a sorted tuple without repeats; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and 0 <= axis < ndim:
        return (axis,)
    axes = tuple(normalize_axis(a, ndim, what) for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what}: an axis is named twice in {axis!r}")
    return tuple(sorted(axes))


def broadcast_shapes(shapes: Sequence[tuple[int, ...]], what: str) -> tuple[int, ...]:
    """The common shape by NumPy's rules. Raises ShapeError naming the operation and all shapes."""
    ndim = max(map(len, shapes))
    result = []
    for axis in range(-ndim, 0):
        sizes = {shape[axis] for shape in shapes if -axis <= len(shape)} - {1}
        if len(sizes) > 1:
            given = " and ".join(map(str, shapes))
            raise ShapeError(f"{what}: shapes {given} do not broadcast (axis {axis} has sizes {sorted(sizes)})")
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def broadcast_strides(layout: Layout | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides that show a layout as the larger `shape`: 0 along broadcast axes."""
    if layout is None:
        return (0,) * len(shape)
    extra = len(shape) - len(layout.shape)
    own = tuple(
        0 if n == 1 and m != 1 else s
        for n, s, m in zip(layout.shape, layout.strides, shape[extra:], strict=True)
    )
    return (0,) * extra + own


def merge_axes(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple[list[int], list[list[int]]]:
    """Fewest axes over which the same elements are met in the same order, for all operands at once."""
    kept: list[int] = []
    merged: list[list[int]] = [[] for _ in strides]
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        if kept and all(m[-1] == s[axis] * n for m, s in zip(merged, strides, strict=True)):
            kept[-1] *= n
            for m, s in zip(merged, strides, strict=True):
                m[-1] = s[axis]
        else:
            kept.append(n)
            for m, s in zip(merged, strides, strict=True):
                m.append(s[axis])
    if not kept:
        return [1], [[0] for _ in strides]
    return kept, merged


def reshaped(layout: Layout, shape: tuple[int, ...]) -> Layout | None:
    """The layout seen as another shape of the same size, or None where that takes a copy."""
    if layout.size <= 1 or layout.dense:
        return dense(shape)
    old, (strides,) = merge_axes(layout.shape, [layout.strides])
    result: list[int] = []
    axis, left = 0, old[0]
    # Each old axis must be the product of consecutive new ones.
    for n in shape:
        if n == 1:
            result.append(0)
            continue
        while left == 1 and axis + 1 < len(old):
            axis += 1
            left = old[axis]
        if left % n:
            return None
        left //= n
        result.append(strides[axis] * left)
    return Layout(shape, tuple(result))

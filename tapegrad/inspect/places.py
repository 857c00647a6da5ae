"""Views in the user's notation: the part of an array that an operand is, `[1]`, `[:, 2]`, `[10:16]` or `.T`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tapegrad.layout import dense_strides, merge_axes

# (length, stride) of each axis that tells elements apart.
_Axes = list[tuple[int, int]]


def part(shape: Sequence[int], offset: int, axes: _Axes, bounds: bool = False) -> str:
    """What to write behind the name of a dense array of `shape` for a view into it.

    Args:
        shape: the array's.
        offset: of the view's first element from the array's, in elements.
        axes: the view's, as (length, stride).
        bounds: write both bounds of every slice, those at the array's ends too.

    >>> part((5,), 2, []), part((5,), 1, [(3, 1)]), part((5,), 4, [(5, -1)]), part((5,), 0, [(5, 1)])
    ('[2]', '[1:4]', '[::-1]', '')
    >>> part((2, 3), 5, []), part((2, 3), 3, [(3, 1)]), part((2, 3), 1, [(2, 3)])
    ('[1, 2]', '[1]', '[:, 1]')
    >>> part((2, 3), 0, [(3, 1), (2, 3)]), part((2, 3), 1, [(4, 1)])
    ('.T', '.flat[1:5]')
    """
    axes = [(n, s) for n, s in axes if n > 1 and s]
    ordered = sorted(axes, key=lambda axis: -abs(axis[1]))
    turned = "" if ordered == axes else ".T" if ordered == axes[::-1] else ".transpose(...)"
    if axes:
        lengths, (strides,) = merge_axes(tuple(n for n, _ in ordered), [tuple(s for _, s in ordered)])
        ordered = list(zip(lengths, strides, strict=True))
    if offset == 0 and ordered == [(math.prod(shape), 1)]:
        return turned
    index = _index(tuple(shape), offset, ordered, bounds)
    if index is None:
        index = _index((math.prod(shape),), offset, ordered, bounds)
        where = ".flat"
    else:
        where = ""
    if index is None:
        last = offset + sum((n - 1) * s for n, s in ordered)
        return f"{where}[{min(offset, last)}:{max(offset, last) + 1}, strided]{turned}"
    return f"{where}[{', '.join(index)}]{turned}"


def _index(shape: tuple[int, ...], offset: int, axes: _Axes, bounds: bool) -> list[str] | None:
    """An index or slice for each axis of the array, whole axes at the end left out; None where none would do."""
    strides = dense_strides(shape)
    start = [offset // step % n if n else 0 for n, step in zip(shape, strides, strict=True)]
    index = [str(i) for i in start]
    whole = set()
    for n, stride in _split(shape, strides, axes):
        axis = next((a for a, step in enumerate(strides) if shape[a] > 1 and abs(stride) % step == 0), None)
        if axis is None or axis in whole or ":" in index[axis]:
            return None
        step = stride // strides[axis]
        last = start[axis] + (n - 1) * step
        if not 0 <= last < shape[axis]:
            return None
        first, stop = str(start[axis]), str(last + (1 if step > 0 else -1))
        beginning, end = (0, shape[axis] - 1) if step > 0 else (shape[axis] - 1, 0)
        if start[axis] == beginning and not bounds:
            first = ""
        if not 0 <= last + step < shape[axis] and (not bounds or last == end == 0):
            stop = ""
        index[axis] = f"{first}:{stop}" + (f":{step}" if step != 1 else "")
        if index[axis] == ":":
            whole.add(axis)
    while len(index) > 1 and index[-1] == ":":
        index.pop()
    return index


def _split(shape: tuple[int, ...], strides: tuple[int, ...], axes: _Axes) -> _Axes:
    # An axis that runs on over the ends of rows is several axes of the array, merged.
    result: _Axes = []
    for n, stride in axes:
        inner: _Axes = []
        for a in range(len(shape) - 1, 0, -1):
            step, rest = divmod(abs(stride), strides[a])
            if rest or not step or shape[a] % step:
                continue
            across = shape[a] // step
            if across > 1 and n > across and n % across == 0:
                inner.insert(0, (across, stride))
                n, stride = n // across, stride * across
        result += [(n, stride), *inner]
    return result

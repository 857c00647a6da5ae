"""Indexing by arrays: of indices, of flags, or of indices that are numbers on the tape themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tapegrad.errors import IntegerInputError, ShapeError
from tapegrad.layout import FlagLayout
from tapegrad.value.apply import R, Recorder, contiguous
from tapegrad.value.numbers import refuse_unlike


def gather(x: R, indices: Any, outer: int, size: int, inner: int, shape: Sequence[int]) -> R:
    """Of x, seen as (outer, size, inner), the elements at the indices of the middle axis; indices are a Value."""
    if x.dtype == np.float32 and size > 2**24:
        raise ShapeError(f"a float32 tape cannot index {size} elements: whole numbers above 2**24 are not exact there")
    params = [outer, size, inner, indices.size]
    return x._structured("gather", x._tape, shape, [contiguous(x), contiguous(indices)], params)


def gather_flat(x: R, places: np.ndarray) -> R:
    """The elements at positions counted in row-major order, in the shape of these positions."""
    return gather(x, x._leaf(x._tape, places), 1, x.size, 1, places.shape)


def indexed(x: R, parts: tuple[Any, ...]) -> R:
    """x[parts] where a part is an array of indices or flags."""
    parts = tuple(_flags(p) if isinstance(p, Recorder) else np.asarray(p) if isinstance(p, list) else p for p in parts)
    for p in parts:
        refuse_unlike(p, "an index")
        if isinstance(p, np.ndarray) and p.dtype.kind not in "iub" and p.size:
            raise IntegerInputError(f"index arrays must be integers or booleans, not {p.dtype}")
    if any(isinstance(p, Recorder) for p in parts):
        return _by_values(x, parts)
    if len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].dtype.kind in "iu" and x.ndim > 1:
        index = parts[0]
        n = x.shape[0]
        if index.size and not (-n <= index.min() and index.max() < n):
            raise IndexError(f"an index is out of range for axis 0 of size {n}")
        inner = math.prod(x.shape[1:])
        return gather(x, x._leaf(x._tape, index), 1, n, inner, (*index.shape, *x.shape[1:]))
    places = np.arange(x.size).reshape(x.shape)[tuple(p.astype(int) if _empty(p) else p for p in parts)]
    return gather_flat(x, places)


def _empty(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.size == 0 and part.dtype.kind == "f"


def _flags(index: Recorder) -> Any:
    """A Value as an index. Truth values become an array of flags, and a guard checks that replays find the same ones;
    integers stay a Value, so that replays may find other ones."""
    kind = index._tape.kind(index._slot) if index.size else "i"
    if kind == "b" or isinstance(index._layout, FlagLayout):
        return index.numpy() != 0.0
    if kind != "i":
        raise IntegerInputError(
            "a Value of floats cannot index: an index on the tape is a comparison, or an array that was given as "
            "integers; else write int(v) for one number, v.astype(int) for more"
        )
    return index


def _by_values(x: R, parts: tuple[Any, ...]) -> R:
    """Some parts are Values of integers: replays may find other numbers there.

    As in NumPy, the axes of the indices stand where these stood, or in front if something is between them.
    """
    parts = tuple(q for p in parts for q in (np.nonzero(p) if _is_mask(p) else (p,)))
    given = sum(p is not None and p is not Ellipsis for p in parts)
    if given > x.ndim or sum(p is Ellipsis for p in parts) > 1:
        raise IndexError(f"{given} indices for a Value of {x.ndim} dimensions (shape {x.shape})")
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    parts = (*parts[:at], *[slice(None)] * (x.ndim - given), *parts[at + 1 :])
    chosen = [i for i, p in enumerate(parts) if p is not None and not isinstance(p, slice)]
    # Slices and new axes make a view; then each part belongs to one axis.
    seen: Any = cast(Any, x)[tuple(slice(None) if i in chosen else p for i, p in enumerate(parts))]
    together = chosen == list(range(chosen[0], chosen[-1] + 1))
    first = chosen[0] if together else 0
    if not together:
        seen = seen.transpose(*chosen, *(i for i in range(seen.ndim) if i not in chosen))
    lengths = seen.shape[first : first + len(chosen)]
    before, after = seen.shape[:first], seen.shape[first + len(chosen) :]
    flat: Any = None
    for n, i in zip(lengths, chosen, strict=True):
        part = parts[i]
        index: Any = x._of(part if isinstance(part, Recorder) else np.asarray(part, x.dtype)[()], x._tape, "index")
        if len(chosen) == 1:
            flat = index
            break
        ok = np.logical_and(index >= -n, index < n)
        here = np.where(ok, np.where(index < 0, index + float(n), index), np.nan)
        flat = here if flat is None else flat * float(n) + here
    shape = (*before, *flat.shape, *after)
    return gather(seen, flat, math.prod(before), math.prod(lengths), math.prod(after), shape)


def _is_mask(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype.kind == "b" and part.ndim > 0

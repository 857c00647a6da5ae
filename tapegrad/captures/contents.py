"""Whether arrays and collections were changed in place: a checksum of every stretch of them, compared a stretch at a
time."""

from __future__ import annotations

import operator
import weakref
import zlib
from typing import Any, Protocol

import numpy as np

# Bytes of an array that are compared at a time: about ten microseconds.
_STRETCH = 1 << 15
# Elements of a collection that are compared at a time.
_ELEMENTS = 1 << 10


class Content(Protocol):
    """What something holds. `version` grows when it is found changed; `stretches` is how many there are to look at."""

    version: int
    stretches: int

    def look(self, i: int) -> None:
        """Compare a stretch, and remember what it is now."""


class _Array:
    """The numbers of an array, which is not kept alive."""

    def __init__(self, array: np.ndarray) -> None:
        self.version = 0
        key = id(array)
        self._array = weakref.ref(array, lambda _: _known.pop(key, None))
        self._step = max(1, _STRETCH // max(1, array.itemsize))
        self.stretches = -(-array.size // self._step)
        self._sums: list[int | None] = [None] * self.stretches

    def look(self, i: int) -> None:
        array = self._array()
        if array is None:
            return
        start, stop = i * self._step, (i + 1) * self._step
        # A view where the elements stand side by side, else a copy of this stretch.
        whole: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
        found = zlib.crc32(np.ascontiguousarray(whole[start:stop]).view(np.uint8).data)
        if self._sums[i] is not None and self._sums[i] != found:
            self.version += 1
        self._sums[i] = found


class _Collection:
    """The elements of a list, dict, set or the like, told apart by identity, numbers by value.

    A list is compared a stretch at a time; of the others no stretch can be had alone, so they are compared as a whole.
    """

    def __init__(self, elements: Any) -> None:
        self.version = 0
        self._of = elements
        self._is_list = isinstance(elements, list | tuple)
        self._seen = self._now(slice(None))
        self.stretches = 1 + len(self._seen) // _ELEMENTS if self._is_list else 1

    def _now(self, part: slice) -> list[Any]:
        if self._is_list:
            return list(self._of[part])
        found = self._of.reshape(-1).tolist() if isinstance(self._of, np.ndarray) else list(self._of)
        return found + [self._of[key] for key in found] if isinstance(self._of, dict) else found

    def look(self, i: int) -> None:
        if self._is_list and len(self._of) != len(self._seen):
            self.version += 1
            self._seen = self._now(slice(None))
            self.stretches = 1 + len(self._seen) // _ELEMENTS
            return
        part = slice(i * _ELEMENTS, (i + 1) * _ELEMENTS) if self._is_list else slice(None)
        now, seen = self._now(part), self._seen[part]
        if len(now) == len(seen) and all(map(operator.is_, now, seen)):
            return
        if len(now) != len(seen) or not all(map(same, now, seen)):
            self.version += 1
        self._seen[part] = now


# The same array may be captured by many functions.
_known: dict[int, _Array] = {}


def content_of(x: Any) -> Content:
    """What an array or collection holds, looked at once."""
    if not isinstance(x, np.ndarray) or x.dtype.hasobject:
        return _Collection(x)
    known = _known.get(id(x))
    if known is None or known._array() is not x:
        known = _known[id(x)] = _Array(x)
    return known


def same(a: Any, b: Any) -> bool:
    """Whether two objects are one, or equal numbers or strings of one type: then nobody can tell one from the other."""
    if a is b:
        return True
    if type(a) is not type(b) or not isinstance(a, int | float | complex | str | bytes | np.generic):
        return False
    if a == b:
        # 0.0 and -0.0 are equal, and so are complex numbers with these as parts; functions tell them apart.
        return bool(a and not isinstance(a, complex | np.complexfloating)) or repr(a) == repr(b)
    return bool(a != a and b != b)

"""Which line of the user's code recorded which instruction, noted while somebody looks for a fault.

Walking up the stack takes longer than recording an operation, so it is done only where that is asked for. A tape
appends to its buffer by `push`, which is the method `extend` of a list. While lines are noted the buffer is a list of
another class, whose `extend` looks up the line first; otherwise nothing at all is done for lines.

Slots are numbers that are never used again. So a line is noted for the slot from which on it holds, and only where it
is another one than before: a loop over a million elements on one line is one note.
"""

from __future__ import annotations

import linecache
import sys
import sysconfig
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

# Code that is not the user's: this package, Python's own modules, and packages that are called with Values, or call
# functions of them.
_OTHERS = {"numpy", "scipy", "optree", "opt_einsum", "numba"}
_OWN, _PYTHON = Path(__file__).parents[1], Path(sysconfig.get_paths()["stdlib"])
_foreign: dict[str, bool] = {}
# So many places in code are remembered with their lines.
_MOST_KNOWN = 1 << 16


class Line(NamedTuple):
    """A line of the user's code.

    Attributes:
        file: the file's name, as Python has it.
        number: the line.
        function: the function that it is in.
    """

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        within = "" if self.function.startswith("<module") else f", in {self.function}"
        return f"{self.file}:{self.number}{within}"

    @property
    def source(self) -> str:
        """What stands on it; "" where that cannot be read."""
        return linecache.getline(self.file, self.number).strip()


# Stands for the line of an instruction where that is not known.
_UNKNOWN = Line("", 0, "")


def is_foreign(file: str) -> bool:
    """Whether a file is part of this package or of one that stands between it and the user."""
    found = _foreign.get(file)
    if found is None:
        path = Path(file)
        if {"site-packages", "dist-packages"}.isdisjoint(path.parts):
            found = path.is_relative_to(_OWN) or path.is_relative_to(_PYTHON) or file.startswith("<frozen")
        else:
            found = path.is_relative_to(_OWN) or not _OTHERS.isdisjoint(path.parts)
        _foreign[file] = found
    return found


# The lines of places in code, as far as they were asked for, with the code: its number is its own while it is kept.
_known: dict[tuple[int, int], tuple[Line, Any]] = {}


def line_here(depth: int = 1) -> Line:
    """The line of the innermost caller that is the user's code, `depth` frames up or further."""
    frame: Any = sys._getframe(depth)
    # Most files were met before.
    while _foreign.get(frame.f_code.co_filename, True):
        if not is_foreign(frame.f_code.co_filename) or frame.f_back is None:
            break
        frame = frame.f_back
    code = frame.f_code
    # Looking up a place is several times as fast as finding its line.
    found = _known.get((id(code), frame.f_lasti))
    if found is None:
        if len(_known) > _MOST_KNOWN:
            _known.clear()
        line = Line(code.co_filename, frame.f_lineno, code.co_qualname)
        found = _known[id(code), frame.f_lasti] = line, code
    return found[0]


class Notes:
    """The lines that recorded what is on a tape."""

    def __init__(self) -> None:
        # From slot number `_first[i]` on, it was line number `_which[i]` of the list.
        self._first: list[int] = []
        self._which: list[int] = []
        self._lines: list[Line] = []
        self._numbers: dict[Line, int] = {}
        self._last: Line | None = None

    def note(self, slot: int, line: Line | None) -> None:
        """What has this slot and later ones was recorded by a line; None where that is not known."""
        if line is self._last and line is not None:
            return
        self._last = line
        number = -1 if line is None else self._numbers.get(line)
        if number is None and line is not None:
            number = self._numbers[line] = len(self._lines)
            self._lines.append(line)
        if number is not None and (not self._which or self._which[-1] != number):
            # The line first: whoever looks meanwhile finds a slot only with its line.
            self._which.append(number)
            self._first.append(slot)

    def at(self, slot: int) -> Line | None:
        """The line that recorded a slot, None if that is not known."""
        i = bisect_right(self._first, slot) - 1
        return self._lines[self._which[i]] if i >= 0 and self._which[i] >= 0 else None

    def of(self, slots: np.ndarray) -> Lines:
        """The lines that recorded some slots."""
        i = np.searchsorted(self._first, slots, "right") - 1
        which = np.append(self._which, -1).astype(np.int32)
        return Lines(tuple(self._lines), which[i])

    def keep(self, first: Sequence[int], ends: Sequence[int]) -> None:
        """Forget the notes on all slots but those from first[i] up to ends[i]."""
        stops = [*self._first[1:], 1 << 62]
        kept = []
        for i, (low, high) in enumerate(zip(self._first, stops, strict=False)):
            at = bisect_left(ends, low + 1)
            if at < len(first) and first[at] < high:
                kept.append(i)
        self._first, self._which = [self._first[i] for i in kept], [self._which[i] for i in kept]
        self._last = None


class Lines(NamedTuple):
    """The line that recorded each instruction of a program.

    Attributes:
        lines: all of them.
        which: for each instruction the number of its line, -1 where it is not known.
    """

    lines: tuple[Line, ...]
    which: np.ndarray

    def of(self, row: int) -> Line | None:
        """The line of an instruction."""
        number = int(self.which[row])
        return self.lines[number] if number >= 0 else None


class _Buffer(list[int]):
    """The buffer of a tape that notes lines."""

    __slots__ = ("notes",)

    def __init__(self, numbers: Iterable[int], notes: Notes) -> None:
        super().__init__(numbers)
        self.notes = notes

    def extend(self, rows: Any) -> None:
        """Append instructions, five numbers each, of which the second is the slot."""
        self.notes.note(rows[1], _told() if _noting.line else line_here(2))
        super().extend(rows)

    def __getitem__(self, at: SupportsIndex | slice) -> Any:
        # What is left of the buffer when a part of it was written is the next buffer.
        return _Buffer(super().__getitem__(at), self.notes) if isinstance(at, slice) else super().__getitem__(at)


class _Noting(threading.local):
    def __init__(self) -> None:
        self.on = False
        # The line that stands for whatever is recorded now, in place of that of the caller.
        self.line: Line | None = None


_noting = _Noting()


def _told() -> Line | None:
    """The line that stands for what is recorded, None where that is not known."""
    return None if _noting.line is _UNKNOWN else _noting.line


# The notes of tapes that are not noted any more.
_left: weakref.WeakKeyDictionary[Any, Notes] = weakref.WeakKeyDictionary()


def buffer() -> list[int]:
    """An empty buffer for a new tape."""
    return _Buffer((), Notes()) if _noting.on else []


def notes_of(tape: Any) -> Notes | None:
    """What was noted of a tape; None if nothing ever was."""
    own = tape._buffer
    return own.notes if isinstance(own, _Buffer) else _left.get(tape)


def begin(tapes: Iterable[Any]) -> bool:
    """Note lines from now on: in all tapes that this thread makes, and in these. Returns whether it was done before."""
    before, _noting.on = _noting.on, True
    for tape in tapes:
        if not isinstance(tape._buffer, _Buffer):
            own = _Buffer(tape._buffer, notes_of(tape) or Notes())
            tape._buffer, tape.push = own, own.extend
    return before


def end(tapes: Iterable[Any], before: bool = False) -> None:
    """Note lines no more, unless that was done `before`. What was noted stays known."""
    _noting.on = before
    for tape in tapes if not before else ():
        if isinstance(tape._buffer, _Buffer):
            _left[tape] = notes = tape._buffer.notes
            # What is recorded from here on has no line that is known.
            notes.note(tape.top, None)
            own = list(tape._buffer)
            tape._buffer, tape.push = own, own.extend


def written(tape: Any, slot: int) -> None:
    """Note the line by which instructions are written past the buffer, from a slot on."""
    if isinstance(tape._buffer, _Buffer):
        tape._buffer.notes.note(slot, _told() if _noting.line else line_here(2))


def copied(tape: Any, slots: np.ndarray, lines: Lines | None, rows: np.ndarray) -> None:
    """Note for instructions that are copies of others the lines of these: slots[i] is that of a copy of rows[i]."""
    if isinstance(tape._buffer, _Buffer):
        for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
            tape._buffer.notes.note(slot, None if lines is None else lines.of(row))


def on_behalf(line: Line | None) -> AbstractContextManager[None]:
    """A block in which a line stands for whatever is recorded: a derivative of what that line has recorded. With None,
    which `stretches` has where no lines are noted, it changes nothing."""
    return _NOTHING if line is None else _standing(line)


_NOTHING: AbstractContextManager[None] = nullcontext()


@contextmanager
def _standing(line: Line) -> Iterator[None]:
    before, _noting.line = _noting.line, line
    try:
        yield
    finally:
        _noting.line = before


def stretches(tape: Any, slots: np.ndarray, low: int, high: int) -> list[tuple[int, int, Line | None]]:
    """Of instructions number `low` up to `high`, whose slots are given by number, those that one line has recorded at a
    time, with that line; all of them together where no lines are noted."""
    own = tape._buffer
    if not isinstance(own, _Buffer) or low == high:
        return [(low, high, None)]
    found = own.notes.of(slots[low:high])
    cuts = [0, *(np.flatnonzero(np.diff(found.which)) + 1).tolist(), high - low]
    return [(low + i, low + j, found.of(i) or _UNKNOWN) for i, j in pairwise(cuts)]


def line_of(tape: Any, place: int) -> Line | None:
    """The line that recorded what stands at a place of a tape, None if that is not known."""
    notes = notes_of(tape)
    return None if notes is None else notes.at(int(tape.addresses.slots_of(np.array([place]))[0]))

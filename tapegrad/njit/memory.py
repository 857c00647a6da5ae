"""The tape of one call of a Numba function: two arrays that grow while compiled code appends to them.

A row is a number that depends on what is differentiated. What stands in it, by the kind of the tape: the rows of two
operands and the partial derivatives by them; or an opcode with the rows of three operands, and a number. Compiled code
has the address of the header, five words: how many rows there are, how many fit, where the two arrays stand, and the
function that makes room. That function is Python, so the arrays are NumPy's, and nothing leaks whatever is raised.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from tapegrad.program.memory import memory

LENGTH, CAPACITY, LINKS, NUMBERS, GROW = range(5)

# Row 0 stands for every constant.
FIRST = 1
_AT_FIRST = 4096
# A tape that was larger is not kept for the next call.
_KEPT = 1 << 22
# Rows are numbered in 32 bits.
_MOST = 2**31 - 1
_DOUBLE = np.dtype(np.float64)


class Tape:
    """One tape; `partials` says what its rows hold."""

    def __init__(self, partials: bool) -> None:
        self.partials = partials
        self.widths = (2, 2) if partials else (4, 1)
        self.links = np.zeros((_AT_FIRST, self.widths[0]), np.uint32)
        self.numbers = np.zeros((_AT_FIRST, self.widths[1]))
        self.adjoints = np.zeros(_AT_FIRST)
        # What was raised when there was to be more room.
        self.failed: BaseException | None = None
        # What stands in place of the steps of some loops; see `kept_loops`.
        self.loops: list[Any] = []
        self._frames: dict[Any, Any] = {}
        # Whoever keeps a tape for later sweeps may be asked for these by several threads.
        self.lock = threading.Lock()
        self.header = np.zeros(5, np.int64)
        self.address = self.header.ctypes.data
        self._describe()

    def _describe(self) -> None:
        self.header[1:] = len(self.links), self.links.ctypes.data, self.numbers.ctypes.data, _grow_address

    @property
    def length(self) -> int:
        """How many rows there are."""
        return int(self.header[LENGTH])

    def begin(self) -> None:
        """Forget all rows but the first."""
        self.failed = None
        self.loops = []
        self.header[LENGTH] = FIRST

    def grow(self) -> None:
        """Make room for twice as many rows. Raises MemoryError."""
        length = len(self.links)
        bytes_each = 4 * self.widths[0] + 8 * self.widths[1] + 8
        longer = min(2 * length, _MOST, memory.limit // bytes_each)
        if longer <= length:
            raise MemoryError
        links = np.empty((longer, self.widths[0]), np.uint32)
        numbers = np.empty((longer, self.widths[1]))
        links[:length], numbers[:length] = self.links, self.numbers
        self.links, self.numbers = links, numbers
        self._frames.clear()
        self._describe()

    def cleared(self, count: int) -> np.ndarray:
        """Room for so many adjoints, which are zero."""
        if len(self.adjoints) < count:
            self.adjoints = np.zeros(max(count, len(self.links)))
            self._frames.clear()
        else:
            self.adjoints[:count] = 0.0
        return self.adjoints


    def sweep(self, loop: Any, first: int, last: int) -> None:
        """Run a loop of `sweeps` over the rows from `first` on, up to `last`, and the adjoints."""
        frame = self._frames.get(loop)
        if frame is None:
            frame = self._frames[loop] = loop.frame(self.links, self.numbers, self.adjoints, first, last)
        frame.words[-2], frame.words[-1] = first, last
        loop.run(frame, _DOUBLE)


_growing: dict[int, Tape] = {}


def _grow(address: int) -> int:
    # 1 where there is room now. Of what is raised before the first line here, an interrupt say, ctypes makes 0.
    tape = _growing[address]
    try:
        tape.grow()
    except BaseException as error:
        tape.failed = error
        return 0
    return 1


def growing(address: int) -> Tape | None:
    """The tape that is being written on, by the address of its header; None where that is none of ours."""
    return _growing.get(address)


_grow_function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(_grow)
_grow_address = ctypes.cast(_grow_function, ctypes.c_void_p).value or 0
_free = threading.local()


class taken:
    """A tape for as long as a `with` statement lasts: one that this thread used before, or a new one. With `keep` it is
    a new one, which is not used again."""

    def __init__(self, partials: bool, keep: bool = False) -> None:
        self._partials, self._keep = partials, keep

    def __enter__(self) -> Tape:
        kept: Any = _free.__dict__.setdefault(f"tapes {self._partials}", [])
        self.tape = kept.pop() if kept and not self._keep else Tape(self._partials)
        self.tape.begin()
        _growing[self.tape.address] = self.tape
        return self.tape

    def __exit__(self, *_: Any) -> None:
        del _growing[self.tape.address]
        if len(self.tape.links) <= _KEPT and not self._keep:
            self.tape.loops = []
            _free.__dict__[f"tapes {self._partials}"].append(self.tape)

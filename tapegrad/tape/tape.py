"""The tape: instructions in flat arrays, over one arena of numbers.

Recording appends to buffers; nothing is computed. When somebody looks at a number, `flush` moves the buffers to the
arrays that the sweeps read, and one forward sweep computes what has not been computed yet.

Slots are handed out from a counter that never goes back, so that a handle's slot names the same number for ever;
`locate` tells its place in the arena, which may change. Handles hold the *page* that was open when they were made. When
a page is garbage-collected, nothing outside the tape can refer to what was recorded on it. So a tape that has grown
keeps only what the live pages still need (`collect`): a loop that builds new expressions for ever does not need more
and more memory, and recording an operation takes no longer for it.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from threading import get_ident
from typing import Any

import numpy as np

from tapegrad.errors import DTypeError, OperationError, StaleValueError, TapeFullError, ThreadError
from tapegrad.ops import RUN, has_kernel, passive_rows
from tapegrad.ops.record import COLUMNS, place, record
from tapegrad.sweeps import ADJOINTS, FORWARD, REVERSE, VALUES, callbacks, scratch, sweeps_for
from tapegrad.sweeps.analysis import EACH, activate, reach
from tapegrad.sweeps.marks import EXPECT, LEAF
from tapegrad.tape.addresses import Addresses
from tapegrad.tape.collect import collect, grown, keep
from tapegrad.tape.edits import check_editable, check_unedited
from tapegrad.tape.faults import refused
from tapegrad.tape.few import sweep_values
from tapegrad.tape.kinds import kind_of
from tapegrad.tape.lines import buffer
from tapegrad.tape.writing import flush

MAX_SLOTS = 2**31
PAGE = 1024
# Numbers in the buffer at which it is flushed, while they are still in the processor's cache.
FLUSH_AT = 1 << 14
# A tape smaller than this is not worth collecting.
COLLECT_AT = 1 << 14

_out = itemgetter(1)


class Page:
    """Handles hold the page that was open when they were made, so it is garbage-collected when the last of them is."""

    __slots__ = ("__weakref__",)


class Tape:
    """A flat tape of one dtype, float64 or float32, used by one thread.

    `len(tape)` is the number of instructions; `print(tape)` lists them.

    >>> import tapegrad as tg
    >>> a = tg.Value(2.0, label="a")
    >>> (a * 3.0).item()
    6.0
    >>> len(tg.current_tape()) >= 3
    True
    """

    # Slots, because recording reads eight attributes for every operation, and CPython finds these fastest.
    __slots__ = (
        "__weakref__", "active", "activated", "_buffer", "_collect_at", "_data", "edits", "flushed",
        "needs", "needs_new", "pages", "_records", "zeros", "addresses", "adjoints", "code", "constants",
        "dtype", "evaluated", "finished", "flags", "grads", "kinds", "labels", "length", "limit", "owner", "page",
        "push", "recording", "scratch", "side", "side_length", "slots", "sweeping", "top", "values", "calls", "derived",
        "arrays", "flushing", "reads", "_frame", "spliced", "too_narrow",
    )  # fmt: skip

    def __init__(self, dtype: Any = np.float64, *, recording: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float64, np.float32):
            raise DTypeError(f"a tape holds float64 or float32, not {self.dtype}")
        self.owner = get_ident()
        self.recording = recording
        self.finished = False
        # What is recorded but not yet flushed: five numbers an instruction, in which operands are slots, not places.
        # One `extend` is the fastest append (80 ns, against 260 for three columns), and no other thread can come in
        # between.
        self._buffer = buffer()
        self.push = self._buffer.extend
        self._records: list[int] = []
        self._data: list[tuple[int, Any]] = []
        # The next slot, and the end of the open page.
        self.top = 0
        self.limit = 0
        self.page = Page()
        self.pages: list[tuple[int, int, weakref.ref[Page]]] = []
        self.addresses = Addresses()
        # The first slot that is still in the buffer only.
        self.flushed = 0
        self.code = np.zeros((64, COLUMNS), np.uint32)
        self.side = np.zeros(64, np.int64)
        self.flags = np.zeros(64, np.uint8)
        self.values = np.zeros(64, self.dtype)
        self.scratch = scratch(self.dtype)
        self.adjoints = np.zeros(0, self.dtype)
        self.grads = np.zeros(0, self.dtype)
        self.active = np.zeros(0, np.uint8)
        self.length = self.side_length = self.slots = self.evaluated = self.activated = 0
        # The arguments of the last sweep for values, to be used again while the arrays are the same.
        self._frame: Any = None
        # Whether the buffers are being moved to the arrays.
        self.flushing = False
        # How many sweeps are under way: until they are over nothing may move.
        self.sweeping = 0
        self._collect_at = COLLECT_AT
        self.needs, self.needs_new = set[int](), set[int]()
        # Python functions that instructions call, by number. They are kept alive here.
        self.calls: dict[int, Any] = {}
        # Whether derivatives were written on it: then a program made of it is simplified. Whether a program was: then
        # constants are not where the function would record them. Whether float32 met an array of float64.
        self.derived = self.spliced = self.too_narrow = False
        # Captured arrays, by a digest of what is in them.
        self.arrays: dict[Any, int] = {}
        # Slots of constants: equal ones share one. 0.0 and -0.0 compare equal, so they are looked up by their sign.
        self.constants: dict[float, int] = {}
        self.zeros: dict[float, int] = {}
        # Labels by slot and size: an array and its first element begin at the same slot.
        self.labels: dict[tuple[int, int], str] = {}
        # Leaves that were given as integers ("i") or truth values ("b"): they may index.
        self.kinds: dict[int, str] = {}
        self.edits: dict[tuple[int, int], int] = {}
        # For each guard by its slot: the file and line where a number was read, and what was read there.
        self.reads: dict[int, tuple[str, int, str]] = {}
        self._open_page()

    # Recording

    def _check_owner(self) -> None:
        if self.finished:
            raise StaleValueError(
                "this value was recorded inside a function whose recording is finished: return it instead"
            )
        if self.owner != get_ident():
            raise ThreadError(
                "this value belongs to the tape of another thread: pass its number (`v.data`) between threads, not the "
                "value"
            )

    def _open_page(self) -> None:
        if self.pages:
            start, _, page = self.pages[-1]
            self.pages[-1] = (start, self.top, page)
        self.page = Page()
        self.pages.append((self.top, 1 << 62, weakref.ref(self.page)))
        self.limit = self.top + PAGE

    def turn_page(self, n: int = 1) -> None:
        """Make room for n slots. This must be called before slots are taken past the limit."""
        self._check_owner()
        if len(self._buffer) > FLUSH_AT:
            self.flush()
        used = self.slots + self.top - self.flushed
        if not self.recording and max(len(self), used + n) > self._collect_at:
            self.collect()
            used = self.slots
        if used + n > MAX_SLOTS:
            raise TapeFullError(f"{n} more slots would make {used + n}: a tape has room for 2**31 = {MAX_SLOTS}")
        if self.top >= self.limit:
            self._open_page()

    def allocate(self, n: int) -> int:
        """Take n consecutive slots; returns the first."""
        if self.top + n > self.limit:
            self.turn_page(n)
        slot = self.top
        self.top = top = slot + n
        if top > self.limit:
            self.limit = top
        return slot

    def finish(self) -> None:
        """Take no more instructions: the recording is made, and has arrays of its own."""
        self.flush()
        self.finished = True
        self.limit = 0
        self._frame = None
        self.values = self.adjoints = self.grads = np.zeros(0, self.dtype)
        self.active = np.zeros(0, np.uint8)

    def leaf(self, data: Any, n: int, wants_grad: bool) -> int:
        """Put n given numbers, a float or an array, on the tape; an array is copied.

        Raises TapeFullError, before anything is copied.
        """
        if type(data) is not float:
            if n > PAGE:
                self.turn_page(n)
            data = np.array(data, self.dtype)
        slot = self.allocate(n)
        self.push((LEAF, slot, 1 if wants_grad else 0, n, 0))
        self._data.append((slot, data))
        return slot

    def constant(self, number: float) -> int:
        """The slot of a plain number; the same number has one slot."""
        number = float(number)
        sign = math.copysign(1.0, number)
        slot = self.constants.get(number) if number else self.zeros.get(sign)
        if slot is None:
            # Making the leaf can make the tape collect, which replaces both dictionaries.
            slot = self.leaf(number, 1, False)
            if number:
                self.constants[number] = slot
            else:
                self.zeros[sign] = slot
        return slot

    def pin(self, slot: int) -> Page:
        """A page for one slot: what holds it keeps the slot on the tape."""
        page = Page()
        self.pages.insert(-1, (slot, slot + 1, weakref.ref(page)))
        return page

    def scalar(self, opcode: int, a: int, b: int, c: int) -> int:
        """Append a scalar instruction; returns its slot. Operators do the same in place, for speed.

        Where it has fewer than three operands, one of them stands in for those that are missing.
        """
        slot = self.allocate(1)
        self.push((opcode, slot, a, b, c))
        return slot

    def run(self, opcode: int, kind: int, n: int, operands: list[tuple[int, int, int]], params: list[int]) -> int:
        """Append an instruction over n output elements; operands are (slot, low, high). See `ops.record`."""
        return self.run_like(opcode, n, record(kind, 0, n, operands, params), ())

    def run_like(self, opcode: int, n: int, record: list[int], operands: Sequence[int]) -> int:
        """Append an instruction over n output elements by a ready record, in which only slots are to be filled in:
        those given for the first operands, and the result's."""
        if self.top + n > self.limit:
            self.turn_page(n)
            self.limit = max(self.limit, self.top + n)
        own = record.copy()
        place(own, 0, self.top, operands)
        records = self._records
        start = len(records)
        # An interrupt can come at a call, but not from here to the end of the last one.
        slot = self.top
        self.top = slot + n
        records += own
        self.push((opcode + RUN, slot, self.side_length + start, n, 0))
        return slot

    def flush(self) -> None:
        """Move what was recorded from the buffers into the arrays that the sweeps read."""
        if not self._buffer and not self.finished:
            return
        self._check_owner()
        flush(self)

    def locate(self, slot: int) -> int:
        """The place of a slot in the arena. Raises StaleValueError if the slot is no longer on the tape."""
        return self.addresses.place(slot)

    # Sweeping

    def evaluate(self) -> None:
        """Compute every value that was recorded and not yet computed.

        Raises LabelError or IndexRangeError where an operand on the tape is out of range.
        """
        self._check_owner()
        if self._buffer:
            self.flush()
        if self.evaluated == self.length:
            return
        sweeps = sweeps_for(self.dtype)
        if self.needs_new:
            sweeps.require(self.needs_new, FORWARD)
            self.needs |= self.needs_new
            self.needs_new = set()
        code = self.code[self.evaluated : self.length]
        failed = sweep_values(self, code)
        if failed >= 0 and code[failed, 0] != EXPECT:
            error = callbacks.raised(code[failed, 0])
            if error is not None and not isinstance(error, Exception):
                # Interrupted: this instruction is computed at the next evaluation.
                self.evaluated += failed
                raise error
            # Its results are NaN now. What follows is computed from them at the next evaluation.
            self.evaluated += failed + 1
            raise error or refused(self, code[failed])
        self.evaluated = self.length

    def compute(self, rows: np.ndarray) -> None:
        """Compute some instructions ahead of others, from which they read nothing. Raises what `evaluate` raises."""
        rows = rows[np.searchsorted(rows, self.evaluated) :]
        code = np.ascontiguousarray(self.code[rows[self.code[rows, 0] != LEAF]])
        if not len(code):
            return
        opcodes = np.unique(code[:, 0])
        needs = np.unique(opcodes[has_kernel(opcodes, self.dtype)] % RUN).tolist()
        sweeps_for(self.dtype).require([*needs, *([RUN] if opcodes[-1] >= RUN else [])], FORWARD)
        failed = self._sweep(code, self.values, VALUES)
        if failed >= 0:
            raise callbacks.raised(code[failed, 0]) or refused(self, code[failed])

    def _sweep(self, code: np.ndarray, d: np.ndarray, tasks: int) -> int:
        sweeps = sweeps_for(self.dtype)
        return sweeps.run(sweeps.frame(code, self.side, self.flags, self.values, d, self.scratch, -1, tasks))

    def activate(self) -> None:
        """Find out which places a gradient can flow to."""
        if len(self.active) < len(self.values):
            self.active = grown(self.active, len(self.values))
        if self.activated < self.length:
            activate(self.code, self.side, self.flags, *EACH, self.active, passive_rows(), self.activated, self.length)
            self.activated = self.length

    def wants_grad(self, slot: int) -> bool:
        """Whether a gradient can flow to this slot."""
        self.flush()
        self.activate()
        return bool(self.active[self.locate(slot)])

    def kind(self, slot: int) -> str:
        """What a slot can do as an index: "b" holds truth values, "i" integers, "" neither."""
        return kind_of(self, slot)

    def grown_grads(self) -> np.ndarray:
        """The accumulated gradients, one for each place of the arena."""
        if len(self.grads) < len(self.values):
            self.grads = grown(self.grads, len(self.values))
        return self.grads

    def backward(self, places: np.ndarray, seed: np.ndarray) -> None:
        """Add to `grads` the gradient of sum(seed * values[places])."""
        self.evaluate()
        self.activate()
        # The sweep starts at the instruction that made the last of these numbers. It reads the adjoints of all results
        # of that instruction, so adjoints are set up to the last of these.
        stop = self.row_of(int(places.max())) + 1
        top = int(self.code[stop, 1]) if stop < self.length else self.slots
        mark = np.zeros(len(self.values), np.uint8)
        mark[places] = 1
        every = np.empty(stop, np.int64)
        rows = every[reach(self.code, self.side, *EACH, mark, self.active, stop, every) :]
        check_unedited(self, rows)
        sweeps = sweeps_for(self.dtype)
        sweeps.require(self.needs, REVERSE)
        self.grown_grads()
        # Taken while it is in use: whoever calls `backward` of this tape in the middle of the sweep has another array.
        adjoints, self.adjoints = self.adjoints, np.zeros(0, self.dtype)
        if len(adjoints) < len(self.values):
            adjoints = np.zeros(len(self.values), self.dtype)
        adjoints[:top] = 0.0
        np.add.at(adjoints, places, seed)
        code = self.code[:stop] if len(rows) == stop else self.code[rows]
        self.sweeping += 1
        try:
            self._sweep(code, adjoints, ADJOINTS)
        finally:
            self.sweeping -= 1
        callbacks.check(self.scratch)
        self.grads[:top] += adjoints[:top]
        self.adjoints = adjoints

    # Editing numbers in place

    def row_of(self, place: int) -> int:
        """The number of the instruction that made the number at a place."""
        return bisect_right(self.code, place, hi=self.length, key=_out) - 1

    def edit(self, slot: int, places: Any, data: Any, size: int) -> None:
        """Overwrite numbers of a leaf, and remember when, so that no gradient mixes old and new ones."""
        self.evaluate()
        check_editable(self, self.code[self.row_of(self.locate(slot))])
        self.values[places] = data
        self.edits[slot, size] = self.length

    def collect(self) -> None:
        """Forget what no value that is still referred to depends on. Happens by itself when the tape has grown."""
        self.flush()
        if not self.recording and not self.sweeping:
            collect(self)
            self._collect_at = max(COLLECT_AT, 2 * max(self.length, self.slots))

    def rewind(self, length: int = 0) -> None:
        """Forget all instructions from number `length` on. Values recorded there become stale.

        Raises OperationError if the tape is shorter than that.
        """
        self.flush()
        if not 0 <= length <= self.length:
            raise OperationError(f"cannot rewind to instruction {length}: the tape has {self.length}")
        keep(self, np.arange(length))
        self._open_page()

    def __len__(self) -> int:
        return self.length + len(self._buffer) // COLUMNS

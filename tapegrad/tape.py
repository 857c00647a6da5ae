"""The tape: instructions in flat arrays, over one arena of numbers.

Recording appends to buffers; nothing is computed. When somebody looks at a number, `flush` moves the buffers to the
arrays that the sweeps read, and one forward sweep computes what has not been computed yet.

Slots are handed out from a counter that never goes back, so that a handle's slot means the same for ever; `locate`
tells where in the arena it stands now. Handles hold the *page* that was open when they were made. When a page is
garbage-collected, nothing outside the tape can refer to what was recorded on it, so a tape that has grown keeps
only what the live pages still need (`collect`): a loop that builds new expressions for ever keeps memory flat, and
recording pays nothing for it.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from bisect import bisect_right
from contextlib import contextmanager
from collections.abc import Iterator
from operator import itemgetter
from threading import get_ident
from typing import Any

import numpy as np

from tapegrad.errors import (
    DTypeError,
    IndexRangeError,
    InPlaceError,
    LabelError,
    StaleValueError,
    TapeFullError,
    ThreadError,
)
from tapegrad.ops import BY_NAME, RUN, TABLE, Elementwise, control
from tapegrad.ops.record import ARITY, OPERAND_SIZE, OPERANDS, OUT, SLOT
from tapegrad.sweeps import FORWARD, REVERSE, SCRATCH, sweeps_for
from tapegrad.sweeps.analysis import activate, reach, relocate

LEAF = control.leaf.opcode
EXPECT = control.expect.opcode
CROSS_ENTROPY = BY_NAME["cross_entropy"].opcode
_FLAGS = {
    BY_NAME[name].opcode
    for name in "less less_equal greater greater_equal equal not_equal logical_and logical_or logical_xor".split()
}
MAX_SLOTS = 2**31
PAGE = 1024
# A tape smaller than this is not worth collecting.
COLLECT_AT = 1 << 17
_NOTHING = np.zeros(0)


_out = itemgetter(1)


class Page:
    """What the handles of one stretch of a tape hold on to. It dies when the last of them does."""

    __slots__ = ("__weakref__",)


def _is_passive(row: Any) -> bool:
    # A rule that returns plain zeros whatever it is given lets no gradient through.
    if not isinstance(row, Elementwise):
        return False
    try:
        partials = row.partials(*[None] * (row.arity + 1))
    except Exception:
        return False
    return all(type(p) is float and p == 0.0 for p in (partials if isinstance(partials, tuple) else (partials,)))


_passive = np.zeros(0, np.uint8)


def passive_rows() -> np.ndarray:
    """For each opcode, 1 if the operation lets no gradient through."""
    global _passive
    if len(_passive) < len(TABLE):
        _passive = np.array([_is_passive(row) for row in TABLE], np.uint8)
    return _passive


def _grown(old: np.ndarray, length: int) -> np.ndarray:
    new = np.zeros((length, *old.shape[1:]), old.dtype)
    keep = min(length, len(old))
    new[:keep] = old[:keep]
    return new


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

    def __init__(self, dtype: Any = np.float64, *, recording: bool = False) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float64, np.float32):
            raise DTypeError(f"a tape holds float64 or float32, not {self.dtype}")
        self.owner = get_ident()
        self.recording = recording
        self.finished = False
        # Buffers of what is recorded but not yet flushed: opcodes, and operands as slots that never move.
        self._ops, self._as, self._bs = array("I"), array("q"), array("q")
        self.push_op, self.push_a, self.push_b = self._ops.append, self._as.append, self._bs.append
        self._records: list[int] = []
        self._data: list[tuple[int, Any]] = []
        # The next slot, and the end of the open page.
        self.top = 0
        self.limit = 0
        self.page = Page()
        self._pages: list[tuple[int, weakref.ref[Page]]] = []
        # Slots from virtual[i] on stand in the arena from physical[i] on, up to ends[i].
        self._virtual, self._physical, self._ends = [0], [0], [1 << 62]
        self._flushed = 0
        self.code = np.zeros((64, 4), np.uint32)
        self.side = np.zeros(64, np.int64)
        self.values = np.zeros(64 + SCRATCH, self.dtype)
        self.adjoints = np.zeros(0, self.dtype)
        self.grads = np.zeros(0, self.dtype)
        self._active = np.zeros(0, np.uint8)
        self.length = self.side_length = self.slots = 0
        self.evaluated = self._activated = 0
        self._collect_at = COLLECT_AT
        self._needs: set[int] = set()
        self._needs_new: set[int] = set()
        # A constant stands on the tape once. Zero has two signs that compare equal, so it is never looked up by value.
        self.constants: dict[float, int] = {}
        self.labels: dict[int, str] = {}
        self._edits: dict[int, tuple[int, int]] = {}
        self._open_page()

    # Recording

    def _check_owner(self) -> None:
        if self.finished:
            raise StaleValueError("this value was recorded inside a function whose recording is finished: return it instead")
        if self.owner != get_ident():
            raise ThreadError(
                "this value belongs to the tape of another thread: pass its number (`v.data`) between threads, not the value"
            )

    def _open_page(self) -> None:
        self.page = Page()
        self._pages.append((self.top, weakref.ref(self.page)))
        self.limit = self.top + PAGE

    def turn_page(self, n: int = 1) -> None:
        """Make room for n slots. Whoever takes slots past the limit, or in the wrong thread, calls this before."""
        self._check_owner()
        used = self.slots + self.top - self._flushed
        if self.length + len(self._ops) > self._collect_at or used + n > self._collect_at:
            self.collect()
            used = self.slots
        if used + n > MAX_SLOTS:
            raise TapeFullError(f"{n} more slots would make {used + n}: a tape has room for 2**31 = {MAX_SLOTS}")
        if self.top >= self.limit:
            self._open_page()

    def allocate(self, n: int) -> int:
        """Take n consecutive slots; returns the first."""
        if self.top + n > self.limit or self.owner != get_ident():
            self.turn_page(n)
        slot = self.top
        self.top = slot + n
        self.limit = max(self.limit, self.top)
        return slot

    def finish(self) -> None:
        """Take no more instructions: the recording is made."""
        self.flush()
        self.finished = True
        self.limit = 0

    def leaf(self, data: Any, n: int, wants_grad: bool) -> int:
        """Put n given numbers on the tape."""
        slot = self.allocate(n)
        self.push_op(LEAF)
        self.push_a(1 if wants_grad else 0)
        self.push_b(n)
        self._data.append((slot, data))
        return slot

    def constant(self, number: float) -> int:
        """The slot of a plain number; the same number has one slot."""
        number = float(number)
        slot = self.constants.get(number)
        if slot is None:
            slot = self.leaf(number, 1, False)
            if number != 0.0:
                self.constants[number] = slot
        return slot

    def scalar(self, opcode: int, a: int, b: int) -> int:
        """Append a scalar instruction; returns its slot. Operators do the same in place, for speed."""
        slot = self.allocate(1)
        self.push_op(opcode)
        self.push_a(a)
        self.push_b(b)
        return slot

    def run(self, opcode: int, kind: int, n: int, operands: list[tuple[int, int, int]], params: list[int]) -> int:
        """Append an instruction over n output elements; operands are (slot, low, high). See `ops.record`."""
        slot = self.allocate(n)
        k = self.side_length + len(self._records)
        record = [kind, OPERANDS + OPERAND_SIZE * len(operands) + len(params), slot, n, len(operands)]
        for operand in operands:
            record += (*operand, 0)
        self._records += record + params
        self.push_op(opcode + RUN)
        self.push_a(k)
        self.push_b(n)
        if opcode not in self._needs:
            self._needs_new.add(opcode)
        return slot

    def flush(self) -> None:
        """Move what was recorded from the buffers into the arrays that the sweeps read."""
        if not self._ops:
            return
        self._check_owner()
        n_new = len(self._ops)
        ops = np.array(self._ops, np.uint32)
        a, b = np.array(self._as, np.int64), np.array(self._bs, np.int64)
        leaf, run = ops == LEAF, ops >= RUN
        counts = np.where(leaf | run, b, 1)
        ends = np.cumsum(counts)
        n_slots = int(ends[-1])
        if n_slots != self.top - self._flushed or len(a) != n_new or len(b) != n_new:
            raise ThreadError("the tape was recorded on by two threads at once; its last instructions are lost")
        scalar = ~(leaf | run)
        a[scalar] = self._locate_all(a[scalar])
        b[scalar] = self._locate_all(b[scalar])
        records = np.array(self._records, np.int64)
        if len(records):
            self._place_records(records, a[run] - self.side_length, self.slots + (ends - counts)[run])
        self._reserve(n_new, len(records), n_slots)
        new = self.code[self.length : self.length + n_new]
        new[:, 0], new[:, 1], new[:, 2], new[:, 3] = ops, self.slots + ends - counts, a, b
        self.side[self.side_length : self.side_length + len(records)] = records
        base = self.slots - self._flushed
        for slot, data in self._data:
            at = base + slot
            if type(data) is float:
                self.values[at] = data
            else:
                self.values[at : at + data.size] = data.reshape(-1)
        self.length += n_new
        self.side_length += len(records)
        self.slots += n_slots
        self._flushed = self.top
        for buffer in (self._ops, self._as, self._bs, self._records, self._data):
            del buffer[:]

    def _place_records(self, records: np.ndarray, starts: np.ndarray, outs: np.ndarray) -> None:
        records[starts + OUT] = outs
        arity = records[starts + ARITY]
        index = np.concatenate(
            [s + OPERANDS + SLOT + OPERAND_SIZE * np.arange(m) for s, m in zip(starts, arity, strict=True)]
        )
        records[index] = self._locate_all(records[index])

    def _reserve(self, instructions: int, numbers: int, slots: int) -> None:
        if self.length + instructions > len(self.code):
            self.code = _grown(self.code, 2 * (self.length + instructions))
        if self.side_length + numbers > len(self.side):
            self.side = _grown(self.side, 2 * (self.side_length + numbers))
        if self.slots + slots + SCRATCH > len(self.values):
            self.values = _grown(self.values, 2 * (self.slots + slots) + SCRATCH)

    # Where slots stand

    def _locate_all(self, slots: np.ndarray) -> np.ndarray:
        if len(self._virtual) == 1:
            return slots - (self._virtual[0] - self._physical[0])
        at = np.searchsorted(self._virtual, slots, "right") - 1
        if np.any(at < 0) or np.any(slots >= np.asarray(self._ends)[at]):
            raise StaleValueError("an operand is no longer on the tape: the tape was rewound past it")
        return slots - np.asarray(self._virtual)[at] + np.asarray(self._physical)[at]

    def locate(self, slot: int) -> int:
        """Where a handle's slot stands in the arena. Raises StaleValueError if the tape was rewound past it."""
        i = bisect_right(self._virtual, slot) - 1
        if i < 0 or slot >= self._ends[i] or slot >= self.top:
            raise StaleValueError("this value is no longer on the tape: the tape was rewound past it")
        return slot - self._virtual[i] + self._physical[i]

    # Sweeping

    def evaluate(self) -> None:
        """Compute every value that was recorded and not yet computed.

        Raises LabelError or IndexRangeError where an operand on the tape is out of range.
        """
        if self._ops:
            self.flush()
        if self.evaluated == self.length:
            return
        self._check_owner()
        sweeps = sweeps_for(self.dtype)
        self._require_new(sweeps)
        code = self.code[self.evaluated : self.length]
        failed = sweeps.sweep(code, self.side, self.values, self.values, _EMPTY[self.dtype], -1, 1)
        if failed >= 0 and code[failed, 0] != EXPECT:
            row = self.evaluated + failed
            self.evaluated = self.length
            raise operand_error(self.code[row], self.side, self.values)
        self.evaluated = self.length

    def _require_new(self, sweeps: Any) -> None:
        if self._needs_new:
            sweeps.require(self._needs_new, FORWARD)
            self._needs |= self._needs_new
            self._needs_new.clear()

    def _activate(self) -> None:
        if len(self._active) < len(self.values):
            self._active = _grown(self._active, len(self.values))
        activate(self.code, self.side, self._active, passive_rows(), self._activated, self.length)
        self._activated = self.length

    def wants_grad(self, slot: int) -> bool:
        """Whether a gradient can flow to this slot."""
        self.flush()
        self._activate()
        return bool(self._active[self.locate(slot)])

    def is_flag(self, slot: int) -> bool:
        """Whether a slot holds the result of a comparison, 0 or 1."""
        self.flush()
        return int(self.code[self._row_of(self.locate(slot)), 0]) % RUN in _FLAGS

    def grads_grown(self) -> np.ndarray:
        """The accumulated gradients, one for each slot of the arena."""
        if len(self.grads) < len(self.values):
            self.grads = _grown(self.grads, len(self.values))
        return self.grads

    def backward(self, slots: np.ndarray, seed: np.ndarray) -> None:
        """Add to `grads` the gradient of sum(seed * values[slots]) for every slot; slots are places in the arena."""
        self.evaluate()
        self._activate()
        top = int(slots.max()) + 1
        stop = self._row_of(top - 1) + 1
        mark = np.zeros(len(self.values), np.uint8)
        mark[slots] = 1
        rows = np.empty(stop, np.int64)
        rows = rows[reach(self.code, self.side, mark, self._active, stop, rows) :]
        self._check_edits(rows)
        sweeps = sweeps_for(self.dtype)
        sweeps.require(self._needs, REVERSE)
        self.grads_grown()
        if len(self.adjoints) < len(self.values):
            self.adjoints = np.zeros(len(self.values), self.dtype)
        self.adjoints[:top] = 0.0
        np.add.at(self.adjoints, slots, seed)
        code = self.code[:stop] if len(rows) == stop else self.code[rows]
        sweeps.sweep(code, self.side, self.values, self.adjoints, _EMPTY[self.dtype], -1, 2)
        self.grads[:top] += self.adjoints[:top]

    # Editing numbers in place

    def _row_of(self, place: int) -> int:
        return bisect_right(self.code, place, hi=self.length, key=_out) - 1

    def edit(self, slot: int, places: Any, data: Any, size: int) -> None:
        """Overwrite numbers of a leaf, and remember when, so that no gradient mixes old and new ones."""
        if self.recording:
            raise InPlaceError("`data` was assigned inside a recorded function: a replay would not repeat it")
        self.evaluate()
        row = self.code[self._row_of(self.locate(slot))]
        if row[0] != LEAF:
            name = TABLE[int(row[0]) % RUN].name
            raise InPlaceError(
                f"`data` of the result of {name} cannot be assigned: it follows from its operands. Assign to a value "
                "made by Value(...) instead"
            )
        self.values[places] = data
        self._edits[slot] = (size, self.length)

    def _check_edits(self, rows: np.ndarray) -> None:
        for slot, (size, position) in self._edits.items():
            if not len(rows) or rows[0] >= position:
                continue
            low = self.locate(slot)
            for i in rows[rows < position]:
                op, _, a, b = (int(x) for x in self.code[i])
                if op == LEAF:
                    continue
                if any(x < low + size and y > low for x, y in operand_spans(op, a, b, self.side)):
                    label = self.labels.get(slot)
                    raise InPlaceError(
                        f"`data` of {'leaf ' + repr(label) if label else 'a leaf'} was assigned after "
                        f"{TABLE[op % RUN].name} used it: the gradient would mix old and new numbers. Compute the "
                        "expression again after the assignment"
                    )

    # Forgetting

    def collect(self) -> None:
        """Keep only what values that are still referred to depend on."""
        self.flush()
        if self.recording:
            return
        old = self.length
        mark = np.zeros(len(self.values), np.uint8)
        pages = [(start, ref) for start, ref in self._pages if ref() is not None]
        starts = [start for start, _ in self._pages] + [self.top]
        for (start, ref), end in zip(self._pages, starts[1:], strict=True):
            if ref() is not None:
                self._mark(mark, start, end)
        rows = np.empty(old, np.int64)
        rows = rows[reach(self.code, self.side, mark, np.zeros(0, np.uint8), old, rows) :]
        self._pages = pages
        self._keep(rows)
        self._collect_at = max(COLLECT_AT, 2 * max(self.length, self.slots))

    def _mark(self, mark: np.ndarray, start: int, end: int) -> None:
        # The part of every kept range that the page covers.
        i = max(bisect_right(self._virtual, start) - 1, 0)
        while i < len(self._virtual) and self._virtual[i] < end:
            low, high = max(start, self._virtual[i]), min(end, self._ends[i])
            if low < high:
                shift = self._physical[i] - self._virtual[i]
                mark[low + shift : high + shift] = 1
            i += 1

    def _keep(self, rows: np.ndarray) -> None:
        code = self.code[rows]
        wide = (code[:, 0] == LEAF) | (code[:, 0] >= RUN)
        counts = np.where(wide, code[:, 3], 1).astype(np.int64)
        outs = code[:, 1].astype(np.int64)
        new_outs = np.cumsum(counts) - counts
        slots = int(counts.sum())
        kept = np.zeros(self.slots + 1, np.int64)
        np.add.at(kept, outs, 1)
        np.add.at(kept, outs + counts, -1)
        kept = np.cumsum(kept[:-1])
        to = np.cumsum(kept) - kept
        virtual = self._virtual_of(outs)
        code[:, 1] = new_outs
        relocate(code, self._keep_records(code, new_outs), to)
        source = np.flatnonzero(kept)
        for name in ("values", "grads", "adjoints", "_active"):
            old = getattr(self, name)
            if len(old):
                new = np.zeros(max(64, 2 * slots) + SCRATCH, old.dtype)
                new[:slots] = old[source]
                setattr(self, name, new)
        self.code = _grown(code, max(64, 2 * len(code)))
        self.evaluated = int(np.searchsorted(rows, self.evaluated))
        self._activated = int(np.searchsorted(rows, self._activated))
        edits = {s: (n, int(np.searchsorted(rows, p))) for s, (n, p) in self._edits.items()}
        self.length, self.slots = len(code), slots
        # Neighbours on the tape that were neighbours before are one range.
        first = np.ones(len(rows), bool)
        first[1:] = virtual[1:] != virtual[:-1] + counts[:-1]
        self._virtual = [*virtual[first].tolist(), self._flushed]
        self._physical = [*new_outs[first].tolist(), slots]
        last = np.append(first[1:], True) if len(rows) else first
        self._ends = [*(virtual + counts)[last].tolist(), 1 << 62]
        self._edits = {s: e for s, e in edits.items() if self.holds(s)}
        self.constants = {c: s for c, s in self.constants.items() if self.holds(s)}
        self.labels = {s: label for s, label in self.labels.items() if self.holds(s)}

    def _keep_records(self, code: np.ndarray, outs: np.ndarray) -> np.ndarray:
        pieces, at = [], 0
        for i in np.flatnonzero(code[:, 0] >= RUN):
            k = int(code[i, 2])
            record = self.side[k : k + int(self.side[k + 1])].copy()
            record[OUT] = outs[i]
            code[i, 2] = at
            pieces.append(record)
            at += len(record)
        self.side = _grown(np.concatenate(pieces) if pieces else np.zeros(0, np.int64), max(64, 2 * at))
        self.side_length = at
        return self.side

    def _virtual_of(self, places: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self._physical, places, "right") - 1
        return places - np.asarray(self._physical)[at] + np.asarray(self._virtual)[at]

    def holds(self, slot: int) -> bool:
        """Whether a slot is still on the tape."""
        i = bisect_right(self._virtual, slot) - 1
        return 0 <= i and slot < self._ends[i] and slot < self.top

    def rewind(self, length: int = 0) -> None:
        """Forget all instructions from number `length` on. Values recorded there become stale.

        Raises ValueError if the tape is shorter than that.
        """
        self.flush()
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to instruction {length}: the tape has {self.length}")
        self._keep(np.arange(length))
        self._open_page()

    def __len__(self) -> int:
        return self.length + len(self._ops)


_EMPTY = {np.dtype(t): np.zeros(0, t) for t in (np.float64, np.float32)}


def operand_spans(op: int, a: int, b: int, side: np.ndarray) -> list[tuple[int, int]]:
    """The places in the arena that an instruction reads, as (first, past the last)."""
    if op < RUN:
        return [(a, a + 1), (b, b + 1)]
    spans = []
    for j in range(int(side[a + ARITY])):
        slot, low, high, _ = (int(x) for x in side[a + OPERANDS + OPERAND_SIZE * j :][:OPERAND_SIZE])
        spans.append((slot + low, slot + high))
    return spans


def operand_error(row: np.ndarray, side: np.ndarray, values: np.ndarray) -> Exception:
    """What is wrong with the labels or indices of an instruction that refused its operands."""
    opcode, k = int(row[0]) - RUN, int(row[2])
    (_, _), (low, high) = operand_spans(int(row[0]), k, 0, side)
    numbers = values[low:high]
    params = side[k + OPERANDS + 2 * OPERAND_SIZE :]
    if opcode == CROSS_ENTROPY:
        bad = ~((numbers >= 0) & (numbers < params[1]) & (numbers == np.floor(numbers)))
        i = int(np.flatnonzero(bad)[0])
        return LabelError(
            f"cross_entropy: label {numbers[i]:g} at position {i}; labels must be whole numbers from 0 to {params[1] - 1}"
        )
    size = params[1]
    bad = ~((numbers >= -size) & (numbers < size) & (numbers == np.floor(numbers)))
    i = int(np.flatnonzero(bad)[0])
    return IndexRangeError(f"index {numbers[i]:g} at position {i} is out of range for an axis of size {size}")


class _Current(threading.local):
    """The tapes of this thread, one a dtype, and the recording that is going on, if any."""

    def __init__(self) -> None:
        self.tapes: dict[np.dtype, Tape] = {}
        self.recording: Tape | None = None


_current = _Current()


def current_tape(dtype: Any = None) -> Tape:
    """The tape that new values of this thread go on: one for each dtype, or the recording that is going on.

    Raises DTypeError for a dtype that is neither float64 nor float32, or is not the one of the recording.

    >>> import numpy as np
    >>> current_tape(np.float32).dtype
    dtype('float32')
    """
    if _current.recording is not None:
        if dtype is not None and np.dtype(dtype) != _current.recording.dtype:
            raise DTypeError(f"a {np.dtype(dtype)} value inside a recording of {_current.recording.dtype}")
        return _current.recording
    kind = np.dtype(np.float64 if dtype is None else dtype)
    tape = _current.tapes.get(kind)
    if tape is None:
        tape = _current.tapes[kind] = Tape(kind)
    return tape


@contextmanager
def recording_on(tape: Tape) -> Iterator[Tape]:
    """Have this thread's new values go on `tape`; afterwards the tape takes no more."""
    before = _current.recording
    _current.recording = tape
    try:
        yield tape
    finally:
        _current.recording = before

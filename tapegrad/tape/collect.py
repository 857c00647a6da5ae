"""Forgetting instructions that nothing refers to any more.

Handles hold the page that was open when they were made, and Python garbage-collects a page when no handle holds it any
more. An instruction that was recorded on a page that is gone is kept only if an instruction on a live page, or a guard,
depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.arithmetic import detach
from tapegrad.ops.record import OUT, params_at
from tapegrad.sweeps.analysis import reach, relocate
from tapegrad.sweeps.marks import EXTERNAL, LEAF
from tapegrad.sweeps.owners import Owners, move_numbers, owners
from tapegrad.tape.addresses import Addresses
from tapegrad.tape.kinds import kinds_at
from tapegrad.tape.lines import notes_of
from tapegrad.tape.loops import move_records

_EVERY_SLOT = np.zeros(0, np.uint8)


def grown(old: np.ndarray, length: int) -> np.ndarray:
    """A copy of an array with room for `length` rows, zero where they are new."""
    new = np.zeros((length, *old.shape[1:]), old.dtype)
    keep = min(length, len(old))
    new[:keep] = old[:keep]
    return new


def needed_for(tape: Any, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """The instructions that the numbers at places from one up to another depend on, and guards, ascending."""
    found = owners(tape.code[: tape.length, OUT])
    low, high = np.array([span for span in spans if span[0] < span[1]], np.int64).reshape(-1, 2).T
    change = np.zeros(tape.length + 1, np.int64)
    np.add.at(change, found.of(low), 1)
    np.add.at(change, found.of(high - 1) + 1, -1)
    mark = (np.cumsum(change[:-1]) > 0).astype(np.uint8)
    rows = np.empty(tape.length, np.int64)
    return rows[reach(tape.code, tape.side, *found, mark, _EVERY_SLOT, tape.length, rows) :]


def collect(tape: Any) -> None:
    """Forget all instructions but those that live pages or guards depend on."""
    if not tape.recording:
        cut(tape)
    tape.pages = [page for page in tape.pages if page[2]() is not None]
    spans, addresses = [], tape.addresses
    for start, end, _ in tape.pages:
        for first, last, place in zip(addresses.first, addresses.ends, addresses.places, strict=True):
            low, high = max(start, first), min(end, last, tape.top)
            if low < high:
                spans.append((low - first + place, high - first + place))
    keep(tape, needed_for(tape, spans))


class Kept(NamedTuple):
    """Some instructions of a tape, their numbers moved together.

    Attributes:
        code, side, flags: the instructions with their records, in new arrays, with places of the new arena.
        side_length: how much of `side` and `flags` is used.
        owners: where the results were that are kept.
        counts: how many numbers each of them has.
        to: where they are now.
        slots: numbers in the new arena.
        order: which of the instructions to be kept each is.
    """

    code: np.ndarray
    side: np.ndarray
    flags: np.ndarray
    side_length: int
    owners: Owners
    counts: np.ndarray
    to: np.ndarray
    slots: int
    order: np.ndarray

    def moved(self, place: int) -> int:
        """Where the number at a place of the tape went; -1 if it is forgotten."""
        i = int(self.owners.of(np.array([place]))[0])
        within = place - int(self.owners.starts[i]) if i >= 0 else -1
        return int(self.to[i]) + within if 0 <= within < self.counts[i] else -1


def kept(tape: Any, rows: np.ndarray, leaves_first: bool = False) -> Kept:
    """The instructions in `rows` (ascending), which must not depend on any other. The tape stays as it is.

    With `leaves_first` leaves come before all others, and so do their numbers.
    """
    code = tape.code[rows]
    wide = (code[:, 0] == LEAF) | (code[:, 0] >= RUN)
    counts = np.where(wide, code[:, 3], 1).astype(np.int64)
    found = owners(code[:, 1])
    order = np.argsort(code[:, 0] != LEAF, kind="stable") if leaves_first else np.arange(len(code))
    to = np.empty_like(counts)
    to[order] = np.cumsum(counts[order]) - counts[order]
    code[:, 1] = to
    side, flags = np.empty(tape.side_length, np.int64), np.empty(tape.side_length, np.uint8)
    length = move_records(code, tape.side, tape.flags, side, flags)
    relocate(code, side, *found, to)
    return Kept(code[order], side, flags, length, found, counts, to, int(counts.sum()), order)


def keep(tape: Any, rows: np.ndarray) -> None:
    """Forget all instructions but those in `rows` (ascending), and move the numbers of these together in the arena.

    They must not depend on any other instruction.
    """
    # New arrays are made and nothing of the tape is changed until all are there. An interrupt can come at any call, and
    # memory can run out, but neither happens between the assignments at the end. So the tape stays whole.
    new = kept(tape, rows)
    room = max(64, 2 * new.side_length)
    side, flags = grown(new.side[: new.side_length], room), grown(new.flags[: new.side_length], room)
    values, grads, adjoints, active = (
        _moved(old, new) for old in (tape.values, tape.grads, tape.adjoints, tape.active)
    )
    calls = kept_calls(tape.calls, new.code, side)
    evaluated, activated = (int(np.searchsorted(rows, n)) for n in (tape.evaluated, tape.activated))
    slots = tape.addresses.slots_of(new.owners.starts)
    addresses = Addresses.of(slots, new.counts, new.to, tape.flushed, new.slots)
    edits = {
        key: int(np.searchsorted(rows, position)) for key, position in tape.edits.items() if addresses.holds(key[0])
    }
    constants, zeros, labels, kinds = names_left(tape, addresses)
    notes = notes_of(tape)
    if notes is not None:
        notes.keep(addresses.first, addresses.ends)
    length, code = len(new.code), grown(new.code, max(64, 2 * len(new.code)))
    tape.code, tape.length, tape.side, tape.flags, tape.side_length = code, length, side, flags, new.side_length
    tape.values, tape.grads, tape.adjoints, tape.active, tape.slots = values, grads, adjoints, active, new.slots
    tape.addresses, tape.edits, tape.calls, tape.evaluated, tape.activated = (
        addresses, edits, calls, evaluated, activated,
    )  # fmt: skip
    tape.constants, tape.zeros, tape.labels, tape.kinds = constants, zeros, labels, kinds


class Mark(NamedTuple):
    """How far a tape has come: instructions, records, places and slots."""

    length: int
    side_length: int
    slots: int
    top: int


def mark(tape: Any) -> Mark:
    """How far a tape has come."""
    tape.flush()
    return Mark(tape.length, tape.side_length, tape.slots, tape.top)


def cut_back(tape: Any, to: Mark) -> None:
    """Forget all that was recorded since a mark. Unlike `keep`, this moves nothing, so that it takes no time on a long
    tape; later instructions take the places that become free."""
    tape.flush()
    if tape.top == to.top:
        return
    addresses = tape.addresses.without(to.top, tape.top, to.slots)
    constants, zeros, labels, kinds = names_left(tape, addresses)
    arrays = {key: slot for key, slot in tape.arrays.items() if addresses.holds(slot)}
    reads = {slot: read for slot, read in tape.reads.items() if addresses.holds(slot)}
    for marks in (tape.active, tape.grads):
        marks[to.slots :] = 0
    tape.addresses, tape.length, tape.side_length, tape.slots = addresses, to.length, to.side_length, to.slots
    tape.constants, tape.zeros, tape.labels, tape.kinds = constants, zeros, labels, kinds
    tape.arrays, tape.reads = arrays, reads
    tape.evaluated, tape.activated = min(tape.evaluated, to.length), min(tape.activated, to.length)


def _moved(old: np.ndarray, to: Kept) -> np.ndarray:
    if not len(old):
        return old
    new = np.zeros(max(64, 2 * to.slots), old.dtype)
    # Those that grow on demand may not reach as far as the values yet.
    move_numbers(old.view(np.uint8), new.view(np.uint8), to.owners.starts, to.counts, to.to, old.itemsize)
    return new


def names_left(tape: Any, addresses: Addresses) -> tuple[dict[Any, Any], ...]:
    """The constants (those that are zero apart), labels and kinds of a tape whose slots are among some addresses."""
    constants, zeros = (
        {n: slot for n, slot in names.items() if addresses.holds(slot)} for names in (tape.constants, tape.zeros)
    )
    labels = {key: label for key, label in tape.labels.items() if addresses.holds(key[0])}
    return constants, zeros, labels, {slot: kind for slot, kind in tape.kinds.items() if addresses.holds(slot)}


def kept_calls(calls: dict[int, Any], code: np.ndarray, side: np.ndarray) -> dict[int, Any]:
    """Of the Python functions that instructions call those that are still called."""
    if not calls:
        return calls
    called = {int(side[params_at(side, k)]) for k in code[code[:, 0] == EXTERNAL, 2].astype(np.int64)}
    return {number: call for number, call in calls.items() if number in called}


def cut(tape: Any) -> None:
    """Make leaves of what no gradient flows through, so that all it was computed from can be forgotten.

    Otherwise `h = step(h).detach()` in a loop would keep every step.
    """
    opcodes = tape.code[: tape.length, 0]
    rows = np.flatnonzero((opcodes == detach.opcode) | (opcodes == detach.opcode + RUN))
    if not len(rows):
        return
    tape.evaluate()
    outs = tape.code[rows, 1].astype(np.int64)
    for slot, kind in zip(tape.addresses.slots_of(outs).tolist(), kinds_at(tape, outs.tolist()), strict=True):
        if kind:
            tape.kinds[slot] = kind
    code = tape.code.copy()
    wide = code[rows, 0] >= RUN
    code[rows, 3] = np.where(wide, code[rows, 3], 1)
    code[rows, 0], code[rows, 2], code[rows, 4] = LEAF, 0, 0
    tape.code = code

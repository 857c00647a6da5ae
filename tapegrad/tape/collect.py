"""Forgetting instructions that nothing refers to any more.

Handles hold the page that was open when they were made, and Python garbage-collects a page when no handle holds it any
more. An instruction that was recorded on a page that is gone is kept only if an instruction on a live page, or a guard,
depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.arithmetic import detach
from tapegrad.ops.record import params_at
from tapegrad.sweeps.analysis import reach, relocate
from tapegrad.sweeps.marks import EXTERNAL, LEAF
from tapegrad.tape.addresses import Addresses
from tapegrad.tape.kinds import kind_at
from tapegrad.tape.loops import move_records

_EVERY_SLOT = np.zeros(0, np.uint8)


def grown(old: np.ndarray, length: int) -> np.ndarray:
    """A copy of an array with room for `length` rows, zero where they are new."""
    new = np.zeros((length, *old.shape[1:]), old.dtype)
    keep = min(length, len(old))
    new[:keep] = old[:keep]
    return new


def needed_for(tape: Any, mark: np.ndarray) -> np.ndarray:
    """The instructions that marked places depend on, and guards, ascending."""
    rows = np.empty(tape.length, np.int64)
    return rows[reach(tape.code, tape.side, mark, _EVERY_SLOT, tape.length, rows) :]


def collect(tape: Any) -> None:
    """Forget all instructions but those that live pages or guards depend on."""
    if not tape.recording:
        cut(tape)
    tape.pages = [page for page in tape.pages if page[2]() is not None]
    mark = np.zeros(len(tape.values), np.uint8)
    addresses = tape.addresses
    for start, end, _ in tape.pages:
        for first, last, place in zip(addresses.first, addresses.ends, addresses.places, strict=True):
            low, high = max(start, first), min(end, last, tape.top)
            if low < high:
                mark[low - first + place : high - first + place] = 1
    keep(tape, needed_for(tape, mark))


def keep(tape: Any, rows: np.ndarray) -> np.ndarray:
    """Forget all instructions but those in `rows` (ascending), and move the numbers of these together in the arena.

    They must not depend on any other instruction. Returns for each place of the arena the new place of the number that
    was there; for a number that is forgotten, what it says means nothing.
    """
    code = tape.code[rows]
    wide = (code[:, 0] == LEAF) | (code[:, 0] >= RUN)
    counts = np.where(wide, code[:, 3], 1).astype(np.int64)
    outs = code[:, 1].astype(np.int64)
    new_outs = np.cumsum(counts) - counts
    slots = int(counts.sum())
    stays = np.zeros(tape.slots + 1, np.int64)
    np.add.at(stays, outs, 1)
    np.add.at(stays, outs + counts, -1)
    stays = np.cumsum(stays[:-1])
    code[:, 1] = new_outs
    # New arrays are made and nothing of the tape is changed until all are there. An interrupt can come at any call, and
    # memory can run out, but neither happens between the assignments at the end. So the tape stays whole.
    side, flags, side_length = _kept_records(tape, code)
    to = np.cumsum(stays) - stays
    relocate(code, side, to)
    source = np.flatnonzero(stays)
    values, grads, adjoints, active = (
        _moved(old, source, slots) for old in (tape.values, tape.grads, tape.adjoints, tape.active)
    )
    calls = _kept_calls(tape.calls, code, side)
    evaluated, activated = (int(np.searchsorted(rows, n)) for n in (tape.evaluated, tape.activated))
    addresses = Addresses.of(tape.addresses.slots_of(outs), counts, new_outs, tape.flushed, slots)
    edits = {
        key: int(np.searchsorted(rows, position)) for key, position in tape.edits.items() if addresses.holds(key[0])
    }
    constants, zeros, labels, kinds = names_left(tape, addresses)
    length, code = len(code), grown(code, max(64, 2 * len(code)))
    tape.code, tape.length, tape.side, tape.flags, tape.side_length = code, length, side, flags, side_length
    tape.values, tape.grads, tape.adjoints, tape.active, tape.slots = values, grads, adjoints, active, slots
    tape.addresses, tape.edits, tape.calls, tape.evaluated, tape.activated = (
        addresses, edits, calls, evaluated, activated,
    )  # fmt: skip
    tape.constants, tape.zeros, tape.labels, tape.kinds = constants, zeros, labels, kinds
    return to


def _moved(old: np.ndarray, source: np.ndarray, slots: int) -> np.ndarray:
    if not len(old):
        return old
    new = np.zeros(max(64, 2 * slots), old.dtype)
    # Those that grow on demand may not reach as far as the values yet.
    known = source[: np.searchsorted(source, len(old))]
    new[: len(known)] = old[known]
    return new


def names_left(tape: Any, addresses: Addresses) -> tuple[dict[Any, Any], ...]:
    """The constants (those that are zero apart), labels and kinds of a tape whose slots are among some addresses."""
    constants, zeros = (
        {n: slot for n, slot in names.items() if addresses.holds(slot)} for names in (tape.constants, tape.zeros)
    )
    labels = {key: label for key, label in tape.labels.items() if addresses.holds(key[0])}
    return constants, zeros, labels, {slot: kind for slot, kind in tape.kinds.items() if addresses.holds(slot)}


def _kept_records(tape: Any, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    side, flags = np.empty(tape.side_length, np.int64), np.empty(tape.side_length, np.uint8)
    at = move_records(code, tape.side, tape.flags, side, flags)
    return grown(side[:at], max(64, 2 * at)), grown(flags[:at], max(64, 2 * at)), at


def _kept_calls(calls: dict[int, Any], code: np.ndarray, side: np.ndarray) -> dict[int, Any]:
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
    for out in tape.code[rows, 1].tolist():
        kind = kind_at(tape, out)
        if kind:
            tape.kinds[int(tape.addresses.slots_of(np.array([out]))[0])] = kind
    code = tape.code.copy()
    wide = code[rows, 0] >= RUN
    code[rows, 3] = np.where(wide, code[rows, 3], 1)
    code[rows, 0], code[rows, 2], code[rows, 4] = LEAF, 0, 0
    tape.code = code

"""Forgetting instructions that nothing refers to any more.

Handles hold the page that was open when they were made, and Python garbage-collects a page when no handle holds it any
more. An instruction that was recorded on a page that is gone is kept only if an instruction on a live page, or a guard,
depends on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import RUN
from tapegrad.sweeps.analysis import reach, relocate
from tapegrad.sweeps.marks import LEAF
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
    _keep_records(tape, code)
    to = np.cumsum(stays) - stays
    relocate(code, tape.side, to)
    source = np.flatnonzero(stays)
    for name in ("values", "grads", "adjoints", "active"):
        old = getattr(tape, name)
        if len(old):
            new = np.zeros(max(64, 2 * slots), old.dtype)
            # Gradients, adjoints and marks grow on demand, so there may be fewer of them than values.
            known = source[source < len(old)]
            new[: len(known)] = old[known]
            setattr(tape, name, new)
    tape.code = grown(code, max(64, 2 * len(code)))
    tape.evaluated = int(np.searchsorted(rows, tape.evaluated))
    tape.activated = int(np.searchsorted(rows, tape.activated))
    edits = {key: int(np.searchsorted(rows, position)) for key, position in tape.edits.items()}
    addresses = tape.addresses
    addresses.move(addresses.slots_of(outs), counts, new_outs, tape.flushed, slots)
    tape.length, tape.slots = len(code), slots
    tape.edits = {key: position for key, position in edits.items() if addresses.holds(key[0])}
    forget_names(tape)
    return to


def forget_names(tape: Any) -> None:
    """Drop constants, labels and kinds whose slots are gone."""
    for names in (tape.constants, tape.zeros):
        for name in [n for n, slot in names.items() if not tape.addresses.holds(slot)]:
            del names[name]
    for key in [key for key in tape.labels if not tape.addresses.holds(key[0])]:
        del tape.labels[key]
    for slot in [s for s in tape.kinds if not tape.addresses.holds(s)]:
        del tape.kinds[slot]


def _keep_records(tape: Any, code: np.ndarray) -> None:
    side, flags = np.empty(tape.side_length, np.int64), np.empty(tape.side_length, np.uint8)
    at = move_records(code, tape.side, tape.flags, side, flags)
    tape.side, tape.flags = grown(side[:at], max(64, 2 * at)), grown(flags[:at], max(64, 2 * at))
    tape.side_length = at

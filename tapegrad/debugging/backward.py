"""Where a NaN or an infinity in a gradient came from: the instruction that made it on the way back.

After a reverse sweep the adjoints of all numbers are known. An instruction whose own adjoint is finite, and which adds
a NaN or an infinity to that of an operand, is where it began. Candidates are found by looking; then each is swept back
by itself, from the last on, until one does it. Instructions from which nothing flows to the gradients that are wrong
are no candidates: an adjoint may be infinite beside the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapegrad.debugging.forward import is_wrong
from tapegrad.ops import RUN, has_kernel, record
from tapegrad.ops.record import OUT, B
from tapegrad.sweeps import ADJOINTS, REVERSE, callbacks, scratch, sweeps_for
from tapegrad.tape import LEAF

# So many candidates are swept at once, to see whether there is one among them that is looked for.
_AT_ONCE = 256


class Way(NamedTuple):
    """A reverse sweep that is over.

    Attributes:
        rows, side, flags: the instructions, and which operands a gradient must reach; see `ops.record`.
        values, adjoints: the numbers by place.
        active: which places a gradient can flow to.
    """

    rows: np.ndarray
    side: np.ndarray
    flags: np.ndarray
    values: np.ndarray
    adjoints: np.ndarray
    active: np.ndarray

    def sweep(self, rows: np.ndarray, adjoints: np.ndarray) -> None:
        """Carry adjoints back over some of the instructions."""
        sweeps, room = sweeps_for(self.values.dtype), scratch(self.values.dtype)
        given = self.side, self.flags, self.values, adjoints, room, -1, ADJOINTS
        sweeps.run(sweeps.frame(np.ascontiguousarray(rows), *given))
        callbacks.check(room)

    def prepare(self) -> None:
        """Have the kernels that the sweep needs."""
        opcodes = np.unique(self.rows[:, 0])
        opcodes = opcodes[opcodes != LEAF]
        needs = np.unique(opcodes[has_kernel(opcodes, self.values.dtype)] % RUN).tolist()
        sweeps_for(self.values.dtype).require([*needs, *([RUN] if (opcodes >= RUN).any() else [])], REVERSE)


class Back(NamedTuple):
    """What an instruction has done on the way back.

    Attributes:
        row: the instruction.
        places: of operands, to whose adjoints it added what is wrong.
        added: what it added there.
        summed: whether what it added is finite, and the sum of it with what others added is not.
    """

    row: int
    places: np.ndarray
    added: np.ndarray
    summed: bool


def first_fault_back(way: Way, places: np.ndarray) -> Back | None:
    """The first instruction, on the way back, that made the adjoints at some places NaN or infinite; None where they
    are not, or were given so."""
    wrong = ~np.isfinite(way.adjoints) & (way.active[: len(way.adjoints)] != 0)
    leads = _leads(way, wrong, places)
    if not leads.any():
        return None
    way.prepare()
    candidates = _candidates(way, leads)
    for high in range(len(candidates), 0, -_AT_ONCE):
        some = candidates[max(0, high - _AT_ONCE) : high]
        if len(some) > 1 and not _any_made(way, some, leads):
            continue
        for row in some[::-1].tolist():
            found = _made(way, row, leads)
            if found is not None:
                return found
    # Each has added finite numbers, so it is their sum that has overflown.
    for row in candidates[::-1].tolist():
        read = _read(way, row)
        read = read[leads[read] != 0]
        if len(read):
            return Back(row, read, way.adjoints[read], True)
    return None


def _read(way: Way, row: int) -> np.ndarray:
    """The places that an instruction reads."""
    op, _, a, b, c = way.rows[row].tolist()
    if op < RUN:
        return np.unique([a, b, c])
    spans = [np.arange(low, high) for _, low, high in record.operand_spans(way.side, a)]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *spans]))


def _leads(way: Way, wrong: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Marks wrong adjoints from which something flows to the places in question."""
    store, bad = bytearray(len(wrong)), wrong.tobytes()
    leads = np.frombuffer(store, np.uint8)
    leads[places[wrong[places]]] = 1
    if not leads.any():
        return leads
    for row, (op, out, a, b, c) in enumerate(way.rows.tolist()):
        if op == LEAF:
            continue
        if op < RUN:
            if bad[out] and (store[a] or store[b] or store[c]):
                store[out] = 1
        elif wrong[out : out + b].any() and leads[_read(way, row)].any():
            leads[out : out + b] |= wrong[out : out + b].view(np.uint8)
    return leads


def _candidates(way: Way, leads: np.ndarray) -> np.ndarray:
    """The instructions that read a number whose adjoint is wrong, and whose own adjoints are finite."""
    rows, adjoints = way.rows, way.adjoints
    steps = rows[:, 0] != LEAF
    scalar = np.flatnonzero(steps & (rows[:, 0] < RUN))
    read = rows[scalar, 2:].astype(np.int64)
    own = adjoints[rows[scalar, OUT]]
    found = scalar[(leads[read] != 0).any(axis=1) & np.isfinite(own) & (own != 0.0)].tolist()
    for row in np.flatnonzero(rows[:, 0] >= RUN).tolist():
        out, n = int(rows[row, OUT]), int(rows[row, B])
        own = adjoints[out : out + n]
        if not is_wrong(own) and own.any() and leads[_read(way, row)].any():
            found.append(row)
    return np.sort(np.array(found, np.int64))


def _alone(way: Way, chosen: np.ndarray) -> np.ndarray:
    """The adjoints that some instructions add to, with those of their results and nothing else to begin with."""
    d = np.zeros_like(way.adjoints)
    for row in chosen.tolist():
        out = int(way.rows[row, OUT])
        n = int(way.rows[row, B]) if way.rows[row, 0] >= RUN else 1
        d[out : out + n] = way.adjoints[out : out + n]
    way.sweep(way.rows[chosen], d)
    return d


def _any_made(way: Way, chosen: np.ndarray, leads: np.ndarray) -> bool:
    return is_wrong(_alone(way, chosen)[leads != 0])


def _made(way: Way, row: int, leads: np.ndarray) -> Back | None:
    """What one instruction adds that is wrong; None if it adds nothing such."""
    d, read = _alone(way, np.array([row])), _read(way, row)
    out = int(way.rows[row, OUT])
    read = read[(leads[read] != 0) & (read != out) & ~np.isfinite(d[read])]
    return Back(row, read, d[read], False) if len(read) else None

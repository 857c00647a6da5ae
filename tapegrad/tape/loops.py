"""Compiled passes over the instructions of a tape: `settle` takes them from the buffer to the arrays, and
`move_records` moves the records of those that are kept together."""

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    operand_at,
    operand_count,
    operand_high,
    operand_low,
    place_operand,
    place_result,
    record_length,
)
from tapegrad.sweeps.marks import LEAF

# What `settle` returns where slots do not follow each other.
OUT_OF_ORDER = -1


@compiled(
    rows="int64[:, :]", code="uint32[:, :]", side="int64[:]", first="int64[:]", ends="int64[:]", places="int64[:]",
    slot="int64", place="int64", gone="uint8[:]", seen="uint8[:]",
)  # fmt: skip
def settle(rows, code, side, first, ends, places, slot, place, gone, seen):
    """Write `rows` to `code`: operands are slots in `rows`, and places in `code`.

    The records of the rows are in the side array already, and slots in them are replaced by places too. Slots from
    first[i] up to ends[i] are at the places from places[i] on. The results of the rows must be consecutive slots from
    `slot` on, and get the places from `place` on. An instruction with an operand that is no longer on the tape becomes
    a leaf, and is marked in `gone`. Opcodes that occur are marked in `seen`, those of runs in its second half. Returns
    how many slots were taken, or OUT_OF_ORDER.
    """
    # Most operands were recorded lately, so their slots are in the last range: no search is needed for their places.
    lately, shift = first[-1], places[-1] - first[-1]
    taken = 0
    for i in range(rows.shape[0]):
        op, n, missing = rows[i, 0], 1, False
        if rows[i, 1] != slot + taken:
            return OUT_OF_ORDER
        code[i, 0], code[i, 1] = op, place + taken
        if op == LEAF:
            n = rows[i, 3]
            code[i, 2], code[i, 3], code[i, 4] = rows[i, 2], n, 0
        elif op < RUN:
            for j in range(2, 5):
                at = rows[i, j] + shift
                if rows[i, j] < lately:
                    at = _place(rows[i, j], first, ends, places)
                    missing = missing or at < 0
                code[i, j] = at
            seen[op] = 1
        else:
            k, n = rows[i, 2], rows[i, 3]
            side[place_result(k)] = place + taken
            for j in range(operand_count(side, k)):
                at = 0
                # An operand without elements has no place in the arena, so it cannot be missing from the tape.
                if operand_low(side, k, j) != operand_high(side, k, j):
                    at = operand_at(side, k, j) + shift
                    if operand_at(side, k, j) < lately:
                        at = _place(operand_at(side, k, j), first, ends, places)
                        missing = missing or at < 0
                side[place_operand(side, k, j)] = at
            code[i, 2], code[i, 3], code[i, 4] = k, n, 0
            seen[seen.shape[0] // 2 + op - RUN] = 1
        if missing:
            code[i, 0], code[i, 2], code[i, 3], code[i, 4] = LEAF, 0, n, 0
            gone[i] = 1
        taken += n
    return taken


def _place(slot, first, ends, places):
    # The place of a slot; -1 if the slot is no longer on the tape.
    low, high = 0, first.shape[0]
    while low < high:
        middle = (low + high) // 2
        if first[middle] <= slot:
            low = middle + 1
        else:
            high = middle
    if low == 0 or slot >= ends[low - 1]:
        return -1
    return slot - first[low - 1] + places[low - 1]


@compiled(code="uint32[:, :]", side="int64[:]", flags="uint8[:]", to_side="int64[:]", to_flags="uint8[:]")
def move_records(code, side, flags, to_side, to_flags):
    """Copy the records of instructions, one after the other, to other arrays. Returns the length of all of them.

    The column `out` of the code has the new places of results already; they are copied to the records.
    """
    at = 0
    for i in range(code.shape[0]):
        if code[i, 0] >= RUN:
            k = np.int64(code[i, 2])
            length = record_length(side, k)
            for j in range(length):
                to_side[at + j] = side[k + j]
                to_flags[at + j] = flags[k + j]
            to_side[place_result(at)] = code[i, 1]
            code[i, 2] = at
            at += length
    return at

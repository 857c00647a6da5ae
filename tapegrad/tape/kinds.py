"""Whether numbers on a tape are truth values or integers, which decides what they do as an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import COLUMNS
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.faults import operand_slots


def kind_of(tape: Any, slot: int) -> str:
    """What the number at a slot is: see `kind_at`."""
    buffer = tape._buffer
    if buffer and buffer[1 - COLUMNS] == slot and TABLE[buffer[-COLUMNS] % RUN].truth:
        # It was recorded just now, as it is where a function branches on a comparison.
        return "b"
    tape.flush()
    return kind_at(tape, tape.locate(slot))


def kind_at(tape: Any, place: int) -> str:
    """What the number at a place of the arena is: "b" a truth value, "i" an integer, "" neither."""
    found, seen, waiting = "", set(), [place]
    while waiting:
        row = tape.row_of(waiting.pop())
        if row in seen:
            continue
        seen.add(row)
        instruction = tape.code[row]
        operation = TABLE[int(instruction[0]) % RUN]
        # Results that are known to be integers are in recordings only, where slots are places.
        if tape.recording and int(instruction[1]) in tape.kinds:
            kind = tape.kinds[int(instruction[1])]
        elif instruction[0] == LEAF:
            kind = tape.kinds.get(int(tape.addresses.slots_of(instruction[1:2].astype(np.int64))[0]), "")
        elif operation.truth:
            kind = "b"
        else:
            # Where an operation only moves numbers, they stay of the same kind. Programs may be deep, so this does not
            # recurse.
            givers = operation.kind_givers(operand_slots(instruction, tape.side))
            if not givers:
                return ""
            waiting += givers
            continue
        if not kind or (found and kind != found):
            return ""
        found = kind
    return found

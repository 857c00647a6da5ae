"""Whether numbers on a tape are truth values or integers, which decides what they do as an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import ALL, RUN, TABLE
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.faults import operand_slots


def kind_at(tape: Any, place: int) -> str:
    """What the number at a place of the arena is: "b" a truth value, "i" an integer, "" neither."""
    instruction = tape.code[tape.row_of(place)]
    op, out = int(instruction[0]), int(instruction[1])
    if op == LEAF:
        return str(tape.kinds.get(int(tape.addresses.slots_of(np.array([out]))[0]), ""))
    row = TABLE[op % RUN]
    if row.truth:
        return "b"
    # Where the operation only moves numbers of its operands, they stay of the same kind.
    sources = operand_slots(instruction, tape.side)
    if row.moves != ALL:
        sources = sources[: row.moves]
    kinds = {kind_at(tape, source) for source in sources}
    return kinds.pop() if len(kinds) == 1 else ""

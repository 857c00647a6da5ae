"""Whether numbers on a tape are truth values or integers, which decides what they do as an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import RUN, TABLE
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.faults import operand_slots


def kind_at(tape: Any, place: int) -> str:
    """What stands at a place of the arena: "b" truth values, "i" integers, "" neither."""
    instruction = tape.code[tape.row_of(place)]
    op, out = int(instruction[0]), int(instruction[1])
    if op == LEAF:
        return str(tape.kinds.get(int(tape.addresses.slots_of(np.array([out]))[0]), ""))
    row = TABLE[op % RUN]
    if row.truth:
        return "b"
    # The same numbers elsewhere are of the same kind.
    sources = row.kind_givers(operand_slots(instruction, tape.side))
    kinds = {kind_at(tape, source) for source in sources}
    return kinds.pop() if len(kinds) == 1 else ""

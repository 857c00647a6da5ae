"""What numbers on a tape mean where they index: truth values, integers, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import BY_NAME, RUN
from tapegrad.ops.selection import TRUTHS
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.faults import operand_slots

_FLAGS = {BY_NAME[name].opcode for name in TRUTHS}
_GATHER = BY_NAME["gather"].opcode
_MOVES = {_GATHER, BY_NAME["copy"].opcode, BY_NAME["detach"].opcode, BY_NAME["concatenate"].opcode}


def kind_at(tape: Any, place: int) -> str:
    """What stands at a place of the arena: "b" truth values, "i" integers, "" neither."""
    row = tape.code[tape.row_of(place)]
    op, out = int(row[0]), int(row[1])
    if op == LEAF:
        return str(tape.kinds.get(int(tape.addresses.slots_of(np.array([out]))[0]), ""))
    if op % RUN in _FLAGS:
        return "b"
    if op % RUN not in _MOVES:
        return ""
    # The same numbers elsewhere are of the same kind. The second operand of a gather is where to look.
    sources = operand_slots(row, tape.side)[: 1 if op % RUN == _GATHER else None]
    kinds = {kind_at(tape, source) for source in sources}
    return kinds.pop() if len(kinds) == 1 else ""

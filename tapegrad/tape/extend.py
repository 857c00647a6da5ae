"""Appending many scalar instructions at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import StaleValueError
from tapegrad.ops import has_kernel
from tapegrad.ops.record import OPCODE, OUT, A
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.addresses import GONE

# Instructions that are better appended to the buffer than to the arrays.
_FEW = 256


def extend(tape: Any, rows: np.ndarray, numbers: np.ndarray) -> Any:
    """Append scalar instructions, and leaves of one known number among them, to a tape.

    Rows are as `Tape.push` takes them: operands are slots, and results are the slots from `tape.top` on, in order.
    `numbers` are those of the leaves. Returns the page that keeps all of them on the tape.

    Raises StaleValueError for an operand that is no longer on the tape.
    """
    n, leaves = len(rows), rows[:, OPCODE] == LEAF
    if n < _FEW:
        tape.allocate(n)
        tape.push(rows.reshape(-1).tolist())
        tape._data += zip(rows[leaves, OUT].tolist(), numbers.tolist(), strict=True)
        return tape.page
    operands = rows[:, A:].copy()
    # Before there is room for them: a tape that has grown may forget and move what it has.
    tape.flush()
    tape.allocate(n)
    operands[~leaves] = tape.addresses.places_of(operands[~leaves])
    if (operands < 0).any():
        tape._forget_buffers()
        raise StaleValueError(GONE)
    tape._reserve(n, 0, n)
    new = tape.code[tape.length : tape.length + n]
    new[:, OPCODE], new[:, OUT], new[:, A:] = rows[:, OPCODE], np.arange(tape.slots, tape.slots + n), operands
    tape.values[tape.slots : tape.slots + n][leaves] = numbers
    opcodes = np.unique(rows[:, OPCODE])
    tape.needs_new |= set(opcodes[has_kernel(opcodes, tape.dtype)].tolist()) - tape.needs
    tape.length += n
    tape.slots += n
    tape.flushed = tape.top
    return tape.page

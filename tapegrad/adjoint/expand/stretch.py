"""One stretch of scalar instructions: what compiled code is given of it, and what it leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapegrad.adjoint.expand import loops
from tapegrad.adjoint.expand.templates import Tables
from tapegrad.adjoint.simplify import known_of
from tapegrad.ops import TABLE, arithmetic
from tapegrad.ops.record import COLUMNS, OPCODE, OUT, A
from tapegrad.sweeps.marks import LEAF

# In the order that `loops` has.
_NAMED = np.array([
    getattr(arithmetic, name).opcode for name in ("add", "subtract", "multiply", "divide", "negative", "chain")
])  # fmt: skip


class Given(NamedTuple):
    """The instructions of a region, and the known numbers that they and their templates name."""

    ops: np.ndarray
    outs: np.ndarray  # slots
    operands: np.ndarray  # references, three an instruction
    reads: np.ndarray  # the node that made each operand, -1 where no derivative passes
    constants: np.ndarray  # references to the templates' constants
    slots: np.ndarray  # slots of known numbers, ascending
    numbers: np.ndarray


def written(
    given: Given, tables: Tables, flows: np.ndarray, low: int, high: int, first: int, back: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The derivatives of instructions low up to high, see `loops.expand`, as rows for a tape, whose results are the
    slots from `first` on; and the numbers of the leaves among them.

    `flows` has the slots of adjoints or tangents by node, and is brought up to date.
    """
    known, own = len(given.slots), high - low
    start = known + own
    # Memory that is not written to is not taken either.
    most = start + int(tables.room[given.ops[low:high]].sum())
    rows, numbers = np.empty((most, COLUMNS), np.int64), np.empty(most)
    numbers[:known], numbers[known:start] = given.numbers, np.nan
    rows[:known, OPCODE], rows[:known, OUT] = LEAF, np.arange(known)
    # What is known is found by the bits of its number.
    rows[:known, A:] = numbers[:known, None].view(np.int64)
    rows[known:start, OPCODE], rows[known:start, OUT] = given.ops[low:high], ~given.outs[low:high]
    rows[known:start, A:] = given.operands[low:high]
    table = np.full(min(loops.TABLE, 1 << max(6, (2 * most).bit_length())), -1)
    made = np.empty(1 + int(tables.length.max()), np.int64)
    n = loops.expand(
        *given[:6], tables.arity, tables.length, tables.first, tables.steps, _NAMED, known_of(len(TABLE)), rows, table,
        numbers, made, flows, low, high, first, int(back),
    )  # fmt: skip
    new = rows[start:n]
    return new, numbers[start:n][new[:, OPCODE] == LEAF]

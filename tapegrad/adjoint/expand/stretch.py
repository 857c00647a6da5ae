"""Calls the compiled code that writes the derivatives of one stretch of scalar instructions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapegrad.adjoint.expand import loops
from tapegrad.adjoint.expand.templates import Tables
from tapegrad.adjoint.simplify import known_of
from tapegrad.ops import TABLE, arithmetic
from tapegrad.ops.record import COLUMNS, OPCODE, OUT, A
from tapegrad.sweeps.marks import LEAF

# In the order of ADD to CHAIN in `loops`.
_NAMED = np.array([
    getattr(arithmetic, name).opcode for name in ("add", "subtract", "multiply", "divide", "negative", "chain")
])  # fmt: skip


class Given(NamedTuple):
    """The instructions of a region, and the known numbers that they and their templates use."""

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
    """The derivatives of instructions `low` up to `high`, as rows for a tape, and the numbers of the leaves among them.

    The results of the rows have the slots from `first` on. `flows` has the slot of each node's adjoint or tangent, and
    is brought up to date. See `loops.expand`.
    """
    known, own = len(given.slots), high - low
    start = known + own
    # Most of these rows may stay unused: the system provides memory only where it is written to.
    most = start + int(tables.room[given.ops[low:high]].sum())
    rows, numbers = np.empty((most, COLUMNS), np.int64), np.empty(most)
    numbers[:known], numbers[known:start] = given.numbers, np.nan
    rows[:known, OPCODE], rows[:known, OUT] = LEAF, np.arange(known)
    # The table finds a known number by its bits, which stand in place of operands.
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

"""Removing what is superfluous in a derivative program: computations on constants, repetitions, factors of one.

One pass over the code, from the first instruction to the last. For each place it notes the place that is to be read
instead, mostly the same one, and rewrites operands accordingly. An instruction whose operands are all constant becomes
a leaf with its value. Where several instructions compute the same number, that of the first is read. In place of
`x * 1`, `x + 0`, `x / 1`, copies and the like, x is read: the rows of the table say which numbers are neutral. The
caller then cuts the program down to what its outputs depend on, which drops the instructions that are no longer read.
Guards stay as they are.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tapegrad.adjoint import loops
from tapegrad.ops import TABLE, Elementwise, Operation
from tapegrad.ops.record import OUT
from tapegrad.sweeps.owners import Owners, owners


def simplified(tape: Any, inputs: int) -> tuple[Owners, np.ndarray]:
    """Simplify a tape, its first `inputs` instructions being its inputs. Only what is constant need be evaluated.

    Returns where the results of its instructions begin, and for each the place that is to be read instead.
    """
    code, rows = tape.code[: tape.length], known_of(len(TABLE))
    found, constant = owners(code[:, OUT]), np.zeros(len(code), np.uint8)
    loops.find_constants(code, tape.side, inputs, rows, *found, constant)
    tape.compute(np.flatnonzero(constant))
    to = found.starts.copy()
    table = np.full(1 << max(4, (2 * len(code)).bit_length()), -1, np.int32)
    loops.simplify(code, tape.side, tape.values, rows, *found, constant, to, table)
    return found, to


@functools.cache
def known_of(count: int) -> np.ndarray:
    """What compiled code knows of the first `count` operations of the table, in the columns that `loops` names."""
    return np.array([_columns(row) for row in TABLE[:count]], np.float64)


def _columns(row: Operation) -> list[float]:
    found = [np.nan, np.nan, 0.0, 0.0, float(row.opaque), -1.0]
    if isinstance(row, Elementwise):
        for column, number in zip((loops.LEFT, loops.RIGHT), row.neutral, strict=False):
            found[column] = np.nan if number is None else number
        found[loops.COMMUTES] = row.commutes
        found[loops.IDENTITY] = row.arity == 1 and row.moves == 1 and not row.held
        found[loops.UNMASKED] = -1.0 if row.unmasked is None else row.unmasked.opcode
    return found

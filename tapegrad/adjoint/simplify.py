"""Removing what a derivative program has too much of: constants computed anew, the same thing twice, factors of one.

One pass over the code, first instruction to last. Each slot gets another that stands for it, mostly itself; operands
are rewritten to those. An instruction whose operands are all constant becomes a leaf that holds its value; one that was
met before stands for nothing but the first; `x * 1`, `x + 0`, `x / 1`, copies and the like stand for their operand.
What nobody reads any more is then left out by whoever keeps what the outputs need. Guards are left alone.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tapegrad.adjoint import kernels
from tapegrad.ops import BY_NAME, TABLE, Structured


@functools.cache
def named() -> np.ndarray:
    """The opcodes that compiled code is told, in the order of `kernels.NAMED`."""
    return np.array([BY_NAME[name].opcode for name in kernels.NAMED], np.int64)


def simplified(tape: Any, inputs: int) -> np.ndarray:
    """Simplify a tape that has been evaluated, its first `inputs` instructions being its inputs.

    Returns for each place of the arena the place that stands for it now.
    """
    # Not to be computed once and for all, nor taken for one another: calls of Python functions.
    opaque = np.array([isinstance(row, Structured) and row.name == "external" for row in TABLE], np.uint8)
    # Masked products by constants become plain ones.
    tape.needs.add(BY_NAME["multiply"].opcode)
    to = np.arange(len(tape.values))
    constant = np.zeros(len(tape.values), np.uint8)
    table = np.full(1 << max(4, (2 * tape.length).bit_length()), -1, np.int32)
    kernels.simplify(
        tape.code[: tape.length], tape.side, tape.values, to, inputs, named(), opaque, constant, table
    )
    return to

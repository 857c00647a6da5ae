"""Short runs replaced by scalar instructions.

A run costs tens of nanoseconds besides its elements, so that for a few elements scalar instructions are faster. An
elementwise run over n elements becomes n scalar instructions, whatever the strides of its operands. Joining short
arrays becomes copies; instructions that would read a copy read the original instead. Every number is still computed, so
that the arena is the same after a replay as without this.
"""

from __future__ import annotations

import functools

import numpy as np

from tapegrad.ops import BY_NAME, RUN, TABLE, Elementwise, has_kernel
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program.code import Code
from tapegrad.program.loops import expand
from tapegrad.sweeps.owners import owners

# The most elements of a run that is expanded: for an operation with a branch of its own in the sweeps, and for any
# other, whose scalar instructions call a kernel.
BRANCHED, CALLED = 16, 4
_COPY = BY_NAME["copy"].opcode
_CONCATENATE = BY_NAME["concatenate"].opcode


def expanded(code: Code) -> np.ndarray:
    """The steps of a program, short runs as scalar instructions."""
    steps, side = code.steps, code.side
    limits = _limits(code.dtype, len(TABLE))
    opcodes = steps[:, OPCODE].astype(np.int64)
    short = (opcodes >= RUN) & (steps[:, B] <= limits[opcodes % RUN])
    if not short.any():
        return steps
    made = np.empty((int(np.where(short, code.counts, 1).sum()), steps.shape[1]), np.uint32)
    # For each number of a short run, the place that is read in its stead.
    starts, counts = steps[short, OUT].astype(np.int64), code.counts[short]
    first = np.cumsum(counts) - counts
    to = np.repeat(starts - first, counts) + np.arange(counts.sum())
    expand(steps, side, limits, *owners(starts), counts, first, to, made, _COPY)
    return made


@functools.cache
def _limits(dtype: np.dtype, count: int) -> np.ndarray:
    """For each of the first `count` opcodes the number of elements up to which its runs are expanded."""
    limits = np.zeros(count, np.int64)
    for row in TABLE[:count]:
        if isinstance(row, Elementwise):
            called = has_kernel(np.array([row.opcode]), dtype)[0]
            limits[row.opcode] = CALLED if called else BRANCHED
    limits[_CONCATENATE] = BRANCHED
    return limits

"""Short runs as scalar instructions: for a few elements the sweeps are faster so, by what an instruction costs besides.

An elementwise run over n elements becomes n scalar instructions, whatever the strides of its operands; joining short
arrays becomes copies, past which those that read them look for the original. Every slot is still computed, so whoever
reads the arena finds there what the program as it was recorded would have left.
"""

from __future__ import annotations

import functools

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import BY_NAME, RUN, TABLE, Elementwise, has_kernel
from tapegrad.ops.record import (
    OPCODE,
    A,
    B,
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    params_at,
    shape_at,
)
from tapegrad.program.code import Code

# Elements up to which a run is expanded: of an operation with a branch of its own in the sweeps, and of another, whose
# scalar form calls a kernel.
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
    expand(steps, side, limits, np.arange(code.slots + 1), made)
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


@compiled(steps="uint32[:, :]", side="int64[:]", limits="int64[:]", to="int64[:]", made="uint32[:, :]")
def expand(steps, side, limits, to, made):
    # `to` says of each slot where the same number was first.
    r = 0
    for i in range(steps.shape[0]):
        op, o, n = np.int64(steps[i, OPCODE]), np.int64(steps[i, 1]), np.int64(steps[i, B])
        if op < RUN:
            made[r, 0], made[r, 1] = op, o
            for j in range(2, 5):
                made[r, j] = to[steps[i, j]]
            r += 1
        elif n > limits[op - RUN]:
            for j in range(5):
                made[r, j] = steps[i, j]
            r += 1
        else:
            k = np.int64(steps[i, A])
            for e in range(n):
                if is_structured(side, k):
                    a = to[joined_element(side, k, e)]
                    b = c = a
                    made[r, 0] = _COPY
                else:
                    last = operand_count(side, k) - 1
                    a = to[element(side, k, 0, e)]
                    b = to[element(side, k, min(1, last), e)]
                    c = to[element(side, k, last, e)]
                    made[r, 0] = op - RUN
                if made[r, 0] == _COPY:
                    to[o + e] = a
                made[r, 1], made[r, 2], made[r, 3], made[r, 4] = o + e, a, b, c
                r += 1
    return r


def element(side, k, j, e):
    # Where element e of operand j of an elementwise run stands.
    slot, p, q = operand_at(side, k, j), mode_at(side, k, j), shape_at(side, k)
    for d in range(axes(side, k) - 1, -1, -1):
        slot += (e % side[q + d]) * side[p + 1 + d]
        e //= side[q + d]
    return slot


def joined_element(side, k, e):
    # Where the element stands that `concatenate` puts at place e. Its parameters are the number of rows, the length of
    # a row of the result, and that of a row of each operand.
    p = params_at(side, k)
    row, column, j = e // side[p + 1], e % side[p + 1], 0
    while column >= side[p + 2 + j]:
        column -= side[p + 2 + j]
        j += 1
    return operand_at(side, k, j) + row * side[p + 2 + j] + column

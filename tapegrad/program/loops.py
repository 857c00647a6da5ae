"""Compiled loops over the steps of a program."""

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    OPCODE,
    A,
    B,
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    operand_high,
    operand_low,
    params_at,
    shape_at,
)
from tapegrad.sweeps.owners import owner


@compiled(
    steps="uint32[:, :]", side="int64[:]", limits="int64[:]", starts="int64[:]", index="int64[:]", shift="int64",
    counts="int64[:]", first="int64[:]", to="int64[:]", made="uint32[:, :]", copy="int64",
)  # fmt: skip
def expand(steps, side, limits, starts, index, shift, counts, first, to, made, copy):
    """Write the steps to `made`, short runs as scalar instructions; joining becomes instructions `copy`.

    Short run i has counts[i] numbers from place starts[i] on. `to` has for each of them, from first[i] on, the place
    that is read in its stead: for a copy, that of the original. Returns how many instructions were written.
    """
    r, short = 0, 0
    for i in range(steps.shape[0]):
        op, o, n = np.int64(steps[i, OPCODE]), np.int64(steps[i, 1]), np.int64(steps[i, B])
        if op < RUN:
            made[r, 0], made[r, 1] = op, o
            for j in range(2, 5):
                made[r, j] = read_at(np.int64(steps[i, j]), starts, index, shift, counts, first, to)
            r += 1
        elif n > limits[op - RUN]:
            for j in range(5):
                made[r, j] = steps[i, j]
            r += 1
        else:
            k = np.int64(steps[i, A])
            for e in range(n):
                if is_structured(side, k):
                    a = read_at(joined_element(side, k, e), starts, index, shift, counts, first, to)
                    b = c = a
                    made[r, 0] = copy
                else:
                    last = operand_count(side, k) - 1
                    a = read_at(element(side, k, 0, e), starts, index, shift, counts, first, to)
                    b = read_at(element(side, k, min(1, last), e), starts, index, shift, counts, first, to)
                    c = read_at(element(side, k, last, e), starts, index, shift, counts, first, to)
                    made[r, 0] = op - RUN
                if made[r, 0] == copy:
                    to[first[short] + e] = a
                made[r, 1], made[r, 2], made[r, 3], made[r, 4] = o + e, a, b, c
                r += 1
            short += 1
    return r


def read_at(place, starts, index, shift, counts, first, to):
    """The place that is read in place of another; see `expand`."""
    i = owner(place, starts, index, shift)
    return to[first[i] + place - starts[i]] if i >= 0 and place - starts[i] < counts[i] else place


def element(side, k, j, e):
    """The place of element e of operand j of an elementwise run."""
    slot, p, q = operand_at(side, k, j), mode_at(side, k, j), shape_at(side, k)
    for d in range(axes(side, k) - 1, -1, -1):
        slot += (e % side[q + d]) * side[p + 1 + d]
        e //= side[q + d]
    return slot


def joined_element(side, k, e):
    """The place of the operand's element that `concatenate` puts at position e of its result.

    Its parameters are the number of rows, the length of a row of the result, and that of a row of each operand.
    """
    p = params_at(side, k)
    row, column, j = e // side[p + 1], e % side[p + 1], 0
    while column >= side[p + 2 + j]:
        column -= side[p + 2 + j]
        j += 1
    return operand_at(side, k, j) + row * side[p + 2 + j] + column


@compiled(
    steps="uint32[:, :]", side="int64[:]", starts="int64[:]", index="int64[:]", shift="int64", last="int64[:]"
)
def last_readers(steps, side, starts, index, shift, last):
    """For each result, the last step that reads it. Result i begins at starts[i]; `last` comes as -1."""
    for i in range(steps.shape[0]):
        if steps[i, OPCODE] < RUN:
            for j in range(2, 5):
                last[owner(np.int64(steps[i, j]), starts, index, shift)] = i
        else:
            k = np.int64(steps[i, A])
            for j in range(operand_count(side, k)):
                if operand_low(side, k, j) < operand_high(side, k, j):
                    last[owner(operand_at(side, k, j), starts, index, shift)] = i

"""What depends on what: passes over the code that compute no values."""

import numpy as np
from numba import njit

from tapegrad.ops import RUN
from tapegrad.ops.record import (
    ACTIVE,
    ARITY,
    COUNT,
    DENSE,
    ELEMENTWISE,
    FIRST,
    HIGH,
    INSIDE,
    KIND,
    LAST,
    LOW,
    OPERAND_SIZE,
    OPERANDS,
    OUT,
    SLOT,
    STRUCTURED,
)
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF

# Runs that go together: few enough that a block of all their values and adjoints stays in the second-level cache.
GROUP = 32


@njit(cache=True, nogil=True)
def activate(code, side, active, passive, start, stop):
    """Mark the slots that a gradient can flow through, from the leaves that want one, and flag operands likewise."""
    for i in range(start, stop):
        op, o, a, b = code[i, 0], code[i, 1], code[i, 2], code[i, 3]
        if op == LEAF:
            for j in range(o, o + b):
                active[j] = a
        elif op < RUN:
            active[o] = (active[a] | active[b]) & ~passive[op] & 1
        else:
            k = np.int64(a)
            flows = 0
            for j in range(side[k + ARITY]):
                q = k + OPERANDS + OPERAND_SIZE * j
                side[q + ACTIVE] = 0
                for s in range(side[q + SLOT] + side[q + LOW], side[q + SLOT] + side[q + HIGH]):
                    if active[s]:
                        side[q + ACTIVE] = flows = 1
                        break
            if passive[op - RUN]:
                flows = 0
            for j in range(o, o + b):
                active[j] = flows


@njit(cache=True, nogil=True)
def reach(code, side, mark, active, stop, rows):
    """The instructions below `stop` that the marked slots depend on, marking as it goes.

    Where `active` is not empty, only through active slots. Guards count where it is empty: a replay needs them.
    Rows are written to the end of `rows`, ascending; returns where they start.
    """
    first = rows.shape[0]
    derivatives = active.shape[0] > 0
    for i in range(stop - 1, -1, -1):
        op, o, a, b = code[i, 0], code[i, 1], code[i, 2], code[i, 3]
        n = b if op == LEAF or op >= RUN else np.uint32(1)
        wanted = op == EXPECT and not derivatives
        if not wanted:
            for j in range(o, o + n):
                if mark[j] and (not derivatives or active[j]):
                    wanted = True
                    break
        if not wanted:
            continue
        first -= 1
        rows[first] = i
        if op == LEAF:
            continue
        if op < RUN:
            mark[a] = 1
            mark[b] = 1
        else:
            k = np.int64(a)
            for j in range(side[k + ARITY]):
                q = k + OPERANDS + OPERAND_SIZE * j
                for s in range(side[q + SLOT] + side[q + LOW], side[q + SLOT] + side[q + HIGH]):
                    mark[s] = 1
    return first


@njit(cache=True, nogil=True)
def relocate(code, side, to):
    """Rewrite the operand slots of every instruction: slot s becomes to[s]. `out` has been rewritten already."""
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op == LEAF:
            continue
        if op < RUN:
            code[i, 2] = to[code[i, 2]]
            code[i, 3] = to[code[i, 3]]
        else:
            k = np.int64(code[i, 2])
            for j in range(side[k + ARITY]):
                q = k + OPERANDS + OPERAND_SIZE * j + SLOT
                side[q] = to[side[q]]


@njit(cache=True, nogil=True)
def group(code, side):
    """Find elementwise runs that follow each other and can go a block at a time together.

    They have as many elements, and what one reads of another's results is the same block of it. A block of all of them
    then stays in the cache, where long arrays one after the other would not.
    """
    i, n_code = 0, code.shape[0]
    while i < n_code:
        end = i
        while end < n_code and end - i < GROUP and _may_join(code, side, i, end):
            end += 1
        for r in range(i, max(end, i + 1)):
            if code[r, 0] >= RUN and side[np.int64(code[r, 2]) + KIND] != STRUCTURED:
                kind = ELEMENTWISE if end - i < 2 else FIRST if r == i else LAST if r == end - 1 else INSIDE
                side[np.int64(code[r, 2]) + KIND] = kind
        i = max(end, i + 1)


@njit(cache=True, nogil=True)
def _may_join(code, side, first, r):
    if code[r, 0] < RUN:
        return False
    k, k0 = np.int64(code[r, 2]), np.int64(code[first, 2])
    n = side[k + COUNT]
    if side[k + KIND] == STRUCTURED or n <= BLOCK or (r > first and n != side[k0 + COUNT]):
        return False
    p = k + OPERANDS + OPERAND_SIZE * side[k + ARITY]
    ndim = side[p]
    for j in range(side[k + ARITY]):
        q = k + OPERANDS + OPERAND_SIZE * j
        low, high = side[q + SLOT] + side[q + LOW], side[q + SLOT] + side[q + HIGH]
        for other in range(first, r):
            out = side[np.int64(code[other, 2]) + OUT]
            if low < out + n and high > out and (side[p + 1 + ndim + j * (1 + ndim)] != DENSE or side[q + SLOT] != out):
                return False
    return True

"""The tangent sweep: compute the derivative along one direction, first instruction to last.

Values must have been computed. As in the reverse sweep, a tangent of zero contributes nothing.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COLUMNS, INSIDE, LAST, A, group_flag, is_structured, result_at, result_size
from tapegrad.sweeps.kernels import TANGENT, at, call_run, call_runs, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF, LOST, SWITCH
from tapegrad.sweeps.operands import block, group_end


def tangent(flat, side, flags, v, t, scratch):
    # The instructions are one row of numbers, with unsigned indices: no wraparound to check, no stride to multiply by
    # (a quarter faster).
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for i in range(flat.shape[0] // COLUMNS):
        j = np.uint64(COLUMNS * i)
        op, o, a, b, c = flat[j], flat[j + one], flat[j + two], flat[j + three], flat[j + four]
        if SWITCH("tangent"):
            pass
        elif op >= RUN:
            call_runs(TANGENT, flat, i, side, flags, v, t, scratch)
        elif op != LEAF and op != EXPECT:
            # For a scalar operation without a branch of its own its kernel is called, on one element.
            x, y, w, z = np.int64(a), np.int64(b), np.int64(c), np.int64(o)
            of, to = 3 * np.int64(op) + 2, at(t, z)
            call_run(of, 1, at(v, z), at(v, x), at(v, y), at(v, w), to, at(t, x), at(t, y), at(t, w))


def tangent_run(flat, i, side, flags, v, t, scratch):
    # Takes tangents through an instruction over many elements; if a group begins with it, through the whole group.
    op, k = np.int64(flat[COLUMNS * i]) - RUN, np.int64(flat[COLUMNS * i + A])
    if is_structured(side, k):
        if not call_structured(3 * op + 2, side, k, flags, v, t):
            scratch[LOST] = 1.0
    elif flags[group_flag(k)] != INSIDE and flags[group_flag(k)] != LAST:
        n, end = result_size(side, k), group_end(flat, flags, i)
        # The second half of scratch is for tangents.
        half = scratch[3 * BLOCK :]
        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            for r in range(i, end):
                op, k = np.int64(flat[COLUMNS * r]) - RUN, np.int64(flat[COLUMNS * r + A])
                tangent_block(op, side, k, v, t, scratch, half, start, m)
    return True


def tangent_block(op, side, k, v, t, scratch, half, start, m):
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    z = result_at(side, k) + start
    x = block(side, k, operand, v, scratch, start, m)
    y = block(side, k, operand + 1, v, scratch, start, m)
    w = block(side, k, operand + 2, v, scratch, start, m)
    tx = block(side, k, operand, t, half, start, m)
    ty = block(side, k, operand + 1, t, half, start, m)
    tw = block(side, k, operand + 2, t, half, start, m)
    call_run(3 * op + 2, m, at(v, z), x, y, w, at(t, z), tx, ty, tw)

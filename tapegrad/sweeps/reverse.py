"""The reverse sweep: accumulate adjoints, last instruction to first.

The adjoint arena `g` has the layout of the value arena, so views need no rule: an operand's adjoint is read and
accumulated through the operand's own places and strides. An instruction whose adjoint is zero adds nothing to the
adjoints of its operands, even where its derivative is infinite or NaN.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COLUMNS, FIRST, INSIDE, OUT, A, B, group_flag, is_structured, result_at, result_size
from tapegrad.sweeps.kernels import REVERSE, at, call_run, call_runs, call_structured
from tapegrad.sweeps.marks import BLOCK, LEAF, LOST, SWITCH
from tapegrad.sweeps.operands import accumulate, adjoint_block, block, group_start


def reverse(flat, side, flags, v, g, scratch):
    # The instructions are one row of numbers, with unsigned indices: no wraparound to check, no stride to multiply by
    # (a quarter faster).
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for i in range(flat.shape[0] // COLUMNS - 1, -1, -1):
        j = np.uint64(COLUMNS * i)
        op, o, a, b, c = flat[j], flat[j + one], flat[j + two], flat[j + three], flat[j + four]
        gz = g[o]
        if gz == 0.0 and op < RUN:
            continue
        if SWITCH("reverse"):
            pass
        elif op >= RUN:
            call_runs(REVERSE, flat, i, side, flags, v, g, scratch)
        elif op != LEAF:
            reverse_one(op, o, a, b, c, v, g)


def reverse_one(op, o, a, b, c, v, g):
    # For a scalar operation without a branch of its own its kernel is called, on one element.
    x, y, w, z = np.int64(a), np.int64(b), np.int64(c), np.int64(o)
    call_run(3 * np.int64(op) + 1, 1, at(v, z), at(v, x), at(v, y), at(v, w), at(g, z), at(g, x), at(g, y), at(g, w))


def reverse_run(flat, i, side, flags, v, g, scratch):
    # Takes an instruction over many elements back; if a group ends with it, the whole group (see `analysis.group`).
    op, k = np.int64(flat[COLUMNS * i]) - RUN, np.int64(flat[COLUMNS * i + A])
    if op == LEAF:
        # Before this, forward, other numbers stood here, and their adjoints are to be added up; see `program.lean`.
        first = np.int64(flat[COLUMNS * i + OUT])
        for j in range(first, first + np.int64(flat[COLUMNS * i + B])):
            g[j] = 0.0
    elif is_structured(side, k):
        if not call_structured(3 * op + 1, side, k, flags, v, g):
            scratch[LOST] = 1.0
    elif flags[group_flag(k)] != FIRST and flags[group_flag(k)] != INSIDE:
        n, first = result_size(side, k), group_start(flat, flags, i)
        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            for r in range(i, first - 1, -1):
                op, k = np.int64(flat[COLUMNS * r]) - RUN, np.int64(flat[COLUMNS * r + A])
                reverse_block(op, side, k, flags, v, g, scratch, start, m)
    return True


def reverse_block(op, side, k, flags, v, g, scratch, start, m):
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    z = result_at(side, k) + start
    x = block(side, k, operand, v, scratch, start, m)
    y = block(side, k, operand + 1, v, scratch, start, m)
    w = block(side, k, operand + 2, v, scratch, start, m)
    gx = adjoint_block(side, k, operand, flags, g, scratch, start, m)
    gy = adjoint_block(side, k, operand + 1, flags, g, scratch, start, m)
    gw = adjoint_block(side, k, operand + 2, flags, g, scratch, start, m)
    call_run(3 * op + 1, m, at(v, z), x, y, w, at(g, z), gx, gy, gw)
    accumulate(side, k, operand, flags, g, scratch, start, m)
    accumulate(side, k, operand + 1, flags, g, scratch, start, m)
    accumulate(side, k, operand + 2, flags, g, scratch, start, m)

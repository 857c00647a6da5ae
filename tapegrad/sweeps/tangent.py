"""The tangent sweep: carry one directional derivative along, first instruction to last.

Values must have been computed. As in the reverse sweep, a tangent of zero contributes nothing.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COUNT, INSIDE, KIND, LAST, OUT, STRUCTURED
from tapegrad.sweeps.kernels import call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF, SWITCH
from tapegrad.sweeps.operands import block, group_end


def tangent(code, side, v, t, start, stop):
    # Unsigned indices into one row of numbers: no wraparound to check, no stride to multiply by (a quarter faster).
    flat, one, two, three = code.reshape(-1), np.uint64(1), np.uint64(2), np.uint64(3)
    for i in range(start, stop):
        j = np.uint64(4 * i)
        op, o, a, b = flat[j], flat[j + one], flat[j + two], flat[j + three]
        if SWITCH("tangent"):
            pass
        elif op >= RUN:
            tangent_run(code, i, side, v, t)
        elif op != LEAF and op != EXPECT:
            # A scalar operation that has no branch of its own is a run of one.
            x, y, z = np.int64(a), np.int64(b), np.int64(o)
            call_run(3 * np.int64(op) + 2, 1, v, z, x, y, y, t, z, x, y, y)


def tangent_run(code, i, side, v, t):
    op, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 2])
    kind, n = side[k + KIND], side[k + COUNT]
    if kind == STRUCTURED:
        call_structured(3 * op + 2, side, k, v, t)
    elif kind != INSIDE and kind != LAST:
        end = group_end(code, side, i)
        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            for r in range(i, end):
                tangent_block(np.int64(code[r, 0]) - RUN, side, np.int64(code[r, 2]), v, t, start, m)


def tangent_block(op, side, k, v, t, start, m):
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    z = side[k + OUT] + start
    x = block(side, k, operand, v, start, m)
    y = block(side, k, operand + 1, v, start, m)
    w = block(side, k, operand + 2, v, start, m)
    tx = block(side, k, operand, t, start, m)
    ty = block(side, k, operand + 1, t, start, m)
    tw = block(side, k, operand + 2, t, start, m)
    call_run(3 * op + 2, m, v, z, x, y, w, t, z, tx, ty, tw)

"""The tangent sweep: carry one directional derivative along, first instruction to last.

Values must have been computed. As in the reverse sweep, a tangent of zero contributes nothing.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COUNT, KIND, OUT, STRUCTURED
from tapegrad.sweeps.kernels import call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF, SWITCH
from tapegrad.sweeps.operands import block


def tangent(code, side, v, t, start, stop):
    # Unsigned indices into one row of numbers: no wraparound to check, no stride to multiply by (a quarter faster).
    flat, one, two, three = code.reshape(-1), np.uint64(1), np.uint64(2), np.uint64(3)
    for i in range(start, stop):
        j = np.uint64(4 * i)
        op, o, a, b = flat[j], flat[j + one], flat[j + two], flat[j + three]
        if SWITCH("tangent"):
            pass
        elif op >= RUN:
            tangent_run(np.int64(op) - RUN, side, np.int64(a), v, t)
        elif op != LEAF and op != EXPECT:
            # A scalar operation that has no branch of its own is a run of one.
            x, y, tx, ty = v[a : a + 1], v[b : b + 1], t[a : a + 1], t[b : b + 1]
            call_run(3 * np.int64(op) + 2, 1, v[o : o + 1], x, y, y, t[o : o + 1], tx, ty, ty)


def tangent_run(op, side, k, v, t):
    kernel = 3 * op + 2
    if side[k + KIND] == STRUCTURED:
        call_structured(kernel, side, k, v, t)
        return
    n, out = side[k + COUNT], side[k + OUT]
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        z = v[out + start : out + start + m]
        x = block(side, k, operand, v, start, m)
        y = block(side, k, operand + 1, v, start, m)
        w = block(side, k, operand + 2, v, start, m)
        tz = t[out + start : out + start + m]
        tx = block(side, k, operand, t, start, m)
        ty = block(side, k, operand + 1, t, start, m)
        tw = block(side, k, operand + 2, t, start, m)
        call_run(kernel, m, z, x, y, w, tz, tx, ty, tw)

"""The reverse sweep: accumulate adjoints, last instruction to first.

The adjoint arena `g` has the layout of the value arena, so views need no rule: an operand's adjoint is read and
accumulated through the operand's own slots and strides. An adjoint of zero is passed on to nobody: what the
derivative would be there does not matter, not even where it is infinite.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import ARITY, COUNT, KIND, OUT, STRUCTURED
from tapegrad.sweeps.kernels import call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, LEAF, SCRATCH, SWITCH
from tapegrad.sweeps.operands import accumulate, block


def reverse(code, side, v, g, start, stop):
    # Unsigned indices into one row of numbers: no wraparound to check, no stride to multiply by (a quarter faster).
    flat, one, two, three = code.reshape(-1), np.uint64(1), np.uint64(2), np.uint64(3)
    for i in range(stop - 1, start - 1, -1):
        j = np.uint64(4 * i)
        op, o, a, b = flat[j], flat[j + one], flat[j + two], flat[j + three]
        gz = g[o]
        if gz == 0.0 and op < RUN:
            continue
        if SWITCH("reverse"):
            pass
        elif op >= RUN:
            reverse_run(np.int64(op) - RUN, side, np.int64(a), v, g)
        elif op != LEAF:
            reverse_one(op, o, a, b, v, g)


def reverse_one(op, o, a, b, v, g):
    # A scalar operation that has no branch of its own is a run of one.
    scratch = g.shape[0] - SCRATCH
    gx, gy = g[scratch : scratch + 1], g[scratch + BLOCK : scratch + BLOCK + 1]
    gy[0] = 0.0
    x, y = v[a : a + 1], v[b : b + 1]
    call_run(3 * np.int64(op) + 1, 1, v[o : o + 1], x, y, y, g[o : o + 1], gx, gy, gy)
    g[a] += gx[0]
    g[b] += gy[0]


def reverse_run(op, side, k, v, g):
    kernel = 3 * op + 1
    if side[k + KIND] == STRUCTURED:
        call_structured(kernel, side, k, v, g)
        return
    n, out, arity = side[k + COUNT], side[k + OUT], side[k + ARITY]
    scratch = g.shape[0] - SCRATCH
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        z = v[out + start : out + start + m]
        gz = g[out + start : out + start + m]
        x = block(side, k, operand, v, start, m)
        y = block(side, k, operand + 1, v, start, m)
        w = block(side, k, operand + 2, v, start, m)
        gx = g[scratch : scratch + m]
        gy = g[scratch + BLOCK : scratch + BLOCK + m]
        gw = g[scratch + 2 * BLOCK : scratch + 2 * BLOCK + m]
        call_run(kernel, m, z, x, y, w, gz, gx, gy, gw)
        accumulate(side, k, operand, g, start, gx)
        if arity > 1:
            accumulate(side, k, operand + 1, g, start, gy)
        if arity > 2:
            accumulate(side, k, operand + 2, g, start, gw)

"""The reverse sweep: accumulate adjoints, last instruction to first.

The adjoint arena `g` has the layout of the value arena, so views need no rule: an operand's adjoint is read and
accumulated through the operand's own slots and strides. An adjoint of zero is passed on to nobody: what the
derivative would be there does not matter, not even where it is infinite.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COUNT, FIRST, INSIDE, KIND, OUT, STRUCTURED
from tapegrad.sweeps.kernels import call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, LEAF, SWITCH
from tapegrad.sweeps.operands import accumulate, adjoint_block, block, group_start


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
            reverse_run(code, i, side, v, g)
        elif op != LEAF:
            reverse_one(op, o, a, b, v, g)


def reverse_one(op, o, a, b, v, g):
    # A scalar operation that has no branch of its own is a run of one.
    a, b, o = np.int64(a), np.int64(b), np.int64(o)
    call_run(3 * np.int64(op) + 1, 1, v, o, a, b, b, g, o, a, b, b)


def reverse_run(code, i, side, v, g):
    op, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 2])
    kind, n = side[k + KIND], side[k + COUNT]
    if kind == STRUCTURED:
        call_structured(3 * op + 1, side, k, v, g)
    elif kind != FIRST and kind != INSIDE:
        first = group_start(code, side, i)
        for start in range(0, n, BLOCK):
            m = min(BLOCK, n - start)
            for r in range(i, first - 1, -1):
                reverse_block(np.int64(code[r, 0]) - RUN, side, np.int64(code[r, 2]), v, g, start, m)


def reverse_block(op, side, k, v, g, start, m):
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    z = side[k + OUT] + start
    x = block(side, k, operand, v, start, m)
    y = block(side, k, operand + 1, v, start, m)
    w = block(side, k, operand + 2, v, start, m)
    gx = adjoint_block(side, k, operand, g, start, m)
    gy = adjoint_block(side, k, operand + 1, g, start, m)
    gw = adjoint_block(side, k, operand + 2, g, start, m)
    call_run(3 * op + 1, m, v, z, x, y, w, g, z, gx, gy, gw)
    accumulate(side, k, operand, g, start, m)
    accumulate(side, k, operand + 1, g, start, m)
    accumulate(side, k, operand + 2, g, start, m)

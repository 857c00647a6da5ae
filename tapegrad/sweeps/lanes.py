"""Several directions in one pass: the reverse and tangent sweeps over k lanes.

Adjoints and tangents are rows of k numbers, one a slot, so that the partial derivatives of an instruction are computed
once and the loop over lanes is contiguous. `h` is an arena of one lane, zero but for its scratch space, on which the
kernels of structured operations work, lane by lane; a block of ones stands behind it. As in the other sweeps a zero is
passed on to nobody.

Read as source: `generate` puts lines that set px and py, the partials of an inlined operation, in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import (
    ACTIVE,
    ARITY,
    COUNT,
    DENSE,
    HIGH,
    KIND,
    LOW,
    OPERAND_SIZE,
    OPERANDS,
    OUT,
    SLOT,
    STRUCTURED,
)
from tapegrad.sweeps.kernels import call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF, SCRATCH, SWITCH
from tapegrad.sweeps.operands import block, stretch, strides_of


def one_partials(op, o, a, b, v, h):
    # Of a scalar operation without a branch of its own: its reverse kernel, started from an adjoint of one.
    scratch, ones = v.shape[0] - SCRATCH, v.shape[0]
    h[scratch] = h[scratch + BLOCK] = 0.0
    call_run(3 * np.int64(op) + 1, 1, v, o, a, b, b, h, ones, scratch, scratch + BLOCK, scratch + BLOCK)
    return h[scratch], h[scratch + BLOCK]


def run_partials(op, side, k, start, m, v, h):
    # The partials of one block of an elementwise run, in the scratch space of h, one block an operand.
    out, operand = side[k + OUT], k - k  # not a literal 0: Numba would compile `block` once for each literal
    scratch, ones = v.shape[0] - SCRATCH, v.shape[0]
    x = block(side, k, operand, v, start, m)
    y = block(side, k, operand + 1, v, start, m)
    w = block(side, k, operand + 2, v, start, m)
    h[scratch : scratch + 3 * BLOCK] = 0.0
    call_run(3 * op + 1, m, v, out + start, x, y, w, h, ones, scratch, scratch + BLOCK, scratch + 2 * BLOCK)


def add_lanes(to, a, of, o, p):
    # to[a] += p of[o], lane by lane.
    if p != 0.0:
        x, y = to[a], of[o]
        for lane in range(x.shape[0]):
            c = y[lane]
            x[lane] += p * c if c != 0.0 else c


def exchange_lanes(side, k, j, start, m, p, o, back, d):
    # For a block of operand j of a run: pass the adjoints of the results, from o on, back to it, or its tangents on.
    x, q = side[k + OPERANDS + OPERAND_SIZE * j + SLOT], strides_of(side, k, j)
    done = 0
    while done < m:
        if side[q] == DENSE:
            a, s, count = x + start, q - q + 1, m
        else:
            a, s, count = stretch(side, k, q, x, start + done, m - done)
        for i in range(count):
            if back:
                add_lanes(d, a + i * s, d, o + done + i, p[done + i])
            else:
                add_lanes(d, o + done + i, d, a + i * s, p[done + i])
        done += count


def copy_lane(d, lane, h, low, high):
    # One lane of some slots to the arena of one lane; whether any of it is not zero.
    found = False
    for s in range(low, high):
        h[s] = d[s, lane]
        found |= h[s] != 0.0
    return found


def structured_lanes(op, side, k, v, d, h, back):
    out, n, arity = side[k + OUT], side[k + COUNT], side[k + ARITY]
    for lane in range(d.shape[1]):
        found = False
        if back:
            found = copy_lane(d, lane, h, out, out + n)
        else:
            for j in range(arity):
                q = k + OPERANDS + OPERAND_SIZE * j
                x = side[q + SLOT]
                found |= copy_lane(d, lane, h, x + side[q + LOW], x + side[q + HIGH])
        if found:
            call_structured(3 * op + (1 if back else 2), side, k, v, h)
        if not back:
            for s in range(out, out + n):
                d[s, lane] = h[s] if found else 0.0
        for j in range(arity):
            q = k + OPERANDS + OPERAND_SIZE * j
            x = side[q + SLOT]
            for s in range(x + side[q + LOW], x + side[q + HIGH]):
                if back and found:
                    d[s, lane] += h[s]
                # Zero at once: another operand may be another view of the same slots.
                h[s] = 0.0
        for s in range(out, out + n):
            h[s] = 0.0


def run_lanes(op, side, k, v, d, h, back):
    if side[k + KIND] == STRUCTURED:
        structured_lanes(op, side, k, v, d, h, back)
        return
    n, out, arity = side[k + COUNT], side[k + OUT], side[k + ARITY]
    scratch = v.shape[0] - SCRATCH
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        run_partials(op, side, k, start, m, v, h)
        if not back:
            d[out + start : out + start + m, :] = 0.0
        for j in range(arity):
            if side[k + OPERANDS + OPERAND_SIZE * j + ACTIVE]:
                p = h[scratch + j * BLOCK : scratch + j * BLOCK + m]
                exchange_lanes(side, k, j, start, m, p, out + start, back, d)


def reverse_lanes(code, side, v, g, h):
    for i in range(code.shape[0] - 1, -1, -1):
        op, o, a, b = code[i, 0], np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
        if op in (LEAF, EXPECT):
            continue
        if op >= RUN:
            run_lanes(np.int64(op) - RUN, side, a, v, g, h, True)
            continue
        px, py = 0.0, 0.0
        if SWITCH("partials"):
            pass
        else:
            px, py = one_partials(op, o, a, b, v, h)
        add_lanes(g, a, g, o, px)
        add_lanes(g, b, g, o, py)


def tangent_lanes(code, side, v, t, h):
    for i in range(code.shape[0]):
        op, o, a, b = code[i, 0], np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
        if op in (LEAF, EXPECT):
            continue
        if op >= RUN:
            run_lanes(np.int64(op) - RUN, side, a, v, t, h, False)
            continue
        px, py = 0.0, 0.0
        if SWITCH("partials"):
            pass
        else:
            px, py = one_partials(op, o, a, b, v, h)
        t[o, :] = 0.0
        add_lanes(t, o, t, a, px)
        add_lanes(t, o, t, b, py)

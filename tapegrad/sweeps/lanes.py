"""Several directions in one pass: the reverse and tangent sweeps over k lanes.

Each place has a row of k adjoints or tangents, one for each lane, so that the partial derivatives of an instruction are
computed once, and the loop over lanes is contiguous. The kernels of structured operations work on one lane: `h` is an
arena of one lane, to which the lanes are copied one after the other, and which is all zero in between. `ones` is a
block of ones. As in the other sweeps, an adjoint or tangent of zero contributes nothing.

Read as source: `generate` puts lines that set px, py and pw, the partials of an inlined operation, in place of the
SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import (
    DENSE,
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    operand_high,
    operand_low,
    result_at,
    result_size,
    shape_at,
    wants_flag,
)
from tapegrad.sweeps.kernels import at, call_run, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF, LOST, SWITCH
from tapegrad.sweeps.operands import block


def one_partials(op, o, a, b, c, v, scratch, ones):
    # The partials of a scalar operation without a branch of its own: its reverse kernel adds them to zeros, when it is
    # started from an adjoint of one.
    scratch[0] = scratch[1] = scratch[2] = 0.0
    to = at(scratch, o - o)
    call_run(3 * np.int64(op) + 1, 1, at(v, o), at(v, a), at(v, b), at(v, c), at(ones, o - o),
             to, at(scratch, o - o + 1), at(scratch, o - o + 2))
    return scratch[0], scratch[1], scratch[2]


def run_partials(op, side, k, start, m, v, scratch, ones):
    # Put the partials of one block of an elementwise run in the second half of scratch, a block for each operand.
    out, operand = result_at(side, k), k - k  # not a literal 0: Numba would compile `block` once for each literal
    x = block(side, k, operand, v, scratch, start, m)
    y = block(side, k, operand + 1, v, scratch, start, m)
    w = block(side, k, operand + 2, v, scratch, start, m)
    scratch[3 * BLOCK : LOST] = 0.0  # not further: there stands whether a callback was lost
    to = 3 * BLOCK + operand
    call_run(3 * op + 1, m, at(v, out + start), x, y, w, at(ones, operand),
             at(scratch, to), at(scratch, to + BLOCK), at(scratch, to + 2 * BLOCK))


def add_lanes(to, a, of, o, p):
    # to[a] += p of[o], lane by lane.
    if p != 0.0:
        x, y = to[a], of[o]
        for lane in range(x.shape[0]):
            c = y[lane]
            x[lane] += p * c if c != 0.0 else c


def stretch(side, k, p, x, position, most):
    # Of a strided operand: the place of the element at `position` in row-major order, the stride to the next one, and
    # how many there are in the same row from there on, but no more than `most`.
    q, ndim = shape_at(side, k) - 1, axes(side, k)
    row = side[q + ndim]
    column = position % row
    position //= row
    a = x + column * side[p + ndim]
    for d in range(ndim - 1, 0, -1):
        a += (position % side[q + d]) * side[p + d]
        position //= side[q + d]
    return a, side[p + ndim], min(most, row - column)


def exchange_lanes(side, k, j, start, m, p, o, back, d):
    # For a block of a run whose results begin at place o, and its operand j with partials p: add p times the adjoints
    # of the results to those of the operand (`back`), or p times the tangents of the operand to those of the results.
    x, q = operand_at(side, k, j), mode_at(side, k, j)
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
    # Copy one lane of the places from `low` up to `high` to h. Returns whether any of these numbers is not zero.
    found = False
    for s in range(low, high):
        h[s] = d[s, lane]
        found |= h[s] != 0.0
    return found


def structured_lanes(op, side, k, flags, v, d, h, scratch, back):
    out, n, arity = result_at(side, k), result_size(side, k), operand_count(side, k)
    for lane in range(d.shape[1]):
        found = False
        if back:
            found = copy_lane(d, lane, h, out, out + n)
        else:
            for j in range(arity):
                found |= copy_lane(d, lane, h, operand_low(side, k, j), operand_high(side, k, j))
        if found and not call_structured(3 * op + (1 if back else 2), side, k, flags, v, h):
            scratch[LOST] = 1.0
        if not back:
            for s in range(out, out + n):
                d[s, lane] = h[s] if found else 0.0
        for j in range(arity):
            for s in range(operand_low(side, k, j), operand_high(side, k, j)):
                if back and found:
                    d[s, lane] += h[s]
                # Set to zero at once: another operand may be a view of the same places, and would add this once more.
                h[s] = 0.0
        for s in range(out, out + n):
            h[s] = 0.0


def run_lanes(op, side, k, flags, v, d, h, scratch, ones, back):
    if is_structured(side, k):
        structured_lanes(op, side, k, flags, v, d, h, scratch, back)
        return
    n, out, arity = result_size(side, k), result_at(side, k), operand_count(side, k)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        run_partials(op, side, k, start, m, v, scratch, ones)
        if not back:
            d[out + start : out + start + m, :] = 0.0
        for j in range(arity):
            if flags[wants_flag(k, j)]:
                p = scratch[(3 + j) * BLOCK : (3 + j) * BLOCK + m]
                exchange_lanes(side, k, j, start, m, p, out + start, back, d)


def reverse_lanes(code, side, flags, v, g, h, scratch, ones):
    for i in range(code.shape[0] - 1, -1, -1):
        op, o, a = code[i, 0], np.int64(code[i, 1]), np.int64(code[i, 2])
        b, c = np.int64(code[i, 3]), np.int64(code[i, 4])
        if op in (LEAF, EXPECT):
            continue
        if op >= RUN:
            run_lanes(np.int64(op) - RUN, side, a, flags, v, g, h, scratch, ones, True)
            continue
        px, py, pw = 0.0, 0.0, 0.0
        if SWITCH("partials"):
            pass
        else:
            px, py, pw = one_partials(op, o, a, b, c, v, scratch, ones)
        add_lanes(g, a, g, o, px)
        add_lanes(g, b, g, o, py)
        add_lanes(g, c, g, o, pw)


def tangent_lanes(code, side, flags, v, t, h, scratch, ones):
    for i in range(code.shape[0]):
        op, o, a = code[i, 0], np.int64(code[i, 1]), np.int64(code[i, 2])
        b, c = np.int64(code[i, 3]), np.int64(code[i, 4])
        if op in (LEAF, EXPECT):
            continue
        if op >= RUN:
            run_lanes(np.int64(op) - RUN, side, a, flags, v, t, h, scratch, ones, False)
            continue
        px, py, pw = 0.0, 0.0, 0.0
        if SWITCH("partials"):
            pass
        else:
            px, py, pw = one_partials(op, o, a, b, c, v, scratch, ones)
        t[o, :] = 0.0
        add_lanes(t, o, t, a, px)
        add_lanes(t, o, t, b, py)
        add_lanes(t, o, t, c, pw)

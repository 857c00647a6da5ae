"""Positions and orders of numbers along an axis. They are piecewise constant, so no gradient flows through them.

Operands, outputs and parameters are those of the reductions.
"""

import numpy as np

from tapegrad.compiled import read
from tapegrad.ops.lines import LONG, extent, layout, line
from tapegrad.ops.record import operand_at, params_of_one, result_at, result_size
from tapegrad.ops.reduction import accepts, accepts_with_elements, gap, line_note, line_views, views, with_lanes
from tapegrad.ops.spec import structured


def argmax_forward(side, k, v):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    sign = np.float64(side[params_of_one(k) + 6])
    for i in range(outer):
        for m in range(inner):
            a = x + i * so + m * si
            # The first NaN is taken for the largest, as NumPy does.
            best, top = 0, sign * read(v, a)
            for j in range(1, min(n, LONG)):
                c = sign * read(v, a + j * step)
                better = (c > top) | ((c != c) & (top == top))
                best, top = j if better else best, c if better else top
            # In a long line a better one is rare, so that the processor guesses this `if`, and waits for nothing.
            for j in range(LONG, n if top == top else LONG):
                c = sign * read(v, a + j * step)
                if not c <= top:
                    best, top = j, c
                    if c != c:
                        break
            v[out + i * inner + m] = best
    return True


def argsort_forward(side, k, v):
    _, n, inner, _, _, _ = layout(side, k)
    lines, _, step = extent(side, k)
    keys = np.empty(n)
    for i in range(lines):
        a, _ = line(side, k, i)
        for j in range(n):
            keys[j] = v[a + j * step]
        order = np.argsort(keys, kind="mergesort")
        o = result_at(side, k) + (i // inner) * n * inner + i % inner
        for j in range(n):
            v[o + j * inner] = order[j]
    return True


def no_reverse(side, k, v, g):
    pass


def no_tangent(side, k, v, t):
    for i in range(result_at(side, k), result_at(side, k) + result_size(side, k)):
        t[i] = 0.0


def argmax_in_lanes(p, lanes, x):
    return argmax(x, params=with_lanes(p, lanes))


def argsort_in_lanes(p, lanes, x):
    return argsort(x, params=with_lanes(p, lanes))


def nearest(p, z, x):
    # The smallest gap between neighbours in order.
    return np.min(np.diff(np.sort(x, 1), axis=1), 1) if x.shape[1] > 1 else np.full((x.shape[0], x.shape[2]), np.inf)


argmax = structured("argmax", "z = position of the first largest (sign -1: smallest) of x along an axis", arity=1,
    accepts=accepts_with_elements,
    forward=argmax_forward, reverse=no_reverse, tangent=no_tangent, views=views, kink=gap, passive=True,
    note=line_note, title=lambda p: "argmax" if p[6] > 0 else "argmin", needs_elements=True,
    batched=argmax_in_lanes)

argsort = structured("argsort", "z = positions of x in ascending order along an axis, stable", arity=1,
    accepts=accepts,
    forward=argsort_forward, reverse=no_reverse, tangent=no_tangent, views=line_views, kink=nearest, passive=True,
    note=line_note, batched=argsort_in_lanes)

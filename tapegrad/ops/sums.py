"""The kernels of sums along an axis, and of running sums; see `reduction`."""

import numpy as np

from tapegrad.compiled import read, write
from tapegrad.ops.lines import LONG, STRETCH, beside, layout
from tapegrad.ops.record import operand_at, result_at

# Where lines are gone through four at a time, so many numbers are added up one after the other.
SHORT = 32
# So many numbers beside each other are worth a loop over them.
WIDE = 16
# The loop that adds to adjoints goes over so many elements of its longest axis before it takes those of the others, so
# that what lies between them stays in the first-level cache.
PIECE = 256


def stretch_sum(v, a, n, s):
    # Four lanes for speed, in double precision even on a float32 tape, so that a long sum stays accurate.
    t0, t1, t2, t3 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for j in range(0, n - 3, 4):
        t0 += read(v, a + j * s)
        t1 += read(v, a + (j + 1) * s)
        t2 += read(v, a + (j + 2) * s)
        t3 += read(v, a + (j + 3) * s)
    for j in range(n - n % 4, n):
        t0 += read(v, a + j * s)
    return (t0 + t1) + (t2 + t3)


def row_sum(v, a, n, s):
    # Stretch by stretch; what is lost where a stretch is added to the total is added too (Kahan, Neumaier), so that the
    # error does not grow with the length.
    if n <= STRETCH:
        return stretch_sum(v, a, n, s)
    total, lost = np.float64(0.0), np.float64(0.0)
    for j in range(0, n, STRETCH):
        part = stretch_sum(v, a + j * s, min(STRETCH, n - j), s)
        new = total + part
        lost += rounded_off(total, part, new)
        total = new
    return total + lost


def rounded_off(total, part, new):
    # What was lost where `part` was added to `total`, which made `new`.
    if not np.isfinite(new):
        return np.float64(0.0)
    return (total - new) + part if abs(total) >= abs(part) else (part - new) + total


def four_sums(v, a, b, c, d, n, s):
    # The sums of four lines, which begin at a, b, c and d. As above, in double precision, and accurate where the lines
    # are long. The additions to one sum wait for each other, but not for those to another.
    ta, tb, tc, td = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    la, lb, lc, ld = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for j in range(0, n, SHORT):
        pa, pb, pc, pd = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
        for i in range(j, min(j + SHORT, n)):
            pa += read(v, a + i * s)
            pb += read(v, b + i * s)
            pc += read(v, c + i * s)
            pd += read(v, d + i * s)
        if n <= SHORT:
            return pa, pb, pc, pd
        na, nb, nc, nd = ta + pa, tb + pb, tc + pc, td + pd
        la += rounded_off(ta, pa, na)
        lb += rounded_off(tb, pb, nb)
        lc += rounded_off(tc, pc, nc)
        ld += rounded_off(td, pd, nd)
        ta, tb, tc, td = na, nb, nc, nd
    return ta + la, tb + lb, tc + lc, td + ld


def sum_forward(side, k, v):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    if inner >= WIDE:
        for i in range(outer):
            sum_rows(v, x + i * so, out + i * inner, n, inner, sn, si)
    elif inner == 1 and n >= LONG:
        for i in range(outer):
            v[out + i] = row_sum(v, x + i * so, n, sn)
    else:
        # Where there are fewer than four lines left, the last stands for the rest.
        groups, count, step = beside(outer, inner, so, si)
        for i in range(groups):
            for m in range(0, count, 4):
                a, o, more = x + i * so + m * step, out + i * count + m, count - 1 - m
                b, c, d = a + min(more, 1) * step, a + min(more, 2) * step, a + min(more, 3) * step
                ta, tb, tc, td = four_sums(v, a, b, c, d, n, sn)
                v[o] = ta
                if more > 0:
                    v[o + 1] = tb
                if more > 1:
                    v[o + 2] = tc
                if more > 2:
                    v[o + 3] = td
    return True


def sum_rows(v, a, o, n, inner, sn, si):
    # Add up n rows of numbers that stand si apart.
    to = v[o : o + inner]
    for m in range(inner):
        to[m] = 0.0
    for j in range(n):
        if si == 1:
            of = v[a + j * sn : a + j * sn + inner]
            for m in range(inner):
                to[m] += of[m]
        else:
            for m in range(inner):
                to[m] += read(v, a + j * sn + m * si)


def sum_reverse(side, k, v, g):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    # The inner loop goes along the last axis that is long: lengths and strides, in the operand and in the result.
    if inner >= WIDE:
        add_along(g, x, out, inner, si, 1, outer, so, inner, n, sn, 0)
    elif n >= WIDE:
        add_along(g, x, out, n, sn, 0, outer, so, inner, inner, si, 1)
    else:
        add_along(g, x, out, outer, so, inner, n, sn, 0, inner, si, 1)


def add_along(g, x, out, count, step, step_out, first, by_first, out_first, second, by_second, out_second):
    # Add to the places of an array of three axes those of another one. A stride of the latter may be 0.
    for start in range(0, count, PIECE):
        many = min(PIECE, count - start)
        for p in range(first):
            for q in range(second):
                a = x + p * by_first + q * by_second + start * step
                o = out + p * out_first + q * out_second + start * step_out
                if step == 1 and step_out == 0:
                    to, c = g[a : a + many], g[o]
                    for i in range(many):
                        to[i] += c
                elif step == 1 and step_out == 1:
                    to, of = g[a : a + many], g[o : o + many]
                    for i in range(many):
                        to[i] += of[i]
                else:
                    for i in range(many):
                        write(g, a + i * step, read(g, a + i * step) + read(g, o + i * step_out))


def sum_tangent(side, k, v, t):
    sum_forward(side, k, t)


def cumsum_forward(side, k, v):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * n * inner + m
            if n > 0:
                total = read(v, a)
                write(v, o, total)
                for j in range(1, n):
                    total += read(v, a + j * sn)
                    write(v, o + j * inner, total)
    return True


def cumsum_reverse(side, k, v, g):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * n * inner + m
            total = 0.0
            for j in range(n - 1, -1, -1):
                total += read(g, o + j * inner)
                write(g, a + j * sn, read(g, a + j * sn) + total)


def cumsum_tangent(side, k, v, t):
    cumsum_forward(side, k, t)

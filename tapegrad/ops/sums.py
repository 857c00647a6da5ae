"""The kernels of sums along an axis, and of running sums; see `reduction`."""

import numpy as np

from tapegrad.compiled import read, write
from tapegrad.ops.lines import LONG, beside, layout
from tapegrad.ops.record import operand_at, result_at

# So many numbers are added up plainly.
STRETCH = 32
# So many numbers beside each other are worth a loop over them.
WIDE = 16
# The loop that adds to adjoints goes over so many elements of its longest axis before it takes those of the others, so
# that what lies between them stays in the first-level cache.
PIECE = 256


def four_sums(v, a, b, c, d, n, s):
    # The sums of four lines of n numbers, s apart, which begin at a, b, c and d. The additions to one sum wait for each
    # other, but not for those to another. In double precision even on a float32 tape, and stretch by stretch: what is
    # lost where a stretch is added is added too (as Knuth finds it), so that the error does not grow with the length.
    ta, tb, tc, td = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    la, lb, lc, ld = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for j in range(0, n, STRETCH):
        pa, pb, pc, pd = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
        for i in range(j, min(j + STRETCH, n)):
            pa += read(v, a + i * s)
            pb += read(v, b + i * s)
            pc += read(v, c + i * s)
            pd += read(v, d + i * s)
        if n <= STRETCH:
            return pa, pb, pc, pd
        na, nb, nc, nd = ta + pa, tb + pb, tc + pc, td + pd
        la += (ta - (na - (na - ta))) + (pa - (na - ta))
        lb += (tb - (nb - (nb - tb))) + (pb - (nb - tb))
        lc += (tc - (nc - (nc - tc))) + (pc - (nc - tc))
        ld += (td - (nd - (nd - td))) + (pd - (nd - td))
        ta, tb, tc, td = na, nb, nc, nd
    # Of an infinite sum nothing can be said to be lost.
    return (ta + la if np.isfinite(ta) else ta, tb + lb if np.isfinite(tb) else tb,
            tc + lc if np.isfinite(tc) else tc, td + ld if np.isfinite(td) else td)


def sum_forward(side, k, v):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    if inner >= WIDE and si == 1:
        for i in range(outer):
            sum_rows(v, x + i * so, out + i * inner, n, inner, sn)
        return True
    # Of long lines one at a time, as four lines that make one; of short ones four at a time, and where fewer are left,
    # the last stands for the rest.
    alone = inner == 1 and n >= LONG
    many, step = (n // 4, 4 * sn) if alone else (n, sn)
    groups, count, apart = beside(outer, inner, so, si)
    for i in range(groups):
        for m in range(0, count, 1 if alone else 4):
            a, o, more, by = x + i * so + m * apart, out + i * count + m, count - 1 - m, apart
            if alone:
                more, by = 3, sn
            b, c, d = a + min(more, 1) * by, a + min(more, 2) * by, a + min(more, 3) * by
            ta, tb, tc, td = four_sums(v, a, b, c, d, many, step)
            if alone:
                ta = (ta + tb) + (tc + td)
                for j in range(4 * many, n):
                    ta += read(v, a + j * sn)
                more = 0
            v[o] = ta
            if more > 0:
                v[o + 1] = tb
            if more > 1:
                v[o + 2] = tc
            if more > 2:
                v[o + 3] = td
    return True


def sum_rows(v, a, o, n, inner, sn):
    # Add up n rows of numbers that follow each other.
    to = v[o : o + inner]
    for m in range(inner):
        to[m] = 0.0
    for j in range(n):
        of = v[a + j * sn : a + j * sn + inner]
        for m in range(inner):
            to[m] += of[m]


def sum_reverse(side, k, v, g):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    # The inner loop goes along the last axis that is long. Its length, and its strides in the operand and the result:
    count, step, to_step = inner, si, 1
    if inner < WIDE:
        count, step, to_step = (n, sn, 0) if n >= WIDE else (outer, so, inner)
    along_inner, along_n = inner >= WIDE, inner < WIDE and n >= WIDE
    for start in range(0, count, PIECE):
        many = min(PIECE, count - start)
        for i in range(outer if along_inner or along_n else 1):
            for j in range(1 if along_n else n):
                for m in range(1 if along_inner else inner):
                    a, o = x + i * so + j * sn + m * si + start * step, out + i * inner + m + start * to_step
                    if step == 1 and to_step == 0:
                        row, c = g[a : a + many], g[o]
                        for e in range(many):
                            row[e] += c
                    else:
                        for e in range(many):
                            write(g, a + e * step, read(g, a + e * step) + read(g, o + e * to_step))


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

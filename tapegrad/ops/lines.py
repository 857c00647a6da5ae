"""The kernels of reductions that go line by line: n elements, `step` apart, that make one number; see `reduction`.

Short lines are those that count: there are many of them, and what a line costs besides its elements is paid for each.
So lines are found by counting, without a division, no function is called for a line, and what a line needs is kept in
registers.
"""

import numpy as np

from tapegrad.compiled import read, room, write
from tapegrad.ops.record import operand_at, params_of_one, result_at

# How many numbers are added up plainly.
STRETCH = 128
# A line of so many numbers is worth a loop of its own. Shorter ones are gone through four at a time.
LONG = 33


def layout(side, k):
    # The lengths of the three axes of the operand, outer, n and inner, and their strides.
    p = params_of_one(k)
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 4], side[p + 5]


def beside(outer, inner, so, si):
    # Lines that stand beside each other, to be gone through together: how many groups of them there are, how many lines
    # a group has, and how far they are apart. Groups are `so` apart.
    if inner == 1:
        return 1, outer, so
    return outer, inner, si


def extent(side, k):
    # How many lines there are, how many elements a line has, and how far they are apart.
    outer, n, inner, _, step, _ = layout(side, k)
    return outer * inner, n, step


def line(side, k, i):
    # The place where line i begins, and the place of its result.
    _, _, inner, so, _, si = layout(side, k)
    return operand_at(side, k, 0) + (i // inner) * so + (i % inner) * si, result_at(side, k) + i


def prod_forward(side, k, v):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a = x + i * so + m * si
            product = 1.0
            for j in range(n):
                product *= read(v, a + j * step)
            v[out + i * inner + m] = product
    return True


def others(v, a, n, step, skip):
    # The product of all factors but one, without a division: right at zeros, and where the product of all factors
    # underflows or overflows.
    product = 1.0
    for j in range(n):
        if j != skip:
            product *= read(v, a + j * step)
    return product


def prod_reverse(side, k, v, g):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, gz = v[o], g[o]
            safe = abs(z) > 1e-30 and abs(z) < 1e30
            if gz != 0.0:
                for j in range(n):
                    p = z / read(v, a + j * step) if safe else others(v, a, n, step, j)
                    write(g, a + j * step, read(g, a + j * step) + gz * p)


def prod_tangent(side, k, v, t):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, tangent = v[o], np.float64(0.0)
            safe = abs(z) > 1e-30 and abs(z) < 1e30
            for j in range(n):
                tx = read(t, a + j * step)
                if tx != 0.0:
                    tangent += tx * (z / read(v, a + j * step) if safe else others(v, a, n, step, j))
            t[o] = tangent


def best_of_four(v, a, b, c, d, n, s, sign):
    # The largest elements of four lines, which begin at a, b, c and d; with sign -1, the smallest. Decided without an
    # `if` that the processor would have to guess, and one line does not wait for another.
    ta, tb, tc, td = sign * read(v, a), sign * read(v, b), sign * read(v, c), sign * read(v, d)
    for j in range(1, n):
        xa, xb = sign * read(v, a + j * s), sign * read(v, b + j * s)
        xc, xd = sign * read(v, c + j * s), sign * read(v, d + j * s)
        ta = xa if (xa > ta) | (xa != xa) else ta
        tb = xb if (xb > tb) | (xb != xb) else tb
        tc = xc if (xc > tc) | (xc != xc) else tc
        td = xd if (xd > td) | (xd != xd) else td
    return ta, tb, tc, td


def max_forward(side, k, v):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    sign = np.float64(side[params_of_one(k) + 6])
    # Of long lines one at a time, in four parts; of short ones four at a time, and where fewer are left, the last
    # stands for the rest.
    alone = inner == 1 and n >= LONG
    many = n // 4 if alone else n
    groups, count, apart = beside(outer, inner, so, si)
    for i in range(groups):
        for m in range(0, count, 1 if alone else 4):
            a, o, more, by = x + i * so + m * apart, out + i * count + m, count - 1 - m, apart
            if alone:
                more, by = 3, many * step
            b, c, d = a + min(more, 1) * by, a + min(more, 2) * by, a + min(more, 3) * by
            ta, tb, tc, td = best_of_four(v, a, b, c, d, many, step, sign)
            if alone:
                ta = tb if (tb > ta) | (tb != tb) else ta
                ta = tc if (tc > ta) | (tc != tc) else ta
                ta = td if (td > ta) | (td != td) else ta
                for j in range(4 * many, n):
                    best = sign * read(v, a + j * step)
                    ta = best if (best > ta) | (best != best) else ta
                more = 0
            v[o] = sign * ta
            if more > 0:
                v[o + 1] = sign * tb
            if more > 1:
                v[o + 2] = sign * tc
            if more > 2:
                v[o + 3] = sign * td
    return True


def max_reverse(side, k, v, g):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            best, gz, ties = v[o], g[o], np.float64(0.0)
            for j in range(n):
                ties += 1.0 if read(v, a + j * step) == best else 0.0
            share = gz / ties
            for j in range(n):
                c = share if read(v, a + j * step) == best else 0.0
                write(g, a + j * step, read(g, a + j * step) + c)


def max_tangent(side, k, v, t):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            best, ties, tangent = v[o], np.float64(0.0), np.float64(0.0)
            for j in range(n):
                is_best, tx = read(v, a + j * step) == best, read(t, a + j * step)
                ties += 1.0 if is_best else 0.0
                tangent += tx if is_best else 0.0
            t[o] = tangent / ties if ties > 0.0 else 0.0


def logsumexp_forward(side, k, v):
    outer, n, inner, so, step, si = layout(side, k)
    x, out, e = operand_at(side, k, 0), result_at(side, k), room(v)
    for i in range(outer):
        for q in range(inner):
            a, o = x + i * so + q * si, out + i * inner + q
            best = read(v, a)
            for j in range(1, n):
                if read(v, a + j * step) > best:
                    best = read(v, a + j * step)
            if np.isinf(best):
                v[o] = best
            else:
                total, lost = np.float64(0.0), np.float64(0.0)
                for j in range(0, n, STRETCH):
                    # Put beside first: a sum is taken in its order, number by number, and exponentials need not be.
                    some = min(STRETCH, n - j)
                    for m in range(some):
                        write(e, m, np.exp(read(v, a + (j + m) * step) - best))
                    part = np.float64(0.0)
                    for m in range(some):
                        part += read(e, m)
                    new = total + part
                    lost += (total - new) + part if total >= part else (part - new) + total
                    total = new
                v[o] = best + np.log(total + lost)
    return True


def logsumexp_reverse(side, k, v, g):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, gz = v[o], g[o]
            if gz != 0.0:
                for j in range(n):
                    c = gz * np.exp(read(v, a + j * step) - z)
                    write(g, a + j * step, read(g, a + j * step) + c)


def logsumexp_tangent(side, k, v, t):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, tangent = v[o], np.float64(0.0)
            for j in range(n):
                tx = read(t, a + j * step)
                if tx != 0.0:
                    tangent += tx * np.exp(read(v, a + j * step) - z)
            t[o] = tangent


def norm_forward(side, k, v):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            squares = np.float64(0.0)
            for j in range(n):
                c = np.float64(read(v, a + j * step))
                squares += c * c
            if squares > 1e-280 and squares < 1e280:
                # Nothing that matters was lost below, nothing overflowed.
                v[o] = np.sqrt(squares)
            else:
                v[o] = scaled_norm(v, a, n, step)
    return True


def scaled_norm(v, a, n, step):
    # The norm of a line, relative to its largest number, so that squares neither vanish nor overflow.
    scale = abs(v[a])
    for j in range(1, n):
        if not abs(v[a + j * step]) <= scale:
            scale = abs(v[a + j * step])
    if scale == 0.0 or not np.isfinite(scale):
        return scale
    total = 0.0
    for j in range(n):
        total += (v[a + j * step] / scale) * (v[a + j * step] / scale)
    return scale * np.sqrt(total)


def norm_reverse(side, k, v, g):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, gz = v[o], g[o]
            if z != 0.0:
                for j in range(n):
                    c = gz * (read(v, a + j * step) / z)
                    write(g, a + j * step, read(g, a + j * step) + c)


def norm_tangent(side, k, v, t):
    outer, n, inner, so, step, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            a, o = x + i * so + m * si, out + i * inner + m
            z, tangent = v[o], np.float64(0.0)
            if z != 0.0:
                for j in range(n):
                    tangent += read(t, a + j * step) * (read(v, a + j * step) / z)
            t[o] = tangent

"""Groups of numbers that are normalised: how they lie, and sums over their rows.

Operands are dense arrays of shape (N, G, K, S): samples, groups, channels in a group, and what a channel has. The first
parameters in a record are these four, and whether a group goes across samples. If so, there are G groups, each of the
numbers with one second index, and K is 1; else N G groups, G for each sample. Weights and biases belong to channels,
(G, K).
"""

import numpy as np

from tapegrad.compiled import add_up, read, write
from tapegrad.compiled.tiles import borrow, give_back
from tapegrad.ops.planes import zeros
from tapegrad.ops.record import params_at


def norm_shape(side, k):
    p = params_at(side, k)
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 4] != 0


# So many numbers are added up in the array's own precision; then sums of these in double precision.
STRETCH = 1024


def spread_of_row(v, a, c, n):
    # The sums of v - c and of (v - c)^2 over a row.
    total, other, zero = np.float64(0.0), np.float64(0.0), c - c
    for start in range(a, a + n, STRETCH):
        one, square = zero, zero
        for i in range(start, min(start + STRETCH, a + n)):
            d = read(v, i) - c
            one, square = add_up(one, d), add_up(square, d * d)
        total += np.float64(one)
        other += np.float64(square)
    return total, other


def sums_of_rows(v, a, middle, u, b, n):
    # The sums of u and of u (v - middle) over two rows.
    total, other, zero = np.float64(0.0), np.float64(0.0), middle - middle
    for start in range(0, n, STRETCH):
        one, along = zero, zero
        for i in range(start, min(start + STRETCH, n)):
            given = read(u, b + i)
            one, along = add_up(one, given), add_up(along, given * (read(v, a + i) - middle))
        total += np.float64(one)
        other += np.float64(along)
    return total, other


def is_zero(u, a, n):
    i = a
    while i < a + n and read(u, i) == 0.0:
        i += 1
    return i == a + n


# Sums of columns, one for each row, are kept in the array's own precision. So many rows are added up plainly; then what
# is lost is added as well (as Knuth finds it), so that sums of millions of rows are as exact as those of a hundred.
ROWS = 128


def kept(sums, n):
    # Add the sums of a stretch of rows, the first n numbers, to those of all before, and begin a new stretch.
    for j in range(n):
        part, total = read(sums, j), read(sums, n + j)
        new = total + part
        write(sums, 2 * n + j, read(sums, 2 * n + j) + ((total - (new - (new - total))) + (part - (new - total))))
        write(sums, n + j, new)
        write(sums, j, 0.0)


def with_lost(sums, j, n):
    # Sum number j of n. Of an infinite sum nothing can be said to be lost.
    total = read(sums, n + j)
    return total + read(sums, 2 * n + j) if np.isfinite(total) else total


def add_unless_zero(r, to, total, factor):
    # A sum of zeros adds nothing, whatever it is multiplied by.
    if total != 0.0:
        write(r, to, read(r, to) + total * factor)


def all_sums(samples, groups, channels, each, across, v, x, means, scales, w, u, back, r, to_mean, to_scale, to_w, to_b,
             g, to_x):
    # Adds the sums to r at the places named; those below 0 are left out. Where to_x is a place in g, what reaches x is
    # added there, row by row while it is in the cache.
    if across and each == 1:
        sums_of_columns(
            samples, groups, v, x, means, scales, w, u, back, r, to_mean, to_scale, to_w, to_b, g, to_x
        )  # fmt: skip
        return
    for c in range(groups * channels):
        weight = read(v, w + c)
        # Of u and of u (x - mean), and this with the scales.
        given, along, scaled = np.float64(0.0), np.float64(0.0), np.float64(0.0)
        for i in range(samples):
            m, at = c if across else i * groups + c // channels, (i * groups * channels + c) * each
            if not is_zero(u, back + at, each):
                factor = read(v, scales + m)
                one, other = sums_of_rows(v, x + at, read(v, means + m), u, back + at, each)
                given += one
                along += other
                scaled += other * factor
                if not across and to_mean >= 0:
                    add_unless_zero(r, to_mean + m, one, -factor * weight)
                if not across and to_scale >= 0:
                    add_unless_zero(r, to_scale + m, other, weight)
                if to_x >= 0:
                    whole = factor * weight
                    for j in range(at, at + each):
                        write(g, to_x + j, read(g, to_x + j) + read(u, back + j) * whole)
        if across and to_mean >= 0:
            add_unless_zero(r, to_mean + c, given, -read(v, scales + c) * weight)
        if across and to_scale >= 0:
            add_unless_zero(r, to_scale + c, along, weight)
        if to_w >= 0:
            add_unless_zero(r, to_w + c, scaled, 1.0)
        if to_b >= 0:
            add_unless_zero(r, to_b + c, given, 1.0)


def sums_of_columns(rows, n, v, x, means, scales, w, u, back, r, to_mean, to_scale, to_w, to_b, g, to_x):
    # Rows of n numbers, each of a group of its own.
    sums = borrow(v, 6 * n)
    zeros(sums, 0, 6 * n)
    for i in range(rows):
        at = i * n
        if not is_zero(u, back + at, n):
            for j in range(n):
                given = read(u, back + at + j)
                write(sums, j, read(sums, j) + given * (read(v, x + at + j) - read(v, means + j)))
                write(sums, n + j, read(sums, n + j) + given)
            if to_x >= 0:
                for j in range(n):
                    given = read(u, back + at + j) * (read(v, scales + j) * read(v, w + j))
                    write(g, to_x + at + j, read(g, to_x + at + j) + given)
        if i % ROWS == ROWS - 1:
            kept(sums, 2 * n)
    kept(sums, 2 * n)
    for j in range(n):
        along, given = with_lost(sums, j, 2 * n), with_lost(sums, n + j, 2 * n)
        factor, weight = read(v, scales + j), read(v, w + j)
        if to_mean >= 0:
            add_unless_zero(r, to_mean + j, given, -factor * weight)
        if to_scale >= 0:
            add_unless_zero(r, to_scale + j, along, weight)
        if to_w >= 0:
            add_unless_zero(r, to_w + j, along, factor)
        if to_b >= 0:
            add_unless_zero(r, to_b + j, given, 1.0)
    give_back(sums)


# For rules that write derivatives as instructions.


def group_count(p):
    return p[1] if p[4] else p[0] * p[1]


def of_groups(p, x):
    # Numbers of groups, (groups,) or with lanes (groups, lanes), in a shape that fits (N, G, K, S).
    return x.reshape((1 if p[4] else p[0], p[1], 1, 1, *x.shape[1:]))


def of_channels(p, x):
    return x.reshape((1, p[1], p[2], 1, *x.shape[1:]))


def over_groups(p, x):
    # The sums of groups.
    return np.sum(x, (0, 2, 3) if p[4] else (2, 3)).reshape((group_count(p), *x.shape[4:]))


def over_channels(p, x):
    return np.sum(x, (0, 3)).reshape((p[1] * p[2], *x.shape[4:]))


def group_size(p):
    return p[0] * p[3] if p[4] else p[2] * p[3]


def positions(p):
    # Of all numbers of x: their places, and the groups and the channels that they belong to.
    n, g, k, s, across = p[:5]
    group = np.arange(n * g).reshape(n, g, 1, 1) % (g if across else n * g)
    channel = np.arange(g * k).reshape(1, g, k, 1)
    return np.arange(n * g * k * s), *(np.broadcast_to(of, (n, g, k, s)).reshape(-1) for of in (group, channel))


def with_lanes(x, ndim):
    return x if x.ndim == ndim else x[..., None]


def accepts_groups(p):
    return len(p) == 5 and min(p[:4]) > 0 and p[4] in (0, 1) and not (p[4] and p[2] != 1)


def norm_note(p):
    return f"{group_count(p):,} groups of {group_size(p):,}"

"""Groups of numbers that are normalised: how they lie, and sums over their rows.

Operands are dense arrays of shape (N, G, K, S): samples, groups, channels in a group, and what a channel has. The first
parameters in a record are these four, and whether a group goes across samples. If so, there are G groups, each of the
numbers with one second index, and K is 1; else N G groups, G for each sample. Weights and biases belong to channels,
(G, K).
"""

import numpy as np

from tapegrad.compiled import ROOM, read, room
from tapegrad.ops.record import params_at


def norm_shape(side, k):
    p = params_at(side, k)
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 4] != 0


# Sums go in eight parts, which fill vectors, and stretch by stretch; stretches are added up in double precision.
STRETCH = 256


def spread_of_row(v, a, c, n):
    # The sums of v - c and of (v - c)^2 over a row.
    total, other, zero = np.float64(0.0), np.float64(0.0), c - c
    for start in range(a, a + n, STRETCH):
        stop = min(start + STRETCH, a + n)
        whole = start + (stop - start) // 8 * 8
        s0, s1, s2, s3 = zero, zero, zero, zero
        s4, s5, s6, s7 = zero, zero, zero, zero
        q0, q1, q2, q3 = zero, zero, zero, zero
        q4, q5, q6, q7 = zero, zero, zero, zero
        for i in range(start, whole, 8):
            d0, d1, d2, d3 = read(v, i) - c, read(v, i + 1) - c, read(v, i + 2) - c, read(v, i + 3) - c
            d4, d5, d6, d7 = read(v, i + 4) - c, read(v, i + 5) - c, read(v, i + 6) - c, read(v, i + 7) - c
            s0, s1, s2, s3 = s0 + d0, s1 + d1, s2 + d2, s3 + d3
            s4, s5, s6, s7 = s4 + d4, s5 + d5, s6 + d6, s7 + d7
            q0, q1, q2, q3 = q0 + d0 * d0, q1 + d1 * d1, q2 + d2 * d2, q3 + d3 * d3
            q4, q5, q6, q7 = q4 + d4 * d4, q5 + d5 * d5, q6 + d6 * d6, q7 + d7 * d7
        for i in range(whole, stop):
            d0 = read(v, i) - c
            s0 += d0
            q0 += d0 * d0
        total += np.float64(((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)))
        other += np.float64(((q0 + q4) + (q1 + q5)) + ((q2 + q6) + (q3 + q7)))
    return total, other


def sums_of_rows(v, a, middle, u, b, n):
    # The sums of u and of u (v - middle) over two rows.
    total, other, zero = np.float64(0.0), np.float64(0.0), middle - middle
    for start in range(0, n, STRETCH):
        stop = min(start + STRETCH, n)
        whole = start + (stop - start) // 8 * 8
        s0, s1, s2, s3 = zero, zero, zero, zero
        s4, s5, s6, s7 = zero, zero, zero, zero
        q0, q1, q2, q3 = zero, zero, zero, zero
        q4, q5, q6, q7 = zero, zero, zero, zero
        for i in range(start, whole, 8):
            u0, u1, u2, u3 = read(u, b + i), read(u, b + i + 1), read(u, b + i + 2), read(u, b + i + 3)
            u4, u5, u6, u7 = read(u, b + i + 4), read(u, b + i + 5), read(u, b + i + 6), read(u, b + i + 7)
            s0, s1, s2, s3 = s0 + u0, s1 + u1, s2 + u2, s3 + u3
            s4, s5, s6, s7 = s4 + u4, s5 + u5, s6 + u6, s7 + u7
            q0 += u0 * (read(v, a + i) - middle)
            q1 += u1 * (read(v, a + i + 1) - middle)
            q2 += u2 * (read(v, a + i + 2) - middle)
            q3 += u3 * (read(v, a + i + 3) - middle)
            q4 += u4 * (read(v, a + i + 4) - middle)
            q5 += u5 * (read(v, a + i + 5) - middle)
            q6 += u6 * (read(v, a + i + 6) - middle)
            q7 += u7 * (read(v, a + i + 7) - middle)
        for i in range(whole, stop):
            s0 += read(u, b + i)
            q0 += read(u, b + i) * (read(v, a + i) - middle)
        total += np.float64(((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)))
        other += np.float64(((q0 + q4) + (q1 + q5)) + ((q2 + q6) + (q3 + q7)))
    return total, other


def is_zero(u, a, n):
    i = a
    while i < a + n and read(u, i) == 0.0:
        i += 1
    return i == a + n


def sums_of_columns(v, x, u, back, mean, scale, w, r, to_mean, to_scale, to_w, to_b, n):
    # One row of numbers, each of a group of its own.
    row, given = v[x : x + n], u[back : back + n]
    middle, factor, weight = v[mean : mean + n], v[scale : scale + n], v[w : w + n]
    if to_mean >= 0:
        to = r[to_mean : to_mean + n]
        for j in range(n):
            to[j] -= given[j] * (factor[j] * weight[j])
    if to_scale >= 0:
        to = r[to_scale : to_scale + n]
        for j in range(n):
            to[j] += given[j] * (row[j] - middle[j]) * weight[j]
    if to_w >= 0:
        to = r[to_w : to_w + n]
        for j in range(n):
            to[j] += given[j] * (row[j] - middle[j]) * factor[j]
    if to_b >= 0:
        to = r[to_b : to_b + n]
        for j in range(n):
            to[j] += given[j]


def sums_of_group(v, x, u, back, middle, factor, w, r, to_mean, to_scale, to_w, to_b, n):
    # A row that is one group, each number with a weight of its own.
    e = room(v)
    total, along = np.float64(0.0), np.float64(0.0)
    for start in range(0, n, ROOM):
        many = min(ROOM, n - start)
        row, given = v[x + start : x + start + many], u[back + start : back + start + many]
        weight = v[w + start : w + start + many]
        if to_w >= 0:
            to = r[to_w + start : to_w + start + many]
            for j in range(many):
                to[j] += given[j] * ((row[j] - middle) * factor)
        if to_b >= 0:
            to = r[to_b + start : to_b + start + many]
            for j in range(many):
                to[j] += given[j]
        if to_mean >= 0 or to_scale >= 0:
            for j in range(many):
                e[j] = given[j] * weight[j]
            one, other = sums_of_rows(v, x + start, middle, e, 0, many)
            total += one
            along += other
    if to_mean >= 0:
        r[to_mean] -= total * factor
    if to_scale >= 0:
        r[to_scale] += along


def sums_of_channel(v, x, u, back, middle, factor, w, r, to_mean, to_scale, to_w, to_b, n):
    # A row of one group and one channel.
    total, along = sums_of_rows(v, x, middle, u, back, n)
    if to_mean >= 0:
        r[to_mean] -= total * factor * v[w]
    if to_scale >= 0:
        r[to_scale] += along * v[w]
    if to_w >= 0:
        r[to_w] += along * factor
    if to_b >= 0:
        r[to_b] += total


def all_sums(samples, groups, channels, each, across, v, x, means, scales, w, u, back, r, to_mean, to_scale, to_w, to_b,
             g, to_x):
    # Adds the sums to r at the places named; those below 0 are left out. Where to_x is a place in g, what reaches x is
    # added there, row by row while it is in the cache.
    if across and each == 1:
        for i in range(samples):
            at = i * groups
            if not is_zero(u, back + at, groups):
                sums_of_columns(
                    v, x + at, u, back + at, means, scales, w, r, to_mean, to_scale, to_w, to_b, groups
                )
                if to_x >= 0:
                    to, given = g[to_x + at : to_x + at + groups], u[back + at : back + at + groups]
                    factors, weight = v[scales : scales + groups], v[w : w + groups]
                    for j in range(groups):
                        to[j] += given[j] * (factors[j] * weight[j])
        return
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        mean_to, scale_to = to_mean + m if to_mean >= 0 else -1, to_scale + m if to_scale >= 0 else -1
        w_to, b_to = to_w + first if to_w >= 0 else -1, to_b + first if to_b >= 0 else -1
        if each == 1:
            at = i * channels
            if not is_zero(u, back + at, channels):
                sums_of_group(
                    v, x + at, u, back + at, middle, factor, w + first, r, mean_to, scale_to, w_to, b_to, channels
                )
                if to_x >= 0:
                    to, given = g[to_x + at : to_x + at + channels], u[back + at : back + at + channels]
                    weight = v[w + first : w + first + channels]
                    for j in range(channels):
                        to[j] += given[j] * weight[j] * factor
        else:
            for c in range(channels):
                at = (i * channels + c) * each
                if not is_zero(u, back + at, each):
                    sums_of_channel(
                        v, x + at, u, back + at, middle, factor, w + first + c, r, mean_to, scale_to,
                        w_to + c if w_to >= 0 else -1, b_to + c if b_to >= 0 else -1, each,
                    )
                    if to_x >= 0:
                        to, given = g[to_x + at : to_x + at + each], u[back + at : back + at + each]
                        whole = factor * v[w + first + c]
                        for j in range(each):
                            to[j] += given[j] * whole


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

"""Mean and variance of groups of numbers, and normalising by them: what batch, layer and group normalisation consist
of.

Operands are dense arrays of shape (N, G, K, S): samples, groups, channels in a group, and what a channel has. Parameters
in the record: these four, and whether a group goes across samples. If so, there are G groups, each of the numbers with
one second index, and K is 1; else N G groups, one for each sample. Weights and biases belong to channels, (G, K).
"""

import numpy as np

from tapegrad.compiled import ROOM, read, room, write
from tapegrad.ops.arithmetic import chain
from tapegrad.ops.record import operand_at, params_at, result_at, wants_flag
from tapegrad.ops.spec import structured


def norm_shape(side, k):
    p = params_at(side, k)
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 4] != 0


# Sums go in eight parts, of which four or eight fill a vector, and in double precision.


def sum_of_row(v, a, n):
    s0, s1, s2, s3 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    s4, s5, s6, s7 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    whole = n // 8 * 8
    for i in range(a, a + whole, 8):
        s0 += read(v, i)
        s1 += read(v, i + 1)
        s2 += read(v, i + 2)
        s3 += read(v, i + 3)
        s4 += read(v, i + 4)
        s5 += read(v, i + 5)
        s6 += read(v, i + 6)
        s7 += read(v, i + 7)
    for i in range(a + whole, a + n):
        s0 += read(v, i)
    return ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))


def centred_product(v, a, middle, u, b, second, n):
    # The sum of (v - middle) (u - second) over two rows.
    s0, s1, s2, s3 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    s4, s5, s6, s7 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    whole = n // 8 * 8
    for i in range(0, whole, 8):
        s0 += np.float64((read(v, a + i) - middle) * (read(u, b + i) - second))
        s1 += np.float64((read(v, a + i + 1) - middle) * (read(u, b + i + 1) - second))
        s2 += np.float64((read(v, a + i + 2) - middle) * (read(u, b + i + 2) - second))
        s3 += np.float64((read(v, a + i + 3) - middle) * (read(u, b + i + 3) - second))
        s4 += np.float64((read(v, a + i + 4) - middle) * (read(u, b + i + 4) - second))
        s5 += np.float64((read(v, a + i + 5) - middle) * (read(u, b + i + 5) - second))
        s6 += np.float64((read(v, a + i + 6) - middle) * (read(u, b + i + 6) - second))
        s7 += np.float64((read(v, a + i + 7) - middle) * (read(u, b + i + 7) - second))
    for i in range(whole, n):
        s0 += np.float64((read(v, a + i) - middle) * (read(u, b + i) - second))
    return ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7))


def moments_forward(side, k, v):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    if across and each == 1:
        moments_of_columns(v, x, out, samples, groups)
        return True
    rows, length = (samples, each) if across else (1, channels * each)
    count = groups if across else samples * groups
    for m in range(count):
        total = np.float64(0.0)
        for i in range(rows):
            total += sum_of_row(v, x + (i * groups + m) * length, length)
        write(v, out + m, total / (rows * length))
        middle, total = read(v, out + m), np.float64(0.0)
        for i in range(rows):
            a = x + (i * groups + m) * length
            total += centred_product(v, a, middle, v, a, middle, length)
        write(v, out + count + m, total / (rows * length))
    return True


def moments_of_columns(v, x, out, n, count):
    mean, var = v[out : out + count], v[out + count : out + 2 * count]
    for j in range(count):
        mean[j] = 0.0
        var[j] = 0.0
    for i in range(n):
        row = v[x + i * count : x + (i + 1) * count]
        for j in range(count):
            mean[j] += row[j]
    for j in range(count):
        mean[j] /= n
    for i in range(n):
        row = v[x + i * count : x + (i + 1) * count]
        for j in range(count):
            var[j] += (row[j] - mean[j]) * (row[j] - mean[j])
    for j in range(count):
        var[j] /= n


def moments_reverse(side, k, v, g):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    if across and each == 1:
        n = samples
        gm, gv, mean = g[out : out + groups], g[out + groups : out + 2 * groups], v[out : out + groups]
        for i in range(n):
            row, to = v[x + i * groups : x + (i + 1) * groups], g[x + i * groups : x + (i + 1) * groups]
            for j in range(groups):
                to[j] += (gm[j] + 2.0 * gv[j] * (row[j] - mean[j])) / n
        return
    rows, length = (samples, each) if across else (1, channels * each)
    count, n = groups if across else samples * groups, rows * length
    for m in range(count):
        middle, plain, slope = v[out + m], g[out + m] / n, 2.0 * g[out + count + m] / n
        if plain != 0.0 or slope != 0.0:
            for i in range(rows):
                a = x + (i * groups + m) * length
                row, to = v[a : a + length], g[a : a + length]
                for j in range(length):
                    to[j] += plain + slope * (row[j] - middle)


def moments_tangent(side, k, v, t):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    rows, length = (samples, each) if across else (1, channels * each)
    count = groups if across else samples * groups
    for m in range(count):
        total, along = np.float64(0.0), np.float64(0.0)
        for i in range(rows):
            a = x + (i * groups + m) * length
            total += sum_of_row(t, a, length)
            along += centred_product(v, a, v[out + m], t, a, v[out + m] * 0.0, length)
        write(t, out + m, total / (rows * length))
        write(t, out + count + m, 2.0 * along / (rows * length))


def normalize_forward(side, k, v):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, means, scales = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    w, b, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    if across and each == 1:
        mean, scale = v[means : means + groups], v[scales : scales + groups]
        weight, bias = v[w : w + groups], v[b : b + groups]
        for i in range(samples):
            row, to = v[x + i * groups : x + (i + 1) * groups], v[out + i * groups : out + (i + 1) * groups]
            for j in range(groups):
                to[j] = (row[j] - mean[j]) * (scale[j] * weight[j]) + bias[j]
        return True
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        if each == 1:
            row, to = v[x + i * channels : x + (i + 1) * channels], v[out + i * channels : out + (i + 1) * channels]
            weight, bias = v[w + first : w + first + channels], v[b + first : b + first + channels]
            for j in range(channels):
                to[j] = (row[j] - middle) * factor * weight[j] + bias[j]
        else:
            for c in range(channels):
                at = (i * channels + c) * each
                row, to = v[x + at : x + at + each], v[out + at : out + at + each]
                whole, plus = factor * v[w + first + c], v[b + first + c]
                for j in range(each):
                    to[j] = (row[j] - middle) * whole + plus
    return True


def normalize_reverse(side, k, flags, v, g):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, means, scales = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    w, b, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    to_x, to_mean, to_scale = flags[wants_flag(k, 0)], flags[wants_flag(k, 1)], flags[wants_flag(k, 2)]
    to_w, to_b = flags[wants_flag(k, 3)], flags[wants_flag(k, 4)]
    if across and each == 1:
        mean, scale, weight = v[means : means + groups], v[scales : scales + groups], v[w : w + groups]
        for i in range(samples):
            row, back = v[x + i * groups : x + (i + 1) * groups], g[out + i * groups : out + (i + 1) * groups]
            if to_x:
                to = g[x + i * groups : x + (i + 1) * groups]
                for j in range(groups):
                    to[j] += back[j] * (scale[j] * weight[j])
            if to_mean:
                to = g[means : means + groups]
                for j in range(groups):
                    to[j] -= back[j] * (scale[j] * weight[j])
            if to_scale:
                to = g[scales : scales + groups]
                for j in range(groups):
                    to[j] += back[j] * (row[j] - mean[j]) * weight[j]
            if to_w:
                to = g[w : w + groups]
                for j in range(groups):
                    to[j] += back[j] * (row[j] - mean[j]) * scale[j]
            if to_b:
                to = g[b : b + groups]
                for j in range(groups):
                    to[j] += back[j]
        return
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        if each == 1:
            reverse_of_row(
                v, g, x + i * channels, out + i * channels, means + m, scales + m, w + first, b + first, channels,
                to_x, to_mean or to_scale, to_w or to_b,
            )
        else:
            for c in range(channels):
                at = (i * channels + c) * each
                weight = v[w + first + c]
                whole = factor * weight
                total = sum_of_row(g, out + at, each)
                along = centred_product(v, x + at, middle, g, out + at, middle * 0.0, each)
                if to_x:
                    to, back = g[x + at : x + at + each], g[out + at : out + at + each]
                    for j in range(each):
                        to[j] += back[j] * whole
                if to_mean:
                    g[means + m] -= total * whole
                if to_scale:
                    g[scales + m] += along * weight
                if to_w:
                    g[w + first + c] += along * factor
                if to_b:
                    g[b + first + c] += total


def reverse_of_row(v, g, x, out, mean, scale, w, b, n, to_x, to_group, to_channels):
    # The numbers of a group follow each other, each with a weight of its own.
    middle, factor, e = v[mean], v[scale], room(v)
    total, along = np.float64(0.0), np.float64(0.0)
    for start in range(0, n, ROOM):
        many = min(ROOM, n - start)
        row, back = v[x + start : x + start + many], g[out + start : out + start + many]
        weight = v[w + start : w + start + many]
        if to_channels:
            more, plus = g[w + start : w + start + many], g[b + start : b + start + many]
            for j in range(many):
                more[j] += back[j] * ((row[j] - middle) * factor)
                plus[j] += back[j]
        if to_group:
            for j in range(many):
                e[j] = back[j] * weight[j]
            total += sum_of_row(e, 0, many)
            along += centred_product(v, x + start, middle, e, 0, middle * 0.0, many)
        if to_x:
            to = g[x + start : x + start + many]
            for j in range(many):
                to[j] += back[j] * weight[j] * factor
    if to_group:
        g[mean] -= total * factor
        g[scale] += along


def normalize_tangent(side, k, flags, v, t):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, means, scales = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    w, b, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    to_x, to_mean, to_scale = flags[wants_flag(k, 0)], flags[wants_flag(k, 1)], flags[wants_flag(k, 2)]
    to_w, to_b = flags[wants_flag(k, 3)], flags[wants_flag(k, 4)]
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        for c in range(channels):
            weight = v[w + first + c]
            for j in range(each):
                at = (i * channels + c) * each + j
                centred, found = v[x + at] - middle, np.float64(0.0)
                if to_x:
                    found += t[x + at] * factor * weight
                if to_mean:
                    found -= t[means + m] * factor * weight
                if to_scale:
                    found += centred * t[scales + m] * weight
                if to_w:
                    found += centred * factor * t[w + first + c]
                if to_b:
                    found += t[b + first + c]
                t[out + at] = found


# The rules that write derivatives as instructions.


def group_count(p):
    samples, groups, _, _, across = p
    return groups if across else samples * groups


def of_groups(p, x):
    # Numbers of groups, (groups,) or with lanes (groups, lanes), in a shape that fits (N, G, K, S).
    samples, groups, _, _, across = p
    return x.reshape((1 if across else samples, groups, 1, 1, *x.shape[1:]))


def of_channels(p, x):
    return x.reshape((1, p[1], p[2], 1, *x.shape[1:]))


def over_groups(p, x):
    # The sums of groups.
    return np.sum(x, (0, 2, 3) if p[4] else (2, 3)).reshape((group_count(p), *x.shape[4:]))


def over_channels(p, x):
    return np.sum(x, (0, 3)).reshape((p[1] * p[2], *x.shape[4:]))


def group_size(p):
    return p[0] * p[3] if p[4] else p[2] * p[3]


def moments_views(p):
    n, g, k, s, _ = p
    return [((n, g, k, s), (g * k * s, k * s, s, 1))], (2, group_count(p))


def moments_pullback(p, z, gz, x):
    n = group_size(p)
    centred = (x - of_groups(p, z[0])) * (2.0 / n)
    return (of_groups(p, gz[0]) / n + chain(of_groups(p, gz[1]), centred),)


def moments_pushforward(p, z, operands, tangents):
    (x,), (t,) = operands, tangents
    n = group_size(p)
    along = over_groups(p, (x - of_groups(p, z[0])) * t) * (2.0 / n)
    return np.concatenate([over_groups(p, t)[None] / n, along[None]])


def moments_depend(p, *numbers):
    n, g, k, s, across = p
    group = np.arange(n * g).reshape(n, g, 1, 1) % (g if across else n * g)
    of = np.broadcast_to(group, (n, g, k, s)).reshape(-1)
    places = np.arange(len(of))
    return [(np.concatenate([of, of + group_count(p)]), np.concatenate([places, places]))]


def moments_in_lanes(p, lanes, x):
    n = group_size(p)
    mean = over_groups(p, x) / n
    centred = x - of_groups(p, mean)
    return np.concatenate([mean[None], over_groups(p, centred * centred)[None] / n])


def normalize_views(p):
    n, g, k, s, _ = p
    x = (n, g, k, s), (g * k * s, k * s, s, 1)
    groups, channels = ((group_count(p),), (1,)), ((g * k,), (1,))
    return [x, groups, groups, channels, channels], (n, g, k, s)


def normalize_pullback(p, z, gz, x, mean, scale, w, b):
    centred, factor, weight = x - of_groups(p, mean), of_groups(p, scale), of_channels(p, w)
    weighted = chain(gz, weight)
    to_x = chain(weighted, factor)
    return (
        to_x, -over_groups(p, to_x), over_groups(p, chain(weighted, centred)),
        over_channels(p, chain(gz, centred * factor)), over_channels(p, gz),
    )  # fmt: skip


def normalize_pushforward(p, z, operands, tangents):
    (x, mean, scale, w, _), (tx, tm, ts, tw, tb) = operands, tangents
    centred, factor, weight = x - of_groups(p, mean), of_groups(p, scale), of_channels(p, w)
    terms = [] if tx is None else [chain(tx, factor * weight)]
    terms += [] if tm is None else [chain(of_groups(p, -tm), factor * weight)]
    terms += [] if ts is None else [chain(of_groups(p, ts), centred * weight)]
    terms += [] if tw is None else [chain(of_channels(p, tw), centred * factor)]
    terms += [] if tb is None else [of_channels(p, tb)]
    return np.broadcast_to(sum(terms), p[:4])


def normalize_depends(p, *numbers):
    n, g, k, s, across = p
    outs = np.arange(n * g * k * s)
    group = np.broadcast_to(np.arange(n * g).reshape(n, g, 1, 1) % (g if across else n * g), (n, g, k, s)).reshape(-1)
    channel = np.broadcast_to(np.arange(g * k).reshape(1, g, k, 1), (n, g, k, s)).reshape(-1)
    return [(outs, of) for of in (outs, group, group, channel, channel)]


def normalize_in_lanes(p, lanes, x, mean, scale, w, b):
    # What is the same in all lanes has no axis for them.
    x, (mean, scale, w, b) = with_lanes(x, 5), [with_lanes(y, 2) for y in (mean, scale, w, b)]
    return (x - of_groups(p, mean)) * of_groups(p, scale) * of_channels(p, w) + of_channels(p, b)


def with_lanes(x, ndim):
    return x if x.ndim == ndim else x[..., None]


def accepts_groups(p):
    return len(p) == 5 and min(p[:4]) > 0 and p[4] in (0, 1) and not (p[4] and p[2] != 1)


def norm_note(p):
    n, g, k, s, across = p
    return f"{group_count(p):,} groups of {group_size(p):,}"


moments = structured("moments", "z = mean and variance of groups of x", arity=1, accepts=accepts_groups,
    forward=moments_forward, reverse=moments_reverse, tangent=moments_tangent, views=moments_views,
    depends=moments_depend, pullback=moments_pullback, pushforward=moments_pushforward, batched=moments_in_lanes,
    needs_elements=True, note=norm_note, reads=((True,), True))

normalize = structured("normalize", "z = (x - mean) scale w + b", arity=5, accepts=accepts_groups,
    forward=normalize_forward, reverse=normalize_reverse, tangent=normalize_tangent, views=normalize_views,
    depends=normalize_depends, pullback=normalize_pullback, pushforward=normalize_pushforward,
    batched=normalize_in_lanes, note=norm_note, reads=((True, True, True, True, False), False))

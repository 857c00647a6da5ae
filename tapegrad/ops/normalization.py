"""Mean and variance of groups of numbers, and normalising by them: what batch normalisation consists of.

Groups may also be those of layer and group normalisation, as in files from before these had operations of their own
(`group_norms`). Layout and kernels of rows are in `groups`, the way back in `normalize_sums`.
"""

from itertools import pairwise

import numpy as np

from tapegrad.compiled import read, write
from tapegrad.compiled.tiles import borrow, give_back
from tapegrad.ops.arithmetic import chain
from tapegrad.ops.groups import (
    ROWS,
    accepts_groups,
    all_sums,
    group_count,
    group_size,
    kept,
    norm_note,
    norm_shape,
    of_channels,
    of_groups,
    over_groups,
    positions,
    spread_of_row,
    sums_of_rows,
    with_lanes,
    with_lost,
)
from tapegrad.ops.normalize_sums import normalize_sums
from tapegrad.ops.planes import zeros
from tapegrad.ops.record import operand_at, params_at, result_at, wants_flag
from tapegrad.ops.spec import structured


def moments_forward(side, k, v):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    if across and each == 1:
        moments_of_columns(v, x, out, samples, groups)
        return True
    rows, length = (samples, each) if across else (1, channels * each)
    count = groups if across else samples * groups
    for m in range(count):
        # About a number of the group itself: what cancels is then at most as many times the variance as it has numbers.
        first, n = read(v, x + m * length), rows * length
        total, square = np.float64(0.0), np.float64(0.0)
        for i in range(rows):
            one, other = spread_of_row(v, x + (i * groups + m) * length, first, length)
            total += one
            square += other
        write(v, out + m, first + total / n)
        write(v, out + count + m, max(square - total * (total / n), 0.0) / n)
    return True


def moments_of_columns(v, x, out, n, count):
    sums = borrow(v, 3 * count)
    zeros(sums, 0, 3 * count)
    for i in range(n):
        for j in range(count):
            write(sums, j, read(sums, j) + read(v, x + i * count + j))
        if i % ROWS == ROWS - 1:
            kept(sums, count)
    kept(sums, count)
    for j in range(count):
        write(v, out + j, with_lost(sums, j, count) / n)
    zeros(sums, 0, 3 * count)
    for i in range(n):
        for j in range(count):
            centred = read(v, x + i * count + j) - read(v, out + j)
            write(sums, j, read(sums, j) + centred * centred)
        if i % ROWS == ROWS - 1:
            kept(sums, count)
    kept(sums, count)
    for j in range(count):
        write(v, out + count + j, with_lost(sums, j, count) / n)
    give_back(sums)


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
            one, other = sums_of_rows(v, a, v[out + m], t, a, length)
            total += one
            along += other
        write(t, out + m, total / (rows * length))
        write(t, out + count + m, 2.0 * along / (rows * length))


def chains(side, k):
    # Whether a factor of 0 gives 0, whatever the other is, as `chain` has it.
    return side[params_at(side, k) + 5] != 0


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
            if chains(side, k):
                for j in range(groups):
                    if row[j] == mean[j] or scale[j] * weight[j] == 0.0:
                        to[j] = bias[j]
        return True
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        for c in range(channels):
            at = (i * channels + c) * each
            row, to = v[x + at : x + at + each], v[out + at : out + at + each]
            whole, plus = factor * v[w + first + c], v[b + first + c]
            if chains(side, k) and whole == 0.0:
                for j in range(each):
                    to[j] = plus
            elif chains(side, k):
                for j in range(each):
                    to[j] = plus if row[j] == middle else (row[j] - middle) * whole + plus
            else:
                for j in range(each):
                    to[j] = (row[j] - middle) * whole + plus
    return True


def normalize_reverse(side, k, flags, v, g):
    samples, groups, channels, each, across = norm_shape(side, k)
    x, means, scales = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    w, b, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    all_sums(
        samples, groups, channels, each, across, v, x, means, scales, w, g, out, g,
        means if flags[wants_flag(k, 1)] else -1, scales if flags[wants_flag(k, 2)] else -1,
        w if flags[wants_flag(k, 3)] else -1, b if flags[wants_flag(k, 4)] else -1,
        g, x if flags[wants_flag(k, 0)] else -1,
    )


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


def moments_views(p):
    n, g, k, s, _ = p
    return [((n, g, k, s), (g * k * s, k * s, s, 1))], (2, group_count(p))


def moments_pullback(p, z, gz, x):
    # (x - mean) 2 / n times the adjoint of the variance, plus 1 / n times that of the mean: normalising once more, with
    # each group a channel.
    n, count = group_size(p), group_count(p)
    layout = [*p, 1] if p[4] else [1, count, 1, p[2] * p[3], 1, 1]
    ones = np.ones(count, x.dtype)
    return (normalize(x, z[0], gz[1] * (2.0 / n), ones, gz[0] / n, params=layout).reshape(tuple(p[:4])),)


def moments_pushforward(p, z, operands, tangents):
    (x,), (t,) = operands, tangents
    n = group_size(p)
    along = over_groups(p, (x - of_groups(p, z[0])) * t) * (2.0 / n)
    return np.concatenate([over_groups(p, t)[None] / n, along[None]])


def moments_depend(p, *numbers):
    places, of, _ = positions(p)
    return [(np.concatenate([of, of + group_count(p)]), np.concatenate([places, places]))]


def moments_in_lanes(p, lanes, x):
    n = group_size(p)
    mean = over_groups(p, x) / n
    centred = x - of_groups(p, mean)
    return np.concatenate([mean[None], over_groups(p, centred * centred)[None] / n])


def normalize_views(p):
    n, g, k, s = p[:4]
    x = (n, g, k, s), (g * k * s, k * s, s, 1)
    groups, channels = ((group_count(p),), (1,)), ((g * k,), (1,))
    return [x, groups, groups, channels, channels], (n, g, k, s)


def normalize_pullback(p, z, gz, x, mean, scale, w, b):
    groups, channels = group_count(p), p[1] * p[2]
    to_x = normalize(gz, np.zeros(groups, x.dtype), scale, w, np.zeros(channels, x.dtype), params=[*p[:5], 1])
    sums = normalize_sums(gz, x, mean, scale, w, params=p[:5])
    ends = [0, groups, 2 * groups, 2 * groups + channels, 2 * (groups + channels)]
    return to_x, *(sums[i:j] for i, j in pairwise(ends))


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
    outs, group, channel = positions(p)
    return [(outs, of) for of in (outs, group, group, channel, channel)]


def normalize_in_lanes(p, lanes, x, mean, scale, w, b):
    # What is the same in all lanes has no axis for them.
    x, (mean, scale, w, b) = with_lanes(x, 5), [with_lanes(y, 2) for y in (mean, scale, w, b)]
    return (x - of_groups(p, mean)) * of_groups(p, scale) * of_channels(p, w) + of_channels(p, b)


moments = structured("moments", "z = mean and variance of groups of x", arity=1, accepts=accepts_groups,
    forward=moments_forward, reverse=moments_reverse, tangent=moments_tangent, views=moments_views,
    depends=moments_depend, pullback=moments_pullback, pushforward=moments_pushforward, batched=moments_in_lanes,
    needs_elements=True, note=norm_note, reads=((True,), True))

# Parameters: those of the groups, and whether a factor of 0 gives 0; see `chains`.
normalize = structured("normalize", "z = (x - mean) scale w + b", arity=5,
    accepts=lambda p: len(p) == 6 and accepts_groups(p[:5]) and p[5] in (0, 1),
    forward=normalize_forward, reverse=normalize_reverse, tangent=normalize_tangent, views=normalize_views,
    depends=normalize_depends, pullback=normalize_pullback, pushforward=normalize_pushforward,
    batched=normalize_in_lanes, note=norm_note, reads=((True, True, True, True, False), False))

"""The sums over groups and channels on the way back from normalising.

They are one operation, whose result is four kinds of sums one after the other: by the mean and by the scale of each
group, by the weight and by the bias of each channel. So the derivative of `normalize`, written as instructions, has as
few passes over the numbers as its reverse kernel.
"""

import numpy as np

from tapegrad.compiled import write
from tapegrad.ops.arithmetic import chain
from tapegrad.ops.groups import (
    accepts_groups,
    all_sums,
    group_count,
    norm_note,
    norm_shape,
    of_channels,
    of_groups,
    over_channels,
    over_groups,
    positions,
    with_lanes,
)
from tapegrad.ops.record import operand_at, result_at, wants_flag
from tapegrad.ops.spec import structured


def normalize_sums_forward(side, k, v):
    samples, groups, channels, each, across = norm_shape(side, k)
    back, x, means = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    scales, w, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    count, all_channels = groups if across else samples * groups, groups * channels
    for i in range(out, out + 2 * (count + all_channels)):
        write(v, i, 0.0)
    all_sums(
        samples, groups, channels, each, across, v, x, means, scales, w, v, back, v,
        out, out + count, out + 2 * count, out + 2 * count + all_channels, v, -1,
    )
    return True


def normalize_sums_reverse(side, k, flags, v, g):
    samples, groups, channels, each, across = norm_shape(side, k)
    back, x, means = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    scales, w, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    count, all_channels = groups if across else samples * groups, groups * channels
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor, by_mean, by_scale = v[means + m], v[scales + m], g[out + m], g[out + count + m]
        for c in range(channels):
            weight, by_w = v[w + first + c], g[out + 2 * count + first + c]
            by_b = g[out + 2 * count + all_channels + first + c]
            if by_mean != 0.0 or by_scale != 0.0 or by_w != 0.0 or by_b != 0.0:
                for j in range(each):
                    at = (i * channels + c) * each + j
                    given, centred = v[back + at], v[x + at] - middle
                    if flags[wants_flag(k, 0)]:
                        slope = by_scale * weight + by_w * factor
                        g[back + at] += centred * slope - by_mean * factor * weight + by_b
                    if given != 0.0:
                        if flags[wants_flag(k, 1)]:
                            g[x + at] += given * (by_scale * weight + by_w * factor)
                        if flags[wants_flag(k, 2)]:
                            g[means + m] -= given * (by_scale * weight + by_w * factor)
                        if flags[wants_flag(k, 3)]:
                            g[scales + m] += given * (by_w * centred - by_mean * weight)
                        if flags[wants_flag(k, 4)]:
                            g[w + first + c] += given * (by_scale * centred - by_mean * factor)


def normalize_sums_tangent(side, k, flags, v, t):
    samples, groups, channels, each, across = norm_shape(side, k)
    back, x, means = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    scales, w, out = operand_at(side, k, 3), operand_at(side, k, 4), result_at(side, k)
    count, all_channels = groups if across else samples * groups, groups * channels
    for i in range(out, out + 2 * (count + all_channels)):
        write(t, i, 0.0)
    for i in range(samples * groups):
        m, first = i % groups if across else i, i % groups * channels
        middle, factor = v[means + m], v[scales + m]
        t_mean = t[means + m] if flags[wants_flag(k, 2)] else 0.0
        t_scale = t[scales + m] if flags[wants_flag(k, 3)] else 0.0
        for c in range(channels):
            weight, t_w = v[w + first + c], t[w + first + c] if flags[wants_flag(k, 4)] else 0.0
            for j in range(each):
                at = (i * channels + c) * each + j
                given, centred = v[back + at], v[x + at] - middle
                t_given = t[back + at] if flags[wants_flag(k, 0)] else 0.0
                t_centred = (t[x + at] if flags[wants_flag(k, 1)] else 0.0) - t_mean
                t[out + m] -= (t_given * weight + given * t_w) * factor + given * weight * t_scale
                t[out + count + m] += (t_given * weight + given * t_w) * centred + given * weight * t_centred
                t[out + 2 * count + first + c] += (
                    (t_given * centred + given * t_centred) * factor + given * centred * t_scale
                )
                t[out + 2 * count + all_channels + first + c] += t_given


def parts_of_sums(p, z):
    # The four sums, in shapes that fit (N, G, K, S).
    groups, channels = group_count(p), p[1] * p[2]
    by_group = [of_groups(p, z[i * groups : (i + 1) * groups]) for i in range(2)]
    rest = z[2 * groups :]
    return *by_group, *(of_channels(p, rest[i * channels : (i + 1) * channels]) for i in range(2))


def normalize_sums_views(p):
    n, g, k, s, _ = p
    x = (n, g, k, s), (g * k * s, k * s, s, 1)
    groups, channels = ((group_count(p),), (1,)), ((g * k,), (1,))
    return [x, x, groups, groups, channels], (2 * (group_count(p) + g * k),)


def normalize_sums_pullback(p, z, gz, given, x, mean, scale, w):
    centred, factor, weight = x - of_groups(p, mean), of_groups(p, scale), of_channels(p, w)
    by_mean, by_scale, by_w, by_b = parts_of_sums(p, gz)
    slope = chain(by_scale, weight) + chain(by_w, factor)
    to_given = chain(slope, centred) - chain(by_mean, factor * weight) + by_b
    to_x = chain(given, slope)
    return (
        to_given, to_x, -over_groups(p, to_x),
        over_groups(p, chain(given, chain(by_w, centred) - chain(by_mean, weight))),
        over_channels(p, chain(given, chain(by_scale, centred) - chain(by_mean, factor))),
    )  # fmt: skip


def normalize_sums_pushforward(p, z, operands, tangents):
    given, x, mean, scale, w = operands
    centred, factor, weight = x - of_groups(p, mean), of_groups(p, scale), of_channels(p, w)
    tg, tx, tm, ts, tw = tangents
    zero = given * 0.0
    tg, tc = zero if tg is None else tg, (zero if tx is None else tx) - (0.0 if tm is None else of_groups(p, tm))
    ts, tw = 0.0 if ts is None else of_groups(p, ts), 0.0 if tw is None else of_channels(p, tw)
    weighted = tg * weight + given * tw
    return np.concatenate([
        -over_groups(p, weighted * factor + given * weight * ts),
        over_groups(p, weighted * centred + given * weight * tc),
        over_channels(p, (tg * centred + given * tc) * factor + given * centred * ts), over_channels(p, tg),
    ])


def normalize_sums_depends(p, *numbers):
    (places, by_group, by_channel), groups = positions(p), 2 * group_count(p)
    parts = [by_group, groups // 2 + by_group, groups + by_channel, groups + p[1] * p[2] + by_channel]
    outs = np.concatenate(parts)
    return [(outs, np.tile(of, 4)) for of in (places, places, by_group, by_group, by_channel)]


def normalize_sums_in_lanes(p, lanes, given, x, mean, scale, w):
    given, x = with_lanes(given, 5), with_lanes(x, 5)
    centred, factor = x - of_groups(p, with_lanes(mean, 2)), of_groups(p, with_lanes(scale, 2))
    weighted = given * of_channels(p, with_lanes(w, 2))
    parts = [
        -over_groups(p, weighted * factor), over_groups(p, weighted * centred),
        over_channels(p, given * centred * factor), over_channels(p, given),
    ]
    return np.concatenate([np.broadcast_to(part, (len(part), lanes)) for part in parts])


normalize_sums = structured("normalize_sums", "z = sums of g by mean, scale, w and b", arity=5, accepts=accepts_groups,
    forward=normalize_sums_forward, reverse=normalize_sums_reverse, tangent=normalize_sums_tangent,
    views=normalize_sums_views, depends=normalize_sums_depends, pullback=normalize_sums_pullback,
    pushforward=normalize_sums_pushforward, batched=normalize_sums_in_lanes, note=norm_note,
    reads=((True, True, True, True, True), False))

"""Layer and group normalisation in one operation, and its way back in another.

x is (N, G, K, S), see `groups`: N G groups of K S numbers, which stand together, weights and biases for each of the
G K channels, and eps one number. Parameters in the record: N, G, K, S.

    z = h w + b,   h = (x - mean) s,   s = (var + eps)^(-1/2)

With u for the adjoint of z, a = u w, and E for the mean over a group, what reaches x is s (a - E a - h E(a h)); the
weights get the sums of u h, the biases those of u, and eps -s^2 / 2 times the sum of a h. The result of the way back
is these four, one after the other. Kernels are in `group_rows`. Batch normalisation, whose groups go across samples, is
`moments` and `normalize`.
"""

import numpy as np

from tapegrad.ops.arithmetic import chain
from tapegrad.ops.group_rows import (
    back_forward,
    back_reverse,
    back_tangent,
    groups_forward,
    groups_reverse,
    groups_tangent,
)
from tapegrad.ops.groups import (
    accepts_groups,
    group_size,
    norm_note,
    of_channels,
    of_groups,
    over_channels,
    over_groups,
    positions,
    with_lanes,
)
from tapegrad.ops.normalization import moments
from tapegrad.ops.spec import structured


def whole(p):
    # The parameters that functions of groups take: groups do not go across samples.
    return [*p, 0]


def accepts(p):
    return len(p) == 4 and accepts_groups(whole(p))


def scaled(p, x, eps):
    # s, in a shape that fits (N, G, K, S), and h.
    found = moments(x, params=p)
    s = of_groups(p, (found[1] + eps) ** -0.5)
    return s, (x - of_groups(p, found[0])) * s


def mean(p, x):
    # That of each group, in a shape that fits (N, G, K, S).
    return of_groups(p, over_groups(p, x) / group_size(p))


def group_views(p):
    n, g, k, s = p
    channels = (g * k,), (1,)
    return [((n, g, k, s), (g * k * s, k * s, s, 1)), channels, channels, ((1,), (1,))], (n, g, k, s)


def group_pullback(p, z, gz, x, w, b, eps):
    return parts(p, normalize_groups_back(gz, x, w, eps, params=p))


def parts(p, found):
    # The four parts of what a way back finds, or of what reaches that.
    count = p[1] * p[2]
    size = p[0] * count * p[3]
    by_x = found[:size].reshape(*p, *found.shape[1:])
    return by_x, found[size : size + count], found[size + count : size + 2 * count], found[size + 2 * count :]


def group_pushforward(p, z, operands, tangents):
    x, w, _, eps = operands
    p, (tx, tw, tb, te) = whole(p), tangents
    s, h = scaled(p, x, eps)
    terms = [] if tb is None else [of_channels(p, tb)]
    terms += [] if tw is None else [chain(h, of_channels(p, tw))]
    moved = tangent_of_h(p, s, h, tx, te)
    terms += [] if moved is None else [chain(moved, of_channels(p, w))]
    return np.broadcast_to(sum(terms), p[:4])


def tangent_of_h(p, s, h, tx, te):
    terms = []
    if tx is not None:
        terms.append(chain(s, tx - mean(p, tx) - chain(h, mean(p, chain(h, tx)))))
    if te is not None:
        terms.append(chain(h * s, chain(s, te * -0.5)))
    return sum(terms) if terms else None


def group_depends(p, *numbers):
    places, _, channel = positions(whole(p))
    return [all_of_groups(p), (places, channel), (places, channel), (places, np.zeros_like(places))]


def all_of_groups(p):
    # Each number of a group with each.
    places, group, _ = positions(whole(p))
    size = p[2] * p[3]
    return np.repeat(places, size), (group[:, None] * size + np.arange(size)).reshape(-1)


def group_in_lanes(p, lanes, x, w, b, eps):
    x, (w, b, eps) = with_lanes(x, 5), [with_lanes(y, 2) for y in (w, b, eps)]
    p = whole(p)
    return h_in_lanes(p, x, eps)[1] * of_channels(p, w) + of_channels(p, b)


def h_in_lanes(p, x, eps):
    centred = x - mean(p, x)
    s = (mean(p, centred * centred) + eps) ** -0.5
    return s, centred * s


def back_views(p):
    n, g, k, s = p
    x = (n, g, k, s), (g * k * s, k * s, s, 1)
    return [x, x, ((g * k,), (1,)), ((1,), (1,))], (g * k * (n * s + 2) + 1,)


def back_pullback(p, z, gz, u, x, w, eps):
    # See `back_reverse`.
    by_x, by_w, by_b, by_eps = parts(p, gz)
    p = whole(p)
    (s, h), weight, by_w = scaled(p, x, eps), of_channels(p, w), of_channels(p, by_w)
    mean_h = mean(p, chain(h, by_x)) + chain(s, 0.5 * by_eps)
    moved = chain(s, by_x - mean(p, by_x) - chain(h, mean_h))
    to_u = chain(moved, weight) + chain(h, by_w) + of_channels(p, by_b)
    a = chain(u, weight)
    a_h = mean(p, chain(a, h))
    f = chain(u, by_w) - chain(s, chain(a, mean_h) + chain(a_h, by_x))
    by_s = chain(mean(p, chain(a, by_x - mean(p, by_x))) - chain(a_h, mean_h + chain(s, 0.5 * by_eps)), s)
    f_h = mean(p, chain(f, h)) + by_s
    to_x = chain(s, f - mean(p, f) - chain(h, f_h))
    to_eps = np.sum(chain(s * s, f_h)) * (-0.5 * group_size(p))
    return to_u, to_x, over_channels(p, chain(u, moved)), to_eps.reshape(1)


def back_pushforward(p, z, operands, tangents):
    u, x, w, eps = operands
    tu, tx, tw, te = tangents
    found = [] if tu is None else [normalize_groups_back(tu, x, w, eps, params=p)]
    p = whole(p)
    (s, h), weight = scaled(p, x, eps), of_channels(p, w)
    th, rel = tangent_of_h(p, s, h, tx, te), None
    if th is not None:
        rel = -chain(s, (0.0 if tx is None else mean(p, chain(h, tx))) + (0.0 if te is None else chain(s, 0.5 * te)))
    if th is not None or tw is not None:
        # Of what is the same for all u: with u held, a and h change.
        a = chain(u, weight)
        a_h = mean(p, chain(a, h))
        ta = u * 0.0 if tw is None else chain(u, of_channels(p, tw))
        ta_h = mean(p, chain(ta, h) if th is None else chain(ta, h) + chain(a, th))
        moved = ta - mean(p, ta) - chain(h, ta_h)
        if th is not None:
            moved = moved - chain(th, a_h) + chain(rel, a - mean(p, a) - chain(h, a_h))
        count, n = p[1] * p[2], group_size(p)
        to_w = np.zeros(count, z.dtype) if th is None else over_channels(p, chain(u, th))
        by_eps = chain(s * s, ta_h if th is None else ta_h + 2.0 * chain(rel, a_h))
        to_eps = np.sum(by_eps) * (-0.5 * n)
        to_x = np.broadcast_to(chain(s, moved), p[:4]).reshape(-1)
        found.append(np.concatenate([to_x, to_w, np.zeros(count, z.dtype), to_eps.reshape(1)]))
    return sum(found)


def back_depends(p, *numbers):
    places, group, channel = positions(whole(p))
    size, count, k = len(places), p[1] * p[2], p[2]
    by_w, by_b, by_eps = size + channel, size + count + channel, np.full(size, size + 2 * count)
    outs, ins = all_of_groups(p)
    # A weight's part depends on x through means, so on all numbers of the groups that it belongs to.
    wide = (size + (group % p[1] * k)[:, None] + np.arange(k)).reshape(-1)
    from_u = [(outs, ins), (by_w, places), (by_b, places), (by_eps, places)]
    from_x = [(outs, ins), (wide, np.repeat(places, k)), (by_eps, places)]
    from_w = [(outs, channel[ins]), (by_eps, channel)]
    ends = np.concatenate([np.arange(size + count), [size + 2 * count]])
    joined = [tuple(np.concatenate(some) for some in zip(*pairs)) for pairs in (from_u, from_x, from_w)]
    return [*joined, (ends, np.zeros_like(ends))]


def back_in_lanes(p, lanes, u, x, w, eps):
    p = whole(p)
    u, x, w, eps = with_lanes(u, 5), with_lanes(x, 5), with_lanes(w, 2), with_lanes(eps, 2)
    s, h = h_in_lanes(p, x, eps)
    a = u * of_channels(p, w)
    a_h = mean(p, a * h)
    found = [
        s * (a - mean(p, a) - h * a_h), over_channels(p, u * h), over_channels(p, u),
        (np.sum(s * s * a_h, (0, 1, 2, 3)) * (-0.5 * group_size(p)))[None],
    ]  # fmt: skip
    return np.concatenate([np.broadcast_to(y, (*y.shape[:-1], lanes)).reshape(-1, lanes) for y in found])


def note(p):
    return norm_note(whole(p))


normalize_groups = structured("normalize_groups", "z = (x - mean) / (var + eps)^(1/2) w + b in groups of x", arity=4,
    accepts=accepts, forward=groups_forward, reverse=groups_reverse, tangent=groups_tangent, views=group_views,
    depends=group_depends, pullback=group_pullback, pushforward=group_pushforward, batched=group_in_lanes,
    needs_elements=True, note=note, reads=((True, True, False, True), False))

normalize_groups_back = structured("normalize_groups_back", "z = what g passes back to x, w, b and eps", arity=4,
    accepts=accepts, forward=back_forward, reverse=back_reverse, tangent=back_tangent, views=back_views,
    depends=back_depends, pullback=back_pullback, pushforward=back_pushforward, batched=back_in_lanes,
    needs_elements=True, note=note, reads=((True, True, True, True), False))

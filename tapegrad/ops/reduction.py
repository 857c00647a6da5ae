"""Reductions along an axis, and the running sum.

The operand is seen as (outer, n, inner) with a stride for each; the output is dense, (outer, inner), or for the
running sum (outer, n, inner). Parameters in the record: outer, n, inner, their three strides, and a sign.
"""

import numpy as np

from tapegrad.ops.arithmetic import chain
from tapegrad.ops.record import operand_at, params_of_one, result_at
from tapegrad.ops.selection import where
from tapegrad.ops.spec import structured

# How many numbers are added up plainly.
STRETCH = 128


def layout(side, k):
    p = params_of_one(k)
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 4], side[p + 5]


def stretch_sum(v, a, n, s):
    # Four lanes for speed, in double precision even on a float32 tape, so that a long sum stays accurate.
    t0, t1, t2, t3 = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for j in range(0, n - 3, 4):
        t0 += v[a + j * s]
        t1 += v[a + (j + 1) * s]
        t2 += v[a + (j + 2) * s]
        t3 += v[a + (j + 3) * s]
    for j in range(n - n % 4, n):
        t0 += v[a + j * s]
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
        if np.isfinite(new):
            lost += (total - new) + part if abs(total) >= abs(part) else (part - new) + total
        total = new
    return total + lost


def sum_forward(side, k, v):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        a, o = x + i * so, out + i * inner
        if n == 0 or inner > 1:
            for m in range(inner):
                v[o + m] = 0.0
            for j in range(n):
                for m in range(inner):
                    v[o + m] += v[a + j * sn + m * si]
        else:
            v[o] = row_sum(v, a, n, sn)
    return True


def sum_reverse(side, k, v, g):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for j in range(n):
            for m in range(inner):
                g[x + i * so + j * sn + m * si] += g[out + i * inner + m]


def sum_tangent(side, k, v, t):
    sum_forward(side, k, t)


# The other reductions go line by line: n elements, `step` apart, that make one number.


def extent(side, k):
    outer, n, inner, _, step, _ = layout(side, k)
    return outer * inner, n, step


def line(side, k, i):
    # The place where line i begins, and the place of its result.
    _, _, inner, so, _, si = layout(side, k)
    return operand_at(side, k, 0) + (i // inner) * so + (i % inner) * si, result_at(side, k) + i


def prod_forward(side, k, v):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        v[o] = 1.0
        for j in range(n):
            v[o] *= v[a + j * step]
    return True


def others(v, a, n, step, skip):
    # The product of all factors but one, without a division: right at zeros, and where the product of all factors
    # underflows or overflows.
    product = 1.0
    for j in range(n):
        if j != skip:
            product *= v[a + j * step]
    return product


def prod_reverse(side, k, v, g):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        safe = abs(v[o]) > 1e-30 and abs(v[o]) < 1e30
        if g[o] != 0.0:
            for j in range(n):
                p = v[o] / v[a + j * step] if safe else others(v, a, n, step, j)
                g[a + j * step] += g[o] * p


def prod_tangent(side, k, v, t):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        t[o] = 0.0
        for j in range(n):
            if t[a + j * step] != 0.0:
                t[o] += t[a + j * step] * others(v, a, n, step, j)


def max_forward(side, k, v):
    lines, n, step = extent(side, k)
    sign = side[params_of_one(k) + 6]
    for i in range(lines):
        a, o = line(side, k, i)
        best = v[a]
        for j in range(1, n):
            c = v[a + j * step]
            if sign * c > sign * best or c != c:
                best = c
        v[o] = best
    return True


def ties(v, a, n, step, best):
    count = 0
    for j in range(n):
        count += v[a + j * step] == best
    return count


def max_reverse(side, k, v, g):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        count = ties(v, a, n, step, v[o])
        for j in range(n):
            if v[a + j * step] == v[o]:
                g[a + j * step] += g[o] / count


def max_tangent(side, k, v, t):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        count = ties(v, a, n, step, v[o])
        t[o] = 0.0
        for j in range(n):
            if v[a + j * step] == v[o]:
                t[o] += t[a + j * step] / count


def logsumexp_forward(side, k, v):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        best = v[a]
        for j in range(1, n):
            if v[a + j * step] > best:
                best = v[a + j * step]
        if np.isinf(best):
            v[o] = best
        else:
            total, lost = np.float64(0.0), np.float64(0.0)
            for j in range(0, n, STRETCH):
                part = np.float64(0.0)
                for m in range(j, min(j + STRETCH, n)):
                    part += np.exp(v[a + m * step] - best)
                new = total + part
                lost += (total - new) + part if total >= part else (part - new) + total
                total = new
            v[o] = best + np.log(total + lost)
    return True


def logsumexp_reverse(side, k, v, g):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        if g[o] != 0.0:
            for j in range(n):
                g[a + j * step] += g[o] * np.exp(v[a + j * step] - v[o])


def logsumexp_tangent(side, k, v, t):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        t[o] = 0.0
        for j in range(n):
            if t[a + j * step] != 0.0:
                t[o] += t[a + j * step] * np.exp(v[a + j * step] - v[o])


def norm_forward(side, k, v):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        squares = np.float64(0.0)
        for j in range(n):
            squares += np.float64(v[a + j * step]) * np.float64(v[a + j * step])
        if squares > 1e-280 and squares < 1e280:
            # Nothing that matters was lost below, nothing overflowed.
            v[o] = np.sqrt(squares)
            continue
        scale = abs(v[a])
        for j in range(1, n):
            if not abs(v[a + j * step]) <= scale:
                scale = abs(v[a + j * step])
        if scale == 0.0 or not np.isfinite(scale):
            v[o] = scale
        else:
            total = 0.0
            for j in range(n):
                total += (v[a + j * step] / scale) * (v[a + j * step] / scale)
            v[o] = scale * np.sqrt(total)
    return True


def norm_reverse(side, k, v, g):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        if v[o] != 0.0:
            for j in range(n):
                g[a + j * step] += g[o] * (v[a + j * step] / v[o])


def norm_tangent(side, k, v, t):
    lines, n, step = extent(side, k)
    for i in range(lines):
        a, o = line(side, k, i)
        t[o] = 0.0
        if v[o] != 0.0:
            for j in range(n):
                t[o] += t[a + j * step] * (v[a + j * step] / v[o])


def cumsum_forward(side, k, v):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            for j in range(n):
                z = out + (i * n + j) * inner + m
                v[z] = v[x + i * so + j * sn + m * si]
                if j > 0:
                    v[z] += v[z - inner]
    return True


def cumsum_reverse(side, k, v, g):
    outer, n, inner, so, sn, si = layout(side, k)
    x, out = operand_at(side, k, 0), result_at(side, k)
    for i in range(outer):
        for m in range(inner):
            total = 0.0
            for j in range(n - 1, -1, -1):
                total += g[out + (i * n + j) * inner + m]
                g[x + i * so + j * sn + m * si] += total


def cumsum_tangent(side, k, v, t):
    cumsum_forward(side, k, t)


# The same rules in terms of other operations. Operands are seen as (outer, n, inner), results as (outer, inner).


def views(p):
    return [((p[0], p[1], p[2]), (p[3], p[4], p[5]))], (p[0], p[2])


def line_views(p):
    return [((p[0], p[1], p[2]), (p[3], p[4], p[5]))], (p[0], p[1], p[2])


def along(z, x):
    # One number a line, shown to each of its elements.
    return np.broadcast_to(z[:, None, :], x.shape)


def products_of_others(x):
    # For each element the product of all others in its line, by a tree of products from the whole line down to single
    # elements. There is no division, so this is right at zeros, to every order of derivative; it takes O(n) products.
    levels, level = [], x
    while level.shape[1] > 1:
        if level.shape[1] % 2:
            level = np.concatenate([level, np.ones((level.shape[0], 1, level.shape[2]), x.dtype)], 1)
        left, right = level[:, 0::2], level[:, 1::2]
        levels.append((left, right))
        level = left * right
    rest = np.ones((x.shape[0], 1, x.shape[2]), x.dtype)
    for left, right in reversed(levels):
        rest = rest[:, : left.shape[1]]
        pairs = np.stack([rest * right, rest * left], 2)
        rest = pairs.reshape(x.shape[0], -1, x.shape[2])
    return rest[:, : x.shape[1]]


def shares(x, z):
    # For each element its share of the derivative of the largest: ties share it equally.
    is_best = 1.0 * (x == along(z, x))
    return is_best / along(np.sum(is_best, 1), x)


def directions(x, z):
    return where(along(z, x) == 0.0, 0.0, x / along(z, x))


def gap(p, z, x):
    # The distance between the largest element and the second largest; with sign -1, between the two smallest.
    ordered = np.sort(x, 1)
    pair = ordered[:, -2:] if p[6] > 0 else ordered[:, :2]
    return pair[:, -1] - pair[:, 0] if x.shape[1] > 1 else np.full((x.shape[0], x.shape[2]), np.inf)


def axis_in_words(outer, n, inner):
    # ("axis 1", "(3, 4)"): the axis of length n, and the shape of all, without axes of length 1 before or after it.
    shape = [*([outer] if outer != 1 else []), n, *([inner] if inner != 1 else [])]
    return f"axis {int(outer != 1)}", f"({', '.join(map(str, shape))})"


def line_note(p):
    # What a listing says of an operation along an axis.
    axis, shape = axis_in_words(*p[:3])
    return f"over {p[1]}" if p[0] == p[2] == 1 else f"{shape} along {axis}"


def reversed_cumsum(p, z, gz, x):
    return (np.flip(np.cumsum(np.flip(gz, 1), 1), 1),)


def weighted(weights):
    # Rules of a reduction whose derivative with respect to an element is weights(x, z).
    def pullback(p, z, gz, x):
        return (chain(along(gz, x), weights(x, z)),)

    def pushforward(p, z, operands, tangents):
        (x,), (t,) = operands, tangents
        return np.sum(chain(t, weights(x, z)), 1)

    return {"pullback": pullback, "pushforward": pushforward}


sum_ = structured("sum", "z = sum of x along an axis", arity=1,
    forward=sum_forward, reverse=sum_reverse, tangent=sum_tangent, views=views, depends="oni->oi",
    note=line_note,
    pullback=lambda p, z, gz, x: (along(gz, x),),
    pushforward=lambda p, z, operands, tangents: np.sum(tangents[0], 1))

prod = structured("prod", "z = product of x along an axis", arity=1,
    forward=prod_forward, reverse=prod_reverse, tangent=prod_tangent, views=views, depends="oni->oi",
    note=line_note,
    **weighted(lambda x, z: products_of_others(x)))

max_ = structured("max", "z = largest (sign -1: smallest) of x along an axis", arity=1,
    forward=max_forward, reverse=max_reverse, tangent=max_tangent, views=views, depends="oni->oi",
    note=line_note, title=lambda p: "max" if p[6] > 0 else "min", needs_elements=True, kind_of=(0,),
    **weighted(shares), kink=gap,
    convention="ties share the derivative equally")

logsumexp = structured("logsumexp", "z = ln of the sum of e^x along an axis", arity=1,
    forward=logsumexp_forward, reverse=logsumexp_reverse, tangent=logsumexp_tangent, views=views, depends="oni->oi",
    note=line_note, needs_elements=True, **weighted(lambda x, z: np.exp(x - along(z, x))))

norm = structured("norm", "z = sqrt of the sum of x^2 along an axis", arity=1,
    forward=norm_forward, reverse=norm_reverse, tangent=norm_tangent, views=views, depends="oni->oi",
    note=line_note, needs_elements=True,
    **weighted(directions), kink=lambda p, z, x: z,
    convention="derivative 0 where the norm is 0")

cumsum = structured("cumsum", "z_i = x_0 + ... + x_i along an axis", arity=1, views=line_views, note=line_note,
    forward=cumsum_forward, reverse=cumsum_reverse, tangent=cumsum_tangent, depends="oni->oji",
    pullback=reversed_cumsum,
    pushforward=lambda p, z, operands, tangents: np.cumsum(tangents[0], 1))

"""Reductions along an axis, and the running sum: the rows of the table, and their rules in terms of other operations.

The operand is seen as (outer, n, inner) with a stride for each; the output is dense, (outer, inner), or for the
running sum (outer, n, inner). Parameters in the record: outer, n, inner, their three strides, and a sign. The kernels
stand in `lines` and `sums`.
"""

import numpy as np

from tapegrad.ops.arithmetic import chain
from tapegrad.ops.lines import (
    logsumexp_forward,
    logsumexp_reverse,
    logsumexp_tangent,
    max_forward,
    max_reverse,
    max_tangent,
    norm_forward,
    norm_reverse,
    norm_tangent,
    prod_forward,
    prod_reverse,
    prod_tangent,
)
from tapegrad.ops.selection import where
from tapegrad.ops.spec import structured
from tapegrad.ops.sums import (
    cumsum_forward,
    cumsum_reverse,
    cumsum_tangent,
    sum_forward,
    sum_reverse,
    sum_tangent,
)

# Operands are seen as (outer, n, inner), results as (outer, inner).


def views(p):
    return [((p[0], p[1], p[2]), (p[3], p[4], p[5]))], (p[0], p[2])


def line_views(p):
    return [((p[0], p[1], p[2]), (p[3], p[4], p[5]))], (p[0], p[1], p[2])


def accepts(p):
    # What is known of any reduction's parameters; the strides are known to fit by the places that they lead to.
    return len(p) == 7 and min(p[:3]) >= 0 and p[6] in (1, -1)


def accepts_with_elements(p):
    # The same for a reduction of which a line without any elements has no result.
    return accepts(p) and (p[1] > 0 or p[0] * p[2] == 0)


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


def with_lanes(p, lanes):
    # The parameters for a dense operand with lanes as its last axis, which go with `inner`.
    outer, n, inner = p[0], p[1], p[2] * lanes
    return [outer, n, inner, n * inner, inner, 1, *p[6:]]


def logsumexp_in_lanes(p, lanes, x):
    return logsumexp(x, params=with_lanes(p, lanes))


def norm_in_lanes(p, lanes, x):
    return norm(x, params=with_lanes(p, lanes))


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


sum_ = structured("sum", "z = sum of x along an axis", arity=1, accepts=accepts,
    forward=sum_forward, reverse=sum_reverse, tangent=sum_tangent, views=views, depends="oni->oi",
    note=line_note, batched=lambda p, lanes, x: np.sum(x, 1),
    pullback=lambda p, z, gz, x: (along(gz, x),),
    pushforward=lambda p, z, operands, tangents: np.sum(tangents[0], 1))

prod = structured("prod", "z = product of x along an axis", arity=1, accepts=accepts,
    forward=prod_forward, reverse=prod_reverse, tangent=prod_tangent, views=views, depends="oni->oi",
    note=line_note, batched=lambda p, lanes, x: np.prod(x, 1),
    **weighted(lambda x, z: products_of_others(x)))

max_ = structured("max", "z = largest (sign -1: smallest) of x along an axis", arity=1, accepts=accepts_with_elements,
    forward=max_forward, reverse=max_reverse, tangent=max_tangent, views=views, depends="oni->oi",
    note=line_note, title=lambda p: "max" if p[6] > 0 else "min", needs_elements=True, kind_of=(0,),
    batched=lambda p, lanes, x: np.max(x, 1) if p[6] > 0 else np.min(x, 1),
    **weighted(shares), kink=gap,
    convention="ties share the derivative equally")

logsumexp = structured("logsumexp", "z = ln of the sum of e^x along an axis", arity=1, accepts=accepts_with_elements,
    forward=logsumexp_forward, reverse=logsumexp_reverse, tangent=logsumexp_tangent, views=views, depends="oni->oi",
    note=line_note, needs_elements=True, batched=logsumexp_in_lanes,
    **weighted(lambda x, z: np.exp(x - along(z, x))))

norm = structured("norm", "z = sqrt of the sum of x^2 along an axis", arity=1, accepts=accepts_with_elements,
    forward=norm_forward, reverse=norm_reverse, tangent=norm_tangent, views=views, depends="oni->oi",
    note=line_note, needs_elements=True, batched=norm_in_lanes,
    **weighted(directions), kink=lambda p, z, x: z,
    convention="derivative 0 where the norm is 0")

cumsum = structured("cumsum", "z_i = x_0 + ... + x_i along an axis", arity=1, accepts=accepts,
    views=line_views, note=line_note,
    forward=cumsum_forward, reverse=cumsum_reverse, tangent=cumsum_tangent, depends="oni->oji",
    pullback=reversed_cumsum, batched=lambda p, lanes, x: np.cumsum(x, 1),
    pushforward=lambda p, z, operands, tangents: np.cumsum(tangents[0], 1))

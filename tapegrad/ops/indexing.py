"""Moving numbers about: gathering and scattering by index arrays, joining arrays, adding them into views of one array.

But for `assemble`, all operands are dense.
"""

import numpy as np

from tapegrad.compiled import read, write
from tapegrad.errors import IndexRangeError
from tapegrad.ops.in_lanes import assemble_in_lanes, concatenate_in_lanes, gather_in_lanes, scatter_in_lanes
from tapegrad.ops.parts import assemble_params, assemble_parts
from tapegrad.ops.record import operand_at, operand_count, params_at, params_of_two, result_at, result_size
from tapegrad.ops.reduction import axis_in_words
from tapegrad.ops.spec import ALL, structured


def gather_layout(side, k):
    # x is (outer, size, inner), the indices are n numbers on the tape, the output is (outer, n, inner).
    p = params_of_two(k)
    x, index = operand_at(side, k, 0), operand_at(side, k, 1)
    return x, index, result_at(side, k), side[p], side[p + 1], side[p + 2], side[p + 3]


def position(v, slot, size):
    # A whole number from -size to size - 1, or -1 where it is none: NaN fails every comparison.
    i = v[slot]
    if not (i >= -size and i < size and i == np.floor(i)):
        return -1
    j = int(i)
    return j + size if j < 0 else j


def in_range(side, k, v):
    # Whether all indices are whole numbers within the axis.
    _, index, _, _, size, _, n = gather_layout(side, k)
    good = True
    for j in range(n):
        good &= position(v, index + j, size) >= 0
    return good


def pick(side, k, v, d, wide, narrow, keep):
    # For an array (outer, size, inner) at `wide` and one (outer, n, inner) at `narrow`: copy to the second the elements
    # of the first that the indices name, or with `keep` add them to what is there.
    _, index, _, outer, size, inner, n = gather_layout(side, k)
    for i in range(outer):
        for j in range(n):
            p = position(v, index + j, size)
            a, o = wide + (i * size + p) * inner, narrow + (i * n + j) * inner
            if p >= 0:
                for m in range(inner):
                    write(d, o + m, read(d, o + m) + read(d, a + m) if keep else read(d, a + m))


def spread(side, k, v, d, wide, narrow):
    # The transpose of `pick`: add the elements at `narrow` to those at `wide` that the indices name.
    _, index, _, outer, size, inner, n = gather_layout(side, k)
    for i in range(outer):
        for j in range(n):
            p = position(v, index + j, size)
            a, o = wide + (i * size + p) * inner, narrow + (i * n + j) * inner
            if p >= 0:
                for m in range(inner):
                    write(d, a + m, read(d, a + m) + read(d, o + m))


def gather_forward(side, k, v):
    x, _, out, _, _, _, _ = gather_layout(side, k)
    if not in_range(side, k, v):
        return False
    pick(side, k, v, v, x, out, False)
    return True


def gather_reverse(side, k, v, g):
    x, _, out, _, _, _, _ = gather_layout(side, k)
    spread(side, k, v, g, x, out)


def gather_tangent(side, k, v, t):
    x, _, out, _, _, _, _ = gather_layout(side, k)
    pick(side, k, v, t, x, out, False)


def joined(side, k, j):
    # Operand j is (outer, row); its rows are copied into rows of length `total` of the output.
    p = params_at(side, k)
    return operand_at(side, k, j), side[p + 2 + j]


def concatenate_forward(side, k, v):
    arity = operand_count(side, k)
    p = params_at(side, k)
    outer, total = side[p], side[p + 1]
    start = result_at(side, k)
    for j in range(arity):
        x, row = joined(side, k, j)
        for i in range(outer):
            for m in range(row):
                write(v, start + i * total + m, read(v, x + i * row + m))
        start += row
    return True


def concatenate_reverse(side, k, v, g):
    arity = operand_count(side, k)
    p = params_at(side, k)
    outer, total = side[p], side[p + 1]
    start = result_at(side, k)
    for j in range(arity):
        x, row = joined(side, k, j)
        for i in range(outer):
            for m in range(row):
                write(g, x + i * row + m, read(g, x + i * row + m) + read(g, start + i * total + m))
        start += row


def concatenate_tangent(side, k, v, t):
    concatenate_forward(side, k, t)


def scatter_zeroed(side, k, v, d):
    # x is (outer, n, inner), the indices are n numbers on the tape, the output is (outer, size, inner).
    x, _, out, _, _, _, _ = gather_layout(side, k)
    for i in range(out, out + result_size(side, k)):
        d[i] = 0.0
    spread(side, k, v, d, out, x)


def scatter_forward(side, k, v):
    if not in_range(side, k, v):
        return False
    scatter_zeroed(side, k, v, v)
    return True


def scatter_reverse(side, k, v, g):
    x, _, out, _, _, _, _ = gather_layout(side, k)
    pick(side, k, v, g, out, x, True)


def scatter_tangent(side, k, v, t):
    scatter_zeroed(side, k, v, t)


# The parameters of `assemble`, after the size of its output: for each operand its number of axes (one at least), the
# position in the output of its first element, its shape, its strides, and the strides of its elements in the output.


def assemble_forward(side, k, v):
    arity, out = operand_count(side, k), result_at(side, k)
    for i in range(out, out + result_size(side, k)):
        v[i] = 0.0
    p = params_at(side, k) + 1
    for j in range(arity):
        x, ndim = operand_at(side, k, j), side[p]
        inner, step, to_step = side[p + 1 + ndim], side[p + 1 + 2 * ndim], side[p + 1 + 3 * ndim]
        for row in range(outer_size(side, p)):
            a, o = corner(side, p, row, x, out + side[p + 1])
            if step == 1 and to_step == 1:
                of, to = v[a : a + inner], v[o : o + inner]
                for i in range(inner):
                    to[i] += of[i]
            else:
                for i in range(inner):
                    v[o + i * to_step] += v[a + i * step]
        p += 2 + 3 * ndim
    return True


def outer_size(side, p):
    # How many rows an operand has: the product of its lengths but for the last.
    rows = 1
    for d in range(side[p] - 1):
        rows *= side[p + 2 + d]
    return rows


def corner(side, p, row, a, o):
    # Where a row begins in the operand, and where it goes.
    ndim = side[p]
    for d in range(ndim - 2, -1, -1):
        i = row % side[p + 2 + d]
        row //= side[p + 2 + d]
        a += i * side[p + 2 + ndim + d]
        o += i * side[p + 2 + 2 * ndim + d]
    return a, o


def assemble_reverse(side, k, v, g):
    arity, out = operand_count(side, k), result_at(side, k)
    p = params_at(side, k) + 1
    for j in range(arity):
        x, ndim = operand_at(side, k, j), side[p]
        inner, step, to_step = side[p + 1 + ndim], side[p + 1 + 2 * ndim], side[p + 1 + 3 * ndim]
        for row in range(outer_size(side, p)):
            a, o = corner(side, p, row, x, out + side[p + 1])
            for i in range(inner):
                g[a + i * step] += g[o + i * to_step]
        p += 2 + 3 * ndim


def assemble_tangent(side, k, v, t):
    assemble_forward(side, k, t)


def assemble_views(p):
    return [(shape, strides) for _, shape, strides, _ in assemble_parts(p)], (p[0],)


def assemble_links(p, *operands):
    links = []
    for offset, shape, _, strides in assemble_parts(p):
        places = offset + sum(i * s for i, s in zip(np.indices(shape), strides))
        links.append((places.reshape(-1), np.arange(places.size)))
    return links


def assemble_pushforward(p, z, operands, tangents):
    parts = [(t, offset, shape, to) for t, (offset, shape, _, to) in zip(tangents, assemble_parts(p)) if t is not None]
    return assemble(*[t for t, *_ in parts], params=assemble_params(p[0], [part[1:] for part in parts]))


def placed(shape):
    # The position of each element of an array.
    return np.arange(int(np.prod(shape))).reshape(shape)


def gather_links(p, x, index):
    outer, size, inner, _ = p
    chosen = placed((outer, size, inner))[:, index.astype(np.int64)]
    return [(np.arange(chosen.size), chosen.reshape(-1)), None]


def scatter_links(p, x, index):
    outer, size, inner, _ = p
    chosen = placed((outer, size, inner))[:, index.astype(np.int64)]
    return [(chosen.reshape(-1), np.arange(chosen.size)), None]


def joined_rows(p):
    # Where each operand of `concatenate` begins and ends in a row of the output.
    ends = np.cumsum(p[2:]).tolist()
    return zip([0, *ends], ends)


def concatenate_links(p, *operands):
    rows = placed((p[0], p[1]))
    return [(rows[:, start:end].reshape(-1), np.arange(p[0] * (end - start))) for start, end in joined_rows(p)]


def concatenate_pushforward(p, z, operands, tangents):
    parts = [np.zeros(x.shape, x.dtype) if t is None else t for x, t in zip(operands, tangents)]
    return np.concatenate(parts, 1)


def dense_gather(p):
    return [((p[0], p[1], p[2]), None), ((p[3],), None)], (p[0], p[3], p[2])


def dense_scatter(p):
    return [((p[0], p[3], p[2]), None), ((p[3],), None)], (p[0], p[1], p[2])


def scatter_pushforward(p, z, operands, tangents):
    return scatter(tangents[0], operands[1], params=p)


def accepts_indexing(p):
    return len(p) == 4 and min(p) >= 0


def accepts_joining(p):
    return len(p) >= 2 and min(p) >= 0 and sum(p[2:]) == p[1]


def accepts_parts(p):
    # Each part stands in the output: no element before its first, none after its last.
    at = 1
    while at < len(p):
        ndim = p[at]
        if ndim < 1 or at + 2 + 3 * ndim > len(p):
            return False
        offset, shape, to = p[at + 1], p[at + 2 : at + 2 + ndim], p[at + 2 + 2 * ndim : at + 2 + 3 * ndim]
        steps = [(n - 1) * s for n, s in zip(shape, to)]
        low, high = offset + sum(min(s, 0) for s in steps), offset + sum(max(s, 0) for s in steps)
        if min(shape) < 0 or (min(shape) > 0 and not 0 <= low <= high < p[0]):
            return False
        at += 2 + 3 * ndim
    return at == len(p)


def gather_pullback(p, z, gz, x, index):
    return scatter(gz, index, params=p), None


def gather_pushforward(p, z, operands, tangents):
    return gather(tangents[0], operands[1], params=p)


def bad_index(p, x, index):
    size = p[1]
    bad = np.flatnonzero(~((index >= -size) & (index < size) & (index == np.floor(index))))
    return None if not bad.size else IndexRangeError(
        f"index {float(index[bad[0]]):.16g} at position {bad[0]} is out of range for an axis of size {size}"
    )


def gather_note(p):
    outer, size, inner, n = p
    axis, shape = axis_in_words(outer, size, inner)
    return f"{n} of {size}" if outer == inner == 1 else f"{n} along {axis} of {shape}"


gather = structured("gather", "z_j = x at index_j along an axis", arity=2, accepts=accepts_indexing,
    forward=gather_forward, reverse=gather_reverse, tangent=gather_tangent, views=dense_gather, depends=gather_links,
    pullback=gather_pullback, pushforward=gather_pushforward, batched=gather_in_lanes, moves=1, refusal=bad_index,
    note=gather_note, reads=((False, True), False))

concatenate = structured("concatenate", "z = the operands joined along an axis", arity=-1, moves=ALL,
    accepts=accepts_joining,
    forward=concatenate_forward, reverse=concatenate_reverse, tangent=concatenate_tangent,
    views=lambda p: ([((p[0], row), None) for row in p[2:]], (p[0], p[1])), depends=concatenate_links,
    pullback=lambda p, z, gz, *operands: tuple(gz[:, start:end] for start, end in joined_rows(p)),
    pushforward=concatenate_pushforward, batched=concatenate_in_lanes)

# Adjoints are put together by these two: `scatter` is the transpose of `gather`, and `assemble` that of taking views.
scatter = structured("scatter", "z at index_j along an axis = sum of x_j", arity=2, accepts=accepts_indexing,
    forward=scatter_forward, reverse=scatter_reverse, tangent=scatter_tangent,
    views=dense_scatter, depends=scatter_links,
    pullback=lambda p, z, gz, x, index: (gather(gz, index, params=p), None), pushforward=scatter_pushforward,
    batched=scatter_in_lanes, refusal=bad_index, reads=((False, True), False))

assemble = structured("assemble", "z = sum of the operands, each added into a view of z", arity=-1,
    accepts=accepts_parts,
    forward=assemble_forward, reverse=assemble_reverse, tangent=assemble_tangent,
    views=assemble_views, depends=assemble_links,
    pullback=lambda p, z, gz, *operands: tuple(gz._strided(at, shape, to) for at, shape, _, to in assemble_parts(p)),
    pushforward=assemble_pushforward, batched=assemble_in_lanes)

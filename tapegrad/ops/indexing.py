"""Moving numbers about: gathering and scattering by index arrays, joining arrays, adding them into views of one array.

But for `assemble`, all operands are dense.
"""

import numpy as np

from tapegrad.compiled import read, write
from tapegrad.errors import IndexRangeError
from tapegrad.layout import is_dense
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


def assemble_parts(p):
    # For each operand: position of its first element in the output, shape, strides, strides in the output.
    at, parts = 1, []
    while at < len(p):
        ndim = p[at]
        lengths = [tuple(p[at + 2 + i * ndim : at + 2 + (i + 1) * ndim]) for i in range(3)]
        parts.append((p[at + 1], *lengths))
        at += 2 + 3 * ndim
    return parts


def assemble_views(p):
    return [(shape, strides) for _, shape, strides, _ in assemble_parts(p)], (p[0],)


def assemble_links(p, *operands):
    links = []
    for offset, shape, _, strides in assemble_parts(p):
        places = offset + sum(i * s for i, s in zip(np.indices(shape), strides))
        links.append((places.reshape(-1), np.arange(places.size)))
    return links


def assemble_params(size, parts):
    # Of dense operands: for each the position of its first element in the output, its shape, and its strides there.
    p = [size]
    for offset, shape, to in parts:
        steps = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        p += [len(shape), offset, *shape, *steps, *to]
    return p


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


def in_all_lanes(x, ndim, lanes):
    # An operand of so many axes with lanes as one axis more, the same number in each lane if it has none.
    return x if x.ndim > ndim else np.broadcast_to(x[..., None], (*x.shape, lanes))


def positions_in_lanes(p, lanes, index):
    # Where each lane has indices of its own: positions in (size, inner, lanes) seen as one axis, for each of
    # (n, inner, lanes). What is out of range becomes NaN, which the kernel refuses as it does the index.
    _, size, inner, _ = p
    fits = np.logical_and(index >= -size, index < size)
    own = np.where(fits, np.where(index < 0.0, index + float(size), index), np.nan)
    rest = np.arange(inner * lanes, dtype=float).reshape(inner, lanes)
    return own[:, None, :] * float(inner * lanes) + rest


def exact_positions(p, lanes, index):
    # Whether the positions above are whole numbers that the tape holds exactly.
    return p[1] * p[2] * lanes <= 2 ** (np.finfo(index.dtype).nmant + 1)


def gather_in_lanes(p, lanes, x, index):
    outer, size, inner, n = p
    if index.ndim == 1:
        return gather(x, index, params=[outer, size, inner * lanes, n])
    if x.ndim == 3:
        # The same array in each lane.
        found = gather(x, index, params=[outer, size, inner, n * lanes])
        return found.reshape(outer, n, lanes, inner).transpose(0, 1, 3, 2)
    if not exact_positions(p, lanes, x):
        return None
    positions = positions_in_lanes(p, lanes, index)
    return gather(x, positions, params=[outer, size * inner * lanes, 1, n * inner * lanes])


def scatter_in_lanes(p, lanes, x, index):
    outer, size, inner, n = p
    if index.ndim == 1:
        return scatter(x, index, params=[outer, size, inner * lanes, n])
    if not exact_positions(p, lanes, x):
        return None
    positions = positions_in_lanes(p, lanes, index)
    return scatter(in_all_lanes(x, 3, lanes), positions, params=[outer, size * inner * lanes, 1, n * inner * lanes])


def concatenate_in_lanes(p, lanes, *operands):
    parts = [in_all_lanes(x, 2, lanes) for x in operands]
    return concatenate(*parts, params=[p[0], p[1] * lanes, *(row * lanes for row in p[2:])])


def assemble_in_lanes(p, lanes, *operands):
    parts = [
        (offset * lanes, (*shape, lanes), (*(s * lanes for s in to), 1)) for offset, shape, _, to in assemble_parts(p)
    ]
    shown = [in_all_lanes(x, len(shape) - 1, lanes) for x, (_, shape, _) in zip(operands, parts)]
    ends = [offset + int(np.prod(shape)) for offset, shape, _ in parts]
    if [offset for offset, *_ in parts] == [0, *ends[:-1]] and ends[-1] == p[0] * lanes and all(
        is_dense(shape, to) for _, shape, to in parts
    ):
        # Nothing is added up: the parts follow each other.
        return concatenate(*shown, params=[1, p[0] * lanes, *(x.size for x in shown)])
    return assemble(*shown, params=assemble_params(p[0] * lanes, parts))


def gather_note(p):
    outer, size, inner, n = p
    axis, shape = axis_in_words(outer, size, inner)
    return f"{n} of {size}" if outer == inner == 1 else f"{n} along {axis} of {shape}"


gather = structured("gather", "z_j = x at index_j along an axis", arity=2,
    forward=gather_forward, reverse=gather_reverse, tangent=gather_tangent, views=dense_gather, depends=gather_links,
    pullback=gather_pullback, pushforward=gather_pushforward, batched=gather_in_lanes, moves=1, refusal=bad_index,
    note=gather_note, reads=((False, True), False))

concatenate = structured("concatenate", "z = the operands joined along an axis", arity=-1, moves=ALL,
    forward=concatenate_forward, reverse=concatenate_reverse, tangent=concatenate_tangent,
    views=lambda p: ([((p[0], row), None) for row in p[2:]], (p[0], p[1])), depends=concatenate_links,
    pullback=lambda p, z, gz, *operands: tuple(gz[:, start:end] for start, end in joined_rows(p)),
    pushforward=concatenate_pushforward, batched=concatenate_in_lanes)

# Adjoints are put together by these two: `scatter` is the transpose of `gather`, and `assemble` that of taking views.
scatter = structured("scatter", "z at index_j along an axis = sum of x_j", arity=2,
    forward=scatter_forward, reverse=scatter_reverse, tangent=scatter_tangent,
    views=dense_scatter, depends=scatter_links,
    pullback=lambda p, z, gz, x, index: (gather(gz, index, params=p), None), pushforward=scatter_pushforward,
    batched=scatter_in_lanes, refusal=bad_index, reads=((False, True), False))

assemble = structured("assemble", "z = sum of the operands, each added into a view of z", arity=-1,
    forward=assemble_forward, reverse=assemble_reverse, tangent=assemble_tangent,
    views=assemble_views, depends=assemble_links,
    pullback=lambda p, z, gz, *operands: tuple(gz._strided(at, shape, to) for at, shape, _, to in assemble_parts(p)),
    pushforward=assemble_pushforward, batched=assemble_in_lanes)

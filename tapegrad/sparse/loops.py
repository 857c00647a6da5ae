"""The compiled loops of patterns and colourings, and of the numbers of a matrix."""

import numpy as np

from tapegrad.compiled import compiled, read, write
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    result_at,
    result_size,
    shape_at,
)
from tapegrad.sweeps.marks import EXPECT, LEAF

# Index sets; see `pattern`.

# What `at` holds: how much of the pool is used; the number of the last union, by which `stamp` tells what that union
# has already; and the element at which to go on with an instruction that was left for want of room.
USED, TICKET, ELEMENT = range(3)


def union(o, ins, n, first, count, stamp, pool, at):
    # Give place o the union of the sets of the n places in `ins`; False where the pool may not have room for it.
    best, total = -1, 0
    for i in range(n):
        s = ins[i]
        if count[s] > 0:
            total += count[s]
            if best < 0 or count[s] > count[best]:
                best = s
    if best < 0:
        count[o] = 0
        return True
    if at[USED] + total > pool.shape[0]:
        return False
    at[TICKET] += 1
    used, ticket = at[USED], at[TICKET]
    for i in range(first[best], first[best] + count[best]):
        stamp[pool[i]] = ticket
    end = used + count[best]
    for j in range(n):
        s = ins[j]
        if count[s] > 0 and first[s] != first[best]:
            for i in range(first[s], first[s] + count[s]):
                if stamp[pool[i]] != ticket:
                    stamp[pool[i]] = ticket
                    pool[end] = pool[i]
                    end += 1
    if end == used + count[best]:
        # The largest set contains the others, so the result shares its memory.
        first[o], count[o] = first[best], count[best]
        return True
    for i in range(count[best]):
        pool[used + i] = pool[first[best] + i]
    first[o], count[o] = used, end - used
    at[USED] = end
    return True


_SETS = {"first": "int64[:]", "count": "int64[:]", "stamp": "int64[:]"}
_ROOM = {"pool": "int32[:]", "at": "int64[:]"}


@compiled(out="int64", start="int64", indptr="int64[:]", ins="int64[:]", **_SETS, **_ROOM)
def linked(out, start, indptr, ins, first, count, stamp, pool, at):
    for i in range(start, indptr.shape[0] - 1):
        chosen = ins[indptr[i] : indptr[i + 1]]
        if not union(out + i, chosen, chosen.shape[0], first, count, stamp, pool, at):
            return -1 - i
    return indptr.shape[0] - 1


@compiled(code="uint32[:, :]", side="int64[:]", start="int64", **_SETS, table="uint8[:, :]", ins="int64[:]", **_ROOM)
def elementwise(code, side, start, first, count, stamp, table, ins, pool, at):
    """Propagate from an instruction on, up to the next structured one, whose number is returned."""
    for i in range(start, code.shape[0]):
        op, o, a = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2])
        if op in (LEAF, EXPECT):
            continue
        if op < RUN:
            n = 0
            for j in range(3):
                if table[op, j]:
                    ins[n] = code[i, 2 + j]
                    n += 1
            if not union(o, ins, n, first, count, stamp, pool, at):
                return -1 - i
            continue
        if is_structured(side, a):
            return i
        arity, ndim = operand_count(side, a), axes(side, a)
        for e in range(at[ELEMENT], result_size(side, a)):
            n = 0
            for j in range(arity):
                if table[op - RUN, j]:
                    rest, slot = e, operand_at(side, a, j)
                    for d in range(ndim - 1, -1, -1):
                        slot += (rest % side[shape_at(side, a) + d]) * side[mode_at(side, a, j) + 1 + d]
                        rest //= side[shape_at(side, a) + d]
                    ins[n] = slot
                    n += 1
            if not union(result_at(side, a) + e, ins, n, first, count, stamp, pool, at):
                at[ELEMENT] = e
                return -1 - i
        at[ELEMENT] = 0
    return code.shape[0]


@compiled(outputs="int64[:]", indptr="int64[:]", indices="int64[:]", first="int64[:]", pool="int32[:]")
def collect(outputs, indptr, indices, first, pool):
    for i in range(outputs.shape[0]):
        start, n = indptr[i], indptr[i + 1] - indptr[i]
        for j in range(n):
            indices[start + j] = pool[first[outputs[i]] + j]
        indices[start : start + n].sort()


# Colourings; see `coloring`.

# In `only`, in place of a vertex's one neighbour of some colour: HUB if the vertex has several neighbours of that
# colour, SPOKE if it has one, which has several neighbours of the vertex's colour.
HUB, SPOKE = -1, -2


@compiled(indptr="int64[:]", lanes="int64[:]", last="int64[:]", alone="uint8[:]")
def find_alone(indptr, lanes, last, alone):
    for i in range(indptr.shape[0] - 1):
        for e in range(indptr[i], indptr[i + 1]):
            before = last[lanes[e]]
            if before >= indptr[i]:
                alone[before] = alone[e] = 0
            last[lanes[e]] = e


@compiled(
    indptr="int64[:]", indices="int64[:]", starts="int64[:]", rows="int64[:]", order="int64[:]", limit="int64",
    colors="int32[:]",
)  # fmt: skip
def greedy_columns(indptr, indices, starts, rows, order, limit, colors):
    # Returns the number of colours; stops when they are `limit`. `colors` comes as -1.
    #
    # A set of colours is an array of words of 64 bits. For a long row, the set of colours that its columns have is
    # kept: going through all entries of the row for each of its columns would take the square of its length. The set
    # has fewer words than the row has entries.
    words = order.shape[0] // 64 + 1
    long, n_long = np.full(indptr.shape[0] - 1, -1, np.int64), 0
    for i in range(long.shape[0]):
        if indptr[i + 1] - indptr[i] > max(64, words):
            long[i] = n_long
            n_long += 1
    kept, met = np.zeros((n_long, words), np.int64), np.empty(n_long, np.int64)
    taken, stamp = np.zeros(words, np.int64), np.full(words, -1, np.int64)
    count = 0
    for j in order:
        if starts[j] == starts[j + 1]:
            continue
        n_met = 0
        for i in rows[starts[j] : starts[j + 1]]:
            if long[i] >= 0:
                met[n_met] = long[i]
                n_met += 1
                continue
            for k in indices[indptr[i] : indptr[i + 1]]:
                if colors[k] >= 0:
                    word = colors[k] // 64
                    if stamp[word] != j:
                        stamp[word], taken[word] = j, 0
                    taken[word] |= np.int64(1) << np.int64(colors[k] % 64)
        word, forbidden = -1, -1
        while forbidden == -1:
            word += 1
            forbidden = taken[word] if stamp[word] == j else 0
            for k in met[:n_met]:
                forbidden |= kept[k, word]
        c = 0
        while forbidden >> c & 1:
            c += 1
        for k in met[:n_met]:
            kept[k, word] |= np.int64(1) << c
        colors[j] = 64 * word + c
        count = max(count, 64 * word + c + 1)
        if count >= limit:
            return count
    return count


def first_slot(around, start, stop, color):
    for s in range(start, stop):
        if around[s] == color:
            return s
    return -1


@compiled(indptr="int64[:]", indices="int64[:]", order="int64[:]", limit="int64", colors="int32[:]")
def greedy_star(indptr, indices, order, limit, colors):
    # Returns the number of colours; stops when they are `limit`. `colors` comes as -1. The pattern is symmetric.
    #
    # A vertex keeps one slot for each colour among its neighbours, from indptr[vertex]: the colour in `around`, and in
    # `only` the one neighbour of that colour; or HUB, if there are several, or SPOKE, if that neighbour is a hub to it.
    n = order.shape[0]
    around, only = np.empty(indices.shape[0], np.int64), np.empty(indices.shape[0], np.int64)
    end, spokes = indptr[:n].copy(), np.zeros(n, np.int64)
    forbidden = np.full(n + 1, -1, np.int64)
    met, leader = np.full(n, -1, np.int64), np.empty(n, np.int64)
    placed, place = np.full(n, -1, np.int64), np.empty(n, np.int64)
    count = 0
    for v in order:
        if indptr[v] == indptr[v + 1]:
            continue
        for w in indices[indptr[v] : indptr[v + 1]]:
            b = colors[w]
            if b < 0:
                continue
            forbidden[b] = v
            if met[b] != v:
                # w is the first neighbour of this colour. Where w is a spoke, v must not get the colour of the hub: a
                # path of two colours would lead from another spoke over the hub and w to v.
                met[b], leader[b] = v, w
                if spokes[w]:
                    for s in range(indptr[w], end[w]):
                        if only[s] == SPOKE:
                            forbidden[around[s]] = v
                continue
            # v has several neighbours of this colour, and becomes their hub. So they may have no other neighbour of the
            # colour that v gets.
            for q in (leader[b], w):
                if q >= 0:
                    for color in around[indptr[q] : end[q]]:
                        forbidden[color] = v
            leader[b] = -1
        c = 0
        while forbidden[c] == v:
            c += 1
        colors[v] = c
        new = c == count
        count = max(count, c + 1)
        if count >= limit:
            return count
        for w in indices[indptr[v] : indptr[v + 1]]:
            b = colors[w]
            if b < 0 or w == v:
                continue
            s = -1 if new else first_slot(around, indptr[w], end[w], c)
            if s >= 0:
                # w has a neighbour of v's colour already. So w is the hub of their star, or becomes it now, and v is
                # the next spoke.
                x = only[s]
                only[s] = HUB
                if x >= 0:
                    only[first_slot(around, indptr[x], end[x], b)] = SPOKE
                    spokes[x] += 1
                around[end[v]], only[end[v]] = b, SPOKE
                spokes[v] += 1
                end[v] += 1
                continue
            around[end[w]], only[end[w]] = c, v
            end[w] += 1
            if placed[b] != v:
                around[end[v]], only[end[v]] = b, w
                placed[b], place[b] = v, end[v]
                end[v] += 1
                continue
            # w is not the first neighbour of its colour, so v is the hub of these neighbours.
            for x in (only[place[b]], w):
                if x >= 0:
                    only[end[x] - 1] = SPOKE
                    spokes[x] += 1
            only[place[b]] = HUB
    return count


# The numbers of a matrix; see `compressed`.


@compiled(values="real[:]", at="uint32[:]", out="real[:]")
def gather(values, at, out):
    for i in range(at.shape[0]):
        write(out, i, read(values, at[i]))

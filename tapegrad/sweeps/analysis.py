"""What depends on what: passes over the code that compute no values."""

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    ALONE,
    DENSE,
    FIRST,
    INSIDE,
    LAST,
    group_flag,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    operand_high,
    operand_low,
    place_operand,
    result_at,
    result_size,
    wants_flag,
)
from tapegrad.sweeps.marks import BLOCK, EXPECT, LEAF
from tapegrad.sweeps.owners import Owners, moved, owner

# The most runs in a group: a block of the values and adjoints of all of them stays in the second-level cache.
GROUP = 32

# Marks are for places, or for intervals of them (see `owners`): where all that an instruction makes shares one mark,
# programs over long arrays are gone through in no time. This stands for intervals where each place has its own mark.
EACH = Owners(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)


def _at(place, starts, index, shift):
    # Where a place is in the marks.
    return owner(np.int64(place), starts, index, shift) if starts.shape[0] else np.int64(place)


def _span(low, high, starts, index, shift):
    # The marks of the places from one up to another.
    if low >= high:
        return range(np.int64(0), np.int64(0))
    return range(_at(low, starts, index, shift), _at(high - 1, starts, index, shift) + 1)


@compiled(
    code="uint32[:, :]", side="int64[:]", flags="uint8[:]", starts="int64[:]", index="int64[:]", shift="int64",
    active="uint8[:]", passive="uint8[:]", start="int64", stop="int64",
)  # fmt: skip
def activate(code, side, flags, starts, index, shift, active, passive, start, stop):
    """Mark the places, or the intervals of them, that a gradient can flow to, starting from leaves that want one, and
    flag the operands of runs that have such places."""
    for i in range(start, stop):
        op, o, a, b, c = code[i, 0], code[i, 1], code[i, 2], code[i, 3], code[i, 4]
        if op == LEAF:
            for j in _span(np.int64(o), np.int64(o) + b, starts, index, shift):
                active[j] = a
        elif op < RUN:
            x, y = active[_at(a, starts, index, shift)], active[_at(b, starts, index, shift)]
            z = active[_at(c, starts, index, shift)]
            active[_at(o, starts, index, shift)] = (x | y | z) & ~passive[op] & 1
        else:
            k = np.int64(a)
            flows = 0
            for j in range(operand_count(side, k)):
                flags[wants_flag(k, j)] = 0
                for s in _span(operand_low(side, k, j), operand_high(side, k, j), starts, index, shift):
                    if active[s]:
                        flags[wants_flag(k, j)] = flows = 1
                        break
            if passive[op - RUN]:
                flows = 0
            for j in _span(np.int64(o), np.int64(o) + b, starts, index, shift):
                active[j] = flows


@compiled(
    code="uint32[:, :]", side="int64[:]", starts="int64[:]", index="int64[:]", shift="int64", mark="uint8[:]",
    active="uint8[:]", stop="int64", rows="int64[:]",
)  # fmt: skip
def reach(code, side, starts, index, shift, mark, active, stop, rows):
    """Find the instructions below `stop` that the marked places, or intervals of them, depend on. What they read is
    marked too.

    Where `active` is not empty, dependencies count only through active places, and guards are left out. Where it is
    empty, all guards are found too, because a replay needs them. The numbers of the instructions are written to the end
    of `rows`, ascending; returns where they start there.
    """
    first = rows.shape[0]
    derivatives = active.shape[0] > 0
    for i in range(stop - 1, -1, -1):
        op, o, a, b, c = code[i, 0], code[i, 1], code[i, 2], code[i, 3], code[i, 4]
        n = b if op == LEAF or op >= RUN else np.uint32(1)
        wanted = op == EXPECT and not derivatives
        if not wanted:
            for j in _span(np.int64(o), np.int64(o) + n, starts, index, shift):
                if mark[j] and (not derivatives or active[j]):
                    wanted = True
                    break
        if not wanted:
            continue
        first -= 1
        rows[first] = i
        if op == LEAF:
            continue
        if op < RUN:
            mark[_at(a, starts, index, shift)] = 1
            mark[_at(b, starts, index, shift)] = 1
            mark[_at(c, starts, index, shift)] = 1
        else:
            k = np.int64(a)
            for j in range(operand_count(side, k)):
                for s in _span(operand_low(side, k, j), operand_high(side, k, j), starts, index, shift):
                    mark[s] = 1
    return first


@compiled(
    code="uint32[:, :]", side="int64[:]", starts="int64[:]", index="int64[:]", shift="int64", to="int64[:]"
)
def relocate(code, side, starts, index, shift, to):
    """Rewrite the operands of every instruction: what began at place starts[i] begins at to[i]. `out` has been
    rewritten already. See `owners`."""
    for i in range(code.shape[0]):
        op = code[i, 0]
        if op == LEAF:
            continue
        if op < RUN:
            for j in range(2, 5):
                code[i, j] = moved(np.int64(code[i, j]), starts, index, shift, to)
        else:
            k = np.int64(code[i, 2])
            for j in range(operand_count(side, k)):
                side[place_operand(side, k, j)] = moved(operand_at(side, k, j), starts, index, shift, to)


@compiled(code="uint32[:, :]", side="int64[:]", flags="uint8[:]", most="int64")
def group(code, side, flags, most):
    """Find elementwise runs that follow each other and can go a block at a time together, `most` of them at most.

    All runs of a group have the same number of elements, and where one reads the result of another, it reads the whole
    result in order, so that each block needs only the same block of the other. Then the blocks that are worked on stay
    in the cache, which whole long arrays would not.
    """
    i, n_code = 0, code.shape[0]
    while i < n_code:
        end = i
        while end < n_code and end - i < most and _may_join(code, side, i, end):
            end += 1
        for r in range(i, max(end, i + 1)):
            if code[r, 0] >= RUN:
                kind = ALONE if end - i < 2 else FIRST if r == i else LAST if r == end - 1 else INSIDE
                flags[group_flag(np.int64(code[r, 2]))] = kind
        i = max(end, i + 1)


def _may_join(code, side, first, r):
    if code[r, 0] < RUN:
        return False
    k, k0 = np.int64(code[r, 2]), np.int64(code[first, 2])
    n = result_size(side, k)
    if is_structured(side, k) or n <= BLOCK or (r > first and n != result_size(side, k0)):
        return False
    for j in range(operand_count(side, k)):
        low, high = operand_low(side, k, j), operand_high(side, k, j)
        for other in range(first, r):
            out = result_at(side, np.int64(code[other, 2]))
            same = side[mode_at(side, k, j)] == DENSE and operand_at(side, k, j) == out
            if low < out + n and high > out and not same:
                return False
    return True

"""Operands of an elementwise run, a block at a time. Read as source, like the sweeps that call them.

`scratch` has room for six blocks: one for each operand, and one for the adjoints of each.
"""

import numpy as np

from tapegrad.ops.record import (
    COLUMNS,
    DENSE,
    FIRST,
    LAST,
    UNIFORM,
    A,
    axes,
    group_flag,
    mode_at,
    operand_at,
    operand_count,
    shape_at,
    wants_flag,
)
from tapegrad.sweeps.kernels import at
from tapegrad.sweeps.marks import BLOCK


def group_end(flat, flags, i):
    # The number after that of the last instruction of the group that begins with instruction i. An instruction that is
    # in no group counts as a group of one.
    if flags[group_flag(np.int64(flat[COLUMNS * i + A]))] == FIRST:
        while flags[group_flag(np.int64(flat[COLUMNS * i + A]))] != LAST:
            i += 1
    return i + 1


def group_start(flat, flags, i):
    # The number of the first instruction of the group that ends with instruction i.
    if flags[group_flag(np.int64(flat[COLUMNS * i + A]))] == LAST:
        while flags[group_flag(np.int64(flat[COLUMNS * i + A]))] != FIRST:
            i -= 1
    return i


def block(side, k, j, v, scratch, start, m):
    # The address from which elements start to start + m of operand j follow each other: in the arena if the operand is
    # dense, else in scratch, to which they are copied. For an operand that the operation does not have it is any
    # address: the kernel will not read it.
    if j >= operand_count(side, k):
        return at(v, k - k)
    x, p = operand_at(side, k, j), mode_at(side, k, j)
    if side[p] == DENSE:
        return at(v, x + start)
    copy_block(side, k, p, x, v, scratch, j * BLOCK, start, m)
    return at(scratch, j * BLOCK)


def copy_block(side, k, p, x, v, scratch, to, start, m):
    # Copy elements of an operand that is not dense to scratch[to] and after. Its mode and strides are at p in the side
    # array, and its first element is at place x.
    if side[p] == UNIFORM:
        same = v[x]
        for i in range(to, to + m):
            scratch[i] = same
        return
    done = 0
    while done < m:
        a, s, count = stretch(side, k, p, x, start + done, m - done)
        if s == 1:
            row, of = v[a : a + count], scratch[to + done : to + done + count]
            for i in range(count):
                of[i] = row[i]
        else:
            for i in range(count):
                scratch[to + done + i] = v[a + i * s]
        done += count


def stretch(side, k, p, x, position, most):
    # Of a strided operand: the place of the element at `position` in row-major order, the stride to the next one, and
    # how many there are in the same row from there on, but no more than `most`. (Callers take slices of rows of stride
    # 1: Numba knows that indices into a slice do not wrap around, and vectorises only such loops.)
    q, ndim = shape_at(side, k) - 1, axes(side, k)
    row = side[q + ndim]
    column = position % row
    position //= row
    a = x + column * side[p + ndim]
    for d in range(ndim - 1, 0, -1):
        a += (position % side[q + d]) * side[p + d]
        position //= side[q + d]
    return a, side[p + ndim], min(most, row - column)


def adjoint_block(side, k, j, flags, g, scratch, start, m):
    # The address at which a kernel adds to the adjoints of elements start to start + m of operand j: in the arena of
    # adjoints if the operand is dense, else in scratch, which is set to zero, and from which `accumulate` adds them to
    # the arena. Where no adjoint is wanted, it is a part of scratch that is not read.
    to = (3 + j) * BLOCK
    if j < operand_count(side, k) and flags[wants_flag(k, j)]:
        if side[mode_at(side, k, j)] == DENSE:
            return at(g, operand_at(side, k, j) + start)
        for i in range(to, to + m):
            scratch[i] = 0.0
    return at(scratch, to)


def accumulate(side, k, j, flags, g, scratch, start, m):
    # Add what a kernel has left in scratch to the adjoints of elements start to start + m of operand j.
    if j >= operand_count(side, k):
        return
    p = mode_at(side, k, j)
    if flags[wants_flag(k, j)] == 0 or side[p] == DENSE:
        return
    x, to = operand_at(side, k, j), (3 + j) * BLOCK
    c = scratch[to : to + m]
    if side[p] == UNIFORM:
        # Four sums side by side, because each addition to a single sum would wait for the one before.
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for i in range(0, m - 3, 4):
            t0 += c[i]
            t1 += c[i + 1]
            t2 += c[i + 2]
            t3 += c[i + 3]
        for i in range(m - m % 4, m):
            t0 += c[i]
        g[x] += (t0 + t1) + (t2 + t3)
    else:
        done = 0
        while done < m:
            a, s, count = stretch(side, k, p, x, start + done, m - done)
            of = c[done : done + count]
            if s == 1:
                row = g[a : a + count]
                for i in range(count):
                    row[i] += of[i]
            else:
                for i in range(count):
                    g[a + i * s] += of[i]
            done += count

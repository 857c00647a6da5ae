"""Operands of an elementwise run, a block at a time. Read as source, like the sweeps that call them.

`scratch` has room for six blocks: one for each operand, and one for the adjoints of each.
"""

import numpy as np

from tapegrad.compiled import read, write
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
from tapegrad.sweeps.kernels import FETCH, SCATTER, at, call_copy
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
    if side[mode_at(side, k, j)] == DENSE:
        return at(v, operand_at(side, k, j) + start)
    call_copy(FETCH, side, k, j, v, scratch, start, m)
    return at(scratch, j * BLOCK)


def adjoint_block(side, k, j, flags, g, scratch, start, m):
    # The address at which a kernel adds to the adjoints of elements start to start + m of operand j: in the arena of
    # adjoints if the operand is dense, else in scratch, which is set to zero, and from which `accumulate` adds them to
    # the arena. Where no adjoint is wanted, it is a part of scratch that is not read.
    to = (3 + j) * BLOCK
    if j < operand_count(side, k) and flags[wants_flag(k, j)]:
        if side[mode_at(side, k, j)] == DENSE:
            return at(g, operand_at(side, k, j) + start)
        row = scratch[to : to + m]
        for i in range(m):
            row[i] = 0.0
    return at(scratch, to)


def accumulate(side, k, j, flags, g, scratch, start, m):
    # Add what a kernel has left in scratch to the adjoints of elements start to start + m of operand j.
    if j < operand_count(side, k) and flags[wants_flag(k, j)] and side[mode_at(side, k, j)] != DENSE:
        call_copy(SCATTER, side, k, j, g, scratch, start, m)


# An operand that has strides is seen as planes. A plane is one axis of its shape, that of `step_axis`, and all axes
# within that, which are so short that their elements together, `period` of them, are few. A plane is gone through
# column by column: the elements of a column stand one step of that axis apart in the arena, and `period` apart in
# scratch. So the inner loop is long however short the last axes are, and divisions are needed only where a plane or a
# column begins.
#
# An axis of LONG elements or more is gone through on its own, and no period is longer than PERIOD.
LONG, PERIOD = 32, 64


def step_axis(side, k):
    q, ndim = shape_at(side, k), axes(side, k)
    d, period = ndim - 1, ndim - ndim + 1
    while d > 0 and side[q + d] < LONG and period * side[q + d] <= PERIOD:
        period *= side[q + d]
        d -= 1
    return d, period


def plane(side, k, p, x, d, size, position):
    # The place of the first element of the plane that has the element at `position`. The operand's mode and strides are
    # at p, its first element is at x, and planes have `size` elements, those of axis d and within.
    q, number = shape_at(side, k), position // size
    for axis in range(d - 1, 0, -1):
        x += (number % side[q + axis]) * side[p + 1 + axis]
        number //= side[q + axis]
    return x + number * side[p + 1] if d > 0 else x


def offset(side, k, p, d, column):
    # From the first element of a period to another one: how far it is in the arena.
    q, found = shape_at(side, k), d - d
    for axis in range(axes(side, k) - 1, d + 1, -1):
        found += (column % side[q + axis]) * side[p + 1 + axis]
        column //= side[q + axis]
    return found + column * side[p + 2 + d] if column > 0 else found


def fetch(side, k, j, v, scratch, start, m):
    # Copy elements start to start + m of operand j, which is not dense, to the operand's block of scratch.
    x, p, to = operand_at(side, k, j), mode_at(side, k, j), j * BLOCK
    if side[p] == UNIFORM:
        same = v[x]
        for i in range(to, to + m):
            write(scratch, i, same)
        return True
    d, period = step_axis(side, k)
    size, step, done = period * side[shape_at(side, k) + d], side[p + 1 + d], 0
    while done < m:
        inside = (start + done) % size
        count = min(m - done, size - inside)
        first = plane(side, k, p, x, d, size, start + done) + inside // period * step
        at_column, rows, rest = inside % period, count // period, count % period
        for column in range(min(period, count)):
            # The elements of a column, and where they go: every period-th.
            n = rows + 1 if column < rest else rows
            a, o = first + offset(side, k, p, d, at_column), to + done + column
            at_column += 1
            if at_column == period:
                at_column, first = 0, first + step
            if step == 1 and period == 1:
                of, row = v[a : a + n], scratch[o : o + n]
                for i in range(n):
                    row[i] = of[i]
            else:
                for i in range(n):
                    write(scratch, o + i * period, read(v, a + i * step))
        done += count
    return True


def scatter(side, k, j, g, scratch, start, m):
    # Add what stands in the block of scratch for the adjoints of operand j, which is not dense, to its adjoints of
    # elements start to start + m. The order in which numbers are added up depends on the shape alone.
    x, p, of = operand_at(side, k, j), mode_at(side, k, j), (3 + j) * BLOCK
    d, period = step_axis(side, k)
    size, step, done = period * side[shape_at(side, k) + d], side[p + 1 + d], 0
    if side[p] == UNIFORM:
        # One plane of one column, in which every step is 0.
        d, period, size, step = d - d, d - d + 1, start + m, d - d
    while done < m:
        inside = (start + done) % size
        count = min(m - done, size - inside)
        first = plane(side, k, p, x, d, size, start + done) + inside // period * step
        at_column, rows, rest = inside % period, count // period, count % period
        for column in range(min(period, count)):
            # The elements of a column, and where they stand: every period-th.
            n = rows + 1 if column < rest else rows
            a, o = first + offset(side, k, p, d, at_column), of + done + column
            at_column += 1
            if at_column == period:
                at_column, first = 0, first + step
            if step == 0:
                g[a] += total(scratch, o, n, period)
            elif step == 1 and period == 1:
                row, c = g[a : a + n], scratch[o : o + n]
                for i in range(n):
                    row[i] += c[i]
            else:
                for i in range(n):
                    write(g, a + i * step, read(g, a + i * step) + read(scratch, o + i * period))
        done += count
    return True


def total(scratch, o, n, step):
    # The sum of n numbers. Four sums side by side, because each addition to a single sum would wait for the one before.
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    for i in range(0, n - 3, 4):
        t0 += read(scratch, o + i * step)
        t1 += read(scratch, o + (i + 1) * step)
        t2 += read(scratch, o + (i + 2) * step)
        t3 += read(scratch, o + (i + 3) * step)
    for i in range(n - n % 4, n):
        t0 += read(scratch, o + i * step)
    return (t0 + t1) + (t2 + t3)

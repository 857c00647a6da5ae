"""Operands of an elementwise run, a block at a time. Read as source, like the sweeps that call them.

The last SCRATCH elements of every arena are scratch space: three blocks, one an operand.
"""

import numpy as np

from tapegrad.ops.record import ACTIVE, ARITY, DENSE, FIRST, KIND, LAST, OPERAND_SIZE, OPERANDS, SLOT, UNIFORM
from tapegrad.sweeps.marks import BLOCK, SCRATCH


def group_end(code, side, i):
    # Past the last instruction of the group that begins with instruction i; an instruction of its own is a group of
    # one.
    if side[np.int64(code[i, 2]) + KIND] == FIRST:
        while side[np.int64(code[i, 2]) + KIND] != LAST:
            i += 1
    return i + 1


def group_start(code, side, i):
    # The first instruction of the group that ends with instruction i.
    if side[np.int64(code[i, 2]) + KIND] == LAST:
        while side[np.int64(code[i, 2]) + KIND] != FIRST:
            i -= 1
    return i


def strides_of(side, k, j):
    # Where operand j's mode stands; its strides follow.
    p = k + OPERANDS + OPERAND_SIZE * side[k + ARITY]
    ndim = side[p]
    return p + 1 + ndim + j * (1 + ndim)


def block(side, k, j, v, start, m):
    # Where elements start to start + m of operand j stand one after the other: in the arena where the operand is dense,
    # else in a copy in scratch. An operand that is not there stands anywhere.
    if j >= side[k + ARITY]:
        return k - k
    x = side[k + OPERANDS + OPERAND_SIZE * j + SLOT]
    p = strides_of(side, k, j)
    if side[p] == DENSE:
        return x + start
    scratch = v.shape[0] - SCRATCH + j * BLOCK
    if side[p] == UNIFORM:
        same = v[x]
        for i in range(scratch, scratch + m):
            v[i] = same
    else:
        done = 0
        while done < m:
            a, s, count = stretch(side, k, p, x, start + done, m - done)
            to = v[scratch + done : scratch + done + count]
            if s == 1:
                row = v[a : a + count]
                for i in range(count):
                    to[i] = row[i]
            else:
                for i in range(count):
                    to[i] = v[a + i * s]
            done += count
    return scratch


def stretch(side, k, p, x, position, most):
    # The element at `position` in row-major order, the stride to the next, and how many follow in the same row.
    # (Rows are read through windows, whose indices Numba knows not to wrap around: only so are the loops vectorised.)
    q = k + OPERANDS + OPERAND_SIZE * side[k + ARITY]
    ndim = side[q]
    row = side[q + ndim]
    column = position % row
    position //= row
    a = x + column * side[p + ndim]
    for d in range(ndim - 1, 0, -1):
        a += (position % side[q + d]) * side[p + d]
        position //= side[q + d]
    return a, side[p + ndim], min(most, row - column)


def adjoint_block(side, k, j, g, start, m):
    # Where a kernel accumulates the adjoints of elements start to start + m of operand j: where they stand, if the
    # operand is dense, else from zero in scratch, from which `accumulate` adds them up.
    scratch = g.shape[0] - SCRATCH + j * BLOCK
    if j < side[k + ARITY]:
        q = k + OPERANDS + OPERAND_SIZE * j
        if side[q + ACTIVE]:
            if side[strides_of(side, k, j)] == DENSE:
                return side[q + SLOT] + start
            for i in range(scratch, scratch + m):
                g[i] = 0.0
    return scratch


def accumulate(side, k, j, g, start, m):
    # Add what a kernel has left in scratch to the adjoints of elements start to start + m of operand j.
    if j >= side[k + ARITY]:
        return
    q = k + OPERANDS + OPERAND_SIZE * j
    p = strides_of(side, k, j)
    if side[q + ACTIVE] == 0 or side[p] == DENSE:
        return
    x, scratch = side[q + SLOT], g.shape[0] - SCRATCH + j * BLOCK
    c = g[scratch : scratch + m]
    if side[p] == UNIFORM:
        # Four sums, because one would wait for each addition.
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

"""Operands of an elementwise run, a block at a time. Read as source, like the sweeps that call them.

The last SCRATCH elements of every arena are scratch space: three blocks, one an operand.
"""

from tapegrad.ops.record import ACTIVE, ARITY, DENSE, OPERAND_SIZE, OPERANDS, SLOT, UNIFORM
from tapegrad.sweeps.marks import BLOCK, SCRATCH


def strides_of(side, k, j):
    # Where operand j's mode stands; its strides follow.
    p = k + OPERANDS + OPERAND_SIZE * side[k + ARITY]
    ndim = side[p]
    return p + 1 + ndim + j * (1 + ndim)


def block(side, k, j, v, start, m):
    # Elements start to start + m of operand j: a window on the arena where the operand is dense, else a copy in
    # scratch. An operand that is not there is a window that nobody reads.
    if j >= side[k + ARITY]:
        return v[0:m]
    x = side[k + OPERANDS + OPERAND_SIZE * j + SLOT]
    p = strides_of(side, k, j)
    if side[p] == DENSE:
        return v[x + start : x + start + m]
    scratch = v.shape[0] - SCRATCH + j * BLOCK
    copy = v[scratch : scratch + m]
    if side[p] == UNIFORM:
        copy[:] = v[x]
    else:
        done = 0
        while done < m:
            a, s, count = stretch(side, k, p, x, start + done, m - done)
            to = copy[done : done + count]
            if s == 1:
                row = v[a : a + count]
                for i in range(count):
                    to[i] = row[i]
            else:
                for i in range(count):
                    to[i] = v[a + i * s]
            done += count
    return copy


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


def accumulate(side, k, j, g, start, c):
    # Add the contributions c to the adjoints of elements start to start + len(c) of operand j.
    q = k + OPERANDS + OPERAND_SIZE * j
    if side[q + ACTIVE] == 0:
        return
    x = side[q + SLOT]
    p = strides_of(side, k, j)
    m = c.shape[0]
    if side[p] == DENSE:
        to = g[x + start : x + start + m]
        for i in range(m):
            to[i] += c[i]
    elif side[p] == UNIFORM:
        total = 0.0
        for i in range(m):
            total += c[i]
        g[x] += total
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

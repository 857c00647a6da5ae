"""Gathering by index arrays, and joining arrays along an axis. All operands are dense."""

import numpy as np

from tapegrad.ops.record import ARITY, BINARY_PARAMS, OPERAND_SIZE, OPERANDS, OUT, SLOT
from tapegrad.ops.spec import structured


def gather_layout(side, k):
    # x is (outer, size, inner), the indices are n numbers on the tape, the output is (outer, n, inner).
    p = k + BINARY_PARAMS
    x, index = side[k + OPERANDS + SLOT], side[k + OPERANDS + OPERAND_SIZE + SLOT]
    return x, index, side[k + OUT], side[p], side[p + 1], side[p + 2], side[p + 3]


def position(v, slot, size):
    # A whole number from -size to size - 1, or -1 where it is none: NaN fails every comparison.
    i = v[slot]
    if not (i >= -size and i < size and i == np.floor(i)):
        return -1
    j = int(i)
    return j + size if j < 0 else j


def gather_forward(side, k, v):
    x, index, out, outer, size, inner, n = gather_layout(side, k)
    for j in range(n):
        if position(v, index + j, size) < 0:
            return False
    for i in range(outer):
        for j in range(n):
            a, o = x + (i * size + position(v, index + j, size)) * inner, out + (i * n + j) * inner
            for m in range(inner):
                v[o + m] = v[a + m]
    return True


def gather_reverse(side, k, v, g):
    x, index, out, outer, size, inner, n = gather_layout(side, k)
    for i in range(outer):
        for j in range(n):
            p = position(v, index + j, size)
            a, o = x + (i * size + p) * inner, out + (i * n + j) * inner
            if p >= 0:
                for m in range(inner):
                    g[a + m] += g[o + m]


def gather_tangent(side, k, v, t):
    x, index, out, outer, size, inner, n = gather_layout(side, k)
    for i in range(outer):
        for j in range(n):
            p = position(v, index + j, size)
            a, o = x + (i * size + p) * inner, out + (i * n + j) * inner
            if p >= 0:
                for m in range(inner):
                    t[o + m] = t[a + m]


def joined(side, k, j):
    # Operand j is (outer, row); its rows are copied into rows of length `total` of the output.
    arity = side[k + ARITY]
    p = k + OPERANDS + OPERAND_SIZE * arity
    return side[k + OPERANDS + OPERAND_SIZE * j + SLOT], side[p + 2 + j]


def concatenate_forward(side, k, v):
    arity = side[k + ARITY]
    p = k + OPERANDS + OPERAND_SIZE * arity
    outer, total = side[p], side[p + 1]
    start = side[k + OUT]
    for j in range(arity):
        x, row = joined(side, k, j)
        for i in range(outer):
            for m in range(row):
                v[start + i * total + m] = v[x + i * row + m]
        start += row
    return True


def concatenate_reverse(side, k, v, g):
    arity = side[k + ARITY]
    p = k + OPERANDS + OPERAND_SIZE * arity
    outer, total = side[p], side[p + 1]
    start = side[k + OUT]
    for j in range(arity):
        x, row = joined(side, k, j)
        for i in range(outer):
            for m in range(row):
                g[x + i * row + m] += g[start + i * total + m]
        start += row


def concatenate_tangent(side, k, v, t):
    concatenate_forward(side, k, t)


gather = structured("gather", "z_j = x at index_j along an axis", arity=2,
    forward=gather_forward, reverse=gather_reverse, tangent=gather_tangent)

concatenate = structured("concatenate", "z = the operands joined along an axis", arity=-1,
    forward=concatenate_forward, reverse=concatenate_reverse, tangent=concatenate_tangent)

"""The pass of `simplify` over the code, compiled."""

import numpy as np
from numba import njit

from tapegrad.ops import RUN
from tapegrad.ops.record import (
    ACTIVE,
    ARITY,
    COUNT,
    DENSE,
    HIGH,
    KIND,
    LENGTH,
    LOW,
    OPERAND_SIZE,
    OPERANDS,
    OUT,
    SLOT,
    STRUCTURED,
    UNIFORM,
)
from tapegrad.sweeps.marks import EXPECT, LEAF

# What the pass knows of operations comes as an array, a line for each opcode, so that no cached code holds opcodes.
# The columns are fields of the row: its neutral numbers as a left and as a right operand, NaN for none; whether it
# commutes, is the identity, is opaque; and the opcode of its `unmasked` operation, -1 for none.
LEFT, RIGHT, COMMUTES, IDENTITY, OPAQUE, UNMASKED = range(6)


@njit(cache=True, nogil=True)
def simplify(code, side, values, to, inputs, rows):
    n = code.shape[0]
    constant = np.zeros(values.shape[0], np.uint8)
    size = 16
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int64)
    for i in range(n):
        op, out = code[i, 0], np.int64(code[i, 1])
        if op == LEAF:
            if i >= inputs:
                for s in range(out, out + np.int64(code[i, 3])):
                    constant[s] = 1
        elif op < RUN:
            code[i, 2], code[i, 3] = to[code[i, 2]], to[code[i, 3]]
            if op != EXPECT:
                _simplify_scalar(i, code, values, constant, to, rows, table)
        else:
            _simplify_run(i, code, side, values, constant, to, rows, table)


@njit(cache=True, nogil=True)
def _simplify_scalar(i, code, values, constant, to, rows, table):
    op, out, a, b = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
    if constant[a] and constant[b]:
        code[i, 0], code[i, 2], code[i, 3] = LEAF, 0, 1
        constant[out] = 1
        return
    same = np.int64(-1)
    if rows[op, IDENTITY] or (constant[b] and values[b] == rows[op, RIGHT]):
        same = a
    elif constant[a] and values[a] == rows[op, LEFT]:
        same = b
    if same >= 0:
        to[out] = same
        return
    if rows[op, UNMASKED] >= 0 and (_is_factor(a, values, constant) or _is_factor(b, values, constant)):
        op = np.int64(rows[op, UNMASKED])
        code[i, 0] = op
    if rows[op, COMMUTES] and b < a:
        a, b = b, a
    at = _hash3(op, a, b) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if code[j, 0] == op:
            x, y = np.int64(code[j, 2]), np.int64(code[j, 3])
            if (x == a and y == b) or (rows[op, COMMUTES] and x == b and y == a):
                to[out] = code[j, 1]
                return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


@njit(cache=True, nogil=True)
def _is_factor(slot, values, constant):
    # Whether a slot holds a constant that is neither zero nor infinite. With such a factor, a product that is zero
    # wherever a factor is zero equals the plain product.
    return constant[slot] and values[slot] != 0.0 and np.isfinite(values[slot])


@njit(cache=True, nogil=True)
def _mixed(h, x):
    h = (h ^ np.uint64(x)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@njit(cache=True, nogil=True)
def _hash3(op, a, b):
    return np.int64(_mixed(_mixed(_mixed(np.uint64(1), op), a), b) >> np.uint64(1))


@njit(cache=True, nogil=True)
def _simplify_run(i, code, side, values, constant, to, rows, table):
    op, out, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 1]), np.int64(code[i, 2])
    count, arity = side[k + COUNT], side[k + ARITY]
    all_constant = not rows[op, OPAQUE]
    for j in range(arity):
        q = k + OPERANDS + OPERAND_SIZE * j
        low, high = side[q + SLOT] + side[q + LOW], side[q + SLOT] + side[q + HIGH]
        for s in range(low, high):
            if not constant[s]:
                all_constant = False
                break
        side[q + SLOT] = to[side[q + SLOT]]
    if all_constant:
        code[i, 0], code[i, 2], code[i, 3] = LEAF, 0, count
        for s in range(out, out + count):
            constant[s] = 1
        return
    if rows[op, OPAQUE] or count == 0:
        return
    same = -1 if side[k + KIND] == STRUCTURED else _same_run(op, side, k, values, constant, rows)
    if same >= 0:
        for s in range(count):
            to[out + s] = same + s
        return
    if rows[op, UNMASKED] >= 0 and _has_factor(side, k, values, constant):
        op = np.int64(rows[op, UNMASKED])
        code[i, 0] = op + RUN
    length = side[k + LENGTH]
    h = np.uint64(op)
    for d in range(length):
        if _counts(d, arity):
            h = _mixed(h, side[k + d])
    at = np.int64(h >> np.uint64(1)) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if np.int64(code[j, 0]) == op + RUN and _equal_records(side, k, np.int64(code[j, 2]), arity):
            for s in range(count):
                to[out + s] = np.int64(code[j, 1]) + s
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


@njit(cache=True, nogil=True)
def _counts(d, arity):
    # Whether number d of a record tells it from others: not where its result goes, nor whether a gradient passes.
    if d == OUT:
        return False
    return not (OPERANDS <= d < OPERANDS + OPERAND_SIZE * arity and (d - OPERANDS) % OPERAND_SIZE == ACTIVE)


@njit(cache=True, nogil=True)
def _equal_records(side, k, j, arity):
    if side[k + LENGTH] != side[j + LENGTH]:
        return False
    same = True
    for d in range(side[k + LENGTH]):
        same &= side[k + d] == side[j + d] or not _counts(d, arity)
    return same


@njit(cache=True, nogil=True)
def _has_factor(side, k, values, constant):
    modes = k + OPERANDS + 2 * OPERAND_SIZE + 1 + side[k + OPERANDS + 2 * OPERAND_SIZE]
    for j in range(2):
        mode = side[modes + j * (1 + side[k + OPERANDS + 2 * OPERAND_SIZE])]
        if mode == UNIFORM and _is_factor(side[k + OPERANDS + OPERAND_SIZE * j + SLOT], values, constant):
            return True
    return False


@njit(cache=True, nogil=True)
def _all_equal(values, slot, count):
    same = True
    for s in range(slot + 1, slot + count):
        same &= values[s] == values[slot]
    return same


@njit(cache=True, nogil=True)
def _same_run(op, side, k, values, constant, rows):
    """The slot from where on the operand stands that a run only repeats, or -1."""
    arity, count = side[k + ARITY], side[k + COUNT]
    p = k + OPERANDS + OPERAND_SIZE * arity
    step = 1 + side[p]
    modes = p + 1 + side[p]
    if rows[op, IDENTITY] and side[modes] == DENSE:
        return side[k + OPERANDS + SLOT]
    if arity != 2:
        return -1
    for j in range(2):
        q, other = k + OPERANDS + OPERAND_SIZE * j, k + OPERANDS + OPERAND_SIZE * (1 - j)
        slot, mode = side[q + SLOT], side[modes + j * step]
        if side[modes + (1 - j) * step] != DENSE or not constant[slot]:
            continue
        if count > 1 and mode != UNIFORM and (mode != DENSE or not _all_equal(values, slot, count)):
            continue
        if values[slot] == rows[op, LEFT + j]:
            return side[other + SLOT]
    return -1

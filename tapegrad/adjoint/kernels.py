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

# The columns of an instruction. What has fewer than three operands repeats the first.
OP, RESULT, A, B, C = 0, 1, 2, 3, 2
COLUMNS = 4

# The opcodes that the passes know come as a tuple, in this order: numbers there, so that no cached code holds them.
NAMED = ("add", "subtract", "multiply", "divide", "chain", "copy", "negative")
ADD, SUBTRACT, MULTIPLY, DIVIDE, CHAIN, COPY, NEGATIVE = range(len(NAMED))


@njit(cache=True, nogil=True)
def simplify(code, side, values, to, inputs, named, opaque):
    n = code.shape[0]
    constant = np.zeros(values.shape[0], np.uint8)
    size = 16
    while size < 2 * n:
        size *= 2
    table = np.full(size, -1, np.int32)
    for i in range(n):
        op, out = code[i, 0], np.int64(code[i, 1])
        if op == LEAF:
            if i >= inputs:
                for s in range(out, out + np.int64(code[i, 3])):
                    constant[s] = 1
        elif op < RUN:
            a, b, c = to[code[i, A]], to[code[i, B]], to[code[i, C]]
            code[i, A], code[i, B], code[i, C] = a, b, c
            if op != EXPECT:
                _simplify_scalar(i, code, values, constant, to, named, table)
        else:
            _simplify_run(i, code, side, values, constant, to, named, opaque, table)


@njit(cache=True, nogil=True)
def _simplify_scalar(i, code, values, constant, to, named, table):
    op, out = np.int64(code[i, OP]), np.int64(code[i, RESULT])
    a, b, c = np.int64(code[i, A]), np.int64(code[i, B]), np.int64(code[i, C])
    if constant[a] and constant[b] and constant[c]:
        code[i, OP], code[i, C] = LEAF, 0
        code[i, A], code[i, B] = 0, 1
        constant[out] = 1
        return
    same = repeated(op, constant[a], values[a], constant[b], values[b], named)
    if same or op == named[COPY]:
        to[out] = b if same == 2 else a
        return
    op = product(op, constant[a], values[a], constant[b], values[b], named)
    code[i, OP] = op
    at = hashed(op, a, b, c, named) & (table.shape[0] - 1)
    while table[at] >= 0:
        if is_same(code, table[at], op, a, b, c, named):
            to[out] = code[table[at], RESULT]
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


# What holds of one scalar operation, whether it stands on a tape or is about to be written.


@njit(cache=True, nogil=True)
def repeated(op, a_known, a, b_known, b, named):
    """1 or 2 where the result is the first or second operand whatever that is, the other being known; else 0."""
    sum_of, factor = op == named[ADD], op == named[MULTIPLY] or op == named[CHAIN]
    if b_known and ((b == 0.0 and (sum_of or op == named[SUBTRACT])) or (b == 1.0 and (factor or op == named[DIVIDE]))):
        return 1
    if a_known and ((a == 0.0 and sum_of) or (a == 1.0 and factor)):
        return 2
    return 0


@njit(cache=True, nogil=True)
def product(op, a_known, a, b_known, b, named):
    """A masked product by a known number, neither zero nor infinite, is a plain one."""
    if op == named[CHAIN] and (
        (a_known and a != 0.0 and np.isfinite(a)) or (b_known and b != 0.0 and np.isfinite(b))
    ):
        return np.int64(named[MULTIPLY])
    return np.int64(op)


@njit(cache=True, nogil=True)
def swaps(op, named):
    """Whether the operands of an operation may change places."""
    return op == named[ADD] or op == named[MULTIPLY] or op == named[CHAIN]


@njit(cache=True, nogil=True)
def hashed(op, a, b, c, named):
    """A number by which instructions that compute the same are found, not negative."""
    if b < a and swaps(op, named):
        a, b, c = b, a, b
    h = _mixed(_mixed(_mixed(np.uint64(1), op), a), b)
    # Of two operands, the third repeats the first.
    if c != a:
        h = _mixed(h, c)
    return np.int64(h >> np.uint64(1))


@njit(cache=True, nogil=True)
def is_same(code, j, op, a, b, c, named):
    """Whether row j computes what an instruction does."""
    if code[j, OP] != op:
        return False
    x, y, z = np.int64(code[j, A]), np.int64(code[j, B]), np.int64(code[j, C])
    return (x == a and y == b and z == c) or (x == b and y == a and swaps(op, named))


@njit(cache=True, nogil=True)
def _mixed(h, x):
    h = (h ^ np.uint64(x)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@njit(cache=True, nogil=True)
def _is_factor(slot, values, constant):
    # A constant by which a masked product is a plain one: neither zero nor infinite.
    return constant[slot] and values[slot] != 0.0 and np.isfinite(values[slot])


@njit(cache=True, nogil=True)
def _simplify_run(i, code, side, values, constant, to, named, opaque, table):
    op, out, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 1]), np.int64(code[i, 2])
    count, arity = side[k + COUNT], side[k + ARITY]
    all_constant = not opaque[op]
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
    if opaque[op] or count == 0:
        return
    same = -1 if side[k + KIND] == STRUCTURED else _same_run(op, side, k, values, constant, named)
    if same >= 0:
        for s in range(count):
            to[out + s] = same + s
        return
    if op == named[CHAIN] and _has_factor(side, k, values, constant):
        op = named[MULTIPLY]
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
def _same_run(op, side, k, values, constant, named):
    """The slot from where on the operand stands that a run only repeats, or -1."""
    arity, count = side[k + ARITY], side[k + COUNT]
    p = k + OPERANDS + OPERAND_SIZE * arity
    step = 1 + side[p]
    modes = p + 1 + side[p]
    if op == named[COPY] and side[modes] == DENSE:
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
        if values[slot] == 1.0 and (
            op == named[MULTIPLY] or op == named[CHAIN] or (op == named[DIVIDE] and j == 1)
        ):
            return side[other + SLOT]
        if values[slot] == 0.0 and (op == named[ADD] or (op == named[SUBTRACT] and j == 1)):
            return side[other + SLOT]
    return -1

"""The pass of `simplify` over the code, compiled, and what holds of one scalar operation wherever it is written."""

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    DENSE,
    OPCODE,
    OUT,
    UNIFORM,
    A,
    B,
    C,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    operand_high,
    operand_low,
    place_operand,
    record_length,
    result_size,
    tells_apart,
)
from tapegrad.sweeps.marks import EXPECT, LEAF

# The opcodes that are known by name come as an array, in this order: numbers there, so that no cached code holds them.
NAMED = ("add", "subtract", "multiply", "divide", "chain", "copy", "negative")
ADD, SUBTRACT, MULTIPLY, DIVIDE, CHAIN, COPY, NEGATIVE = range(len(NAMED))


@compiled(
    code="uint32[:, :]", side="int64[:]", values="real[:]", to="int64[:]", inputs="int64", named="int64[:]",
    opaque="uint8[:]", constant="uint8[:]", table="int32[:]",
)  # fmt: skip
def simplify(code, side, values, to, inputs, named, opaque, constant, table):
    # `constant` comes as 0, one for each slot; `table` as -1, twice as many as there are instructions, a power of two.
    for i in range(code.shape[0]):
        op, out = code[i, 0], np.int64(code[i, 1])
        if op == LEAF:
            if i >= inputs:
                for s in range(out, out + np.int64(code[i, 3])):
                    constant[s] = 1
        elif op < RUN:
            code[i, A], code[i, B], code[i, C] = to[code[i, A]], to[code[i, B]], to[code[i, C]]
            if op != EXPECT:
                _simplify_scalar(i, code, values, constant, to, named, table)
        else:
            _simplify_run(i, code, side, values, constant, to, named, opaque, table)


def _simplify_scalar(i, code, values, constant, to, named, table):
    op, out = np.int64(code[i, OPCODE]), np.int64(code[i, OUT])
    a, b, c = np.int64(code[i, A]), np.int64(code[i, B]), np.int64(code[i, C])
    if constant[a] and constant[b] and constant[c]:
        code[i, OPCODE], code[i, A], code[i, B], code[i, C] = LEAF, 0, 1, 0
        constant[out] = 1
        return
    same = repeated(op, constant[a], values[a], constant[b], values[b], named)
    if same or op == named[COPY]:
        to[out] = b if same == 2 else a
        return
    op = product(op, constant[a], values[a], constant[b], values[b], named)
    code[i, OPCODE] = op
    at = hashed(op, a, b, c, named) & (table.shape[0] - 1)
    while table[at] >= 0:
        if is_same(code, table[at], op, a, b, c, named):
            to[out] = code[table[at], OUT]
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


# What holds of one scalar operation, whether it stands on a tape or is about to be written.


def repeated(op, a_known, a, b_known, b, named):
    """1 or 2 where the result is the first or second operand whatever that is, the other being known; else 0."""
    is_sum, is_product = op == named[ADD], op == named[MULTIPLY] or op == named[CHAIN]
    if b_known and b == 0.0 and (is_sum or op == named[SUBTRACT]):
        return 1
    if b_known and b == 1.0 and (is_product or op == named[DIVIDE]):
        return 1
    if a_known and ((a == 0.0 and is_sum) or (a == 1.0 and is_product)):
        return 2
    return 0


def product(op, a_known, a, b_known, b, named):
    """The operation; of a masked product by a known number, neither zero nor infinite, the plain product."""
    if op == named[CHAIN] and (
        (a_known and a != 0.0 and np.isfinite(a)) or (b_known and b != 0.0 and np.isfinite(b))
    ):
        return np.int64(named[MULTIPLY])
    return np.int64(op)


def swaps(op, named):
    """Whether the operands of an operation may change places."""
    return op == named[ADD] or op == named[MULTIPLY] or op == named[CHAIN]


def hashed(op, a, b, c, named):
    """A number by which instructions that compute the same are found, not negative."""
    if b < a and swaps(op, named):
        a, b, c = b, a, a
    h = _mixed(_mixed(_mixed(np.uint64(1), op), a), b)
    # Of two operands, the third repeats the second.
    if c != b:
        h = _mixed(h, c)
    return np.int64(h >> np.uint64(1))


def is_same(code, j, op, a, b, c, named):
    """Whether row j computes what an instruction does."""
    if code[j, OPCODE] != op:
        return False
    x, y, z = np.int64(code[j, A]), np.int64(code[j, B]), np.int64(code[j, C])
    return (x == a and y == b and z == c) or (x == b and y == a and swaps(op, named))


def _mixed(h, x):
    h = (h ^ np.uint64(np.int64(x))) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


def _is_factor(slot, values, constant):
    # A constant by which a masked product is a plain one: neither zero nor infinite.
    return constant[slot] and values[slot] != 0.0 and np.isfinite(values[slot])


def _simplify_run(i, code, side, values, constant, to, named, opaque, table):
    op, out, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 1]), np.int64(code[i, 2])
    count, arity = result_size(side, k), operand_count(side, k)
    all_constant = not opaque[op]
    for j in range(arity):
        for s in range(operand_low(side, k, j), operand_high(side, k, j)):
            if not constant[s]:
                all_constant = False
                break
        side[place_operand(side, k, j)] = to[operand_at(side, k, j)]
    if all_constant:
        code[i, 0], code[i, 2], code[i, 3] = LEAF, 0, count
        for s in range(out, out + count):
            constant[s] = 1
        return
    if opaque[op] or count == 0:
        return
    same = -1 if is_structured(side, k) else _same_run(op, side, k, values, constant, named)
    if same >= 0:
        for s in range(count):
            to[out + s] = same + s
        return
    if op == named[CHAIN] and _has_factor(side, k, values, constant):
        op = named[MULTIPLY]
        code[i, 0] = op + RUN
    h = np.uint64(op)
    for d in range(record_length(side, k)):
        if tells_apart(d):
            h = _mixed(h, side[k + d])
    at = np.int64(h >> np.uint64(1)) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if np.int64(code[j, 0]) == op + RUN and _equal_records(side, k, np.int64(code[j, 2])):
            for s in range(count):
                to[out + s] = np.int64(code[j, 1]) + s
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


def _equal_records(side, k, j):
    if record_length(side, k) != record_length(side, j):
        return False
    same = True
    for d in range(record_length(side, k)):
        same &= side[k + d] == side[j + d] or not tells_apart(d)
    return same


def _has_factor(side, k, values, constant):
    for j in range(2):
        if side[mode_at(side, k, j)] == UNIFORM and _is_factor(operand_at(side, k, j), values, constant):
            return True
    return False


def _all_equal(values, slot, count):
    same = True
    for s in range(slot + 1, slot + count):
        same &= values[s] == values[slot]
    return same


def _same_run(op, side, k, values, constant, named):
    """The slot from where on the operand stands that a run only repeats, or -1."""
    arity, count = operand_count(side, k), result_size(side, k)
    if op == named[COPY] and side[mode_at(side, k, 0)] == DENSE:
        return operand_at(side, k, 0)
    if arity != 2:
        return -1
    for j in range(2):
        other = 1 - j
        slot, mode = operand_at(side, k, j), side[mode_at(side, k, j)]
        if side[mode_at(side, k, other)] != DENSE or not constant[slot]:
            continue
        if count > 1 and mode != UNIFORM and (mode != DENSE or not _all_equal(values, slot, count)):
            continue
        if values[slot] == 1.0 and (
            op == named[MULTIPLY] or op == named[CHAIN] or (op == named[DIVIDE] and j == 1)
        ):
            return operand_at(side, k, other)
        if values[slot] == 0.0 and (op == named[ADD] or (op == named[SUBTRACT] and j == 1)):
            return operand_at(side, k, other)
    return -1

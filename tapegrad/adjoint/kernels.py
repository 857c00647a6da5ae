"""The pass of `simplify` over the code, compiled."""

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    DENSE,
    UNIFORM,
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

# What the pass knows of operations comes as an array, a line for each opcode, so that no cached code holds opcodes.
# The columns are fields of the row: its neutral numbers as a left and as a right operand, NaN for none; whether it
# commutes, is the identity, is opaque; and the opcode of its `unmasked` operation, -1 for none.
LEFT, RIGHT, COMMUTES, IDENTITY, OPAQUE, UNMASKED = range(6)


@compiled(
    code="uint32[:, :]", side="int64[:]", values="real[:]", to="int64[:]", inputs="int64", rows="float64[:, :]",
    constant="uint8[:]", table="int64[:]",
)  # fmt: skip
def simplify(code, side, values, to, inputs, rows, constant, table):
    # `constant` comes as 0, one for each slot; `table` as -1, twice as many as there are instructions, a power of two.
    for i in range(code.shape[0]):
        op, out = code[i, 0], np.int64(code[i, 1])
        if op == LEAF:
            if i >= inputs:
                for s in range(out, out + np.int64(code[i, 3])):
                    constant[s] = 1
        elif op < RUN:
            code[i, 2], code[i, 3], code[i, 4] = to[code[i, 2]], to[code[i, 3]], to[code[i, 4]]
            if op != EXPECT:
                _simplify_scalar(i, code, values, constant, to, rows, table)
        else:
            _simplify_run(i, code, side, values, constant, to, rows, table)


def _simplify_scalar(i, code, values, constant, to, rows, table):
    op, out, a, b = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
    c = np.int64(code[i, 4])
    if constant[a] and constant[b] and constant[c]:
        code[i, 0], code[i, 2], code[i, 3], code[i, 4] = LEAF, 0, 1, 0
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
        # Sums and products that differ in the order of their operands are the same.
        a, b = b, a
        code[i, 2], code[i, 3], code[i, 4] = a, b, b
        c = b
    at = _hash4(op, a, b, c) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if code[j, 0] == op and code[j, 2] == a and code[j, 3] == b and code[j, 4] == c:
            to[out] = code[j, 1]
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


def _is_factor(slot, values, constant):
    # Whether a slot holds a constant that is neither zero nor infinite. With such a factor, a product that is zero
    # wherever a factor is zero equals the plain product.
    return constant[slot] and values[slot] != 0.0 and np.isfinite(values[slot])


def _mixed(h, x):
    h = (h ^ np.uint64(x)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


def _hash4(op, a, b, c):
    return np.int64(_mixed(_mixed(_mixed(_mixed(np.uint64(1), op), a), b), c) >> np.uint64(1))


def _simplify_run(i, code, side, values, constant, to, rows, table):
    op, out, k = np.int64(code[i, 0]) - RUN, np.int64(code[i, 1]), np.int64(code[i, 2])
    count, arity = result_size(side, k), operand_count(side, k)
    all_constant = not rows[op, OPAQUE]
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
    if rows[op, OPAQUE] or count == 0:
        return
    same = -1 if is_structured(side, k) else _same_run(op, side, k, values, constant, rows)
    if same >= 0:
        for s in range(count):
            to[out + s] = same + s
        return
    if rows[op, UNMASKED] >= 0 and _has_factor(side, k, values, constant):
        op = np.int64(rows[op, UNMASKED])
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


def _same_run(op, side, k, values, constant, rows):
    """The slot from where on the operand stands that a run only repeats, or -1."""
    arity, count = operand_count(side, k), result_size(side, k)
    if rows[op, IDENTITY] and side[mode_at(side, k, 0)] == DENSE:
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
        if values[slot] == rows[op, LEFT + j]:
            return operand_at(side, k, other)
    return -1

"""The compiled pass of `simplify` over the code, and simplifications of one scalar operation that `expand` uses too."""

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
from tapegrad.sweeps.owners import owner

# What the pass knows of operations is given as an array, a line for each opcode, so that compiled code on disk holds no
# opcodes, which may change.
# The columns are fields of the row: its neutral numbers as a left and as a right operand, NaN for none; whether it
# commutes, is the identity, is opaque; and the opcode of its `unmasked` operation, -1 for none.
LEFT, RIGHT, COMMUTES, IDENTITY, OPAQUE, UNMASKED = range(6)


@compiled(
    code="uint32[:, :]", side="int64[:]", inputs="int64", rows="float64[:, :]", starts="int64[:]", index="int64[:]",
    shift="int64", constant="uint8[:]",
)  # fmt: skip
def find_constants(code, side, inputs, rows, starts, index, shift, constant):
    """Mark the instructions whose results are the same in every replay. `constant` comes as 0."""
    for i in range(code.shape[0]):
        op = np.int64(code[i, OPCODE])
        if op == LEAF:
            constant[i] = i >= inputs
        elif op < RUN:
            known = op != EXPECT
            for j in range(A, C + 1):
                known = known and constant[owner(np.int64(code[i, j]), starts, index, shift)] != 0
            constant[i] = known
        else:
            k = np.int64(code[i, A])
            known = rows[op - RUN, OPAQUE] == 0.0
            for j in range(operand_count(side, k)):
                if operand_low(side, k, j) < operand_high(side, k, j):
                    known = known and constant[owner(operand_at(side, k, j), starts, index, shift)] != 0
            constant[i] = known


@compiled(
    code="uint32[:, :]", side="int64[:]", values="real[:]", rows="float64[:, :]", starts="int64[:]", index="int64[:]",
    shift="int64", constant="uint8[:]", to="int64[:]", table="int32[:]",
)  # fmt: skip
def simplify(code, side, values, rows, starts, index, shift, constant, to, table):
    # The result of instruction i begins at starts[i], and what begins at to[i] is read in its stead; `to` comes as a
    # copy of `starts`. Of instructions that are marked as constant, `values` has the results. `table` comes as -1,
    # twice as many as there are instructions, a power of two.
    for i in range(code.shape[0]):
        op = code[i, OPCODE]
        if op == LEAF:
            continue
        if constant[i]:
            n = np.int64(code[i, B]) if op >= RUN else np.int64(1)
            code[i, OPCODE], code[i, A], code[i, B], code[i, C] = LEAF, 0, n, 0
        elif op < RUN:
            _simplify_scalar(i, code, values, rows, starts, index, shift, constant, to, table)
        else:
            _simplify_run(i, code, side, values, rows, starts, index, shift, constant, to, table)


def _simplify_scalar(i, code, values, rows, starts, index, shift, constant, to, table):
    op, a, b, c = np.int64(code[i, OPCODE]), np.int64(code[i, A]), np.int64(code[i, B]), np.int64(code[i, C])
    of_a, of_b, of_c = owner(a, starts, index, shift), owner(b, starts, index, shift), owner(c, starts, index, shift)
    a, b, c = a - starts[of_a] + to[of_a], b - starts[of_b] + to[of_b], c - starts[of_c] + to[of_c]
    code[i, A], code[i, B], code[i, C] = a, b, c
    if op == EXPECT:
        return
    # What is read instead of a number is constant only if that number is.
    a_known, b_known = constant[of_a] != 0, constant[of_b] != 0
    same = repeated(op, a_known, values[a], b_known, values[b], rows)
    if same or rows[op, IDENTITY]:
        to[i] = b if same == 2 else a
        return
    op = unmasked(op, a_known, values[a], b_known, values[b], rows)
    if rows[op, COMMUTES] and b < a:
        # Sums and products that differ in the order of their operands are the same.
        a, b, c = b, a, a
    code[i, OPCODE], code[i, A], code[i, B], code[i, C] = op, a, b, c
    at = hashed(op, a, b, c) & (table.shape[0] - 1)
    while table[at] >= 0:
        if is_same(code, table[at], op, a, b, c):
            to[i] = code[table[at], OUT]
            return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


# Simplifications of one scalar operation, whether it is on a tape already or about to be written.


def repeated(op, a_known, a, b_known, b, rows):
    """1 or 2 where the result equals the first or second operand, because the other is known and neutral; else 0."""
    if b_known and b == rows[op, RIGHT]:
        return 1
    return 2 if a_known and a == rows[op, LEFT] else 0


def unmasked(op, a_known, a, b_known, b, rows):
    """The operation that computes the same without a mask, where a known factor makes the mask superfluous; else op."""
    if rows[op, UNMASKED] >= 0 and (is_factor(a_known, a) or is_factor(b_known, b)):
        return np.int64(rows[op, UNMASKED])
    return np.int64(op)


def is_factor(known, number):
    # Whether a number is known, and neither zero nor infinite nor NaN. With such a factor, a masked product, which is
    # zero where either factor is zero, equals the plain product.
    return known and number != 0.0 and np.isfinite(number)


def hashed(op, a, b, c):
    """The hash of an instruction, which is not negative. Operands of an operation that commutes must be in order."""
    h = _mixed(_mixed(_mixed(np.uint64(1), op), a), b)
    # An operation of fewer than three operands repeats the last as c, which tells nothing more.
    if c != b:
        h = _mixed(h, c)
    return np.int64(h >> np.uint64(1))


def is_same(code, j, op, a, b, c):
    return code[j, OPCODE] == op and code[j, A] == a and code[j, B] == b and code[j, C] == c


def _mixed(h, x):
    h = (h ^ np.uint64(np.int64(x))) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


def _simplify_run(i, code, side, values, rows, starts, index, shift, constant, to, table):
    op, k = np.int64(code[i, OPCODE]) - RUN, np.int64(code[i, A])
    count, known = result_size(side, k), 0
    for j in range(operand_count(side, k)):
        if operand_low(side, k, j) < operand_high(side, k, j):
            of = owner(operand_at(side, k, j), starts, index, shift)
            side[place_operand(side, k, j)] = operand_at(side, k, j) - starts[of] + to[of]
            if constant[of] and j < 2:
                known |= 1 << j
    if rows[op, OPAQUE] or count == 0:
        return
    same = -1 if is_structured(side, k) else _same_run(op, side, k, values, known, rows)
    if same >= 0:
        to[i] = same
        return
    if rows[op, UNMASKED] >= 0 and _has_factor(side, k, values, known):
        op = np.int64(rows[op, UNMASKED])
        code[i, OPCODE] = op + RUN
    h = np.uint64(op)
    for d in range(record_length(side, k)):
        if tells_apart(d):
            h = _mixed(h, side[k + d])
    at = np.int64(h >> np.uint64(1)) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if np.int64(code[j, 0]) == op + RUN and _equal_records(side, k, np.int64(code[j, 2])):
            to[i] = np.int64(code[j, OUT])
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


def _has_factor(side, k, values, known):
    # `known` has a bit for each of the first two operands, which says whether it is constant.
    for j in range(2):
        if side[mode_at(side, k, j)] == UNIFORM and is_factor(known >> j & 1, values[operand_at(side, k, j)]):
            return True
    return False


def _all_equal(values, slot, count):
    same = True
    for s in range(slot + 1, slot + count):
        same &= values[s] == values[slot]
    return same


def _same_run(op, side, k, values, known, rows):
    """Where the result of a run equals one of its operands, the place where that operand begins; else -1."""
    arity, count = operand_count(side, k), result_size(side, k)
    if rows[op, IDENTITY] and side[mode_at(side, k, 0)] == DENSE:
        return operand_at(side, k, 0)
    if arity != 2:
        return -1
    for j in range(2):
        other = 1 - j
        slot, mode = operand_at(side, k, j), side[mode_at(side, k, j)]
        if side[mode_at(side, k, other)] != DENSE or not known >> j & 1:
            continue
        if count > 1 and mode != UNIFORM and (mode != DENSE or not _all_equal(values, slot, count)):
            continue
        if values[slot] == rows[op, LEFT + j]:
            return operand_at(side, k, other)
    return -1

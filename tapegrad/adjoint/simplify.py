"""Removing what a derivative program has too much of: constants computed anew, the same thing twice, factors of one.

One pass over the code, first instruction to last. Each slot gets another that stands for it, mostly itself; operands are
rewritten to those. An instruction whose operands are all constant becomes a leaf that holds its value; one that was met
before stands for nothing but the first; `x * 1`, `x + 0`, `x / 1`, copies and the like stand for their operand. What
nobody reads any more is then left out by whoever keeps what the outputs need. Guards are left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tapegrad.ops import BY_NAME, RUN, TABLE, Structured
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

# The order in which `simplify` hands their opcodes to compiled code: numbers there, so that no cached code holds them.
_NAMED = ("add", "subtract", "multiply", "divide", "chain", "negative", "copy")
_ADD, _SUBTRACT, _MULTIPLY, _DIVIDE, _CHAIN, _NEGATIVE, _COPY = range(len(_NAMED))


def simplify(tape: Any, inputs: int) -> np.ndarray:
    """Simplify a tape that has been evaluated, its first `inputs` instructions being its inputs.

    Returns for each place of the arena the place that stands for it now.
    """
    named = np.array([BY_NAME[name].opcode for name in _NAMED], np.int64)
    # Not to be computed once and for all, nor taken for one another: calls of Python functions.
    opaque = np.array([isinstance(row, Structured) and row.name == "external" for row in TABLE], np.uint8)
    to = np.arange(len(tape.values))
    _simplify(tape.code[: tape.length], tape.side, tape.values, to, inputs, named, opaque)
    return to


@njit(cache=True, nogil=True)
def _simplify(code, side, values, to, inputs, named, opaque):
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
                _simplify_scalar(i, code, values, constant, to, named, table)
        else:
            _simplify_run(i, code, side, values, constant, to, named, opaque, table)


@njit(cache=True, nogil=True)
def _simplify_scalar(i, code, values, constant, to, named, table):
    op, out, a, b = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
    if constant[a] and constant[b]:
        code[i, 0], code[i, 2], code[i, 3] = LEAF, 0, 1
        constant[out] = 1
        return
    same = -1
    if (op == named[_ADD] or op == named[_SUBTRACT]) and constant[b] and values[b] == 0.0:
        same = a
    elif op == named[_ADD] and constant[a] and values[a] == 0.0:
        same = b
    elif (op == named[_MULTIPLY] or op == named[_DIVIDE] or op == named[_CHAIN]) and constant[b] and values[b] == 1.0:
        same = a
    elif (op == named[_MULTIPLY] or op == named[_CHAIN]) and constant[a] and values[a] == 1.0:
        same = b
    elif op == named[_COPY]:
        same = a
    if same >= 0:
        to[out] = same
        return
    if (op == named[_ADD] or op == named[_MULTIPLY]) and b < a:
        a, b = b, a
    at = _hash3(op, a, b) & (table.shape[0] - 1)
    while table[at] >= 0:
        j = table[at]
        if code[j, 0] == op:
            x, y = np.int64(code[j, 2]), np.int64(code[j, 3])
            if (x == a and y == b) or ((op == named[_ADD] or op == named[_MULTIPLY]) and x == b and y == a):
                to[out] = code[j, 1]
                return
        at = (at + 1) & (table.shape[0] - 1)
    table[at] = i


@njit(cache=True, nogil=True)
def _mixed(h, x):
    h = (h ^ np.uint64(x)) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@njit(cache=True, nogil=True)
def _hash3(op, a, b):
    return np.int64(_mixed(_mixed(_mixed(np.uint64(1), op), a), b) >> np.uint64(1))


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
    for d in range(side[k + LENGTH]):
        if side[k + d] != side[j + d] and _counts(d, arity):
            return False
    return True


@njit(cache=True, nogil=True)
def _same_run(op, side, k, values, constant, named):
    """The slot from where on the operand stands that a run only repeats, or -1."""
    arity, count = side[k + ARITY], side[k + COUNT]
    p = k + OPERANDS + OPERAND_SIZE * arity
    step = 1 + side[p]
    modes = p + 1 + side[p]
    if op == named[_COPY] and side[modes] == DENSE:
        return side[k + OPERANDS + SLOT]
    if arity != 2:
        return -1
    for j in range(2):
        q, other = k + OPERANDS + OPERAND_SIZE * j, k + OPERANDS + OPERAND_SIZE * (1 - j)
        if side[modes + (1 - j) * step] != DENSE or (side[modes + j * step] != UNIFORM and count > 1):
            continue
        slot = side[q + SLOT]
        if not constant[slot]:
            continue
        if values[slot] == 1.0 and (
            op == named[_MULTIPLY] or op == named[_CHAIN] or (op == named[_DIVIDE] and j == 1)
        ):
            return side[other + SLOT]
        if values[slot] == 0.0 and (op == named[_ADD] or (op == named[_SUBTRACT] and j == 1)):
            return side[other + SLOT]
    return -1

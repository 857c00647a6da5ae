"""Derivatives of scalar instructions, written by compiled code: templates put together with adjoints or tangents.

What is written are rows as a tape has them, their operands being slots. Before them in the same array stand the rows
that are differentiated, so that both are found by the same table: what was computed before is not computed again. An
adjoint is known by its slot; -1 stands for none. Numbers that are known (constants of the tape, and what comes of
computing with them) are folded on the way.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from tapegrad.adjoint.kernels import (
    ADD,
    CHAIN,
    COLUMNS,
    DIVIDE,
    MULTIPLY,
    NEGATIVE,
    OP,
    RESULT,
    SUBTRACT,
    A,
    B,
    C,
    find,
    product,
    repeated,
)
from tapegrad.sweeps.marks import LEAF


class Given(NamedTuple):
    """What is known before: scalar instructions, where their operands come from, and numbers."""

    ops: np.ndarray
    outs: np.ndarray  # slots
    operands: np.ndarray  # slots, three an instruction
    reads: np.ndarray  # what made each operand, -1 where no derivative passes
    constants: np.ndarray  # the slots of the templates' constants
    slots: np.ndarray  # slots of known numbers, ascending
    numbers: np.ndarray
    named: np.ndarray
    first: int  # the slot of the first instruction that is written


class Written(NamedTuple):
    """Instructions, those that are differentiated first, a table to find them by, and which results are known."""

    rows: np.ndarray
    table: np.ndarray
    known: np.ndarray
    numbers: np.ndarray
    bits: np.ndarray  # of the numbers
    own: int  # how many are differentiated


@njit(cache=True, nogil=True)
def _room(rows, own):
    """Nothing written yet, with room for so many rows."""
    size = 64
    while size < 2 * rows:
        size *= 2
    numbers = np.zeros(rows)
    return Written(
        np.zeros((rows, COLUMNS), np.int64), np.full(size, -1, np.int32), np.zeros(rows, np.uint8), numbers,
        numbers.view(np.int64), own,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _start(given, low, high):
    own = high - low
    written = _room(64 + 4 * own, own)
    rows = written.rows
    for i in range(low, high):
        r = i - low
        rows[r, OP], rows[r, RESULT] = given.ops[i], given.outs[i]
        rows[r, A], rows[r, B], rows[r, C] = given.operands[i, 0], given.operands[i, 1], given.operands[i, 2]
        _enter(given, written, r)
    return written


@njit(cache=True, nogil=True)
def _enter(given, written, r):
    rows = written.rows
    at = find(rows, written.table, rows[r, OP], rows[r, A], rows[r, B], rows[r, C], given.named)
    if written.table[at] < 0:
        written.table[at] = r


@njit(cache=True, nogil=True)
def _grown(given, written, n, more):
    """The same with room for more rows."""
    if n + more <= written.rows.shape[0]:
        return written
    new = _room(2 * (n + more), written.own)
    new.rows[:n], new.known[:n], new.numbers[:n] = written.rows[:n], written.known[:n], written.numbers[:n]
    for r in range(n):
        _enter(given, new, r)
    return new


@njit(cache=True, nogil=True)
def _number(given, written, slot):
    """Whether the number at a slot is known, and what it is."""
    if slot >= given.first:
        r = slot - given.first + written.own
        return written.known[r] != 0, written.numbers[r]
    if given.slots.shape[0] == 0 or slot > given.slots[-1]:
        return False, 0.0
    at = np.searchsorted(given.slots, slot)
    return given.slots[at] == slot, given.numbers[at]


@njit(cache=True, nogil=True)
def _append(given, written, n, op, a, b, c):
    """The slot of an instruction, which is written unless it was before, and how many rows there are then."""
    at = find(written.rows, written.table, op, a, b, c, given.named)
    if written.table[at] >= 0:
        return written.rows[written.table[at], RESULT], n
    rows = written.rows
    slot = given.first + n - written.own
    rows[n, OP], rows[n, RESULT], rows[n, A], rows[n, B], rows[n, C] = op, slot, a, b, c
    written.table[at] = n
    return slot, n + 1


@njit(cache=True, nogil=True)
def _constant(given, written, n, number):
    """The slot of a number that came of computing with known ones."""
    written.numbers[n] = number
    # In place of operands stand the number's bits, to find it by. `finished` puts right what a leaf has there.
    bits = written.bits[n]
    written.known[n] = 1
    slot, after = _append(given, written, n, LEAF, bits, bits, bits)
    if after == n:
        written.known[n] = 0
    return slot, after


@njit(cache=True, nogil=True, error_model="numpy")
def _computed(op, a, b, named):
    """What an operation makes of two known numbers; NaN where it is not one of those that are folded."""
    if op == named[ADD]:
        return a + b
    if op == named[SUBTRACT]:
        return a - b
    if op == named[MULTIPLY]:
        return a * b
    if op == named[DIVIDE]:
        return a / b
    if op == named[NEGATIVE]:
        return -a
    if op == named[CHAIN]:
        return a * b if a != 0.0 and b != 0.0 else 0.0
    return np.nan


@njit(cache=True, nogil=True)
def _negated(given, written, slot):
    """The slot whose number this one is the negative of, among what was written; -1 if it is not known to be one."""
    if slot >= given.first:
        r = slot - given.first + written.own
        if written.rows[r, OP] == given.named[NEGATIVE]:
            return written.rows[r, A]
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _write(given, written, n, op, a, b, c):
    """The slot of what an operation makes of three slots, written in the shortest way that is known."""
    named = given.named
    a_known, x = _number(given, written, a)
    b_known, y = _number(given, written, b)
    if a_known and b_known:
        number = _computed(op, x, y, named)
        if np.isfinite(number):
            return _constant(given, written, n, number)
    same = repeated(op, a_known, x, b_known, y, named)
    if same:
        return (a if same == 1 else b), n
    op = product(op, a_known, x, b_known, y, named)
    if op == named[MULTIPLY] and ((a_known and x == -1.0) or (b_known and y == -1.0)):
        op, a = named[NEGATIVE], b if a_known and x == -1.0 else a
        b = c = a
    if op == named[NEGATIVE]:
        before = _negated(given, written, a)
        if before >= 0:
            return before, n
    elif op == named[ADD]:
        before = _negated(given, written, b)
        if before >= 0:
            op, b = named[SUBTRACT], before
        else:
            before = _negated(given, written, a)
            if before >= 0:
                op, a, b = named[SUBTRACT], b, before
                c = a
    return _append(given, written, n, op, a, b, c)


@njit(cache=True, nogil=True)
def _product(given, written, n, flow, partial):
    """The slot of an adjoint or tangent times a partial derivative; -1 where that is zero."""
    known, number = _number(given, written, flow)
    if known and number == 0.0:
        return np.int64(-1), n
    known, number = _number(given, written, partial)
    if known and number == 0.0:
        return np.int64(-1), n
    return _write(given, written, n, given.named[CHAIN], flow, partial, flow)


@njit(cache=True, nogil=True)
def _stands_for(given, made, i, reference):
    """The slot that a template's reference stands for at instruction i; see `symbols`."""
    if reference < 0:
        return given.constants[-1 - reference]
    if reference < 3:
        return given.operands[i, reference]
    return given.outs[i] if reference == 3 else made[reference - 4]


@njit(cache=True, nogil=True)
def _partial(given, tables, written, n, made, i, j):
    """The slot of the derivative of instruction i by its operand j. `made` has the slots of the template's steps."""
    op = given.ops[i]
    for d in range(tables.needs[op, j], tables.needs[op, j + 1]):
        m = tables.needed[d]
        if made[m] < 0:
            step = tables.steps[tables.first[op] + m]
            a = _stands_for(given, made, i, step[1])
            b = _stands_for(given, made, i, step[2])
            c = _stands_for(given, made, i, step[3])
            made[m], n = _write(given, written, n, step[0], a, b, c)
    return _stands_for(given, made, i, tables.partials[op, j]), n


@njit(cache=True, nogil=True)
def _sum(given, written, n, a, b):
    """The slot of the sum of two, either of which may be missing."""
    if a < 0 or b < 0:
        return max(a, b), n
    return _write(given, written, n, given.named[ADD], a, b, a)


@njit(cache=True, nogil=True)
def pull(given, tables, low, high, adjoints):
    """Write the adjoints of all that instructions low up to high read, last instruction first."""
    written = _start(given, low, high)
    n = written.own
    made = np.empty(1 + tables.count.max(), np.int64)
    for i in range(high - 1, low - 1, -1):
        if adjoints[i] < 0:
            continue
        op = given.ops[i]
        written = _grown(given, written, n, tables.rows[op])
        made[: tables.count[op]] = -1
        for j in range(tables.arity[op]):
            source = given.reads[i, j]
            if source >= 0:
                partial, n = _partial(given, tables, written, n, made, i, j)
                contribution, n = _product(given, written, n, adjoints[i], partial)
                adjoints[source], n = _sum(given, written, n, adjoints[source], contribution)
    return finished(written, n)


@njit(cache=True, nogil=True)
def push(given, tables, low, high, tangents):
    """Write the tangents of what instructions low up to high make, first to last."""
    written = _start(given, low, high)
    n = written.own
    made = np.empty(1 + tables.count.max(), np.int64)
    for i in range(low, high):
        op = given.ops[i]
        written = _grown(given, written, n, tables.rows[op])
        made[: tables.count[op]] = -1
        total = np.int64(-1)
        for j in range(tables.arity[op]):
            source = given.reads[i, j]
            if source >= 0 and tangents[source] >= 0:
                partial, n = _partial(given, tables, written, n, made, i, j)
                contribution, n = _product(given, written, n, tangents[source], partial)
                total, n = _sum(given, written, n, total, contribution)
        tangents[i] = total
    return finished(written, n)


@njit(cache=True, nogil=True)
def finished(written, n):
    """The rows that were written, and the numbers of the leaves among them."""
    rows = written.rows[written.own : n]
    numbers = np.empty(np.count_nonzero(written.known[written.own : n]))
    k = 0
    for r in range(rows.shape[0]):
        if rows[r, OP] == LEAF:
            rows[r, C] = 0
            rows[r, A], rows[r, B] = 0, 1
            numbers[k] = written.numbers[written.own + r]
            k += 1
    return rows, numbers

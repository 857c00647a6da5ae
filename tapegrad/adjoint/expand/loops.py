"""Derivatives of scalar instructions, written by compiled code: templates put together with adjoints or tangents.

A number is named by a *reference*. A negative reference is ~slot, and names a number that was on the tape before; any
other is the number of a row in the array `rows`. This array holds the known numbers first, then the instructions that
are differentiated, then the instructions that are written here. An operation on known numbers is computed at once.
An instruction that was written before is not written again: a small table remembers the instructions met lately. It
finds most repetitions, and stays in the processor's cache (with a table of everything the walk takes twice as long);
`simplify` finds the rest. Between calls, adjoints and tangents are named by their slots; -1 stands for none.
"""

import numpy as np

from tapegrad.adjoint.loops import COMMUTES, hashed, is_same, repeated, unmasked
from tapegrad.compiled import compiled
from tapegrad.compiled.frames import float_bits
from tapegrad.ops.record import OPCODE, OUT, A, B, C
from tapegrad.sweeps.marks import LEAF
from tapegrad.sweeps.owners import owner

# The argument `named` has the opcodes of these operations, in this order: they are written besides those of templates,
# and computed at once where their operands are known.
ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE, CHAIN = range(6)
# In place of a reference: there is no number, because a derivative is zero.
NONE = -(2**62)
# The most entries that the table has, and how many instructions ahead of the walk the instructions that are
# differentiated are entered in it.
TABLE, AHEAD = 1 << 14, 1 << 12


@compiled(
    operands="int64[:, :]", places="int64[:, :]", starts="int64[:]", index="int64[:]", shift="int64", ids="int64[:]",
    sizes="int64[:]", slots="int64[:]", reads="int64[:, :]", met="uint8[:]",
)  # fmt: skip
def resolve(operands, places, starts, index, shift, ids, sizes, slots, reads, met):
    """Replace the slots in `operands` by references, and set `reads` to the nodes that made the numbers at `places`.

    Node ids[i] has sizes[ids[i]] numbers from place starts[i] on; see `owners`. `slots` has the slots of known numbers,
    ascending; `met` is set to 1 for those of them that are operands.
    """
    last = slots[-1] if slots.shape[0] else np.int64(-1)
    for i in range(operands.shape[0]):
        for j in range(operands.shape[1]):
            place = places[i, j]
            at = owner(place, starts, index, shift)
            reads[i, j] = ids[at] if at >= 0 and place - starts[at] < sizes[ids[at]] else -1
            operands[i, j] = _reference(operands[i, j], slots, last)
            if operands[i, j] >= 0:
                met[operands[i, j]] = 1


def _reference(slot, slots, last):
    if slot > last:
        return ~slot
    low, high = 0, slots.shape[0] - 1
    while low < high:
        middle = (low + high) >> 1
        if slots[middle] < slot:
            low = middle + 1
        else:
            high = middle
    return np.int64(low) if slots[low] == slot else ~slot


# Writing rows. `numbers` has for each row its number where that is known, else NaN.


def _enter(rows, table, r, known):
    a, b = rows[r, A], rows[r, B]
    if known[rows[r, OPCODE], COMMUTES] and b < a:
        rows[r, A], rows[r, B], rows[r, C] = b, a, a
    h = hashed(rows[r, OPCODE], rows[r, A], rows[r, B], rows[r, C])
    table[h & (table.shape[0] - 1)] = (h >> 32 << 32) | r


def _append(rows, table, numbers, n, op, a, b, c, number):
    """A reference to an instruction, and how many rows there are then; it is written unless the table has it."""
    h = hashed(op, a, b, c)
    at = h & (table.shape[0] - 1)
    # The upper half of an entry is that of the hash: most rows that differ are told by it, and not looked at.
    if table[at] >> 32 == h >> 32 and is_same(rows, table[at] & 0xFFFFFFFF, op, a, b, c):
        return rows[table[at] & 0xFFFFFFFF, OUT], n
    rows[n, OPCODE], rows[n, OUT], rows[n, A], rows[n, B], rows[n, C] = op, n, a, b, c
    numbers[n] = number
    table[at] = (h >> 32 << 32) | n
    return np.int64(n), n + 1


def _computed(op, a, b, named):
    """The result of an operation on two known numbers; NaN where the operation is not one of those in `named`."""
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


def _write(rows, table, numbers, n, op, a, b, c, named, known):
    """A reference to the result of an operation, which is simplified where a rule here applies, and else written."""
    x = numbers[a] if a >= 0 else np.nan
    y = numbers[b] if b >= 0 else np.nan
    x_known, y_known = not np.isnan(x), not np.isnan(y)
    if x_known and y_known:
        number = _computed(op, x, y, named)
        if np.isfinite(number):
            # A leaf has the bits of its number in place of operands, so that the table finds equal numbers. `expand`
            # replaces them in the end by what a leaf on a tape has there.
            bits = np.int64(float_bits(number))
            return _append(rows, table, numbers, n, np.int64(LEAF), bits, bits, bits, number)
    if x_known or y_known:
        same = repeated(op, x_known, x, y_known, y, known)
        if same:
            return (a if same == 1 else b), n
        op = unmasked(op, x_known, x, y_known, y, known)
        if op == named[MULTIPLY] and (x == -1.0 or y == -1.0):
            op, a = named[NEGATIVE], b if x == -1.0 else a
            b = c = a
    # Where an operand was written as a negative: -(-x) = x and x + (-y) = x - y.
    if op == named[NEGATIVE]:
        if a >= 0 and rows[a, OPCODE] == op:
            return rows[a, A], n
    elif op == named[ADD]:
        if b >= 0 and rows[b, OPCODE] == named[NEGATIVE]:
            op, b = named[SUBTRACT], rows[b, A]
            c = b
        elif a >= 0 and rows[a, OPCODE] == named[NEGATIVE]:
            op, a, b = named[SUBTRACT], b, rows[a, A]
            c = b
    if known[op, COMMUTES] and b < a:
        a, b, c = b, a, a
    return _append(rows, table, numbers, n, op, a, b, c, np.nan)


def _product(rows, table, numbers, n, flow, partial, named, known):
    """A reference to an adjoint or tangent times a partial derivative; NONE where either is known to be zero."""
    if (flow >= 0 and numbers[flow] == 0.0) or (partial >= 0 and numbers[partial] == 0.0):
        return np.int64(NONE), n
    return _write(rows, table, numbers, n, named[CHAIN], flow, partial, partial, named, known)


def _sum(rows, table, numbers, n, a, b, named, known):
    """A reference to the sum of two numbers, either of which may be NONE."""
    if a == NONE or b == NONE:
        return max(a, b), n
    return _write(rows, table, numbers, n, named[ADD], a, b, b, named, known)


# Walking instructions


def _stands_for(constants, operands, i, out, made, reference):
    """The reference for what a template refers to as `reference`, at instruction i; see `symbols`."""
    if reference < 0:
        return constants[-1 - reference]
    if reference < 3:
        return operands[i, reference]
    return ~out if reference == 3 else made[reference - 4]


def _partial(rows, table, numbers, n, named, known, steps, low, high, constants, operands, i, out, made):
    """A reference to the derivative of instruction i by an operand.

    Steps `low` to `high` of the templates compute it; the last of them is no step, but says which number it is. `made`
    has references to the steps that were already written for other operands of this instruction.
    """
    for s in range(low, high - 1):
        m = steps[s, 0]
        if made[m] == NONE:
            a = _stands_for(constants, operands, i, out, made, steps[s, 2])
            b = _stands_for(constants, operands, i, out, made, steps[s, 3])
            c = _stands_for(constants, operands, i, out, made, steps[s, 4])
            made[m], n = _write(rows, table, numbers, n, steps[s, 1], a, b, c, named, known)
    return _stands_for(constants, operands, i, out, made, steps[high - 1, 2]), n


def _of_slot(slot, first, start, slots, last):
    """The reference for the adjoint or tangent that has a slot; NONE where the slot is -1."""
    if slot < 0:
        return np.int64(NONE)
    return slot - first + start if slot >= first else _reference(slot, slots, last)


def _to_slot(reference, first, start, slots):
    if reference < 0:
        return ~reference if reference != NONE else np.int64(-1)
    return slots[reference] if reference < slots.shape[0] else reference - start + first


@compiled(
    ops="int64[:]", outs="int64[:]", operands="int64[:, :]", reads="int64[:, :]", constants="int64[:]",
    slots="int64[:]", arity="int64[:]", length="int64[:]", first_step="int64[:, :]", steps="int64[:, :]",
    named="int64[:]", known="float64[:, :]", rows="int64[:, :]", table="int64[:]", numbers="float64[:]",
    made="int64[:]", flows="int64[:]", low="int64", high="int64", first="int64", back="int64",
)  # fmt: skip
def expand(
    ops, outs, operands, reads, constants, slots, arity, length, first_step, steps, named, known, rows, table, numbers,
    made, flows, low, high, first, back,
):  # fmt: skip
    """Write the derivatives of the instructions from number `low` up to `high`.

    With `back`, the walk goes from the last instruction to the first, and adds to the adjoint of each node that an
    instruction reads; else it goes from first to last, and sets the tangent of each result. `rows` begins with known
    numbers and with the instructions that are differentiated; what is written follows, and its results get the slots
    from `first` on. Returns how many rows there are then.
    """
    start = slots.shape[0] + high - low
    shift = start - high  # the row of an instruction is its number plus this
    last = slots[-1] if slots.shape[0] else np.int64(-1)
    for r in range(slots.shape[0]):
        _enter(rows, table, r, known)
    for i in range(max(low, high - AHEAD) if back else low, high if back else min(high, low + AHEAD)):
        _enter(rows, table, shift + i, known)
    n = np.int64(start)
    for k in range(high - low):
        i = high - 1 - k if back else low + k
        ahead = i - AHEAD if back else i + AHEAD
        if low <= ahead < high:
            _enter(rows, table, shift + ahead, known)
        op = ops[i]
        flow = _of_slot(flows[i], first, start, slots, last) if back else np.int64(NONE)
        if back and flow == NONE:
            continue
        made[: length[op]] = NONE
        total = np.int64(NONE)
        for j in range(arity[op]):
            source = reads[i, j]
            if source < 0:
                continue
            there = _of_slot(flows[source], first, start, slots, last)
            if not back and there == NONE:
                continue
            x, n = _partial(
                rows, table, numbers, n, named, known, steps, first_step[op, j], first_step[op, j + 1], constants,
                operands, i, outs[i], made,
            )  # fmt: skip
            x, n = _product(rows, table, numbers, n, flow if back else there, x, named, known)
            x, n = _sum(rows, table, numbers, n, there if back else total, x, named, known)
            if back:
                flows[source] = _to_slot(x, first, start, slots)
            else:
                total = x
        if not back:
            flows[i] = _to_slot(total, first, start, slots)
    for r in range(start, n):
        if rows[r, OPCODE] != LEAF:
            for j in range(A, C + 1):
                rows[r, j] = _to_slot(rows[r, j], first, start, slots)
        else:
            rows[r, A], rows[r, B], rows[r, C] = 0, 1, 0
        rows[r, OUT] = first + r - start
    return n

"""Sparsity patterns, by propagating index sets over the tape.

Each slot has the set of sources that it depends on; the set of a result is the union of its operands'. A slot whose set
is that of one of its operands points to the same memory, so most instructions store nothing. (Griewank and Walther,
Evaluating Derivatives, 2nd ed., section 7.1.) The Hessian's pattern is that of the Jacobian of the gradient's own tape:
what the adjoint of input i reads are exactly the inputs that i interacts with nonlinearly.

Sources are the inputs, and copies of inputs made by gathering and joining: `x[i]` for an index array is an array of
sources of its own. Taken as sources, the copies that different outputs read do not collide, so that far fewer reverse
sweeps are needed, and what belongs to one input is added up afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tapegrad.compiled import compiled
from tapegrad.ops import RUN
from tapegrad.ops.record import (
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    result_at,
    result_size,
    shape_at,
)
from tapegrad.ops.spec import Elementwise
from tapegrad.program import Program
from tapegrad.sparse.links import Wide, flows, is_move, links, places, varying, wide
from tapegrad.sweeps.marks import EXPECT, LEAF


class Sources(NamedTuple):
    """What outputs are said to depend on: where each stands, and which input it is a copy of (counted from 0)."""

    places: np.ndarray
    columns: np.ndarray
    # The instructions that make no copies.
    rows: np.ndarray


class Sets(NamedTuple):
    """Index sets, CSR: row i depends on sources indices[indptr[i]:indptr[i + 1]], ascending."""

    indptr: np.ndarray
    indices: np.ndarray


def sources_of(program: Program, values: np.ndarray, windows: tuple[int, ...], follow: bool) -> Sources:
    """The inputs; with `follow`, the copies made of them too, and the code without the copying."""
    inputs = program.places_of(windows)
    column = np.full(len(values), -1, np.int64)
    column[inputs] = np.arange(len(inputs))
    code = program.code.steps
    kept = np.ones(len(code), bool)
    if follow:
        computed = np.zeros(len(values), bool)
        computed[_results(code)] = True
        varies = varying(program, program.floats)
        for i in np.flatnonzero(code[:, 0] >= RUN):
            instruction = wide(program.code.side, int(code[i, 0]), int(code[i, 2]))
            if is_move(instruction.row):
                origin = _origins(instruction, values, varies)
                # A copy of a copy, or of a constant; not of something computed.
                if origin is not None and np.all((column[origin] >= 0) | ~computed[origin]):
                    out = slice(instruction.out, instruction.out + instruction.size)
                    column[out] = column[origin]
                    computed[out] = False
                    kept[i] = not np.any(column[out] >= 0)
    found = np.flatnonzero(column >= 0)
    return Sources(found, column[found], np.flatnonzero(kept))


def _results(code: np.ndarray) -> np.ndarray:
    starts, counts = code[:, 1].astype(np.int64), np.where(code[:, 0] >= RUN, code[:, 3], 1).astype(np.int64)
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _origins(instruction: Wide, values: np.ndarray, varies: np.ndarray) -> np.ndarray | None:
    """For each result of a move, the place of the element that it is; None where that can change."""
    if isinstance(instruction.row, Elementwise):
        return places(*instruction.operands[0])
    found = links(instruction, values, varies)
    if found is None:
        return None
    origin = np.zeros(instruction.size, np.int64)
    for outs, ins in found:
        origin[outs] = ins
    return origin


def propagate(program: Program, values: np.ndarray, sources: Sources, outputs: np.ndarray) -> Sets:
    """The sources that each of some places of the arena depends on."""
    n = len(sources.places)
    state = _State(np.zeros(len(values), np.int64), np.zeros(len(values), np.int64), np.zeros(n + 1, np.int64))
    state.first[sources.places] = np.arange(n)
    state.size[sources.places] = 1
    pool = _Pool(np.concatenate([np.arange(n, dtype=np.int32), np.zeros(1024, np.int32)]), np.array([n, 0, 0]))
    code, side = program.code.steps[sources.rows], program.code.side
    table, varies, operands = flows(), varying(program, program.floats), np.zeros(3, np.int64)
    start = 0
    while start < len(code):
        start = pool.run(_elementwise, start, lambda at: (code, side, at, *state, table, operands))
        if start < len(code):
            instruction = wide(side, int(code[start, 0]), int(code[start, 2]))
            if not instruction.row.passive:
                _structured(instruction, values, varies, state, pool)
            start += 1
    counts = state.size[outputs]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.empty(indptr[-1], np.int64)
    _collect(outputs, indptr, indices, state.first, pool.sets)
    return Sets(indptr, indices)


class _State(NamedTuple):
    # For each slot where its set begins in the pool, and how many there are; for each source, when it was last met.
    first: np.ndarray
    size: np.ndarray
    stamp: np.ndarray


class _Pool:
    """Where sets are kept, one after the other; grown when compiled code says that it does not suffice."""

    def __init__(self, sets: np.ndarray, counters: np.ndarray) -> None:
        self.sets = sets
        # How much of it is used, a number for each union, and the element of an instruction to go on with.
        self.counters = counters

    def run(self, function: Any, start: int, arguments: Any) -> int:
        """Run a pass from an instruction on, again with more room from where it stopped, until it is through.

        It returns the number of the instruction that it has come to, or -1 - that number where there was no room.
        """
        while True:
            at = function(*arguments(start), self.sets, self.counters)
            if at >= 0:
                return at
            start = -1 - at
            self.sets = np.concatenate([self.sets, np.zeros(len(self.sets), np.int32)])


def _structured(instruction: Wide, values: np.ndarray, varies: np.ndarray, state: _State, pool: _Pool) -> None:
    found = links(instruction, values, varies)
    out, n = instruction.out, instruction.size
    if found is None:
        # Everything depends on everything: one set, shared.
        ins = np.concatenate([places(*x) for x in instruction.operands])
        indptr = np.array([0, len(ins)])
    else:
        outs = np.concatenate([np.zeros(0, np.int64), *[pair[0] for pair in found]])
        ins = np.concatenate([np.zeros(0, np.int64), *[pair[1] for pair in found]])
        order = np.argsort(outs, kind="stable")
        indptr, ins = np.searchsorted(outs[order], np.arange(n + 1)), ins[order]
    pool.run(_linked, 0, lambda at: (out, at, indptr, np.ascontiguousarray(ins), *state))
    if found is None:
        state.first[out : out + n] = state.first[out]
        state.size[out : out + n] = state.size[out]


# Compiled passes. `at` holds how much of the pool is used, a number for each union, and where to go on.
USED, TICKET, ELEMENT = range(3)


def _union(o, ins, n, first, count, stamp, pool, at):
    # Give slot o the union of the sets of n slots; False where the pool may not have room for it.
    best, total = -1, 0
    for i in range(n):
        s = ins[i]
        if count[s] > 0:
            total += count[s]
            if best < 0 or count[s] > count[best]:
                best = s
    if best < 0:
        count[o] = 0
        return True
    if at[USED] + total > pool.shape[0]:
        return False
    at[TICKET] += 1
    used, ticket = at[USED], at[TICKET]
    for i in range(first[best], first[best] + count[best]):
        stamp[pool[i]] = ticket
    end = used + count[best]
    for j in range(n):
        s = ins[j]
        if count[s] > 0 and first[s] != first[best]:
            for i in range(first[s], first[s] + count[s]):
                if stamp[pool[i]] != ticket:
                    stamp[pool[i]] = ticket
                    pool[end] = pool[i]
                    end += 1
    if end == used + count[best]:
        # Nothing but what one of them has: the same set.
        first[o], count[o] = first[best], count[best]
        return True
    for i in range(count[best]):
        pool[used + i] = pool[first[best] + i]
    first[o], count[o] = used, end - used
    at[USED] = end
    return True


_SETS = {"first": "int64[:]", "count": "int64[:]", "stamp": "int64[:]"}
_ROOM = {"pool": "int32[:]", "at": "int64[:]"}


@compiled(out="int64", start="int64", indptr="int64[:]", ins="int64[:]", **_SETS, **_ROOM)
def _linked(out, start, indptr, ins, first, count, stamp, pool, at):
    for i in range(start, indptr.shape[0] - 1):
        chosen = ins[indptr[i] : indptr[i + 1]]
        if not _union(out + i, chosen, chosen.shape[0], first, count, stamp, pool, at):
            return -1 - i
    return indptr.shape[0] - 1


@compiled(code="uint32[:, :]", side="int64[:]", start="int64", **_SETS, table="uint8[:, :]", ins="int64[:]", **_ROOM)
def _elementwise(code, side, start, first, count, stamp, table, ins, pool, at):
    """Propagate from an instruction on, up to the next structured one, whose number is returned."""
    for i in range(start, code.shape[0]):
        op, o, a = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2])
        if op == LEAF or op == EXPECT:
            continue
        if op < RUN:
            n = 0
            for j in range(3):
                if table[op, j]:
                    ins[n] = code[i, 2 + j]
                    n += 1
            if not _union(o, ins, n, first, count, stamp, pool, at):
                return -1 - i
            continue
        if is_structured(side, a):
            return i
        arity, ndim = operand_count(side, a), axes(side, a)
        for e in range(at[ELEMENT], result_size(side, a)):
            n = 0
            for j in range(arity):
                if table[op - RUN, j]:
                    rest, slot = e, operand_at(side, a, j)
                    for d in range(ndim - 1, -1, -1):
                        slot += (rest % side[shape_at(side, a) + d]) * side[mode_at(side, a, j) + 1 + d]
                        rest //= side[shape_at(side, a) + d]
                    ins[n] = slot
                    n += 1
            if not _union(result_at(side, a) + e, ins, n, first, count, stamp, pool, at):
                at[ELEMENT] = e
                return -1 - i
        at[ELEMENT] = 0
    return code.shape[0]


@compiled(outputs="int64[:]", indptr="int64[:]", indices="int64[:]", first="int64[:]", pool="int32[:]")
def _collect(outputs, indptr, indices, first, pool):
    for i in range(outputs.shape[0]):
        start, n = indptr[i], indptr[i + 1] - indptr[i]
        for j in range(n):
            indices[start + j] = pool[first[outputs[i]] + j]
        indices[start : start + n].sort()

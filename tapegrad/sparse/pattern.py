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
from numba import njit

from tapegrad.ops import RUN
from tapegrad.ops.record import ARITY, COUNT, KIND, OPERAND_SIZE, OPERANDS, OUT, SLOT, STRUCTURED
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


def sources_of(program: Program, windows: tuple[int, ...], follow: bool) -> Sources:
    """The inputs; with `follow`, the copies made of them too, and the code without the copying."""
    inputs = program.places_of(windows)
    column = np.full(len(program.values), -1, np.int64)
    column[inputs] = np.arange(len(inputs))
    code = program.code
    kept = np.ones(len(code), bool)
    if follow:
        computed = np.zeros(len(program.values), bool)
        computed[_results(code)] = True
        varies = varying(program, program.floats)
        for i in np.flatnonzero(code[:, 0] >= RUN):
            instruction = wide(program.side, int(code[i, 0]), int(code[i, 2]))
            if is_move(instruction.row):
                origin = _origins(instruction, program.values, varies)
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


def propagate(program: Program, sources: Sources, outputs: np.ndarray) -> Sets:
    """The sources that each of some places of the arena depends on."""
    n = len(sources.places)
    state = _State(
        np.zeros(len(program.values), np.int64), np.zeros(len(program.values), np.int64), np.zeros(n + 1, np.int64)
    )
    state.first[sources.places] = np.arange(n)
    state.size[sources.places] = 1
    pool, used, ticket = np.concatenate([np.arange(n, dtype=np.int32), np.zeros(1024, np.int32)]), n, 0
    code, side = program.code[sources.rows], program.side
    table, varies = flows(), varying(program, program.floats)
    start = 0
    while start < len(code):
        start, pool, used, ticket = _elementwise(code, side, start, *state, pool, used, ticket, table)
        if start < len(code):
            instruction = wide(side, int(code[start, 0]), int(code[start, 2]))
            if not instruction.row.passive:
                pool, used, ticket = _structured(instruction, program.values, varies, state, pool, used, ticket)
            start += 1
    indptr, indices = _collect(outputs, *state[:2], pool)
    return Sets(indptr, indices)


class _State(NamedTuple):
    # For each slot where its set begins in the pool, and how many there are; for each source, when it was last met.
    first: np.ndarray
    size: np.ndarray
    stamp: np.ndarray


def _structured(
    instruction: Wide, values: np.ndarray, varies: np.ndarray, state: _State, pool: np.ndarray, used: int, ticket: int
) -> tuple[np.ndarray, int, int]:
    found = links(instruction, values, varies)
    out, n = instruction.out, instruction.size
    if found is None:
        # Everything depends on everything: one set, shared.
        ins = np.concatenate([places(*x) for x in instruction.operands])
        indptr = np.array([0, len(ins)])
        pool, used, ticket = _linked(out, indptr, ins, *state, pool, used, ticket)
        state.first[out : out + n] = state.first[out]
        state.size[out : out + n] = state.size[out]
        return pool, used, ticket
    outs = np.concatenate([np.zeros(0, np.int64), *[pair[0] for pair in found]])
    ins = np.concatenate([np.zeros(0, np.int64), *[pair[1] for pair in found]])
    order = np.argsort(outs, kind="stable")
    indptr = np.searchsorted(outs[order], np.arange(n + 1))
    return _linked(out, indptr, ins[order], *state, pool, used, ticket)


@njit(cache=True, nogil=True)
def _grown(pool: Any, needed: Any) -> Any:
    if needed <= len(pool):
        return pool
    larger = np.empty(2 * needed, pool.dtype)
    larger[: len(pool)] = pool
    return larger


@njit(cache=True, nogil=True)
def _union(o: Any, ins: Any, first: Any, count: Any, stamp: Any, pool: Any, used: Any, ticket: Any) -> Any:
    """Give slot o the union of the sets of some slots."""
    best, total = -1, 0
    for s in ins:
        if count[s] > 0:
            total += count[s]
            if best < 0 or count[s] > count[best]:
                best = s
    if best < 0:
        count[o] = 0
        return pool, used, ticket
    ticket += 1
    for i in range(first[best], first[best] + count[best]):
        stamp[pool[i]] = ticket
    pool = _grown(pool, used + total)
    end = used + count[best]
    for s in ins:
        if count[s] > 0 and first[s] != first[best]:
            for i in range(first[s], first[s] + count[s]):
                if stamp[pool[i]] != ticket:
                    stamp[pool[i]] = ticket
                    pool[end] = pool[i]
                    end += 1
    if end == used + count[best]:
        # Nothing but what one of them has: the same set.
        first[o], count[o] = first[best], count[best]
        return pool, used, ticket
    pool[used : used + count[best]] = pool[first[best] : first[best] + count[best]]
    first[o], count[o] = used, end - used
    return pool, end, ticket


@njit(cache=True, nogil=True)
def _linked(
    out: Any, indptr: Any, ins: Any, first: Any, count: Any, stamp: Any, pool: Any, used: Any, ticket: Any
) -> Any:
    for i in range(len(indptr) - 1):
        chosen = ins[indptr[i] : indptr[i + 1]]
        pool, used, ticket = _union(out + i, chosen, first, count, stamp, pool, used, ticket)
    return pool, used, ticket


@njit(cache=True, nogil=True)
def _elementwise(
    code: Any, side: Any, start: Any, first: Any, count: Any, stamp: Any, pool: Any, used: Any, ticket: Any, table: Any
) -> Any:
    """Propagate from an instruction on, up to the next structured one, whose number is returned."""
    ins = np.zeros(3, np.int64)
    for i in range(start, len(code)):
        op, o, a, b = np.int64(code[i, 0]), np.int64(code[i, 1]), np.int64(code[i, 2]), np.int64(code[i, 3])
        if op in (LEAF, EXPECT):
            continue
        if op < RUN:
            n = 0
            for j in range(2):
                if table[op, j]:
                    ins[n] = a if j == 0 else b
                    n += 1
            pool, used, ticket = _union(o, ins[:n], first, count, stamp, pool, used, ticket)
            continue
        if side[a + KIND] == STRUCTURED:
            return i, pool, used, ticket
        arity, p = side[a + ARITY], a + OPERANDS + OPERAND_SIZE * side[a + ARITY]
        ndim = side[p]
        for e in range(side[a + COUNT]):
            n = 0
            for j in range(arity):
                if table[op - RUN, j]:
                    rest, slot = e, side[a + OPERANDS + OPERAND_SIZE * j + SLOT]
                    for d in range(ndim - 1, -1, -1):
                        slot += (rest % side[p + 1 + d]) * side[p + 2 + ndim + j * (1 + ndim) + d]
                        rest //= side[p + 1 + d]
                    ins[n] = slot
                    n += 1
            pool, used, ticket = _union(side[a + OUT] + e, ins[:n], first, count, stamp, pool, used, ticket)
    return len(code), pool, used, ticket


@njit(cache=True, nogil=True)
def _collect(outputs: Any, first: Any, count: Any, pool: Any) -> Any:
    indptr = np.zeros(len(outputs) + 1, np.int64)
    for i in range(len(outputs)):
        indptr[i + 1] = indptr[i] + count[outputs[i]]
    indices = np.empty(indptr[-1], np.int64)
    for i in range(len(outputs)):
        s = outputs[i]
        indices[indptr[i] : indptr[i + 1]] = np.sort(pool[first[s] : first[s] + count[s]])
    return indptr, indices

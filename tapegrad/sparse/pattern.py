"""Sparsity patterns, by propagating index sets over the tape.

Each slot has the set of sources that it depends on; the set of a result is the union of its operands'. A slot whose set
is that of one of its operands points to the same memory, so most instructions store nothing. (Griewank and Walther,
Evaluating Derivatives, 2nd ed., section 7.1.) The Hessian's pattern is that of the Jacobian of the gradient's own tape:
what the adjoint of input i reads are exactly the inputs that i interacts with nonlinearly.

Sources are the inputs, and copies of inputs made by gathering and joining: `x[i]` for an index array is an array of
sources of its own. Two outputs that read different copies of one input can be computed in the same sweep, which they
could not if the input were their source. So far fewer reverse sweeps are needed; the derivatives with respect to all
copies of an input are added up afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.spec import Elementwise
from tapegrad.program import Program
from tapegrad.sparse import loops
from tapegrad.sparse.links import flows, is_move, links, varying
from tapegrad.tape import Instruction, instruction


class Sources(NamedTuple):
    """Sources: the place of each, and which input it is or is a copy of (inputs are counted from 0)."""

    places: np.ndarray
    columns: np.ndarray
    # The instructions that make no copies.
    rows: np.ndarray


class Sets(NamedTuple):
    """Index sets, CSR: row i depends on sources indices[indptr[i]:indptr[i + 1]], ascending."""

    indptr: np.ndarray
    indices: np.ndarray


def sources_of(program: Program, values: np.ndarray, wrt: tuple[int, ...], follow: bool) -> Sources:
    """The inputs; with `follow`, the copies made of them too, and the code without the copying."""
    inputs = program.places_of(wrt)
    column = np.full(len(values), -1, np.int64)
    column[inputs] = np.arange(len(inputs))
    code = program.code.steps
    kept = np.ones(len(code), bool)
    if follow:
        computed = np.zeros(len(values), bool)
        computed[_results(code)] = True
        varies = varying(program, program.floats)
        for i in np.flatnonzero(code[:, 0] >= RUN):
            move = instruction(code, program.code.side, int(i))
            if is_move(move.operation):
                origin = _origins(move, values, varies)
                # A copy of a copy, or of a constant; not of something computed.
                if origin is not None and np.all((column[origin] >= 0) | ~computed[origin]):
                    out = move.results
                    column[out] = column[origin]
                    computed[out] = False
                    kept[i] = not np.any(column[out] >= 0)
    found = np.flatnonzero(column >= 0)
    return Sources(found, column[found], np.flatnonzero(kept))


def _results(code: np.ndarray) -> np.ndarray:
    starts, counts = code[:, 1].astype(np.int64), np.where(code[:, 0] >= RUN, code[:, 3], 1).astype(np.int64)
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)


def _origins(move: Instruction, values: np.ndarray, varies: np.ndarray) -> np.ndarray | None:
    """For each result of a move, the place of the element that it copies; None where that can change with the inputs.
    """
    if isinstance(move.operation, Elementwise):
        return move.operands[0].places()
    found = links(move, values, varies)
    if found is None:
        return None
    origin = np.zeros(move.count, np.int64)
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
        start = pool.run(loops.elementwise, start, lambda at: (code, side, at, *state, table, operands))
        if start < len(code):
            found = instruction(code, side, start)
            if not found.operation.passive:
                _structured(found, values, varies, state, pool)
            start += 1
    counts = state.size[outputs]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.empty(indptr[-1], np.int64)
    loops.collect(outputs, indptr, indices, state.first, pool.sets)
    return Sets(indptr, indices)


class _State(NamedTuple):
    # For each place, where its set begins in the pool, and its size; for each source, the number of the union that it
    # was last met in.
    first: np.ndarray
    size: np.ndarray
    stamp: np.ndarray


class _Pool:
    """The memory in which sets are kept, one after the other. It grows when compiled code finds no room."""

    def __init__(self, sets: np.ndarray, counters: np.ndarray) -> None:
        self.sets = sets
        # What `loops.USED`, `TICKET` and `ELEMENT` name.
        self.counters = counters

    def run(self, function: Any, start: int, arguments: Any) -> int:
        """Run a compiled pass from instruction `start` on. Where it stops for want of room, the pool is enlarged and
        the pass goes on from there.

        The pass returns the number of the instruction that it has come to, or -1 minus that number where there was no
        room.
        """
        while True:
            at = function(*arguments(start), self.sets, self.counters)
            if at >= 0:
                return at
            start = -1 - at
            self.sets = np.concatenate([self.sets, np.zeros(len(self.sets), np.int32)])


def _structured(one: Instruction, values: np.ndarray, varies: np.ndarray, state: _State, pool: _Pool) -> None:
    found = links(one, values, varies)
    out, n = one.out, one.count
    if found is None:
        # Everything depends on everything: one set, shared.
        ins = np.concatenate([x.places() for x in one.operands])
        indptr = np.array([0, len(ins)])
    else:
        outs = np.concatenate([np.zeros(0, np.int64), *[pair[0] for pair in found]])
        ins = np.concatenate([np.zeros(0, np.int64), *[pair[1] for pair in found]])
        order = np.argsort(outs, kind="stable")
        indptr, ins = np.searchsorted(outs[order], np.arange(n + 1)), ins[order]
    pool.run(loops.linked, 0, lambda at: (out, at, indptr, np.ascontiguousarray(ins), *state))
    if found is None:
        state.first[out : out + n] = state.first[out]
        state.size[out : out + n] = state.size[out]

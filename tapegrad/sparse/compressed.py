"""Jacobians and Hessians from few sweeps: columns or rows of one colour are computed together, in one lane."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN, passive_rows
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program import Part, Program, Workspace
from tapegrad.sparse import loops
from tapegrad.sparse.coloring import (
    color_columns,
    color_rows,
    color_symmetric,
    recover_columns,
    recover_rows,
    recover_symmetric,
    rows_of_entries,
)
from tapegrad.sparse.matrices import csr_array
from tapegrad.sparse.pattern import Sets, Sources, propagate, sources_of
from tapegrad.sparse.sparsity import Sparsity
from tapegrad.tape import LEAF

# The most numbers in the lanes of one pass: with more, there are several passes.
_AT_ONCE = 1 << 25
# With up to this many lanes, each sweeps only the instructions that it needs, and these are kept for each lane.
_PARTS = 64
# From so many numbers on, they are collected by compiled code, with positions of half the size, in two thirds of the
# time that NumPy takes.
_MANY = 1 << 14
# The time of a reverse lane, in units of a forward lane.
_REVERSE_COST = 1.5


class _Lanes(NamedTuple):
    """How lanes are seeded, and where the entries of the matrix are read from them.

    Attributes:
        back: whether lanes carry adjoints back, or tangents forward.
        seeds, lane: the places that start from one, and the lane of each.
        total: how many lanes there are.
        places, reads: the place, and the lane, that each entry is read from.
        parts: the instructions that are swept; see `_parts`.
    """

    back: bool
    seeds: np.ndarray
    lane: np.ndarray
    total: int
    places: np.ndarray
    reads: np.ndarray
    parts: list[Part]


class CompressedJacobian:
    """Evaluates a sparse matrix of derivatives of a program, at the point that a workspace was swept at."""

    def __init__(self, program: Program, wrt: tuple[int, ...], sparsity: Sparsity, lanes: _Lanes, to: Any) -> None:
        self.program = program
        self.wrt = wrt
        self.sparsity = sparsity
        self._lanes = lanes
        # The position of each entry in the array of all lanes, flattened: lane by lane for a wide program, else place
        # by place.
        n = program.code.size + 1
        wide = lanes.reads * n + lanes.places, lanes.places * lanes.total + lanes.reads
        self._flat = wide[0] if program.wide else wide[1]
        # The entry that each number read is added to; None where the numbers are the entries, in order.
        self._to = to

    @property
    def back(self) -> bool:
        """Whether lanes carry adjoints back, not tangents forward."""
        return self._lanes.back

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return self._lanes.total

    @cached_property
    def sources(self) -> list[int] | None:
        """Where lanes carry adjoints back, the rows of the code whose results' adjoints have the entries; None where
        something between these is computed from some of them."""
        code = self.program.code
        starts = code.rows[:, OUT].astype(np.int64)
        found = np.unique(np.searchsorted(starts, self._lanes.places, "right") - 1).tolist()
        return None if self._depend(found) else found

    def _depend(self, rows: list[int]) -> bool:
        code = self.program.code
        starts = code.rows[:, OUT].astype(np.int64)
        for row in rows:
            many = code.rows[row, OPCODE] >= RUN or code.rows[row, OPCODE] == LEAF
            n = int(code.rows[row, B]) if many else 1
            behind = np.ascontiguousarray(code.steps[code.steps[:, OUT] > starts[row]])
            active, _ = self.program.flow(behind, starts[row] + np.arange(n), passive_rows())
            # Nor may anything that depends on one stand before another.
            after = np.arange(row + 1, rows[-1] + 1)
            if active[starts[after]].any():
                return True
        return False

    def back_seeds(self) -> list[list[np.ndarray]]:
        """For each lane the adjoints that outputs start from, where lanes carry adjoints back."""
        lanes, outputs, found = self._lanes, self.program.code.outputs, []
        for lane in range(lanes.total):
            chosen = np.zeros(self.program.code.size + 1, self.program.code.dtype)
            chosen[lanes.seeds[lanes.lane == lane]] = 1.0
            found.append([
                np.zeros(o.shape) if o.places is None else chosen[o.places].reshape(o.shape) for o in outputs
            ])  # fmt: skip
        return found

    def seeds(self) -> list[dict[int, np.ndarray]]:
        """For each lane the tangents that inputs start from, by number."""
        lanes, code, found = self._lanes, self.program.code, []
        for lane in range(lanes.total):
            places = lanes.seeds[lanes.lane == lane]
            along = {}
            for w in self.wrt:
                start, n = code.spans[w]
                along[w] = seed = np.zeros(n, code.dtype)
                seed[places[(places >= start) & (places < start + n)] - start] = 1.0
            found.append(along)
        return found

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """For each number that is read the lane, and a position among all numbers of the outputs, or of the `sources`
        where lanes carry adjoints back; for what is constant one past the last."""
        code = self.program.code
        if self.back:
            starts = code.rows[:, OUT].astype(np.int64)
            rows = np.array(self.sources, np.int64)
            many = (code.rows[rows, OPCODE] == LEAF) | (code.rows[rows, OPCODE] >= RUN)
            counts = np.where(many, code.rows[rows, B], 1).astype(np.int64)
            first = np.cumsum(counts) - counts
            of = np.searchsorted(starts[rows], self._lanes.places, "right") - 1
            return self._lanes.reads, first[of] + self._lanes.places - starts[rows[of]]
        places = [np.full(int(np.prod(o.shape)), code.size) if o.places is None else o.places for o in code.outputs]
        known = np.append(np.concatenate(places), code.size)
        order = np.argsort(known, kind="stable")
        return self._lanes.reads, order[np.searchsorted(known[order], self._lanes.places)]

    def matrix_at(self, values: np.ndarray, at: np.ndarray) -> Any:
        """The matrix whose entries stand in an arena, at positions that `as_positions` has given."""
        if at.dtype != np.uint32:
            return self.matrix(values.take(at))
        data = np.empty(len(at), values.dtype)
        loops.gather(values, at, data)
        return self.matrix(data)

    def matrix(self, data: np.ndarray) -> Any:
        """The matrix with these numbers as its entries, as a `scipy.sparse.csr_array`."""
        pattern = self.sparsity.pattern
        if self._to is not None:
            data = np.bincount(self._to, data, pattern.nnz).astype(data.dtype)
        return csr_array(data, pattern.indices.copy(), pattern.indptr.copy(), pattern.shape)

    def evaluate(self, workspace: Workspace) -> Any:
        """The matrix, as a `scipy.sparse.csr_array`, at the point that the workspace was swept at."""
        lanes, program = self._lanes, self.program
        data = np.empty(len(lanes.reads), program.code.dtype)
        step = max(1, _AT_ONCE // len(workspace.values))
        for first in range(0, lanes.total, step):
            count = min(step, lanes.total - first)
            whole = count == lanes.total
            seeded = slice(None) if whole else (lanes.lane >= first) & (lanes.lane < first + count)
            parts = lanes.parts if whole or not program.wide else lanes.parts[first : first + count]
            d = program.lanes(
                workspace, lanes.seeds[seeded], lanes.lane[seeded] - first, count, self.wrt, lanes.back, parts
            )
            if whole:
                (d.T if program.wide else d).reshape(-1).take(self._flat, out=data)
            else:
                own = (lanes.reads >= first) & (lanes.reads < first + count)
                data[own] = d[lanes.places[own], lanes.reads[own] - first]
        return self.matrix(data)


def as_positions(at: np.ndarray) -> np.ndarray:
    """Positions in an arena, from which `CompressedJacobian.matrix_at` reads a matrix."""
    return at.astype(np.uint32) if len(at) >= _MANY and at.max() < 2**32 else at


def _matrix(sets: Sets, columns: int) -> Any:
    shape = (len(sets.indptr) - 1, columns)
    whole = np.int32 if max(len(sets.indices), *shape) < 2**31 else np.int64
    ones = np.ones(len(sets.indices), bool)
    return csr_array(ones, sets.indices.astype(whole), sets.indptr.astype(whole), shape)


def analyse(
    program: Program, workspace: Workspace, wrt: tuple[int, ...], symmetric: bool
) -> CompressedJacobian:
    """Find the pattern of a program's Jacobian with respect to the inputs `wrt`, and colour it.

    With `symmetric` the program is a gradient, and its Jacobian a Hessian. Where the program has indices among its
    numbers, the pattern is that for the indices in the workspace.
    """
    values = workspace.values
    results = program.code.outputs
    known = [np.full(int(np.prod(o.shape)), -1) if o.places is None else o.places for o in results]
    outputs = np.concatenate([np.zeros(0, np.int64), *known])
    inputs = program.places_of(wrt)
    real = outputs >= 0
    plain = sources_of(program, values, wrt, follow=False)
    found = _with_gaps(propagate(program, values, plain, outputs[real]), real)
    pattern = _by_columns(found, plain, len(inputs))
    outputs = np.where(real, outputs, program.code.size)
    if symmetric:
        return _symmetric(program, wrt, pattern, inputs, outputs)
    forward = color_columns(pattern.indptr, pattern.indices, len(inputs))
    copies = sources_of(program, values, wrt, follow=True)
    sets = _with_gaps(propagate(program, values, copies, outputs[real]), real)
    reverse = color_rows(sets.indptr, sets.indices, len(copies.places))
    if reverse[1] * _REVERSE_COST < forward[1]:
        return _reverse(program, wrt, pattern, sets, copies, outputs, *reverse)
    colors, count = forward
    lane = recover_columns(pattern.indptr, pattern.indices, colors)
    used = colors >= 0
    parts = _parts(program, plain, inputs[used], colors[used], count, back=False)
    lanes = _Lanes(False, inputs[used], colors[used], count, outputs[rows_of_entries(pattern.indptr)], lane, parts)
    return CompressedJacobian(program, wrt, Sparsity(pattern, "forward", colors, count), lanes, None)


def _parts(
    program: Program, sources: Sources, seeds: np.ndarray, lane: np.ndarray, count: int, back: bool
) -> list[Part]:
    """The instructions that each lane needs, for a wide program; for any other, those that all lanes need together."""
    if not program.wide or count > _PARTS:
        return [program.part(sources.places, sources.rows, seeds, back)] * (count if program.wide else 1)
    return [program.part(sources.places, sources.rows, seeds[lane == i], back) for i in range(count)]


def _with_gaps(sets: Sets, real: np.ndarray) -> Sets:
    # Results that are constants have rows too, without entries.
    counts = np.zeros(len(real), np.int64)
    counts[real] = np.diff(sets.indptr)
    return Sets(np.concatenate([[0], np.cumsum(counts)]), sets.indices)


def _by_columns(sets: Sets, sources: Sources, n: int) -> Any:
    pattern = _matrix(Sets(sets.indptr, sources.columns[sets.indices]), n)
    pattern.sum_duplicates()
    return pattern


def _reverse(
    program: Program, wrt: tuple[int, ...], pattern: Any, sets: Sets, sources: Sources, outputs: np.ndarray,
    colors: np.ndarray, count: int,
) -> CompressedJacobian:  # fmt: skip
    lane = recover_rows(sets.indptr, sets.indices, colors)
    places = sources.places[sets.indices]
    # Entries are numbered by row and column of the matrix, to find them in its pattern: what was read for several
    # copies of one input belongs to one entry.
    n = pattern.shape[1]
    wanted = rows_of_entries(sets.indptr) * n + sources.columns[sets.indices]
    keys = rows_of_entries(pattern.indptr) * np.int64(n) + pattern.indices
    to = np.searchsorted(keys, wanted)
    if len(to) == len(keys) and np.array_equal(np.sort(to), np.arange(len(keys))):
        order = np.argsort(to)
        places, lane, to = places[order], lane[order], None
    used = colors >= 0
    parts = _parts(program, sources, outputs[used], colors[used], count, back=True)
    lanes = _Lanes(True, outputs[used], colors[used], count, places, lane, parts)
    return CompressedJacobian(program, wrt, Sparsity(pattern, "reverse", colors, count), lanes, to)


def _symmetric(
    program: Program, wrt: tuple[int, ...], pattern: Any, inputs: np.ndarray, outputs: np.ndarray
) -> CompressedJacobian:
    pattern = (pattern + pattern.T).tocsr()
    pattern.sort_indices()
    colors, count = color_symmetric(pattern.indptr, pattern.indices, len(inputs))
    rows, lane = recover_symmetric(pattern.indptr, pattern.indices, colors)
    used = colors >= 0
    every = Sources(inputs, inputs, np.arange(len(program.code.steps)))
    parts = _parts(program, every, inputs[used], colors[used], count, back=False)
    lanes = _Lanes(False, inputs[used], colors[used], count, outputs[rows], lane, parts)
    return CompressedJacobian(program, wrt, Sparsity(pattern, "symmetric", colors, count), lanes, None)

"""Where a NaN or an infinity among results came from: the instructions that made it out of finite numbers.

All numbers of a replay are in the arena, so nothing is computed here. From the results that are wrong one goes back
over the instructions, from the last to the first, and marks the numbers that have made them wrong: of each wrong result
those operands that are NaN or infinite themselves, element by element. What an operation did not choose (the other
branch of a `where`) is not marked, so a NaN there is not blamed. A wrong result none of whose operands is wrong was
made there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN, TABLE, Elementwise
from tapegrad.sparse.links import links
from tapegrad.sweeps.analysis import EACH, reach
from tapegrad.tape import LEAF, Instruction, instruction

# Links of an operation that are more than this are not written down: what is wrong among its operands counts for all of
# its results.
_MOST_LINKS = 1 << 22


class Found(NamedTuple):
    """Elements of what an instruction made, which are wrong there first.

    Attributes:
        row: the instruction.
        at: the numbers of the elements.
        given: whether they were not computed, but given: an argument or a constant.
    """

    row: int
    at: np.ndarray
    given: bool


def is_wrong(numbers: Any) -> bool:
    """Whether there is a NaN or an infinity among numbers."""
    return not bool(np.isfinite(numbers).all())


def first_fault(
    rows: np.ndarray, side: np.ndarray, values: np.ndarray, places: np.ndarray, nan_only: bool = False,
    tangents: np.ndarray | None = None,
) -> Found | None:  # fmt: skip
    """The first instruction that has made the numbers at some places NaN or infinite; None where they are not.

    With `nan_only` infinities are taken for what they are, and only the origin of NaN is looked for. Where there are
    `tangents`, by place, it is these that are searched in place of the numbers.
    """
    searched = values if tangents is None else tangents
    nan = np.isnan(searched)
    wrong = nan if nan_only else ~np.isfinite(searched)
    walk = _Walk(rows, side, values, wrong, nan)
    walk.mark(places)
    if not walk.marked.any():
        return None
    mark, every = walk.marked.copy(), np.empty(len(rows), np.int64)
    found = every[reach(rows, side, *EACH, mark, wrong.view(np.uint8), len(rows), every) :]
    for row, (op, out, a, b, c) in zip(found[::-1].tolist(), rows[found[::-1]].tolist(), strict=True):
        if op == LEAF:
            walk.leaf(row, out, b)
        elif op < RUN:
            walk.scalar(row, TABLE[op], out, (a, b, c))
        else:
            walk.run(row, out, b)
    return walk.first()


class _Walk:
    """What is known of wrong numbers on the way back."""

    def __init__(
        self, rows: np.ndarray, side: np.ndarray, values: np.ndarray, wrong: np.ndarray, nan: np.ndarray
    ) -> None:
        self.rows, self.side, self.values, self.wrong, self.nan = rows, side, values, wrong, nan
        # A byte for each place, which plain Python reads fast and NumPy by stretches: 1 where a wrong number has made
        # a result wrong.
        self._marks = bytearray(len(values))
        self.marked = np.frombuffer(self._marks, np.uint8)
        self._wrong = wrong.tobytes()
        # What was given as NaN, and as infinity; what has made wrong numbers of finite ones, and NaN of infinite ones.
        self.given: list[Found] = []
        self.infinite: list[Found] = []
        self.made: list[Found] = []
        self.turned: list[Found] = []

    def mark(self, places: np.ndarray) -> None:
        """Mark those numbers at some places that are wrong."""
        self.marked[places[self.wrong[places]]] = 1

    def leaf(self, row: int, out: int, n: int) -> None:
        """Numbers that were given."""
        at = np.flatnonzero(self.marked[out : out + n])
        if len(at):
            nan = at[self.nan[out + at]]
            (self.given if len(nan) else self.infinite).append(Found(row, nan if len(nan) else at, True))

    def scalar(self, row: int, operation: Any, out: int, places: tuple[int, ...]) -> None:
        """An instruction of one number."""
        if not self._marks[out]:
            return
        read = [p for p in places[: operation.arity] if self._wrong[p]]
        if read and getattr(operation, "selects", False):
            at = np.array(places[: operation.arity])
            chosen = _chosen(operation, self.values[at][:, None], self.values[out : out + 1])[:, 0]
            read = [int(p) for p, c in zip(at, chosen, strict=True) if c and self._wrong[p]] or read
        for p in read:
            self._marks[p] = 1
        if not read:
            self.made.append(Found(row, np.zeros(1, np.int64), False))
        elif self.nan[out] and not self.nan[read].any():
            self.turned.append(Found(row, np.zeros(1, np.int64), False))

    def run(self, row: int, out: int, n: int) -> None:
        """An instruction over many elements."""
        at = np.flatnonzero(self.marked[out : out + n])
        if not len(at):
            return
        one = instruction(self.rows, self.side, row)
        if isinstance(one.operation, Elementwise):
            has, nan = self._elementwise(one, at)
        else:
            has, nan = self._structured(one, at)
        if not has.all():
            self.made.append(Found(row, at[~has], False))
        turned = has & ~nan & self.nan[out + at]
        if turned.any():
            self.turned.append(Found(row, at[turned], False))

    def _elementwise(self, one: Instruction, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mark what has made some elements wrong; returns for each whether anything has, and whether that is NaN."""
        places = np.array([x.places()[at] for x in one.operands])
        read = self.wrong[places]
        if one.operation.selects:
            chosen = read & _chosen(one.operation, self.values[places], self.values[one.out + at])
            read = np.where(chosen.any(axis=0), chosen, read)
        self.marked[places[read]] = 1
        return read.any(axis=0), (read & self.nan[places]).any(axis=0)

    def _structured(self, one: Instruction, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = _links(one, self.values)
        if pairs is None:
            places = np.concatenate([np.zeros(0, np.int64), *[x.places() for x in one.operands]])
            places = places[self.wrong[places]]
            self.marked[places] = 1
            return np.full(len(at), len(places) > 0), np.full(len(at), self.nan[places].any())
        has, nan, wanted = np.zeros((3, one.count), bool)
        wanted[at] = True
        for results, places in pairs:
            read = wanted[results] & self.wrong[places]
            self.marked[places[read]] = 1
            has[results[read]] = True
            nan[results[read & self.nan[places]]] = True
        return has[at], nan[at]

    def first(self) -> Found | None:
        """What was wrong first. Infinities that were given count where nothing else was wrong: they may be meant."""
        for found in ([*self.given, *self.made], self.turned, self.infinite):
            if found:
                return min(found, key=lambda one: one.row)
        return None


def _chosen(operation: Any, operands: np.ndarray, result: np.ndarray) -> np.ndarray:
    """For each operand of an operation that selects, whether it was chosen: its partial derivative is not 0 then."""
    with np.errstate(all="ignore"):
        partials = operation.partials(*operands, result)
    partials = partials if isinstance(partials, tuple) else (partials,)
    return np.array([np.broadcast_to(np.asarray(p) != 0.0, result.shape) for p in partials])


def _links(one: Instruction, values: np.ndarray) -> Sequence[tuple[np.ndarray, np.ndarray]] | None:
    """Which element of a result reads which places; None where each reads all, or that would be too much to tell."""
    if one.count * max((x.size for x in one.operands), default=0) > _MOST_LINKS:
        return None
    # The numbers are what they are: none varies.
    return links(one, values, np.zeros(len(values), np.uint8))

"""Instructions over arrays of as many rows, in one loop over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from tapegrad.native.ir import COMPUTE, SET, Item, Loop, Ref, nested
from tapegrad.native.loops import Owner, items, natural_rows
from tapegrad.tape import Instruction

# A row may be computed so many rounds later than its number says, so that it finds what later rows of others give.
MOST_SHIFT = 32
# The number of rows is divided at most by this, where that puts two instructions in one loop: what a row has then
# stands so far from what the next row has.
_MOST_SPLIT = 16
# The fewest rows of an instruction whose rows are long: lanes are rows, and should be filled.
_FEWEST = 64


class Rows:
    """A loop over rows.

    Attributes:
        rows: how many.
        members: the instructions, in order.
        items: what they compute, by the number of the result.
        rounds: how many rounds the loop has: as many as rows, and more where some are computed later.
    """

    def __init__(self, rows: int, owner: Owner) -> None:
        self.rows, self.rounds = rows, 0
        self.members: list[Instruction] = []
        self.items: dict[int, list[Item]] = {}
        self._owner = owner
        self._starts: dict[int, int] = {}

    def all_items(self) -> list[Item]:
        """All items, in order."""
        return [item for found in self.items.values() for item in found]

    def take(self, one: Instruction, depends: bool) -> bool:
        """Take an instruction into the loop, if it can be. `depends` says whether it reads what the loop computes."""
        if self._take(one, self.rows):
            return True
        natural = natural_rows(one)
        assert natural is not None
        if abs(natural - self.rows) <= MOST_SHIFT and natural > 4 * MOST_SHIFT:
            return self._take(one, natural)
        if depends and natural < self.rows <= _MOST_SPLIT * natural and self.rows % natural == 0:
            return self._divide(natural, one)
        return False

    def _take(self, one: Instruction, rows: int) -> bool:
        found = items(one, rows, self._owner)
        if found is None:
            return False
        shift = self._shift(found)
        if shift is None:
            return False
        for item in found:
            item.shift = shift
            self.rounds = max(self.rounds, shift + item.first + item.count)
        self.members.append(one)
        result = self._owner(one.out)
        self.items[result], self._starts[result] = found, one.out
        return True

    def _divide(self, rows: int, one: Instruction) -> bool:
        """Take all instructions anew, with fewer and longer rows."""
        other = Rows(rows, self._owner)
        if not all(other._take(member, rows) for member in [*self.members, one]):
            return False
        self.rows, self.members, self.items, self._starts = rows, other.members, other.items, other._starts
        self.rounds = other.rounds
        return True

    def _shift(self, found: Sequence[Item]) -> int | None:
        """How many rounds later than its own number a row of these items must be computed; None if never."""
        shift = 0
        for item in found:
            for ref in item.operands:
                for writer in self.items.get(ref.result, ()):
                    if not writer.out.rows or ref.rows != writer.out.rows:
                        return None
                    last = ref.place + item.top(ref, 0) - self._starts[ref.result]
                    shift = max(shift, writer.shift + last // ref.rows)
        return shift if shift <= MOST_SHIFT else None

    def bases(self) -> dict[int, int]:
        """For each result that has a row in every round, the place where the row of round 0 begins."""
        first = {result: found[0] for result, found in self.items.items()}
        return {
            result: self._starts[result] - item.shift * item.out.rows
            for result, item in first.items() if item.out.rows
        }  # fmt: skip

    def body(self) -> list[Loop | Item]:
        """What is done in every round, loops of the same length put together. References have the places of round 0,
        and items the rounds in which they are computed, in `first`."""
        # What starts a sum over all rows is done before the loop.
        found = [_of_rounds(item) for item in self.all_items() if item.kind != SET or item.out.rows]
        _cut_alike(found)
        return fused([nested(item) for item in found], 0, self.bases())


def _of_rounds(item: Item) -> Item:
    """An item with the places and rows of round 0 in place of row 0."""
    out, *operands = (r._replace(place=r.place - item.shift * r.rows) for r in (item.out, *item.operands))
    return replace(item, out=out, operands=tuple(operands), first=item.first + item.shift)


def lags(item: Item, ref: Ref, bases: dict[int, int]) -> bool:
    """Whether an item reads rows that were computed in other rounds of the loop."""
    base = bases.get(ref.result)
    if base is None or not ref.rows:
        return False
    low, high = ref.place + item.bottom(ref, 0) - base, ref.place + item.top(ref, 0) - base
    return low < 0 or high >= ref.rows


def carried(item: Item, ref: Ref, bases: dict[int, int], items: dict[int, list[Item]], lanes: int) -> int | None:
    """How many rounds ago the number was computed that an item reads, where it can be carried from one round to the
    next in a register; None where it cannot."""
    writers = items[ref.result]
    if len(writers) > 1 or writers[0].kind != COMPUTE or writers[0].dims or any(ref.strides):
        return None
    (writer,) = writers
    back, rest = divmod(bases[ref.result] - ref.place, ref.rows)
    return back if not rest and ref.rows == writer.out.rows and 0 < back <= lanes else None


def is_worth_it(one: Instruction, rows: int | None) -> bool:
    """Whether an instruction is faster as a loop over rows in lanes than as the interpreter has it."""
    return rows is not None and (rows >= _FEWEST or one.count <= 4 * rows)


def _cut_alike(found: Sequence[Item]) -> None:
    """Cut the dimensions of items that go through as many numbers a row in the same way, where that is possible."""
    by_size: dict[int, list[Item]] = {}
    for item in found:
        size = 1
        for n in item.dims:
            size *= n
        by_size.setdefault(size, []).append(item)
    for same in by_size.values():
        cuts = sorted({cut for item in same for cut in _cuts(item.dims)})
        if all(b % a == 0 for a, b in pairwise(cuts)):
            for item in same:
                _cut(item, cuts)


def _cuts(dims: Sequence[int]) -> list[int]:
    found, size = [], 1
    for n in reversed(dims):
        size *= n
        found.append(size)
    return found


def _cut(item: Item, cuts: Sequence[int]) -> None:
    for at in range(len(item.dims) - 1, -1, -1):
        while True:
            below = 1
            for n in item.dims[at + 1 :]:
                below *= n
            inner = next((c // below for c in cuts if c > below and c < below * item.dims[at] and c % below == 0), None)
            if inner is None or item.dims[at] % inner:
                break
            item.dims = (*item.dims[:at], item.dims[at] // inner, inner, *item.dims[at + 1 :])
            item.out = _cut_ref(item.out, at, inner)
            item.operands = tuple(_cut_ref(ref, at, inner) for ref in item.operands)
            at += 1


def _cut_ref(ref: Ref, at: int, inner: int) -> Ref:
    stride = ref.at(at)
    return ref._replace(strides=(*ref.strides[:at], stride * inner, stride, *ref.strides[at + 1 :]))


def fused(nodes: Sequence[Loop | Item], depth: int, bases: dict[int, int]) -> list[Loop | Item]:
    """Loops of the same length put together where each round reads only what this one or earlier ones computed."""
    # Slot p is a loop and the items behind it; slot 0 has no loop. Where a result is complete: (slot, behind its loop).
    loops: list[Loop | None] = [None]
    behind: list[list[Item]] = [[]]
    complete: dict[int, tuple[int, int]] = {}
    for node in nodes:
        own = [node] if isinstance(node, Item) else list(node.items())
        at = max((complete.get(ref.result, (0, 0)) for item in own for ref in item.reads), default=(0, 0))
        if isinstance(node, Item):
            behind[at[0]].append(node)
            at = (at[0], 1)
        else:
            slot = _slot(node, own, at, loops, depth, bases)
            if slot is None:
                slot = len(loops)
                loops.append(node)
                behind.append([])
            else:
                of = loops[slot]
                assert of is not None
                of.body += node.body
            at = (slot, 0)
        for item in own:
            complete[item.out.result] = max(complete.get(item.out.result, (0, 0)), at)
    result: list[Loop | Item] = []
    for loop, after in zip(loops, behind, strict=True):
        if loop is not None:
            loop.body = fused(loop.body, depth + 1, bases)
            result.append(loop)
        result += after
    return result


def _slot(
    node: Loop, own: Sequence[Item], at: tuple[int, int], loops: Sequence[Loop | None], depth: int,
    bases: dict[int, int],
) -> int | None:  # fmt: skip
    last = loops[at[0]]
    if at[1] == 0 and last is not None and last.trip == node.trip and _fits(own, list(last.items()), depth, bases):
        return at[0]
    return next((p for p in range(len(loops) - 1, at[0], -1) if (of := loops[p]) and of.trip == node.trip), None)


def _fits(own: Sequence[Item], others: Sequence[Item], depth: int, bases: dict[int, int]) -> bool:
    """Whether each round of a loop reads only what the same round of another, or an earlier one, has computed."""
    writers: dict[int, list[Item]] = {}
    for other in others:
        writers.setdefault(other.out.result, []).append(other)
    for item in own:
        for ref in item.reads:
            for writer in writers.get(ref.result, ()):
                out = writer.out
                # What other rounds compute may be computed in other lanes of the same one.
                if lags(item, ref, bases):
                    return False
                if not ref.at(depth) or any(ref.at(d) != out.at(d) for d in range(depth + 1)):
                    return False
                if ref.place + item.top(ref, depth + 1) > out.place + writer.top(out, depth + 1):
                    return False
    return True


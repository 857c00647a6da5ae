"""The intermediate form of a program: loops over items, each of which computes one number in every round.

An instruction over many elements becomes a loop over *rows*, the elements of its first axis, and inside it loops over
what a row has. Instructions with as many rows share one loop. A place is that of the program's own arena: a base, and
for each loop around a stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tapegrad.ops import Elementwise

# What an item does: compute an operation; set a result to a number before others are put into it; or take an operand
# into a result that other rounds take theirs into, by a sum or by the larger or smaller of two.
COMPUTE, SET, ADD, MAX, MIN = "compute", "set", "add", "max", "min"
# With what SET begins, and what is taken in where there is nothing.
NEUTRAL = {ADD: 0.0, MAX: float("-inf"), MIN: float("inf")}


class Ref(NamedTuple):
    """Where a number stands.

    Attributes:
        result: the number of the instruction that computes it among all rows of the code.
        place: in row 0 and round 0 of all loops.
        rows: the stride from one row to the next; 0 where all rows read, or add to, one number.
        strides: for each loop inside the row, outermost first.
    """

    result: int
    place: int
    rows: int
    strides: tuple[int, ...] = ()

    def at(self, depth: int) -> int:
        """The stride of a loop, by its depth; 0 where the number is outside of it."""
        return self.strides[depth] if depth < len(self.strides) else 0


@dataclass(eq=False)
class Item:
    """What is computed in every round of the loops of `dims`, for rows from `first` on, `count` of them.

    `shift` says how many rows later than its own number a row is computed: row e in round e + shift.
    """

    kind: str
    out: Ref
    operands: tuple[Ref, ...]
    dims: tuple[int, ...]
    count: int
    row: Elementwise | None = None
    first: int = 0
    shift: int = 0
    # For SET: the number.
    number: float = 0.0
    # The rows of the result, where `first` and `count` are only some of these.
    height: int = 0

    @property
    def reads(self) -> tuple[Ref, ...]:
        """What it reads: where it takes something in, also what is there."""
        return (*self.operands, self.out) if self.kind in NEUTRAL else self.operands

    def top(self, ref: Ref, depth: int) -> int:
        """The largest offset from a reference's place in loops from a depth on."""
        return sum(max(0, (n - 1) * ref.at(d)) for d, n in enumerate(self.dims) if d >= depth)

    def bottom(self, ref: Ref, depth: int) -> int:
        """The smallest."""
        return sum(min(0, (n - 1) * ref.at(d)) for d, n in enumerate(self.dims) if d >= depth)


@dataclass(eq=False)
class Loop:
    """A loop inside a row."""

    trip: int
    body: list[Loop | Item] = field(default_factory=list)

    def items(self) -> Iterator[Item]:
        """All items in it."""
        return items_of(self.body)


def items_of(body: list[Loop | Item]) -> Iterator[Item]:
    """All items in a list of loops and items."""
    for node in body:
        if isinstance(node, Item):
            yield node
        else:
            yield from node.items()


def nested(item: Item) -> Loop | Item:
    """An item in the loops of its dimensions."""
    node: Loop | Item = item
    for trip in reversed(item.dims):
        node = Loop(trip, [node])
    return node

"""The loop over rows around what one round does.

Some rows are asked for: those that are taken into a sum, say, where the last vector has rows that are none, or the
first rows of a result get something added. To ask in every round takes a good part of the time where a round is short,
and the answer is the same in nearly all of them. So what a round does is written twice then: once as it must be at the
ends, and once for the long stretch in between, in a loop of its own that asks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tapegrad.native.outer import Pointers
from tapegrad.native.writer import Writer

# So many rounds in between are worth it, where a round has at most so many lines: code takes time to compile.
_LEAST, _MOST_LINES = 32, 500


class Round(NamedTuple):
    """What is done in a round, as it is written.

    Attributes:
        label: of the block that it begins with, which is not among the lines.
        row: the name of the number of its first row.
        lines: without what stands at the beginning of the block.
        carried: for each result that the next round reads, its name there and what it is in this round.
    """

    label: str
    row: str
    lines: list[str]
    carried: dict[int, tuple[str, str]]


def middle_of(edges: Iterable[tuple[int, int]], span: tuple[int, int], lanes: int) -> tuple[int, int]:
    """The longest stretch of rounds in a span, as its first row and the row behind it, in each of which all rows or
    none are among those that are asked for. `edges` are the first of these and the one behind the last.

    >>> middle_of([(0, 99), (1, 101)], (0, 104), 8)
    (8, 96)
    """
    first, last = span
    if first >= last:
        return first, first
    asked = [row for pair in edges for row in pair if first < row < last]
    cuts = {first, last, *(row // lanes * lanes for row in asked), *(-(-row // lanes) * lanes for row in asked)}
    # Not a round that only some of its rows are asked for.
    found = [pair for pair in pairwise(sorted(cuts)) if not any(pair[0] < row < pair[1] for row in asked)]
    return max(found, key=lambda pair: pair[1] - pair[0], default=(first, first))


def pays(lines: Sequence[str], middle: tuple[int, int], lanes: int) -> bool:
    """Whether a round is worth being written twice. Elementary functions that are written out take longer than all that
    is asked."""
    long = middle[1] - middle[0] >= _LEAST * lanes
    return long and len(lines) <= _MOST_LINES and not any("@tapegrad_" in line for line in lines)


def loop(
    w: Writer, outer: Pointers, ends: Round, quick: Round | None, middle: tuple[int, int], rounds: int, entry: str,
    after: str,
) -> list[str]:  # fmt: skip
    """The lines of the loop, from behind the block `entry` to before the block `after`.

    Args:
        w: the writer.
        outer: the pointers to arrays outside of the arena.
        ends: what a round does.
        quick: what it does in the rounds of `middle`; None where that is the same.
        rounds: how many rows there are.
    """
    low, high = middle
    latch, more, left = w.label("latch"), w.label("more"), w.label("left")
    kind, zero = w.type(True), "zeroinitializer"
    inner = [] if quick is None else _inner(w, ends, quick, middle, (entry if low == 0 else latch, left))
    # Where rounds at the ends begin: before the others, behind one of their own, or behind the others.
    starts = [(entry, "0", zero)] if quick is None or low > 0 else []
    if quick is None or low == 0:
        more = latch
    back = quick is not None and high < rounds
    following = w.name()
    comes = [*starts, (more, following, None), *([(left, str(high), None)] if back else [])]

    def phi(name: str, type_: str, values: Sequence[str]) -> str:
        pairs = ", ".join(f"[{value}, %{block}]" for value, (block, *_) in zip(values, comes, strict=True))
        return f"{name} = phi {type_} {pairs}"

    lines = [f"br label %{ends.label if starts else quick.label}", f"{ends.label}:"]  # type: ignore[union-attr]
    lines.append(phi(ends.row, "i64", [row for _, row, _ in comes]))
    for result, (name, now) in ends.carried.items():
        behind = [quick.carried[result][1]] if quick is not None and back else []
        lines.append(phi(name, kind, [*(zero for _ in starts), now, *behind]))
    for name, first, moved, there in outer.pointers(high):
        lines.append(phi(name, "ptr", [*(first for _ in starts), moved, *([there] if back else [])]))
    lines += ends.lines
    w.lines = lines
    lines += [f"br label %{latch}", f"{latch}:", f"{following} = add nuw nsw i64 {ends.row}, {w.lanes}"]
    outer.advance(following)
    if more != latch:
        there = w.new(f"icmp eq i64 {following}, {low}", False).text
        lines += [f"br i1 {there}, label %{quick.label}, label %{more}", f"{more}:"]  # type: ignore[union-attr]
    go = w.new(f"icmp ult i64 {following}, {rounds}", False).text
    lines.append(f"br i1 {w.unless_stopped(go)}, label %{ends.label}, label %{after}")
    if quick is not None:
        lines += [*inner, f"{left}:", f"br label %{ends.label if back else after}"]
    return lines


def _inner(
    w: Writer, ends: Round, quick: Round, middle: tuple[int, int], blocks: tuple[str, str]
) -> list[str]:
    """The loop over the rounds in between, which comes from the first of the blocks and goes on to the second."""
    low, high = middle
    before, left = blocks
    latch, following = w.label("latch"), w.name()
    lines = [f"{quick.label}:", f"{quick.row} = phi i64 [{low}, %{before}], [{following}, %{latch}]"]
    for result, (name, now) in quick.carried.items():
        start = ends.carried[result][1] if low > 0 else "zeroinitializer"
        lines.append(f"{name} = phi {w.type(True)} [{start}, %{before}], [{now}, %{latch}]")
    lines += [*quick.lines, f"br label %{latch}", f"{latch}:"]
    lines.append(f"{following} = add nuw nsw i64 {quick.row}, {w.lanes}")
    w.lines = lines
    go = w.new(f"icmp ult i64 {following}, {high}", False).text
    lines.append(f"br i1 {w.unless_stopped(go)}, label %{quick.label}, label %{left}")
    return lines

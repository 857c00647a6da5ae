"""Which results of a loop over rows are stored for later in the same round, and as how many vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapegrad.native.ir import ADD, COMPUTE, Item, Loop, Ref
from tapegrad.native.rows import Rows, lags

# What rounding loses of a sum over rows is added up as well, where the sums are at most so many, by the bytes of a
# number.
_EXACT = {8: 64, 4: 4096}


@dataclass
class Store:
    """Where the numbers of a result stand for the rows of one round: one vector for each offset from `low` on.

    Attributes:
        dropped: of so many outer loops every round uses the same vectors again.
        over_rows: whether it is one sum, or the like, for all rows.
    """

    low: int
    size: int
    dropped: int = 0
    over_rows: bool = False
    pointer: str = ""
    lost: str = ""


@dataclass
class _Use:
    item: Item
    ref: Ref
    path: tuple[Loop, ...]
    writes: bool


def stores_of(
    node: Rows, body: Sequence[Loop | Item], kept: Callable[[int], bool], lanes: int, itemsize: int
) -> dict[int, tuple[Store, bool]]:
    """For each result that is stored where, and whether what rounding loses of a sum is stored as well."""
    bases, uses = node.bases(), dict[int, list[_Use]]()
    _find_uses(node, body, (), bases, uses)
    found = {}
    for result, own in uses.items():
        over_rows = result not in bases
        if over_rows or _needs_store(own):
            # What is put together and read by others is stored behind the loops that do so, so all of it stays.
            whole = over_rows or (kept(result) and own[0].item.kind != COMPUTE)
            store, long = _store(node, result, own, over_rows, whole)
            found[result] = store, long and store.size <= _EXACT[itemsize] and node.rounds > 4 * lanes
    return found


def _find_uses(
    node: Rows, body: Sequence[Loop | Item], path: tuple[Loop, ...], bases: dict[int, int], uses: dict[int, list[_Use]]
) -> None:
    for part in body:
        if isinstance(part, Loop):
            _find_uses(node, part.body, (*path, part), bases, uses)
            continue
        for ref, writes in ((part.out, True), *((r, False) for r in part.operands)):
            if ref.result in node.items and not (not writes and lags(part, ref, bases)):
                uses.setdefault(ref.result, []).append(_Use(part, ref, path, writes))


def _needs_store(uses: Sequence[_Use]) -> bool:
    """Whether a result is read where it is not in a register."""
    writers = [use for use in uses if use.writes]
    if len(writers) > 1 or writers[0].item.kind != COMPUTE:
        return True
    (of,) = writers
    known = _trimmed(of.ref)
    return any(
        use.path[: len(of.path)] != of.path or use.ref.place != of.ref.place or _trimmed(use.ref) != known
        for use in uses
    )


def _store(
    node: Rows, result: int, uses: Sequence[_Use], over_rows: bool, whole: bool
) -> tuple[Store, bool]:
    common = 0
    paths, refs = [use.path for use in uses], [use.ref for use in uses]
    while (
        not whole
        and all(len(p) > common for p in paths)
        and len({id(p[common]) for p in paths}) == 1
        and len({r.at(common) for r in refs}) == 1
    ):
        common += 1
    lows = [use.ref.place + use.item.bottom(use.ref, common) for use in uses]
    highs = [use.ref.place + use.item.top(use.ref, common) for use in uses]
    if over_rows:
        # All of the result, since there may be numbers to which nothing is added.
        start = node.items[result][0]
        lows, highs = [start.out.place], [start.out.place + start.top(start.out, 0)]
    low, size = min(lows), max(highs) + 1 - min(lows)
    adds = any(use.item.kind == ADD for use in uses if use.writes)
    return Store(low, size, common, over_rows), over_rows and adds


def _trimmed(ref: Ref) -> tuple[int, ...]:
    strides = list(ref.strides)
    while strides and not strides[-1]:
        strides.pop()
    return tuple(strides)

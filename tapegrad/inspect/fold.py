"""Long tapes made short: blocks of instructions that repeat are shown once, and of what is still too much the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE, OUT, A, operand_spans, parameters
from tapegrad.tape import LEAF

# A repeat must save so many instructions to be folded: shorter ones are read more easily as they are.
_LEAST = 4
# So many operands of an instruction are compared place by place. What else it reads must lie at equal distances.
_COMPARED = 3


class Read(NamedTuple):
    """What instructions read: for each operand the position of its instruction, the number of the operand, and the row
    whose result it is taken from. Operands without elements are left out."""

    at: np.ndarray
    operand: np.ndarray
    owner: np.ndarray


class Folded(NamedTuple):
    """Instructions, of which those that repeat stand for each other.

    Attributes:
        rows: the instructions, ascending.
        first: for each of them the position, among `rows`, of the one that stands for it, which is the first of its
            kind; its own where it stands for itself.
        last: for each of them the position of the last one that it stands for.
        times: how many it stands for, itself included.
        links: (reader, operand, read) for everything that is read, positions of those that stand for others.
    """

    rows: np.ndarray
    first: np.ndarray
    last: np.ndarray
    times: np.ndarray
    links: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """The positions of the instructions that stand for themselves."""
        return np.flatnonzero(self.first == np.arange(len(self.first)))


def folded(code: np.ndarray, side: np.ndarray, rows: np.ndarray, fold: bool) -> Folded:
    """Some rows of a tape, ascending; repeats are folded if `fold`. What else they read is left out."""
    own = code[rows]
    reads = reads_of(code, side, rows)
    at = np.minimum(np.searchsorted(rows, reads.owner), len(rows) - 1)
    inside = rows[at] == reads.owner
    reads, at = Read(*(x[inside] for x in reads)), at[inside]
    first = np.arange(len(rows))
    if fold:
        steps = np.flatnonzero(own[:, OPCODE] != LEAF)
        if len(steps):
            keys, places = _items(own[steps], side)
            first[steps] = steps[_representatives(rolled(keys, places, _LEAST), len(steps))]
        leaves = own[:, OPCODE] == LEAF
        _fold_leaves(first, leaves, reads, at, own)
    times = np.bincount(first, minlength=len(first))
    last = first.copy()
    np.maximum.at(last, first, np.arange(len(first)))
    links = _distinct(first[reads.at], reads.operand, first[at])
    return Folded(rows, first, last[first], times[first], links)


def reads_of(code: np.ndarray, side: np.ndarray, rows: np.ndarray) -> Read:
    """What some rows of a tape read, each operand once."""
    own, outs = code[rows].astype(np.int64), code[:, OUT].astype(np.int64)
    scalar = np.flatnonzero((own[:, OPCODE] < RUN) & (own[:, OPCODE] != LEAF))
    arities = np.array([row.arity for row in TABLE])[own[scalar, OPCODE]]
    at, operand, place = [], [], []
    for j in range(3):
        has = arities > j
        at.append(scalar[has])
        operand.append(np.full(int(has.sum()), j))
        place.append(own[scalar[has], A + j])
    wide = [
        (i, j, start)
        for i in np.flatnonzero(own[:, OPCODE] >= RUN).tolist()
        for j, (start, low, high) in enumerate(operand_spans(side, int(own[i, A])))
        if high > low
    ]
    more = np.array(wide, np.int64).reshape(-1, 3).T
    of, number, where = (np.concatenate([*a, b]) for a, b in zip((at, operand, place), more, strict=True))
    return Read(of, number, np.searchsorted(outs, where, "right") - 1)


def _distinct(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The rows (a, b, c), each once, ascending. They are sorted as one number each: as rows it takes thirty times as
    long."""
    wide, high = int(c.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    found = np.sort((a * high + b) * wide + c)
    found, last = np.divmod(found[np.diff(found, prepend=-1) != 0], wide)
    return np.column_stack([*np.divmod(found, high), last])


def _items(own: np.ndarray, side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each step a number for what it does, and the places that it writes and reads."""
    keys, places = own[:, OPCODE].astype(np.int64), own[:, OUT:].astype(np.int64)
    known: dict[tuple[object, ...], int] = {}
    for i in np.flatnonzero(own[:, OPCODE] >= RUN).tolist():
        op, out, k, count = (int(x) for x in own[i, :4])
        spans = operand_spans(side, k)
        relative = tuple((low - start, high - start) for start, low, high in spans)
        rest = tuple(start - out for start, _, _ in spans[_COMPARED:])
        what = (op, count, relative, rest, *parameters(side, k))
        keys[i] = 2 * RUN + known.setdefault(what, len(known))
        read = [start for start, _, _ in spans[:_COMPARED]]
        places[i] = [out, *read, *[out] * (_COMPARED - len(read))]
    return keys, places


def _representatives(parts: Sequence[Straight | Repeat], count: int) -> np.ndarray:
    """For each item the one of the first round that it repeats."""
    first = np.arange(count)

    def fold(parts: Sequence[Straight | Repeat]) -> None:
        for part in parts:
            if isinstance(part, Repeat):
                fold(part.body)
                # What the first round is, all rounds are.
                end = part.start + part.period
                first[part.start : part.start + part.period * part.count] = np.tile(first[part.start : end], part.count)

    fold(parts)
    return first


def _fold_leaves(first: np.ndarray, leaves: np.ndarray, reads: Read, at: np.ndarray, own: np.ndarray) -> None:
    """Have leaves that are read alike, each in another round, stand for each other: the weights of a thousand steps."""
    of_leaves = leaves[at]
    if not of_leaves.any():
        return
    pairs = _distinct(at[of_leaves], first[reads.at[of_leaves]], reads.operand[of_leaves])
    repeated = np.bincount(first, minlength=len(first))[pairs[:, 1]] > 1
    known: dict[tuple[object, ...], list[int]] = {}
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    for low, high in zip(starts.tolist(), [*starts[1:].tolist(), len(pairs)], strict=True):
        if high - low <= 8 and repeated[low:high].all():
            leaf = int(pairs[low, 0])
            size, wanted = int(own[leaf, A + 1]), int(own[leaf, A])
            known.setdefault((size, wanted, pairs[low:high, 1:].tobytes()), []).append(leaf)
    for alike in known.values():
        if len(alike) > 2:
            first[alike] = alike[0]


def nearest(found: Folded, roots: Sequence[int], most: int) -> np.ndarray:
    """Of the instructions that stand for themselves those nearest to the results: at most so many, or the results
    alone. `roots` are positions; what is returned is too, ascending."""
    readers, read = found.links[:, 0], found.links[:, 2]
    kept = np.zeros(len(found.first), bool)
    level = np.unique(found.first[list(roots)])
    while len(level) and int(kept.sum()) + len(level) <= max(most, len(level) if not kept.any() else 0):
        kept[level] = True
        behind = np.unique(read[np.isin(readers, level)])
        level = behind[~kept[behind]]
    return np.flatnonzero(kept)

"""From straight programs to loops: blocks of items that repeat, with places that advance by constants."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from tapegrad.errors import ShapeError
from tapegrad.native.repeats import FAILURES, ROWS, SLOTS, find, tell_apart


class Straight(NamedTuple):
    """Items start .. start + length, each once."""

    start: int
    length: int


class Repeat(NamedTuple):
    """`count` rounds of `period` items, from item `start` on; `body` covers the items of the first round.

    In round k, item j of the first round is item j + k * period, with the same key, and its place in each column is
    places[j] + k * (places[j + period] - places[j]).
    """

    start: int
    period: int
    count: int  # type: ignore[assignment]  # hides a method of tuples that nobody needs here
    body: tuple[Straight | Repeat, ...]


def rolled(keys: np.ndarray, places: np.ndarray, least: int = 24) -> tuple[Straight | Repeat, ...]:
    """The items of a straight program as loops, nested where they can be.

    Item j has key keys[j], for whatever must be equal from round to round, and places[j], one for each column: of its
    result and of its operands, in any order. A repeat has three rounds or more, of any length, and saves `least` items
    or more. Items of the first round are rolled together if, besides, they advance alike from one outer round to the
    next. So in round k of the outer and round l of the inner repeat, a place is base + k * stride + l * inner stride.

    Takes time in proportion to the number of items, nearly. Not the best of all ways to roll a program, but one whose
    code is rarely much longer. Raises ShapeError if the arrays do not belong together.

    >>> import numpy as np
    >>> results = np.arange(100)
    >>> rolled(np.zeros(100), np.column_stack([results, results - 1, 2 * results]))
    (Repeat(start=0, period=1, count=100, body=(Straight(start=0, length=1),)),)
    """
    if np.ndim(keys) != 1 or np.ndim(places) != 2 or len(keys) != len(places):
        raise ShapeError(
            f"expected n keys and n rows of places, got arrays of shape {np.shape(keys)} and {np.shape(places)}"
        )
    least = max(1, least)
    keys, places = np.array(keys, np.int64), np.ascontiguousarray(places, np.int64)
    levels: list[list[list[int]]] = []
    starts, lengths = np.zeros(1, np.int64), np.full(1, len(keys))
    work, table = np.empty((ROWS, len(keys)), np.int64), np.empty((SLOTS, 2), np.int64)
    failed, at = np.empty((FAILURES, 2), np.int64), np.empty(2, np.int64)
    while len(starts):
        # Some of what is found is dropped again for better, hence room for twice as many as there can be.
        found = np.empty((2 * int(lengths.sum()) // least + 1, 4), np.int64)
        stretches = np.column_stack([starts, starts + lengths])
        found = found[: find(keys, places, stretches, least, found, work, table, failed, at)]
        found = found[np.argsort(found[:, 0])]
        levels.append(found[:, :3].tolist())
        # A round is searched next if it is long enough. There, items are alike if they advance alike as well.
        found = found[found[:, 1] > least]
        starts, lengths = found[:, 0], found[:, 1]
        names = np.empty(int(lengths.sum()), np.int64)
        slots = np.full(2 << len(names).bit_length(), -1)
        tell_apart(keys, places, found, names, slots, np.empty((len(names), 2), np.int64))
        keys[np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(len(names))] = names
    return _tree(levels, 0, 0, len(keys))


def _tree(levels: list[list[list[int]]], level: int, start: int, stop: int) -> tuple[Straight | Repeat, ...]:
    """Items start .. stop, with the repeats among them that were found at a level, and inside these at the next."""
    parts: list[Straight | Repeat] = []
    found = levels[level] if level < len(levels) else []
    for first, period, count in found[bisect_left(found, [start]) : bisect_left(found, [stop])]:
        if first > start:
            parts.append(Straight(start, first - start))
        parts.append(Repeat(first, period, count, _tree(levels, level + 1, first, first + period)))
        start = first + period * count
    if start < stop:
        parts.append(Straight(start, stop - start))
    return tuple(parts)

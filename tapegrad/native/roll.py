"""From straight programs to loops: blocks of items that repeat, with operands that advance by constants."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np

from tapegrad.native.repeats import find, tell_apart


class Straight(NamedTuple):
    """Items start .. start + length, each once."""

    start: int
    length: int


class Repeat(NamedTuple):
    """`count` rounds of `period` items, from item `start` on; `body` is what the first round consists of."""

    start: int
    period: int
    count: int
    body: tuple[Straight | Repeat, ...]


def rolled(keys: np.ndarray, places: np.ndarray, least: int = 24) -> tuple[Straight | Repeat, ...]:
    keys, places = np.array(keys, np.int64), np.ascontiguousarray(places, np.int64)
    levels = []
    stretches = np.array([[0, len(keys)]])
    while len(stretches):
        found = np.empty((int((stretches[:, 1] - stretches[:, 0]).sum()) // least * 2 + 1, 4), np.int64)
        found = found[: find(keys, places, stretches, least, found)]
        found = found[np.argsort(found[:, 0])]
        levels.append(found[:, :3].tolist())
        rounds = found[found[:, 1] > least // 2]
        stretches = np.stack([rounds[:, 0], rounds[:, 0] + rounds[:, 1]], axis=1)
        names = np.empty(int(rounds[:, 1].sum()), np.int64)
        tell_apart(keys, places, rounds, names)
        inside = np.repeat(rounds[:, 0] - np.cumsum(rounds[:, 1]) + rounds[:, 1], rounds[:, 1]) + np.arange(len(names))
        keys[inside] = names
    return _tree(levels, 0, 0, len(keys))


def _tree(levels: list[list[list[int]]], level: int, start: int, stop: int) -> tuple[Straight | Repeat, ...]:
    """Items start .. stop, with the repeats that were found at a level and those inside them."""
    parts: list[Straight | Repeat] = []
    repeats = levels[level] if level < len(levels) else []
    for first, period, count in repeats[bisect_left(repeats, [start]) : bisect_left(repeats, [stop])]:
        if first > start:
            parts.append(Straight(start, first - start))
        parts.append(Repeat(first, period, count, _tree(levels, level + 1, first, first + period)))
        start = first + period * count
    if start < stop:
        parts.append(Straight(start, stop - start))
    return tuple(parts)

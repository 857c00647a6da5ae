"""Which instruction made the number at a place.

The results of instructions are intervals of the arena, in ascending order. So nothing that is to be known of each place
needs an array as long as the arena: it is known of each interval, and a search finds the interval. For programs of
scalars the search is one look into an index; for long arrays the index is far shorter than the arena.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapegrad.compiled import compiled


class Owners(NamedTuple):
    """Intervals of the arena. Compiled code takes the three fields one after the other.

    Attributes:
        starts: where the intervals begin, ascending.
        blocks: for each block of places, the last interval that begins at or before the first place of the block.
        shift: a block has 2**shift places.
    """

    starts: np.ndarray
    blocks: np.ndarray
    shift: int

    def of(self, places: np.ndarray) -> np.ndarray:
        """For each place the last interval that begins at or before it; -1 where there is none."""
        return np.searchsorted(self.starts, places, "right") - 1

    def moved(self, place: int, to: np.ndarray) -> int:
        """Where the number at a place goes, if interval i goes to the places from to[i] on."""
        i = int(self.of(np.array([place]))[0])
        return int(place - self.starts[i] + to[i])


def owners(starts: np.ndarray) -> Owners:
    """The intervals that begin at `starts`, which ascend. Of those that begin at one place the last is found."""
    starts = starts.astype(np.int64)
    reach, shift = int(starts[-1]) if len(starts) else 0, 0
    # No more blocks than the code has numbers.
    while reach >> shift > 4 * len(starts):
        shift += 1
    blocks = (starts + ((1 << shift) - 1)) >> shift
    counts = np.bincount(blocks, minlength=(reach >> shift) + 2)
    return Owners(starts, (np.cumsum(counts) - 1).astype(np.int64), shift)


def owner(place, starts, index, shift):
    # As `Owners.of`, for compiled code.
    block = min(place >> shift, index.shape[0] - 2)
    low, high = index[block], index[block + 1]
    while low < high:
        middle = (low + high + 1) >> 1
        if starts[middle] <= place:
            low = middle
        else:
            high = middle - 1
    return low


def moved(place, starts, index, shift, to):
    # Where the number at a place goes, if the interval i goes to the places from to[i] on. A place in no interval is
    # that of an operand without elements: any place will do for it.
    i = owner(place, starts, index, shift)
    return place - starts[i] + to[i] if i >= 0 else np.int64(0)


@compiled(places="int64[:]", starts="int64[:]", index="int64[:]", shift="int64", to="int64[:]")
def translate(places, starts, index, shift, to):
    """Replace places by those where the numbers go: interval i goes to the places from to[i] on."""
    for i in range(places.shape[0]):
        places[i] = moved(places[i], starts, index, shift, to)


@compiled(old="uint8[:]", new="uint8[:]", starts="int64[:]", counts="int64[:]", to="int64[:]", size="int64")
def move_numbers(old, new, starts, counts, to, size):
    """Copy the numbers of intervals, of `size` bytes each, to the places from to[i] on, as far as `old` has them."""
    for i in range(starts.shape[0]):
        first, at = starts[i] * size, to[i] * size
        n = min(counts[i] * size, old.shape[0] - first)
        for j in range(n):
            new[at + j] = old[first + j]

"""The places of slots in the arena.

Slots are numbered by a counter that never goes back, so that a slot names the same number for ever. When instructions
are forgotten, the numbers that are kept move together in the arena, to other places. A list of ranges says which slots
are still on the tape, and at which places.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from tapegrad.errors import StaleValueError

_OPEN = 1 << 62
GONE = "this value is no longer on the tape: the tape was rewound past it, or what it was recorded with was lost"


class Addresses:
    """Ranges of slots: those from `first[i]` up to `ends[i]` are at the places from `places[i]` on, in order.

    The last range has no end yet: new slots are added to it.
    """

    __slots__ = ("ends", "first", "places")

    def __init__(self) -> None:
        self.first, self.ends, self.places = [0], [_OPEN], [0]

    def holds(self, slot: int) -> bool:
        """Whether a slot is still on the tape."""
        i = bisect_right(self.first, slot) - 1
        return i >= 0 and slot < self.ends[i]

    def place(self, slot: int) -> int:
        """The place of a slot. Raises StaleValueError if it is no longer on the tape."""
        i = bisect_right(self.first, slot) - 1
        if i < 0 or slot >= self.ends[i]:
            raise StaleValueError(GONE)
        return slot - self.first[i] + self.places[i]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ranges as arrays, for compiled code: (first, ends, places)."""
        return np.array(self.first), np.array(self.ends), np.array(self.places)

    def slots_of(self, places: np.ndarray) -> np.ndarray:
        """The slots of the numbers at given places."""
        at = np.searchsorted(self.places, places, "right") - 1
        return places - np.asarray(self.places)[at] + np.asarray(self.first)[at]

    @staticmethod
    def of(slots: np.ndarray, counts: np.ndarray, places: np.ndarray, next_slot: int, next_place: int) -> Addresses:
        """Ranges of slots: the counts[i] slots from slots[i] on are at the places from places[i] on.

        Both ascend. New slots will be numbered from `next_slot` and be at the places from `next_place` on. All other
        slots are no longer on the tape.
        """
        # Stretches that follow each other without a gap become one range.
        starts = np.ones(len(slots), bool)
        starts[1:] = slots[1:] != slots[:-1] + counts[:-1]
        stops = np.append(starts[1:], True) if len(slots) else starts
        found = Addresses()
        found.first = [*slots[starts].tolist(), next_slot]
        found.places = [*places[starts].tolist(), next_place]
        found.ends = [*(slots + counts)[stops].tolist(), _OPEN]
        return found

    def without(self, slot: int, next_slot: int, place: int) -> Addresses:
        """A copy without the slots from `slot` up to `next_slot`; later ones will be at the places from `place` on."""
        found, n = Addresses(), bisect_left(self.first, slot)
        found.first = [*self.first[:n], next_slot]
        found.places = [*self.places[:n], place]
        found.ends = [*(min(end, slot) for end in self.ends[:n]), _OPEN]
        return found

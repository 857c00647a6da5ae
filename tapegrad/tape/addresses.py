"""Where slots stand in the arena.

Slots are handed out from a counter that never goes back. When instructions are forgotten, those that stay move
together in the arena; a list of ranges says where each stretch of slots went.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from tapegrad.errors import StaleValueError

_OPEN = 1 << 62
GONE = "this value is no longer on the tape: the tape was rewound past it, or what it was recorded with was lost"


class Addresses:
    """Ranges of slots: from `first[i]` up to `ends[i]`, standing in the arena from `places[i]` on. The last is open."""

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
        """The ranges as compiled code reads them."""
        return np.array(self.first), np.array(self.ends), np.array(self.places)

    def slots_of(self, places: np.ndarray) -> np.ndarray:
        """The slots that stand at given places."""
        at = np.searchsorted(self.places, places, "right") - 1
        return places - np.asarray(self.places)[at] + np.asarray(self.first)[at]

    @staticmethod
    def of(slots: np.ndarray, counts: np.ndarray, places: np.ndarray, next_slot: int, next_place: int) -> Addresses:
        """Stretches of slots, in order, at their places; whatever is not named is gone."""
        # Neighbours that were neighbours before are one range.
        starts = np.ones(len(slots), bool)
        starts[1:] = slots[1:] != slots[:-1] + counts[:-1]
        stops = np.append(starts[1:], True) if len(slots) else starts
        found = Addresses()
        found.first = [*slots[starts].tolist(), next_slot]
        found.places = [*places[starts].tolist(), next_place]
        found.ends = [*(slots + counts)[stops].tolist(), _OPEN]
        return found

    def without(self, slot: int, next_slot: int, place: int) -> Addresses:
        """The same, less the slots from `slot` up to `next_slot`; those after stand from `place` on."""
        found = Addresses()
        found.first = [*self.first, next_slot]
        found.places = [*self.places, place]
        found.ends = [*self.ends[:-1], slot, _OPEN]
        return found

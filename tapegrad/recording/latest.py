"""How many recordings are kept."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")

# A static argument that is another one at every call would fill the memory with recordings.
MAX_RECORDINGS = 128


def keep(known: dict[Any, T], key: Any, recording: T) -> T:
    """Keep a recording, in place of the oldest where there are too many."""
    # Other threads may be at the same: a list is made in one step, and what is gone already does not matter.
    for oldest in list(known)[: max(0, len(known) + 1 - MAX_RECORDINGS)]:
        known.pop(oldest, None)
    known[key] = recording
    return recording

"""What a recording carries besides its arguments: numbers that live elsewhere, such as running statistics, which each
replay reads and may write; and random numbers, which are drawn anew for each replay.

`carrier` is what a function that is being recorded meets, `generator` what stands for a generator of NumPy's there.
"""

from tapegrad.carried.carrier import (
    Call,
    Carrier,
    Cell,
    NeedsCarrierError,
    Plan,
    UnplannedError,
    carrier_of_models,
    note_marks,
    note_mode,
    note_own_mode,
    nothing_is_written,
    read,
    write,
)
from tapegrad.carried.generator import RecordedGenerator, generators_in, is_generator, with_stand_ins

__all__ = [
    "Call", "Carrier", "Cell", "RecordedGenerator", "NeedsCarrierError", "Plan", "UnplannedError", "carrier_of_models",
    "generators_in", "is_generator", "note_marks", "note_mode", "note_own_mode", "nothing_is_written", "read",
    "with_stand_ins", "write",
]  # fmt: skip

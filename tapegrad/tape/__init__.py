"""The tape.

`tape` records and sweeps, `addresses` knows where slots went, `collect` forgets what nobody needs, `faults` explains
what a sweep refused, and `ambient` is where each thread's own tapes are.
"""

from tapegrad.sweeps.marks import EXPECT, LEAF
from tapegrad.tape.ambient import current_tape, recording_on, recording_tape
from tapegrad.tape.faults import operand_error, operand_spans
from tapegrad.tape.tape import Tape

__all__ = [
    "EXPECT", "LEAF", "Tape", "current_tape", "operand_error", "operand_spans", "recording_on", "recording_tape",
]  # fmt: skip

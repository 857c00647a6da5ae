"""The tape.

`tape` records and sweeps, `addresses` knows where slots went, `collect` forgets what nobody needs, `instruction` reads
what was recorded back, `faults` explains what a sweep refused, and `ambient` is where each thread's own tapes are.
"""

from tapegrad.sweeps.marks import EXPECT, LEAF
from tapegrad.tape.ambient import current_tape, on_fresh_tapes, recording_on, recording_tape
from tapegrad.tape.faults import operand_error, operand_spans
from tapegrad.tape.instruction import Instruction, Operand, instruction, views_of
from tapegrad.tape.tape import Tape

__all__ = [
    "EXPECT", "LEAF", "Instruction", "Operand", "Tape", "current_tape", "instruction", "on_fresh_tapes",
    "operand_error", "operand_spans", "recording_on", "recording_tape", "views_of",
]  # fmt: skip

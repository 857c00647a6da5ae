"""The tape.

`tape` records and sweeps. `writing` moves what was recorded from buffers to arrays, `addresses` knows the places of
slots, and `collect` forgets what is no longer needed; `loops` has the compiled passes of these. `instruction` reads an
instruction back, `kinds` tells integers and truth values from other numbers, `faults` makes the errors for operands
that a sweep refused, and `ambient` keeps the tapes of each thread, and `elsewhere` reads one in another
thread.
"""

from tapegrad.sweeps.marks import EXPECT, LEAF
from tapegrad.tape.ambient import current_tape, on_fresh_tapes, recording_on, recording_tape
from tapegrad.tape.elsewhere import given_numbers
from tapegrad.tape.faults import operand_error
from tapegrad.tape.instruction import Instruction, Operand, instruction, views_of
from tapegrad.tape.operands import operand_spans
from tapegrad.tape.tape import Tape

__all__ = [
    "EXPECT", "LEAF", "Instruction", "Operand", "Tape", "current_tape", "given_numbers", "instruction",
    "on_fresh_tapes", "operand_error", "operand_spans", "recording_on", "recording_tape", "views_of",
]  # fmt: skip

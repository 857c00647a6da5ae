"""Gradients of the same program, many times over: a flat tape of instructions, replayed at machine speed."""

from tapegrad import functions as _functions  # noqa: F401  (registers NumPy's functions)
from tapegrad.tape import Tape, current_tape
from tapegrad.value import Value

__all__ = ["Tape", "Value", "current_tape"]

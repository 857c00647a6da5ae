"""Functions as tapes: one `Program` for each path that a function took, and the `Branches` that are chosen between.

A program is a tape with its inputs first, to be replayed at other inputs; its guards tell when the function would have
taken another path. `Branches` keeps the programs of one function and finds, or records, the one that fits.
"""

from tapegrad.program.branches import MAX_BRANCHES, Branches
from tapegrad.program.program import Output, Part, Program

__all__ = ["MAX_BRANCHES", "Branches", "Output", "Part", "Program"]

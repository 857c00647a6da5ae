"""Recorded programs.

`Code` is what a program is, `build` makes it from a tape, a `Workspace` is what one replay needs for itself, and a
`Program` is replayed; `Branches` has a program for each path that a function took. `write` puts one on another tape.
"""

from tapegrad.program.again import can_be_written, write
from tapegrad.program.branches import Branches
from tapegrad.program.code import Code, Output
from tapegrad.program.program import Part, Program
from tapegrad.program.workspace import Workspace

__all__ = ["Branches", "Code", "Output", "Part", "Program", "Workspace", "can_be_written", "write"]

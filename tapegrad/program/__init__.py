"""Recorded programs.

`Code` has a program's instructions as plain arrays, and `build` makes it from a tape. A `Workspace` has the arrays that
one replay needs for itself. A `Program` replays code in workspaces. `Branches` has a program for each path that a
function took, `LoadedBranches` those that came from a file. `write` appends a program to another tape. `memory` limits
what all of them take.
"""

from tapegrad.program import builtins as builtins
from tapegrad.program.again import can_be_written, write, write_with
from tapegrad.program.branches import Branches
from tapegrad.program.code import Code, Output
from tapegrad.program.form import Form
from tapegrad.program.lean import Lean, Pushing
from tapegrad.program.loaded import LoadedBranches
from tapegrad.program.memory import memory_held, set_memory_limit
from tapegrad.program.program import Part, Program
from tapegrad.program.workspace import Workspace

__all__ = [
    "Branches", "Code", "Form", "Lean", "LoadedBranches", "Output", "Part", "Program", "Pushing", "Workspace",
    "can_be_written", "memory_held", "set_memory_limit", "write", "write_with",
]  # fmt: skip

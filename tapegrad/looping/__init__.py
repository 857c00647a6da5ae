"""Loops as one instruction each.

`trial` calls a step and finds out whether what it does is one program for all steps; `slices` makes that program, and
`effects` undoes what a step changes around it.
`body` has it, and the programs of its derivatives; `instruction` the two instructions, a loop and its gradient, and
how they are differentiated. They are carried out by `stepping`, which keeps states by the schedule of `revolve`, in
`machine`, where compiled code (`loops`) goes from step to step. `saved` has them in files,
`in_c` in exported C.
"""

from tapegrad.looping import in_c, saved
from tapegrad.looping.trial import looped

__all__ = ["in_c", "looped", "saved"]

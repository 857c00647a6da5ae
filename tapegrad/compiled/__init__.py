"""From Python functions to machine code: read as source, compiled by Numba once, kept on disk, called without Numba.

`source` gathers a function with all it names into one text, `build` has Numba compile it, `store` keeps the object
code, `machine` loads it by llvmlite, and `callable` has what the rest of the package uses: the decorator `compiled`,
and frames, in which arguments are handed over. A process that finds all compiled code on disk never imports Numba,
which would take longer than everything else that a first gradient does.
"""

from tapegrad.compiled.callable import Compiled, Frame, compiled, interpreted
from tapegrad.compiled.elements import ROOM, add_up, read, room, write
from tapegrad.compiled.marks import compiled_in, inlined

__all__ = [
    "ROOM", "Compiled", "Frame", "add_up", "compiled", "compiled_in", "inlined", "interpreted", "read", "room", "write",
]  # fmt: skip

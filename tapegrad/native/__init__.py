"""Programs as machine code: a recorded program becomes a list of loops, and these are compiled.

The passes, in their order: `loops` makes items of instructions over arrays, `rows` puts those of as many rows into one
loop, `schedule` orders all steps of a program, `places` says what is stored and where, `lanes` and `scalars` write
LLVM's language, for which `rules` runs the rules of the operation table on registers, and `build` has it compiled and
kept on disk. `program` has what is replayed, and `choice` when it is made.
"""

from tapegrad.native.program import Fresh, Native

__all__ = ["Fresh", "Native"]

"""Constants of the handwritten loops, and the mark in them that `generate` replaces."""

from tapegrad.ops import RUN, control
from tapegrad.ops.external import external

# Elements of a block in an elementwise run: enough that what a block costs besides its elements does not matter, and
# few enough that three blocks of operands and one of results stay in the first-level cache.
BLOCK = 1024
# Scratch space of a sweep: one block for each operand, and one for the adjoints of each.
SCRATCH = 6 * BLOCK
# Behind it stands one number, which a sweep sets where a kernel did not say that it came to its end.
LOST = SCRATCH

LEAF = control.leaf.opcode
EXPECT = control.expect.opcode
EXTERNAL = external.opcode + RUN


def SWITCH(sweep: str) -> bool:
    """Stands where `generate` puts a branch for every inlined operation of the table."""
    raise NotImplementedError(f"the {sweep} sweep is generated; see tapegrad.sweeps.generate")

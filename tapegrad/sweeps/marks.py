"""What the handwritten loops name and the generated module fills in."""

from tapegrad.ops import RUN, control
from tapegrad.ops.external import external

# Elements of a block in an elementwise run: what a block costs besides its elements must not show, and three blocks of
# operands and one of results should stay in the first-level cache.
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

"""Replaying a tape: forward, reverse and tangent sweeps.

`forward`, `reverse`, `tangent`, `operands` and `entry` are the handwritten loops, `generate` fills the table's
operations in, `kernels` keeps the operations over many elements, and `sweeps` hands out what is compiled. `lanes`
carries several directions at once, `callbacks` calls Python, `analysis` finds out what depends on what.
"""

from tapegrad.sweeps import callbacks
from tapegrad.sweeps.entry import ADJOINTS, VALUES
from tapegrad.sweeps.kernels import FORWARD, REVERSE, TANGENT
from tapegrad.sweeps.marks import BLOCK
from tapegrad.sweeps.sweeps import SEED, TASKS, Sweeps, scratch, sweeps_for

__all__ = [
    "ADJOINTS", "BLOCK", "FORWARD", "REVERSE", "SEED", "TANGENT", "TASKS", "VALUES", "Sweeps", "callbacks", "scratch",
    "sweeps_for",
]  # fmt: skip

"""Replaying a tape: forward, reverse and tangent sweeps.

`forward`, `reverse`, `tangent`, `operands` and `entry` are the handwritten loops. They are never called as Python
functions: `generate` reads them as source, fills in the operations of the table, and writes a module, which is
compiled. `kernels` keeps the compiled loops of single operations, and `sweeps` hands out the compiled sweeps. `lanes`
has the sweeps for several directions at once, `callbacks` calls Python functions from a sweep, and `analysis` finds out
what depends on what.
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

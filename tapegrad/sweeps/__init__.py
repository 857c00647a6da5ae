"""Replaying a tape: forward, reverse and tangent sweeps, compiled by Numba and cached on disk.

`forward`, `reverse`, `tangent`, `operands` and `entry` are the handwritten loops, `source` reads the rules, `generate`
writes the module that Numba compiles, `kernels` compiles and calls the operations over many elements, and `store` keeps
it all on disk. `lanes` carries several directions at once, `callbacks` calls Python. `sweeps_for` hands out the
compiled functions.
"""

from tapegrad.sweeps import callbacks
from tapegrad.sweeps.kernels import FORWARD, REVERSE, TANGENT
from tapegrad.sweeps.marks import BLOCK, SCRATCH
from tapegrad.sweeps.store import Sweeps, sweeps_for

__all__ = ["BLOCK", "FORWARD", "REVERSE", "SCRATCH", "TANGENT", "Sweeps", "callbacks", "sweeps_for"]

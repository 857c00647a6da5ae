"""Where a right-hand side jumps along a solution.

The derivative of a solution follows the variational equation only as long as the right-hand side is continuous. Where
it jumps because the state, or a parameter, crosses something, the time of the jump moves with the parameters, and the
derivative has a jump of its own, which no equation here knows of. It can be seen where the jump is a branch.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tapegrad.scipy.ode_numbers import Options, Solution
from tapegrad.scipy.ode_system import System

# In each step of the solver so many places are looked at.
_PLACES = 4
# By so much, relative to its size, a right-hand side must differ on both sides; and numbers are moved to see if the
# branch hangs on them.
_JUMP, _MOVED = 1e-6, 1e-5
_HALVINGS = 60


def first_jump(system: System, solution: Solution, theta: np.ndarray, options: Options) -> float | None:
    """The first time at which the right-hand side jumps, and not because of the time alone; None where there is none.

    A solution with dense output is expected. Nothing is evaluated unless the right-hand side has branched.
    """
    if not system.branches or solution.dense is None:
        return None
    ts = solution.dense.ts
    shares = np.arange(_PLACES) / _PLACES
    times = np.append((ts[:-1, None] + np.diff(ts)[:, None] * shares).reshape(-1), ts[-1]).tolist()

    def at(t: float) -> tuple[object, np.ndarray, np.ndarray]:
        z = np.concatenate([solution.trajectory.y(t), theta])
        return *system.branch(t, z), z

    before = at(times[0])
    for low, high in pairwise(times):
        now = after = at(high)
        if after[0] is not before[0]:
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                if middle in (low, high):
                    break
                found = at(middle)
                if found[0] is before[0]:
                    low, before = middle, found
                else:
                    high, after = middle, found
            size = max(np.max(np.abs(before[1])), np.max(np.abs(after[1])))
            # Interpolations of neighbouring steps agree to about the tolerance only.
            jumps = np.max(np.abs(after[1] - before[1])) > max(_JUMP, 10.0 * options.rtol) * size
            if jumps and (_hangs_on(system, low, before) or _hangs_on(system, high, after)):
                return high
        before = now
    return None


def _hangs_on(system: System, t: float, place: tuple[object, np.ndarray, np.ndarray]) -> bool:
    """Whether the branch taken at a place is another one where the state or a parameter is a little different."""
    branch, _, z = place
    for i, x in enumerate(z):
        for sign in (1.0, -1.0):
            moved = z.copy()
            moved[i] += sign * _MOVED * max(1.0, abs(x))
            if system.branch(t, moved)[0] is not branch:
                return True
    return False

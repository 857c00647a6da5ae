"""What depends on which inputs of a program, and the flags that say so to sweeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapegrad.ops import passive_rows
from tapegrad.ops.record import OUT
from tapegrad.program.code import Code
from tapegrad.sweeps.analysis import EACH, activate
from tapegrad.sweeps.owners import owners


def flags_of(code: Code, groups: np.ndarray, wrt: Sequence[int]) -> np.ndarray:
    """The flags for the gradient with respect to inputs, by their numbers; `groups` are flags to begin with."""
    active, flags = np.zeros(len(code.rows), np.uint8), groups.copy()
    # What an instruction makes is active as a whole or not at all, so one mark for each is enough. The inputs were
    # recorded first.
    active[list(wrt)] = 1
    activate(code.steps, code.side, flags, *owners(code.rows[:, OUT]), active, passive_rows(), 0, len(code.steps))
    return flags


def flow_from(
    code: Code, steps: np.ndarray, groups: np.ndarray, sources: np.ndarray, passive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A mark for each place of the arena, of those that depend on the numbers at places `sources` through some steps,
    and the flags of these steps."""
    flags, active = groups.copy(), np.zeros(code.size + 1, np.uint8)
    active[sources] = 1
    activate(steps, code.side, flags, *EACH, active, passive, 0, len(steps))
    return active, flags

"""Long loops of which a gradient keeps few states."""
from __future__ import annotations
import functools
from typing import Any

class _CheckpointedLoop:
    @property
    def _numba_type_(self):
        from tapegrad.njit.leash import numba_type
        return numba_type()
    def __call__(self, step, state, n, *args, memory_limit=None):
        for i in range(n):
            state = step(state, i, *args)
        return state
checkpointed_loop = _CheckpointedLoop()

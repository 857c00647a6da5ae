"""Whether random numbers were drawn: the states of generators, before and after."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np


def generators() -> tuple[type, ...]:
    """The classes of random generators, so far as they are imported: NumPy imports its own when somebody asks for them.
    """
    module = sys.modules.get("numpy.random")
    return (random.Random,) if module is None else (random.Random, module.Generator, module.RandomState)


def states(own: Iterable[Any], shared: bool) -> list[Any]:
    """What tells how far some generators have come; if `shared`, those that `random` and `np.random` share as well."""
    found: list[Any] = []
    if shared:
        found.append(random.getstate())
        module = sys.modules.get("numpy.random.mtrand")
        if module is not None:
            found.append(_position(module._rand.get_state(legacy=False)))
    for generator in own:
        if isinstance(generator, random.Random):
            found.append(generator.getstate())
        elif hasattr(generator, "get_state"):
            found.append(_position(generator.get_state(legacy=False)))
        else:
            found.append(_position(generator.bit_generator.state))
    return found


def _position(state: Any) -> Any:
    """A state whose arrays can be compared like numbers."""
    if isinstance(state, dict):
        return {key: _position(x) for key, x in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state

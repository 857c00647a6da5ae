"""The derivative of a program along a direction, nested as its outputs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.program import Program, Pushing, Workspace


def pushing(along: dict[int, np.ndarray]) -> Callable[[Program], Pushing]:
    """What to replay in place of a program, so that tangents are computed beside values."""
    return lambda program: Pushing(program, along)


def tangent(pushing: Pushing, workspace: Workspace) -> Any:
    """The tangents of the outputs, nested, after such a replay."""
    return shown(pushing.program, pushing.tangent(workspace))


def pushed(program: Program, values: np.ndarray, along: dict[int, np.ndarray]) -> Any:
    """The same, for the values of a replay that is over."""
    return shown(program, program.push(values, along))


def shown(program: Program, tangents: Sequence[np.ndarray | None]) -> Any:
    """The tangents of the outputs of a program, nested as these are."""
    program.check_numbers()
    shown = [
        np.zeros(o.shape, program.code.dtype)[()] if t is None else float(t) if not o.shape else t
        for t, o in zip(tangents, program.code.outputs, strict=True)
    ]
    return pytree.unflatten(program.structure, shown)

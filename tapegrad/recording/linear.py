"""Functions linearised at given arguments, as `vjp`, `linearize` and `make_hvp` return them.

Where a compiled program computes the derivative, it is replayed at each direction, and nothing is kept but the
arguments. Else all numbers of one replay are kept, and swept forward or back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.program import Branches, Program, Workspace
from tapegrad.recording.derived import Derived
from tapegrad.recording.held import Held
from tapegrad.recording.tangents import pushed, shown
from tapegrad.sweeps import VALUES

# From cotangents of the outputs to those of inputs, in order; and from tangents of inputs, by number, to a result.
Seeds = Sequence[np.ndarray | None]
Pull = Callable[[Seeds], list[np.ndarray]]
Push = Callable[[dict[int, np.ndarray]], Any]


class Linear:
    """Linearises a recording.

    Args:
        branches: of the function.
        derived: its derivative programs.
    """

    def __init__(self, branches: Branches, derived: Derived) -> None:
        self._branches, self._derived = branches, derived

    def backward(self, leaves: Sequence[Any], inputs: tuple[int, ...]) -> tuple[Any, Program, Pull]:
        """The result at leaves of arguments, its program, and the function from cotangents to those of inputs."""
        held, result, program, count = self._derived.held_vjp(self._branches, leaves, inputs)
        if held is not None:
            return result, program, _pulling(held, [program.shapes[w] for w in inputs])
        result, program, values = _kept(self._branches, leaves)

        def pull(seeds: Seeds) -> list[np.ndarray]:
            count()
            return program.pull(values, seeds, inputs)

        return result, program, pull

    def forward(self, leaves: Sequence[Any]) -> tuple[Any, Push]:
        """The result at leaves of arguments, and the function from tangents of inputs to that of the result."""
        inputs = self._branches.program.floats
        held, result, program, count = self._derived.held_jvp(self._branches, leaves, inputs)
        if held is not None:
            return result, lambda along: shown(program, held([along.get(w) for w in inputs]))
        result, program, values = _kept(self._branches, leaves)
        return result, _pushing(program, values, count)

    def product(
        self, gradient: Callable[[], Branches], leaves: Sequence[Any], inputs: tuple[int, ...], argnums: Any
    ) -> Push:
        """The function from tangents of inputs to the Hessian times them. `gradient` makes the recording of the
        gradient, where that is needed."""
        held, count = self._derived.held_hvp(leaves, inputs, argnums)
        if held is not None:
            return lambda along: shown(held.program, held([along.get(w) for w in inputs]))
        _, program, values = _kept(gradient(), leaves)
        return _pushing(program, values, count)


def _pulling(held: Held, shapes: Sequence[tuple[int, ...]]) -> Pull:
    dtype = held.program.code.dtype

    def pull(seeds: Seeds) -> list[np.ndarray]:
        found = zip(held(seeds), shapes, strict=True)
        return [np.zeros(shape, dtype) if g is None else g for g, shape in found]

    return pull


def _pushing(program: Program, values: np.ndarray, count: Callable[[], None]) -> Push:
    def push(along: dict[int, np.ndarray]) -> Any:
        count()
        return pushed(program, values, along)

    return push


def _kept(branches: Branches, leaves: Sequence[Any]) -> tuple[Any, Program, np.ndarray]:
    """The result of a replay, its program, and a copy of the arena, which later replays do not change."""

    def read(program: Program, workspace: Workspace) -> tuple[Any, Program, np.ndarray]:
        program.check_numbers()
        return program.result(workspace), program, workspace.values.copy()

    return branches.replay(leaves, VALUES, None, read)

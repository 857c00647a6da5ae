"""Functions linearised at given arguments, as `vjp`, `linearize` and `make_hvp` return them.

Where a compiled program computes the derivative, it is replayed at each direction, and nothing is kept but the
arguments. Else all numbers of one replay are kept, and swept forward or back.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.program import Branches, Form, Program, Workspace
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
        derived = self._derived

        def key_of(program: Program) -> Any:
            shapes = [o.shape for o in program.code.outputs]
            return derived.named(("vjp", None, tuple(shapes)), derived.writing.vjp(inputs), shapes)

        held, count, found = self._hold_with_value(leaves, key_of, lambda program: len(inputs))
        if held is not None:
            result, program = found
            return result, program, _pulling(held, [program.shapes[w] for w in inputs])
        result, program, values = _kept(self._branches, leaves)

        def pull(seeds: Seeds) -> list[np.ndarray]:
            count()
            return program.pull(values, seeds, inputs)

        return result, program, pull

    def forward(self, leaves: Sequence[Any]) -> tuple[Any, Push]:
        """The result at leaves of arguments, and the function from tangents of inputs to that of the result."""
        inputs = self._branches.program.floats
        key = self._derived.forward_key(inputs)
        held, count, found = self._hold_with_value(leaves, lambda _: key, lambda program: len(program.code.outputs))
        if held is not None:
            result, program = found
            return result, lambda along: shown(program, held([along.get(w) for w in inputs]))
        result, program, values = _kept(self._branches, leaves)
        return result, _pushing(program, values, count)

    def product(
        self, gradient: Callable[[], Branches], leaves: Sequence[Any], inputs: tuple[int, ...], argnums: Any
    ) -> Push:
        """The function from tangents of inputs to the Hessian times them. `gradient` makes the recording of the
        gradient, where that is needed."""
        key = self._derived.product_key(argnums, inputs)
        # Nobody has swept at the arguments, so a sweep says whether anything is wrong with them.
        held = self._hold(key, leaves, None, always=True)
        if held is not None:
            return lambda along: shown(held.program, held([along.get(w) for w in inputs]))
        _, program, values = _kept(gradient(), leaves)
        return _pushing(program, values, self._counting(key))

    def _hold_with_value(
        self, leaves: Sequence[Any], key_of: Callable[[Program], Any], results: Callable[[Program], int]
    ) -> tuple[Held | None, Callable[[], None], tuple[Any, Program]]:
        """The derivative of the branch that arguments take, held at these, or None; what counts that sweeps compute it
        instead; and where it is held, the result there and its program."""
        found, key = (None, self._branches.program), key_of(self._branches.program)
        if self._derived.compiles(key) and not self._branches.program.foreign:
            found = self._branches.replay(leaves, VALUES, None, _result_and_program, lean=self._derived.results)
            key = key_of(found[1])
        return self._hold(key, leaves, results(found[1])), self._counting(key), found

    def _hold(self, key: Any, leaves: Sequence[Any], results: int | None, always: bool = False) -> Held | None:
        """A derivative held at arguments, whose branch a sweep finds where guards have a say, or `always`."""
        derived = self._derived
        if self._branches.program.foreign:
            derived.refused[key] = "it calls Python functions, which are not called again for each direction"
            return None
        seeds = derived.zeros(key)

        def hold(branches: Branches, leaves: Sequence[Any]) -> Held:
            program = branches.fitting(leaves, derived.form_of, always)
            return Held(program, leaves, len(seeds), results, derived.mode)

        found: Held | None = derived.ask(key, leaves, seeds, hold)
        return found

    def _counting(self, key: Any) -> Callable[[], None]:
        # What is held may live longer than the recording.
        return functools.partial(_spend, weakref.ref(self._derived), key)


def _spend(own: weakref.ref[Derived], key: Any) -> None:
    derived = own()
    if derived is not None:
        derived.spend(key, 1)


def _result_and_program(form: Form, workspace: Workspace) -> tuple[Any, Program]:
    form.whole.check_numbers()
    return form.result(workspace), form.whole


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

"""Jacobians and Hessians by compiled programs.

In each method None stands for: it is to be computed by sweeps of the interpreter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native import choice
from tapegrad.program import Branches, Program, can_be_written
from tapegrad.recording.derived import Derived, Rival, Shapes
from tapegrad.recording.directions import Directions
from tapegrad.recording.lanes_back import lanes_back
from tapegrad.sparse import CompressedJacobian, as_positions

# The most lanes of a matrix that are written as one program.
_MOST_LANES = 16
# And the most instructions of the function that are written for all of them. Where a dense matrix needs more, so many
# are for the directions of one replay. Second derivatives have so many for each.
_WRITTEN, _LANES, _SECOND = 4096, 2048, 4


class CompiledMatrices:
    """The matrices of derivatives of one recording that compiled programs compute.

    Args:
        derived: its derivative programs.
    """

    def __init__(self, derived: Derived) -> None:
        self._derived = derived
        # For each dense matrix the directions that it is computed along, and the first of them as arguments.
        self._directions: dict[Any, tuple[Directions, list[np.ndarray]]] = {}

    def sparse(self, compressed: CompressedJacobian, leaves: Sequence[Any], argnums: Any, symmetric: bool) -> Any:
        """A sparse Jacobian, or where `symmetric` a Hessian, as a `scipy.sparse.csr_array`."""
        if compressed.count > _MOST_LANES or compressed.program.foreign or not can_be_written(compressed.program):
            return None
        back = lanes_back(compressed) if compressed.back else None
        if compressed.back and back is None:
            return None
        key = "matrix", argnums, symmetric, id(compressed)
        if key not in self._derived.asked():
            # The function was recorded again, and has another pattern: that before is not asked for any more.
            self._derived.drop(key[:3])
        self._derived.named(key, back or self._derived.writing.sparse(argnums, compressed, symmetric))
        return self._derived.answer(key, leaves, read=functools.partial(_entries, compressed))

    def jacobian(
        self, branches: Branches, leaves: Sequence[Any], wrt: tuple[int, ...], argnums: Any, back: bool | None
    ) -> tuple[Program, np.ndarray] | None:
        """The program that the arguments take, and its Jacobian with respect to inputs, (outputs, inputs); from the
        outputs back if `back`, and where that is None it is chosen."""
        if self._derived.mode == choice.NEVER:
            return None
        count = sum(map(math.prod, self._derived.shapes(wrt)))

        def key_of(program: Program) -> Any:
            outputs = [o.shape for o in program.code.outputs]
            own = sum(map(math.prod, outputs)) <= count if back is None else back
            return self._along(("jacobian", argnums, own, tuple(outputs)), branches.program, wrt, outputs, own)

        program, key = branches.program, key_of(branches.program)
        if self._derived.compiles(key):
            program = branches.fitting(leaves, self._derived.form_of)
            key = key_of(program)
        found = self._dense(key, leaves, wrt, lambda: branches.program)
        return None if found is None else (program, found)

    def hessian(
        self, program: Program, leaves: Sequence[Any], wrt: tuple[int, ...], rows: Shapes, argnums: Any,
        gradient: Callable[[], Branches],
    ) -> np.ndarray | None:  # fmt: skip
        """The Hessian of a program's function with respect to inputs. `rows` are the shapes of what the gradient
        consists of, and `gradient` makes the recording of it that sweeps would go over."""
        if self._derived.mode == choice.NEVER:
            return None
        key = self._along(("hessian", argnums), program, wrt, rows, None)
        return self._dense(key, leaves, wrt, lambda: gradient().program)

    def _along(self, key: Any, program: Program, wrt: tuple[int, ...], outputs: Shapes, back: bool | None) -> Any:
        """The key of a dense matrix; of second derivatives where `back` is None."""
        if key not in self._directions:
            each = max(1, choice.written_out(program) * (_SECOND if back is None else 1))
            most, width = min(_MOST_LANES, _WRITTEN // each), max(1, min(_MOST_LANES, _LANES // each))
            inputs = self._derived.shapes(wrt)
            along = Directions(inputs, outputs, bool(back), program.code.dtype, most, width)
            self._directions[key] = along, [] if along.constant else along.seeds(0)
            self._derived.named(key, self._derived.writing.dense(key[1], wrt, along, back is None), along.shapes())
        return key

    def _dense(
        self, key: Any, leaves: Sequence[Any], wrt: tuple[int, ...], swept: Callable[[], Program]
    ) -> np.ndarray | None:
        along, seeds = self._directions[key]
        if not along.count or not along.size:
            return None

        def rival() -> Rival:
            program = swept()
            return along.replays, lambda: along.seconds_by_sweeps(program, wrt)

        found: np.ndarray | None = self._derived.answer(key, leaves, seeds, along.matrix, along.count, rival)
        return found


def _entries(compressed: CompressedJacobian, program: Any, workspace: Any) -> Any:
    """The matrix, from the results of all lanes."""
    at = program.positions
    if at is None:
        lanes, rows = compressed.positions()
        outputs = program.code.outputs
        # A result that is constant has no place: the number behind all others is zero.
        zero = len(workspace.values) - 1
        places = [np.full(math.prod(o.shape), zero) if o.places is None else o.places for o in outputs]
        each = np.concatenate(places).reshape(compressed.count, -1)
        each = np.append(each, np.full((compressed.count, 1), zero), axis=1)
        at = program.positions = as_positions(each[lanes, rows])
    return compressed.matrix_at(workspace.values, at)

"""Jacobians and Hessians of a recording: dense ones, and sparse ones by patterns and colours that are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation
from tapegrad.errors import UnsupportedError
from tapegrad.program import Branches, Program, Workspace
from tapegrad.recording.compiled_matrices import CompiledMatrices
from tapegrad.recording.derived import Derived
from tapegrad.recording.plans import Plan, Plans, hashable
from tapegrad.sparse import CompressedJacobian, Sparsity, analyse
from tapegrad.sweeps import VALUES

# The most sparsity patterns of one function that are kept: each branch, and each index array given, has its own.
MAX_PATTERNS = 16

# For each output its shape, and whether a matrix has rows for it.
Rows = Sequence[tuple[tuple[int, ...], bool]]


def check_plain(args: Sequence[Any]) -> None:
    """Raise UnsupportedError for arguments with Values, of which no sparse matrix can be made."""
    if evaluation.on_tape(args):
        raise UnsupportedError("a sparse matrix is no Value: inside a recorded function, ask for a dense one")


class Matrices:
    """The matrices of derivatives of one recording."""

    def __init__(self, plans: Plans, derived: Derived) -> None:
        self._plans, self._compiled = plans, CompiledMatrices(derived)
        self._compressed: dict[Any, tuple[Program, CompressedJacobian]] = {}

    def jacobian(
        self, branches: Branches, leaves: Sequence[Any], argnums: int | Sequence[int], back: bool | None
    ) -> Any:
        """The Jacobian at leaves of arguments, from the outputs back if `back`; None to choose."""
        plan = self._plans.plan(argnums)
        found = self._compiled.jacobian(branches, leaves, plan.chosen, hashable(argnums), back) if plan.chosen else None
        if found is None:
            return branches.replay(leaves, VALUES, None, self._swept, plan, back)
        program, matrix = found
        return self._nested(program, plan, program.structure, [(o.shape, True) for o in program.code.outputs], matrix)

    def hessian(
        self, program: Program, gradient: Callable[[], Branches], leaves: Sequence[Any], argnums: int | Sequence[int]
    ) -> Any:
        """The Hessian at leaves of arguments. `gradient` makes the recording of the gradient, where it is needed."""
        plan = self._plans.plan(argnums)
        structure, inputs = self._plans.gradient(plan)
        rows = [program.shapes[w] for w in inputs]
        matrix = self._compiled.hessian(program, leaves, plan.chosen, rows, hashable(argnums), gradient)
        if matrix is None:
            return gradient().replay(leaves, VALUES, None, self._swept, plan, False)
        return self._nested(program, plan, structure, [(shape, True) for shape in rows], matrix)

    def _swept(self, program: Program, workspace: Workspace, plan: Plan, back: bool | None) -> Any:
        """The Jacobian of a program after a sweep."""
        program.check_numbers()
        places = program.code.output_places
        if back is None:
            back = len(places) <= len(program.places_of(plan.chosen))
        matrix = program.jacobian(workspace, places, plan.chosen, back)
        rows = [(o.shape, o.place is not None) for o in program.code.outputs]
        return self._nested(program, plan, program.structure, rows, matrix)

    def _nested(self, program: Program, plan: Plan, structure: Any, rows: Rows, matrix: np.ndarray) -> Any:
        """A matrix nested as the outputs, and within them as the arguments of a plan. For each output `rows` has its
        shape, and whether the matrix has rows for it, as it need not where the output is a constant."""
        shown, row = [], 0
        for outer, present in rows:
            blocks, column = {}, 0
            for number in plan.chosen:
                n = program.code.spans[number][1]
                shape = outer + program.shapes[number]
                if present:
                    block = matrix[row : row + math.prod(outer), column : column + n]
                    # A part of a larger matrix is copied, so that it does not keep that.
                    whole = block.shape == matrix.shape
                    blocks[number] = np.array(block, order="C", copy=None if whole else True).reshape(shape)
                else:
                    blocks[number] = np.zeros(shape, matrix.dtype)
                column += n
            row += math.prod(outer) if present else 0
            shown.append(self._plans.shaped(plan, blocks, copy=False))
        return pytree.unflatten(structure, shown)

    def sparsity(
        self, branches: Branches, leaves: Sequence[Any] | None, argnums: int | Sequence[int], symmetric: bool
    ) -> Sparsity:
        """The pattern at leaves of arguments; where there are none, of the branch replayed last."""

        def read(program: Program, workspace: Workspace) -> Sparsity:
            return self._compress(program, workspace, argnums, symmetric).sparsity

        if leaves is None:
            return read(branches.program, branches.program.latest())
        found: Sparsity = branches.replay(leaves, VALUES, None, read)
        return found

    def evaluate(
        self, branches: Branches, leaves: Sequence[Any], argnums: int | Sequence[int], symmetric: bool
    ) -> Any:
        """The Jacobian of branches at leaves of arguments; the Hessian, where `symmetric` says that they are those of
        the gradient."""
        program = branches.program
        if not len(program.guards) and not program.indexing and not branches.stale:
            # The pattern is the same whatever the arguments are.
            known = self._compressed.get((id(program), hashable(argnums), symmetric, b""))
            if known is not None and known[0] is program:
                found = self._compiled.sparse(known[1], leaves, hashable(argnums), symmetric)
                if found is not None:
                    return found

        def read(program: Program, workspace: Workspace) -> Any:
            program.check_numbers()
            return self._compress(program, workspace, argnums, symmetric).evaluate(workspace)

        return branches.replay(leaves, VALUES, None, read)

    def _compress(
        self, program: Program, workspace: Workspace, argnums: int | Sequence[int], symmetric: bool
    ) -> CompressedJacobian:
        # Integers among the inputs may be indices, which the pattern depends on.
        indices = workspace.values[program.places_of(program.indexing)].tobytes()
        key = (id(program), hashable(argnums), symmetric, indices)
        known = self._compressed.get(key)
        if known is None or known[0] is not program:
            for oldest in list(self._compressed)[: max(0, len(self._compressed) + 1 - MAX_PATTERNS)]:
                # Another thread may have taken it out.
                self._compressed.pop(oldest, None)
            chosen = self._plans.plan(argnums).chosen
            known = self._compressed[key] = program, analyse(program, workspace, chosen, symmetric)
        return known[1]

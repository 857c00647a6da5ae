"""Derivatives of a recording as programs of their own, which are compiled."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives
from tapegrad.arguments import spec_of
from tapegrad.native import choice
from tapegrad.program import Branches, can_be_written
from tapegrad.recording.compiled_way import compiled_way
from tapegrad.recording.direct import Short
from tapegrad.sweeps import VALUES


class Derived:
    """The derivative programs of one recording.

    Args:
        recording: it refers to this, so it is referred to weakly.
        mode: how programs are carried out; see `tapegrad.native.choice`.
    """

    def __init__(self, recording: Any, mode: str) -> None:
        self._recording = weakref.ref(recording)
        self.mode = mode
        self._known: dict[Any, Branches] = {}

    def results(self, program: Any) -> Any:
        """What to replay for the results of a program."""
        return choice.form_of(program, self.mode)

    def value_and_grad(self, leaves: Sequence[Any], argnums: Any, has_aux: bool) -> tuple[Any, Any] | None:
        """Value and gradient, by a compiled program; None where the sweeps of the interpreter are to be used."""
        key = ("value_and_grad", argnums, has_aux)
        if not self._is_worth_it(key):
            return None
        structure = self._structure()

        def both(*leaves: Any) -> Any:
            args = pytree.unflatten(structure, leaves)
            return derivatives.value_and_grad(self._written, args, argnums, has_aux)

        found: tuple[Any, Any] | None = self._replay(key, both, tuple(leaves))
        return found

    def form(self, argnums: Any) -> Any:
        """What computes value and gradient: machine code, or None where it is the interpreter."""
        branches = self._known.get(("value_and_grad", argnums, False))
        return None if branches is None else branches.program.native

    def short_way(self, argnums: Any, holds: Any) -> Short | None:
        """The short way to value and gradient by a compiled program; None where there is none."""
        branches = self._known.get(("value_and_grad", argnums, False))
        if branches is None or branches.program.native is None or branches.stale:
            return None
        return compiled_way(branches.program.native, branches.spec, self._structure(), holds)

    def hvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray], argnums: Any) -> Any:
        """The Hessian times tangents of inputs, by number; None where it is to be interpreted."""
        key = ("hvp", argnums, tuple(along))
        if not self._is_worth_it(key):
            return None

        def product(leaves: Sequence[Any], *tangents: Any) -> Any:
            gradient = derivatives.gradient_of(self._written, argnums)
            args = pytree.unflatten(self._structure(), leaves)
            return derivatives.jvp(gradient, args, self._nested(along, tangents))[1]

        return self._replay(key, product, (list(leaves), *along.values()))

    def jvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray]) -> Any:
        """The value and the derivative along tangents of inputs, by number; None where it is to be interpreted."""
        key = ("jvp", tuple(along))
        if not self._is_worth_it(key):
            return None

        def both(leaves: Sequence[Any], *tangents: Any) -> Any:
            args = pytree.unflatten(self._structure(), leaves)
            return derivatives.jvp(self._written, args, self._nested(along, tangents))

        return self._replay(key, both, (list(leaves), *along.values()))

    def _structure(self) -> Any:
        return self._recording().spec.structure  # type: ignore[union-attr]

    def _written(self, *args: Any) -> Any:
        return self._recording().written(*args)  # type: ignore[union-attr]

    def _nested(self, along: dict[int, np.ndarray], tangents: Sequence[Any]) -> Any:
        recording: Any = self._recording()
        given = dict(zip(along, tangents, strict=True))
        inputs = {leaf: number for number, leaf in enumerate(recording.program.leaves)}
        leaves = [given.get(inputs.get(i)) for i in range(len(recording.spec.leaves))]  # type: ignore[arg-type]
        return pytree.unflatten(recording.spec.structure, leaves)

    def _is_worth_it(self, key: Any) -> bool:
        """Whether a derivative is to be computed by a program of its own."""
        if self.mode == choice.NEVER:
            return False
        program = self._recording().program  # type: ignore[union-attr]
        if not can_be_written(program):
            return False
        if self.mode == choice.ALWAYS or key in self._known:
            return True
        return choice.at_once(program)

    def _replay(self, key: Any, f: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        branches = self._known.get(key)
        spec, leaves = spec_of(args)
        if branches is None:
            recording: Any = self._recording()
            f.__qualname__ = f"a derivative of {recording.name}"
            branches = self._known[key] = Branches(
                f, spec, leaves, (), same_prefixes=False, captures=recording.captures,
                forget=functools.partial(self._known.pop, key, None),
            )  # fmt: skip
        return branches.replay(leaves, VALUES, None, _result_of, lean=self.results)


def _result_of(program: Any, workspace: Any) -> Any:
    return program.result(workspace)

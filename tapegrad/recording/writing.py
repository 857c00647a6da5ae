"""Derivatives of a recording, written on a tape as functions of the leaves of its arguments.

Each method returns such a function. Where a derivative is taken along directions, the function has two kinds of
arguments: a list of all leaves, and then tangents or cotangents, one after the other.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation
from tapegrad.adjoint.matching import check_numbers
from tapegrad.arguments import argument_numbers
from tapegrad.program.outputs import scalar_place
from tapegrad.recording.directions import Directions
from tapegrad.sparse import CompressedJacobian
from tapegrad.value import Value, as_value

Written = Callable[..., Any]


class Writing:
    """Writes the derivatives of one recording. That refers to this, so it is referred to weakly."""

    def __init__(self, recording: Any) -> None:
        self._recording = weakref.ref(recording)

    @property
    def structure(self) -> Any:
        """How the arguments are nested."""
        return self._recording().spec.structure  # type: ignore[union-attr]

    def function(self, *args: Any) -> Any:
        """The function itself, of arguments as it takes them."""
        return self._recording().written(*args)  # type: ignore[union-attr]

    def value_and_grad(self, argnums: Any, has_aux: bool, alone: bool = False) -> Written:
        """The value and the gradient; None in place of the value where the gradient is wanted alone."""

        def checked(*args: Any) -> Any:
            result = self.function(*args)
            # On a tape, a truth value is a number as any other.
            program = self._recording().program  # type: ignore[union-attr]
            scalar_place(program.code, program.structure, has_aux)
            return result

        def both(*leaves: Any) -> Any:
            value, gradient = derivatives.value_and_grad(checked, self._args(leaves), argnums, has_aux)
            return None if alone else value, gradient

        return both

    def hvp(self, argnums: Any, inputs: Sequence[int]) -> Written:
        """The Hessian times tangents of inputs, which are given by number."""

        def product(leaves: Sequence[Any], *tangents: Any) -> Any:
            gradient = derivatives.gradient_of(self.function, argnums)
            return derivatives.jvp(gradient, self._args(leaves), self._nested(inputs, tangents))[1]

        return product

    def jvp(self, inputs: Sequence[int]) -> Written:
        """The value, and its derivative along tangents of inputs, which are given by number."""

        def both(leaves: Sequence[Any], *tangents: Any) -> Any:
            return derivatives.jvp(self.function, self._args(leaves), self._nested(inputs, tangents))

        return both

    def vjp(self, inputs: Sequence[int]) -> Written:
        """The derivatives of sum(cotangents * results) with respect to inputs, which are given by number."""

        def pulled(leaves: Sequence[Any], *cotangents: Any) -> Any:
            done = self._evaluated(self.function, leaves, None)
            seeds = [as_value(c, done.tape, "a cotangent") for c in cotangents]
            return self._by_input(done.pull(seeds), inputs)

        return pulled

    def dense(self, argnums: Any, inputs: Sequence[int], directions: Directions, symmetric: bool) -> Written:
        """Rows or columns of the Jacobian, or where `symmetric` of the Hessian: along all directions, or along those
        whose seeds are given."""

        def lanes(leaves: Sequence[Any], *seeds: Any) -> Any:
            f = derivatives.gradient_of(self.function, argnums) if symmetric else self.function
            done = self._evaluated(f, leaves, argument_numbers(argnums))
            given = seeds or directions.seeds(0)
            found = []
            for at in range(0, len(given), len(directions.sources)):
                own = [as_value(s, done.tape, "a seed") for s in given[at : at + len(directions.sources)]]
                if directions.back:
                    found.append(self._by_input(done.pull(own), inputs))
                else:
                    found.append(done.push(dict(zip(self._leaves(inputs), own, strict=True))))
            return found

        return lanes

    def sparse(self, argnums: Any, compressed: CompressedJacobian, symmetric: bool) -> Written:
        """The lanes of a sparse Jacobian or Hessian that carry tangents forward."""
        inputs = compressed.program.leaves

        def lanes(*leaves: Any) -> Any:
            f = derivatives.gradient_of(self.function, argnums) if symmetric else self.function
            done = evaluation.evaluate(f, self._args(leaves), argument_numbers(argnums))
            return [
                done.push({
                    inputs[w]: as_value(seed.reshape(np.shape(leaves[inputs[w]])), done.tape, "a seed")
                    for w, seed in along.items()
                }) for along in compressed.seeds()
            ]  # fmt: skip

        return lanes

    def _args(self, leaves: Sequence[Any]) -> Any:
        return pytree.unflatten(self.structure, leaves)

    def _evaluated(self, f: Any, leaves: Sequence[Any], numbers: Sequence[int] | None) -> evaluation.Evaluation:
        done = evaluation.evaluate(f, self._args(leaves), numbers)
        check_numbers(done.outputs)
        return done

    def _leaves(self, inputs: Sequence[int]) -> list[int]:
        of = self._recording().program.leaves  # type: ignore[union-attr]
        return [of[w] for w in inputs]

    def _by_input(self, grads: dict[int, Value], inputs: Sequence[int]) -> list[Value]:
        return [grads[i] for i in self._leaves(inputs)]

    def _nested(self, inputs: Sequence[int], tangents: Sequence[Any]) -> Any:
        recording: Any = self._recording()
        given = dict(zip(self._leaves(inputs), tangents, strict=True))
        return pytree.unflatten(self.structure, [given.get(i) for i in range(len(recording.spec.leaves))])

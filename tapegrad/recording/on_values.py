"""Derivatives at given arguments, along directions that are Values: they are written on the tape of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.arguments import argument_numbers
from tapegrad.attached import strong
from tapegrad.errors import PickleError


class OnValues:
    """A function at given arguments, of which copies are kept.

    A derivative that was taken of plain numbers is a linear function of a direction. Where that function is used inside
    of another derivative, the direction is a Value, and so is what comes out.
    """

    def __init__(self, f: Callable[..., Any], args: Sequence[Any]) -> None:
        leaves, structure = pytree.flatten(tuple(args))
        copies = [np.array(x) if isinstance(x, np.ndarray) else x for x in leaves]
        self._f, self._args = strong(f), pytree.unflatten(structure, copies)

    def __reduce__(self) -> Any:
        raise PickleError(
            "what vjp, linearize and make_hvp return holds numbers and compiled code of this process: pickle the "
            "function and its arguments, and call vjp, linearize or make_hvp in the other process"
        )

    @staticmethod
    def wanted(direction: Any) -> bool:
        """Whether there are Values in a direction."""
        return evaluation.holds_values(pytree.flatten(direction)[0])

    def pull(self, cotangent: Any) -> Any:
        """The cotangents of the arguments."""
        return derivatives.vjp(self._f, self._args)[1](cotangent)

    def push(self, tangents: tuple[Any, ...]) -> Any:
        """The tangent of the result."""
        matching.check_tuples(self._args, tangents)
        return derivatives.jvp(self._f, self._args, tangents)[1]

    def product(self, argnums: int | Sequence[int], v: Any) -> Any:
        """The Hessian times v."""
        gradient = derivatives.gradient_of(self._f, argnums)
        done = evaluation.evaluate(gradient, self._args, argument_numbers(argnums))
        return derivatives.pushed(done, self._args, matching.spread(self._args, argnums, v))

"""A function of nested numbers as one of a vector: recorded when it is first evaluated, and replayed from then on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from tapegrad import pytree
from tapegrad.errors import NonScalarError, OperationError, StructureError
from tapegrad.optimize.choice import DENSE, PRODUCT, SPARSE, kind_of_hessian, pays
from tapegrad.optimize.flat import Nesting, called_with, nesting_of
from tapegrad.program.outputs import scalar_place
from tapegrad.recording import Recording, record
from tapegrad.value import Value


class Objective:
    """A function that returns one number: its value and gradient, from one replay, and its second derivatives."""

    def __init__(self, f: Callable[..., Any], nesting: Nesting, args: tuple[Any, ...], differentiated: bool) -> None:
        self._f = f
        self._nesting = nesting
        self._args = args
        self._differentiated = differentiated
        self._recording: Recording | None = None
        self._curvature: Curvature | None = None
        # Solvers ask for the value and for the gradient by two calls.
        self._at: np.ndarray | None = None
        self._known: tuple[float, np.ndarray] = (0.0, np.zeros(0))

    def recording(self, x: np.ndarray) -> Recording:
        """What is replayed. Raises NonScalarError unless the function returns one number."""
        if self._recording is None:
            self._recording = record(called_with(self._f, self._nesting, self._args), np.asarray(x, float))
            program = self._recording.program
            scalar_place(program.code, program.structure, has_aux=False)
        return self._recording

    def value(self, x: np.ndarray) -> float:
        """f(x)."""
        if self._differentiated:
            return self._both(x)[0]
        value = self.recording(x)(np.asarray(x, float))
        if np.size(value) != 1:
            raise NonScalarError(f"the function to minimise must return one number, not shape {np.shape(value)}")
        return float(np.reshape(value, ()))

    def gradient(self, x: np.ndarray) -> np.ndarray:
        """The gradient of f at x."""
        # SciPy's solvers may change it in place.
        return self._both(x)[1].copy()

    def _both(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self._at is None or not np.array_equal(x, self._at):
            point = np.array(x, float)
            known = self._evaluate(point)
            if self._at is None:
                _check_finite(*known)
            self._at, self._known = point, known
        return self._known

    def _evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = self.recording(x).value_and_grad(x)
        return float(np.reshape(value, ())), gradient

    def curvature(self, x: np.ndarray) -> Curvature:
        """Second derivatives of f."""
        if self._curvature is None:
            self._curvature = Curvature(self.recording(x))
        return self._curvature


class Answers(Objective):
    """A function that returns its value and its gradient by itself, and is called as it is."""

    def __init__(self, f: Callable[..., Any], nesting: Nesting, args: tuple[Any, ...]) -> None:
        super().__init__(f, nesting, args, differentiated=True)

    def _evaluate(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        answer = self._f(self._nesting.nest(x.copy()), *self._args)
        if not isinstance(answer, tuple | list) or len(answer) != 2 or np.size(answer[0]) != 1:
            raise NonScalarError(
                f"with jac=True the function to minimise must return one number and its gradient, not {answer!r:.80}"
            )
        gradient = self._nesting.vector(answer[1], "the gradient that the function returns")
        return float(np.reshape(answer[0], ())), gradient


def _check_finite(value: float, gradient: np.ndarray) -> None:
    # No solver that follows gradients can go on from such a point, and most would blame a loss of precision.
    if not np.isfinite(value):
        raise OperationError(f"the function to minimise is {value} at the start: start where it is finite")
    bad = np.flatnonzero(~np.isfinite(gradient))
    if len(bad):
        raise OperationError(
            f"the gradient of the function to minimise is not finite at the start: element {bad[0]} is "
            f"{gradient[bad[0]]}; start elsewhere"
        )


class Curvature:
    """The Hessian of a recording with respect to its first argument: dense, sparse, or a product with vectors."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        # The form that pays, once it is known.
        self._kind: str | None = None
        self._at: list[np.ndarray] | None = None
        self._product: Callable[[Any], Any] | None = None

    def product(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The Hessian at x times v. Solvers ask for many at one point: it is replayed there once."""
        return self._product_at(x)(np.asarray(v, float).reshape(-1))

    def _product_at(self, *args: np.ndarray) -> Callable[[Any], Any]:
        if self._product is None or self._at is None or not all(map(np.array_equal, args, self._at)):
            self._at = [np.array(a, float) for a in args]
            self._product = self._recording.make_hvp(*self._at)
        return self._product

    def dense(self, x: np.ndarray) -> np.ndarray:
        """The Hessian at x, (n, n)."""
        return self._recording.hessian(np.asarray(x, float))

    def best(self, *args: np.ndarray) -> Any:
        """The Hessian in the form that pays, chosen at the first call: an array, a sparse array, a LinearOperator."""
        args = tuple(np.asarray(a, float) for a in args)
        if self._kind is None:
            self._kind = kind_of_hessian(self._recording, *args)
        if self._kind in (DENSE, SPARSE):
            return self._recording.hessian(*args, sparse=self._kind == SPARSE)
        assert self._kind == PRODUCT
        n = len(args[0])
        product = self._recording.make_hvp(*args)
        return LinearOperator((n, n), matvec=lambda v: product(np.asarray(v, float).reshape(-1)), dtype=float)


class Residuals:
    """A function that returns numbers, nested or not, as one that returns a vector; its Jacobian."""

    def __init__(
        self, f: Callable[..., Any], nesting: Nesting, args: tuple[Any, ...], sparse: bool | None = None
    ) -> None:
        self._f = f
        self._nesting = nesting
        self._args = args
        # Whether the Jacobian is to be a sparse array; None until that is decided.
        self.sparse = sparse
        self._recording: Recording | None = None
        self._weighted: Curvature | None = None
        self.outputs: Nesting | None = None

    def _vector(self, x: Any) -> Any:
        vector, self.outputs = as_vector(self._f(self._nesting.nest(x), *self._args))
        return vector

    def recording(self, x: np.ndarray) -> Recording:
        """What is replayed."""
        if self._recording is None:
            self._recording = record(functools.wraps(self._f)(lambda v: self._vector(v)), np.asarray(x, float))
        return self._recording

    def value(self, x: np.ndarray) -> np.ndarray:
        """What f returns at x, as a vector."""
        return np.asarray(self.recording(x)(np.asarray(x, float)), float)

    def jacobian(self, x: np.ndarray) -> Any:
        """The Jacobian at x, (outputs, inputs)."""
        return self.recording(x).jacobian(np.asarray(x, float), sparse=self.is_sparse(x))

    def is_sparse(self, x: np.ndarray) -> bool:
        """Whether the Jacobian is a sparse array: as asked for, else where it pays at x."""
        if self.sparse is None:
            self.sparse = pays(self.recording(x), np.asarray(x, float))
        return self.sparse

    def weighted_hessian(self, x: np.ndarray, v: np.ndarray) -> Any:
        """The sum of the Hessians of the outputs, each times its element of v: the Hessian of x -> v · f(x)."""
        if self._weighted is None:
            both = np.asarray(x, float), np.asarray(v, float)
            self._weighted = Curvature(record(lambda x, v: np.sum(v * self._vector(x)), *both))
        return self._weighted.best(x, v)


def as_vector(result: Any) -> tuple[Any, Nesting]:
    """What a function returned, as one vector, on the tape or off it, and how it was nested.

    Raises StructureError where that is not numbers and arrays.
    """
    leaves, structure = pytree.flatten(result)
    for leaf in leaves:
        if not isinstance(leaf, Value) and np.asarray(leaf).dtype.kind not in "fiubO":
            raise StructureError(f"the function returned a {type(leaf).__name__} among its numbers")
    if not leaves:
        raise StructureError(f"the function returned {result!r}, where numbers were expected")
    parts = [np.reshape(x, (-1,)) for x in leaves]
    return parts[0] if len(parts) == 1 else np.concatenate(parts), nesting_of(leaves, structure)

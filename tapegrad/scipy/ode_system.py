"""Right-hand sides of differential equations as functions of vectors, f(t, y, theta), and what is replayed of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives
from tapegrad.errors import ShapeError, TapeMismatchError, UnsupportedError
from tapegrad.optimize.choice import pays
from tapegrad.optimize.flat import Nesting
from tapegrad.optimize.replay import as_vector
from tapegrad.recording import Recording, record
from tapegrad.scipy.captured import filled

# Up to so many states a Jacobian is written as a program of its own, which is replayed in a tenth of the time.
_WRITTEN = 16


class Replay:
    """The gradient of a recording with respect to one argument, for arguments known to be floats and arrays.

    Solvers ask for it thousands of times, and what `Recording.grad` asks of its arguments takes a third of the time.
    """

    def __init__(self, recording: Recording, argnum: int) -> None:
        self.recording, self._argnum = recording, argnum

    def __call__(self, *args: Any) -> np.ndarray:
        found = self.recording.short_way(self._argnum)(args)
        if found is None:
            found = self.recording.evaluate(self.recording.check(args), self._argnum, has_aux=False)
        return found[1]


class Quick:
    """A function that returns a vector of a given size, by the quickest replay there is: that of a gradient.

    f is the gradient of <w, f> with respect to w, and of value and gradient each recording has a way without detours.
    """

    def __init__(self, f: Callable[..., Any], size: int) -> None:
        self._f = f
        self._weights = np.zeros(size)
        self._gradient: Replay | None = None
        self._plain: Recording | None = None

    def __call__(self, *args: Any) -> np.ndarray:
        """f at plain numbers."""
        if self._plain is not None:
            return np.asarray(self._plain(*args))
        if self._gradient is None:
            weighted = functools.wraps(self._f)(lambda *args: np.sum(args[-1] * self._f(*args[:-1])))
            self._gradient = Replay(recorded(weighted, *args, self._weights), len(args))
        try:
            return self._gradient(*args, self._weights)
        except UnsupportedError:
            # The function calls a black box whose derivative it takes already.
            self._plain = recorded(self._f, *args)
            return np.asarray(self._plain(*args))

    @property
    def branches(self) -> bool:
        """Whether it has taken several branches."""
        used = self._plain
        if used is None and self._gradient is not None:
            used = self._gradient.recording
        return used is not None and len(used.programs) > 1


def recorded(f: Callable[..., Any], *args: Any) -> Recording:
    """The recording of a function. Where it takes Values from around it that were not found, the error says what to
    do."""
    try:
        return record(f, *args)
    except TapeMismatchError as error:
        raise type(error)(
            "the right-hand side uses a Value from around it that is not in its closure (a global, or an attribute of "
            f"an object, say): pass it by args ({error})"
        ) from error


class System:
    """f(t, y, theta) for vectors y of n numbers and theta of p, made of what is recorded or replayed of it.

    `f` is called with Values; all other methods take plain numbers. z is y and theta side by side.
    """

    def __init__(self, n: int, p: int, sparse: bool | None = False) -> None:
        self.n, self.p = n, p
        # Whether Jacobians are sparse arrays; None until that is decided.
        self.sparse = sparse
        self._forget()

    def f(self, t: Any, y: Any, theta: Any) -> Any:
        """The right-hand side, a vector."""
        raise NotImplementedError

    def _forget(self) -> None:
        self._value = Quick(self._of_z, self.n)
        self._written: Quick | None = None
        self._by_y: Recording | None = None
        self._by_z: Recording | None = None
        self._backward: Replay | None = None
        self._tangent: Tangent | None = None

    def __getstate__(self) -> dict[str, Any]:
        # What was recorded is recorded again.
        made = ("_value", "_written", "_by_y", "_by_z", "_backward", "_tangent")
        return {name: x for name, x in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def tangent(self) -> Tangent:
        """The system together with its variational equation."""
        if self._tangent is None:
            self._tangent = Tangent(self)
        return self._tangent

    def _of_z(self, t: Any, z: Any) -> Any:
        return self.f(t, z[: self.n], z[self.n :])

    def value(self, t: float, z: np.ndarray) -> np.ndarray:
        """f."""
        return self._value(t, z)

    @property
    def branches(self) -> bool:
        """Whether f has taken several branches."""
        return self._value.branches

    def branch(self, t: float, z: np.ndarray) -> tuple[object, np.ndarray]:
        """The branch that f takes, and f."""
        recording = self._recording_of_z(t, z)
        found = np.asarray(recording(t, z))
        return recording.program, found

    def _recording_of_z(self, t: float, z: np.ndarray) -> Recording:
        if self._by_z is None:
            self._by_z = recorded(self._of_z, t, z)
        return self._by_z

    def full_jacobian(self, t: float, z: np.ndarray) -> np.ndarray:
        """df/dz, (n, n + p)."""
        if self.n > _WRITTEN:
            return np.asarray(self._recording_of_z(t, z).jacobian(t, z, argnums=1))
        if self._written is None:
            self._written = Quick(self.jacobian_on_values, self.n * (self.n + self.p))
        return self._written(t, z).reshape(self.n, self.n + self.p)

    def jacobian_on_values(self, t: Any, z: Any) -> Any:
        """df/dz of Values, as one vector, row by row."""
        return derivatives.jacobian(lambda z: self._of_z(t, z), (z,), 0, None).reshape(-1)

    def jacobian(self, t: float, z: np.ndarray) -> Any:
        """df/dy, (n, n): a sparse array as asked for, else where it pays at the first evaluation."""
        if self.n <= _WRITTEN and not self.sparse:
            return self.full_jacobian(t, z)[:, : self.n]
        args = t, np.array(z[: self.n]), np.array(z[self.n :])
        if self._by_y is None:
            self._by_y = recorded(self.f, *args)
        if self.sparse is None:
            self.sparse = pays(self._by_y, *args, argnums=1)
        return self._by_y.jacobian(*args, argnums=1, sparse=self.sparse)

    def adjoint_slope(self, x: float, c: np.ndarray, t: float, z: np.ndarray, w: np.ndarray) -> np.ndarray:
        """-w df/dz at y = z_y + sum of c_k T_k(x), T_k being Chebyshev's polynomials; so with z_y = 0 at a place of a
        trajectory. Polynomial and product are one program."""
        if self._backward is None:
            self._backward = Replay(recorded(self._weighted, x, c, t, z, w), 3)
        return self._backward(x, c, t, z, w)

    def _weighted(self, x: Any, c: Any, t: Any, z: Any, w: Any) -> Any:
        return -np.sum(w * self.f(t, chebyshev(x, c) + z[: self.n], z[self.n :]))


class Tangent(System):
    """y' = f(t, y, theta) and s' = df/dy s + df/dtheta v together: the state is (y, s), the parameters (theta, v)."""

    def __init__(self, base: System) -> None:
        super().__init__(2 * base.n, 2 * base.p)
        self.base = base
        self.recorded_functions = (base,)

    def f(self, t: Any, y: Any, theta: Any) -> Any:
        """f and the derivative of f along (s, v)."""
        n, p = self.base.n, self.base.p
        value, slope = derivatives.jvp(
            lambda y, theta: self.base.f(t, y, theta), (y[:n], theta[:p]), (y[n:], theta[p:])
        )
        return np.concatenate([value, slope])


class Sensitivities(System):
    """y' = f(t, y, theta), and the variational equation of several directions beside it.

    The state is y, then the derivatives along each direction, one after the other: `starts` along elements of y at the
    start, if these are wanted, then along all elements of theta, scaled by `scale`.
    """

    def __init__(self, base: System, starts: bool) -> None:
        self.base = base
        self.directions = (base.n if starts else 0) + base.p
        self.recorded_functions = (base,)
        super().__init__(base.n * (1 + self.directions), base.p)

    def f(self, t: Any, y: Any, theta: Any) -> Any:
        """f, then df/dy s + df/dtheta v of each direction. theta holds the scales of its directions besides."""
        n, p = self.base.n, self.base.p
        z = np.concatenate([y[:n], theta[:p]])
        matrix = self.base.jacobian_on_values(t, z).reshape(n, n + p)
        rows = np.matmul(y[n:].reshape(self.directions, n), np.swapaxes(matrix[:, :n], 0, 1))
        own = np.swapaxes(matrix[:, n:], 0, 1) * theta[p:].reshape(p, 1)
        if self.directions > p:
            own = np.concatenate([np.zeros((self.directions - p, n)), own])
        return np.concatenate([self.base.f(t, y[:n], theta[:p]), (rows + own).reshape(-1)])


def chebyshev(x: Any, c: Any) -> Any:
    """The sum of c_k T_k(x) over the first axis of c, by the recurrence T_k+1 = 2 x T_k - T_k-1."""
    before, now = 1.0, x
    total = c[0] + x * c[1]
    for k in range(2, len(c)):
        before, now = now, 2.0 * x * now - before
        total = total + now * c[k]
    return total


class Given(System):
    """The right-hand side that somebody has written: of nested states and arguments, some of which are in theta.

    Args:
        template: the function, with holes where it takes Values from around it; see `captured`.
        nesting: how the state is nested.
        structure, leaves: the arguments, and after them what goes into the holes.
        at, shapes: which of the leaves stand in theta, and their shapes.
    """

    def __init__(
        self, template: Any, nesting: Nesting, structure: Any, leaves: Sequence[Any], at: Sequence[int],
        shapes: Sequence[tuple[int, ...]], sparse: bool | None,
    ) -> None:  # fmt: skip
        self.template, self.nesting, self.structure = template, nesting, structure
        self.recorded_functions = (template,)
        self.leaves = [None if i in set(at) else x for i, x in enumerate(leaves)]
        self.at, self.shapes = list(at), list(shapes)
        self.ends = np.cumsum([0, *(int(np.prod(s)) for s in shapes)]).tolist()
        super().__init__(nesting.size, self.ends[-1], sparse)

    def f(self, t: Any, y: Any, theta: Any) -> Any:
        """The function, of vectors. Raises ShapeError unless it returns as many numbers as the state has."""
        leaves = list(self.leaves)
        for i, shape, start, end in zip(self.at, self.shapes, self.ends, self.ends[1:]):
            leaves[i] = theta[start:end].reshape(shape) if shape else theta[start]
        args, around = pytree.unflatten(self.structure, leaves)
        vector, outputs = as_vector(filled(self.template, around)(t, self.nesting.nest(y), *args))
        if outputs.size != self.n:
            raise ShapeError(f"fun returned {outputs.size} numbers, for a state of {self.n}")
        return vector

"""What stands for a recording where the function is one of Numba: first derivatives run it anew at every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation, matching
from tapegrad.arguments import argument_numbers
from tapegrad.errors import OperationError
from tapegrad.njit import derivatives, runs
from tapegrad.recording.recording import Recording


class OfNumba:
    """Answers as a recording of a Numba function does, at plain numbers; `recorded` finds an ordinary recording for
    arguments, for what needs one: second derivatives, sparse matrices.

    With `keywords` the last argument is a dict of keyword arguments.
    """

    def __init__(
        self, dispatcher: Any, recorded: Callable[[Sequence[Any]], Recording], keywords: bool = False
    ) -> None:
        self.f = dispatcher
        self._function, self._recorded, self._keywords = runs.function(dispatcher), recorded, keywords

    def _bound(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return self._function.bound(args[:-1], args[-1]) if self._keywords else tuple(args)

    def __call__(self, *args: Any) -> Any:
        """The function itself."""
        return self.f(*self._bound(args))

    def stats(self) -> Any:
        """What is known of an ordinary recording, of which there is none before it is asked for."""
        raise OperationError(f"{self._function.name} is a Numba function, recorded at every call: it has no stats")

    def check(self, args: Sequence[Any]) -> Sequence[Any]:
        """The arguments, as `evaluate` takes them."""
        return args

    def short_way(self, argnums: Any, alone: bool = False) -> Callable[[Sequence[Any]], None]:
        """There is none."""
        return lambda args: None

    def evaluate(
        self, args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool, alone: bool = False
    ) -> tuple[Any, Any]:
        """Value and gradient."""
        return derivatives.value_and_grad(self._function, self._bound(args), argnums, has_aux)

    def vjp(self, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """See `tapegrad.vjp`."""
        return derivatives.vjp(self._function, self._bound(primals))

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """See `tapegrad.jvp`."""
        return derivatives.jvp(self._function, self._bound(primals), tangents)

    def linearize(self, *primals: Any) -> tuple[Any, Callable[..., Any]]:
        """See `tapegrad.linearize`."""
        return derivatives.linearize(self._function, self._bound(primals))

    def elementwise_grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """See `tapegrad.elementwise_grad`."""
        numbers = evaluation.checked(argument_numbers(argnums), len(args))
        result, pullback = self.vjp(*args)
        leaves, structure = pytree.flatten(result)
        grads = pullback(pytree.unflatten(structure, [np.ones(np.shape(y))[()] for y in leaves]))
        return grads[numbers[0]] if isinstance(argnums, int) else tuple(grads[n] for n in numbers)

    def jacobian(self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False) -> Any:
        """See `tapegrad.jacobian`."""
        if sparse:
            return self._recorded(args).jacobian(*args, argnums=argnums, sparse=True)
        return derivatives.jacobian(self._function, self._bound(args), argnums)

    def jacrev(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """See `tapegrad.jacrev`."""
        return derivatives.jacobian(self._function, self._bound(args), argnums, True)

    def jacfwd(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """See `tapegrad.jacfwd`."""
        return derivatives.jacobian(self._function, self._bound(args), argnums, False)

    def hessian(self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False) -> Any:
        """See `tapegrad.hessian`."""
        return self._recorded(args).hessian(*args, argnums=argnums, sparse=sparse)

    def hvp(self, primals: Sequence[Any], tangents: Sequence[Any], argnums: Any = None) -> Any:
        """See `tapegrad.hvp`."""
        matching.check_tuples(primals, tangents)
        return self._recorded(primals).hvp(primals, tangents, argnums)

    def make_hvp(self, *args: Any, argnums: int | Sequence[int] = 0) -> Callable[[Any], Any]:
        """See `tapegrad.make_hvp`."""
        product: Callable[[Any], Any] = self._recorded(args).make_hvp(*args, argnums=argnums)
        return product

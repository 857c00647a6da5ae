"""`recorded`: a function with its derivatives as methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, overload

from tapegrad import transforms
from tapegrad.adjoint import evaluation
from tapegrad.recording import StandIn, Stats, behind, known, known_with_keywords

P = ParamSpec("P")
Q = ParamSpec("Q")


class recorded(StandIn, Generic[P]):
    """A function that records itself, once for each kind of arguments, and has every derivative as a method.

    Args:
        f: as `record` takes it. Use this as a decorator, of functions or methods.
        compile: True to replay compiled programs from the first call on, False never to, None to leave that choice.
            `@recorded(compile=True)` is a decorator too.

    Calls replay, and so do calls of the methods, which have the names and arguments of the functions of `tapegrad`:
    `f.grad(x)` is `tapegrad.grad(f)(x)`, `f.hvp((x,), (v,))` is `tapegrad.hvp(f, (x,), (v,))`. Strings, truth
    values and other objects among the arguments are part of a recording, and another one is another recording. Called
    with Values, or inside a function that is being recorded, it is f.

    Raises what `record` and the derivatives raise.

    >>> import numpy as np
    >>> @recorded
    ... def energy(x, k=1.0):
    ...     return k * np.sum(x**2)
    >>> x = np.array([1.0, 2.0])
    >>> energy(x), energy.grad(x), energy.hvp((x,), (x,))
    (5.0, array([2., 4.]), array([2., 4.]))
    >>> energy(x, k=3.0), energy.grad(x, k=3.0)
    (15.0, array([ 6., 12.]))
    """

    @overload
    def __new__(cls, f: Callable[P, Any], *, compile: bool | None = None) -> recorded[P]: ...
    @overload
    def __new__(  # type: ignore[misc]
        cls, f: None = None, *, compile: bool
    ) -> Callable[[Callable[Q, Any]], recorded[Q]]: ...
    def __new__(cls, f: Any = None, *, compile: bool | None = None) -> Any:
        return functools.partial(cls, compile=compile) if f is None and compile is not None else super().__new__(cls)

    if not TYPE_CHECKING:
        # Checkers are to look at `__new__`, which knows both ways to decorate.
        def __init__(self, f: Callable[..., Any], *, compile: bool | None = None) -> None:
            functools.update_wrapper(self, f)
            self.f, self.forced = f, behind(f, compile)[1]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        if evaluation.on_tape((args, kwargs) if kwargs else args):
            return known(self.f, self.forced).on_tape(args)(*args) if not kwargs else self.f(*args, **kwargs)
        if kwargs:
            given = (*args, kwargs)
            return known_with_keywords(self.f, self.forced).at(given)[0](*given)
        return known(self.f, self.forced).at(args)[0](*args)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else recorded(MethodType(self.f, instance), compile=self.forced)

    def __repr__(self) -> str:
        return f"<recorded {getattr(self.f, '__qualname__', repr(self.f))}>"

    def value_and_grad(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> tuple[Any, Any]:
        """The value and the gradient; see `tapegrad.value_and_grad`."""
        return transforms.value_and_grad(self.f, argnums, compile=self.forced)(*args, **kwargs)

    def grad(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Any:
        """The gradient; see `tapegrad.grad`."""
        return transforms.grad(self.f, argnums, compile=self.forced)(*args, **kwargs)

    def elementwise_grad(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Any:
        """The derivative at every element; see `tapegrad.elementwise_grad`."""
        return transforms.elementwise_grad(self.f, argnums, compile=self.forced)(*args, **kwargs)

    def jacobian(
        self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False, **kwargs: Any
    ) -> Any:
        """The Jacobian; see `tapegrad.jacobian`."""
        return transforms.jacobian(self.f, argnums, sparse, compile=self.forced)(*args, **kwargs)

    def jacrev(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Any:
        """The Jacobian, from the outputs back; see `tapegrad.jacrev`."""
        return transforms.jacrev(self, argnums)(*args, **kwargs)

    def jacfwd(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Any:
        """The Jacobian, from the inputs forward; see `tapegrad.jacfwd`."""
        return transforms.jacfwd(self, argnums)(*args, **kwargs)

    def hessian(
        self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False, **kwargs: Any
    ) -> Any:
        """The matrix of second derivatives; see `tapegrad.hessian`."""
        return transforms.hessian(self.f, argnums, sparse, compile=self.forced)(*args, **kwargs)

    def make_hvp(self, *args: Any, argnums: int | Sequence[int] = 0, **kwargs: Any) -> Callable[[Any], Any]:
        """The function v -> H v; see `tapegrad.make_hvp`."""
        product: Callable[[Any], Any] = transforms.make_hvp(self, argnums)(*args, **kwargs)
        return product

    def vjp(self, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """The value, and the function from a cotangent to those of the arguments; see `tapegrad.vjp`."""
        return transforms.vjp(self, *primals)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """The value, and its derivative along tangents; see `tapegrad.jvp`."""
        return transforms.jvp(self.f, primals, tangents, compile=self.forced)

    def linearize(self, *primals: Any) -> tuple[Any, Callable[..., Any]]:
        """The value, and the function from tangents to its derivative along them; see `tapegrad.linearize`."""
        return transforms.linearize(self, *primals)

    def hvp(
        self, primals: Sequence[Any], tangents: Sequence[Any], argnums: int | Sequence[int] | None = None
    ) -> Any:
        """The Hessian times tangents; see `tapegrad.hvp`."""
        return transforms.hvp(self.f, primals, tangents, argnums, compile=self.forced)

    def stats(self, *args: Any) -> Stats:
        """What is known about the recording for these arguments; see `Recording.stats`."""
        return known(self.f, self.forced).at(args)[0].stats()

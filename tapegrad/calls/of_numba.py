"""Functions that Numba compiles, each call of which is one instruction on a tape."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation
from tapegrad.calls.call import Rules, call
from tapegrad.calls.custom import Box, Checkpointed, spread, unboxed
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.names import originals
from tapegrad.njit import is_numba
from tapegrad.njit.derivatives import pulled, pushed
from tapegrad.njit.runs import function
from tapegrad.recording.known import on_values


class NjitOp(Rules):
    """A Numba function that can be called with Values; see `njit_op`.

    Attributes:
        dispatcher: the function itself.
    """

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher, self._function = dispatcher, function(dispatcher)
        functools.update_wrapper(self, dispatcher.py_func)
        self.name = dispatcher.__qualname__
        self._pulled = _Derived(f"the gradient of {self.name}", self.pull, self._pulled_on_values)
        self._pushed = _Derived(f"the tangent of {self.name}", self._push, self._pushed_on_values)

    def __reduce__(self) -> Any:
        return njit_op, (self.dispatcher,)

    @property
    def _numba_type_(self) -> Any:
        # Functions that Numba compiles call the function itself.
        return self.dispatcher._numba_type_

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = self._function.bound(args, kwargs)
        held = [evaluation.holds_values(pytree.flatten(x)[0]) for x in args]
        if not any(held):
            return self.dispatcher(*args)
        boxes = [None if there else Box(x) for x, there in zip(args, held, strict=True)]
        before = [None if box is None else _arrays_of(box.content, True) for box in boxes]
        result = call(self, tuple(x if box is None else box for x, box in zip(args, boxes, strict=True)))
        for n, (box, old) in enumerate(zip(boxes, before, strict=True)):
            if box is not None and any(map(_differ, _arrays_of(box.content), old or ())):
                raise UnsupportedError(
                    f"{self.name} changes its argument {n} in place: on a tape it is called as often as the tape is "
                    "replayed, so make that array inside the function, and return it"
                )
        return result

    # On plain numbers

    def value(self, args: tuple[Any, ...]) -> Any:
        """The function."""
        with originals():
            return self.dispatcher(*self._numbers(args))

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """The gradient: the function is recorded anew, in compiled code, and swept."""
        if evaluation.holds_values(pytree.flatten((args, cotangent))[0]):
            found: Sequence[Any] = call(self._pulled, (args, None, cotangent))
            return found
        wanted = _differentiated(args)
        found = pulled(self._function, self._numbers(args), wanted, cotangent)
        return spread(args, found, f"the gradient of {self.name}")

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        """The tangent, likewise."""
        if evaluation.holds_values(pytree.flatten((args, tangents))[0]):
            return call(self._pushed, (args, tangents))
        return self._push(args, tangents)

    def _push(self, args: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        return pushed(self._function, self._numbers(args), _differentiated(args), tangents)

    def _numbers(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Recorded numbers are computed in float64, and the value is to go the same way as its gradient.
        return tuple(x.content if isinstance(x, Box) else _doubled(x) for x in args)

    # On Values: the derivative is an instruction, too, whose derivatives are those of a recording.

    def _on_values(self, args: tuple[Any, ...]) -> tuple[Callable[..., Any], list[Any]]:
        at = _differentiated(args)
        plain, of = unboxed(args), on_values(self.dispatcher)

        def f(*own: Any) -> Any:
            full = list(plain)
            for i, x in zip(at, own, strict=True):
                full[i] = x
            return of(*full)

        return f, [args[i] for i in at]

    def _pulled_on_values(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Any:
        f, own = self._on_values(args)
        return tuple(spread(args, derivatives.vjp(f, own)[1](cotangent), f"the gradient of {self.name}"))

    def _pushed_on_values(self, args: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        f, own = self._on_values(args)
        return derivatives.jvp(f, own, [tangents[i] for i in _differentiated(args)])[1]


class _Derived(Rules):
    """A derivative as an instruction: computed by sweeps, and differentiated as a recording."""

    def __init__(self, name: str, value: Callable[..., Any], on_values: Callable[..., Any]) -> None:
        self.name, self._value, self._recorded = name, value, Checkpointed(on_values)

    def value(self, args: tuple[Any, ...]) -> Any:
        found = self._value(*args)
        return tuple(found) if isinstance(found, list) else found

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        return self._recorded.pull(args, result, cotangent)

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        return self._recorded.push(args, result, tangents)


def _differentiated(args: Sequence[Any]) -> list[int]:
    return [i for i, x in enumerate(args) if not isinstance(x, Box)]


def _doubled(x: Any) -> Any:
    """An argument in float64."""
    if isinstance(x, tuple):
        parts = map(_doubled, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _arrays_of(x: Any, copied: bool = False) -> list[np.ndarray]:
    if isinstance(x, tuple):
        return [a for part in x for a in _arrays_of(part, copied)]
    return [x.copy() if copied else x] if isinstance(x, np.ndarray) else []


def _differ(x: np.ndarray, y: np.ndarray) -> bool:
    return not np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")


def njit_op(f: Callable[..., Any]) -> Any:
    """A function that Numba compiles as one operation of a tape: a hot loop of scalars inside of a NumPy program.

    y = f(*args) and, on the way back, the adjoints of the arguments (dy/dargs)^T w, for which f is called again with
    numbers that record what is done with them, in compiled code. It is called anew by every replay, so any control
    flow is right, without guards. A decorator, above `numba.njit` or in place of it.

    Args:
        f: what `numba.njit` returns, or a Python function, which is compiled by it. It takes and returns numbers,
            arrays and (named) tuples of these, and must depend on its arguments alone; what it may do is said of
            functions that are handed to `grad`. Its results have the same shapes at every replay.

    With Values among its arguments, of any shapes, a call is recorded as one instruction; other arguments are
    constants, which f must not change (it may change those that are Values: it gets copies). It computes in float64,
    and results have the dtype of the tape, whole numbers among them, too. Without Values f is called as it is.
    Compiled functions may call it, and get f. Second derivatives are those of a recording of f, with guards.

    Raises UnsupportedError where f changes a constant argument, and, when the gradient is taken, where it does what
    cannot be differentiated, with the line; what f raises; OperationError where f is no function.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> @njit_op
    ... def settled(x, rate):
    ...     while x > 1.0:
    ...         x -= rate * x * x
    ...     return x
    >>> slope = tg.grad(lambda x: np.sum(np.exp(x) * settled(np.sum(x), 0.1)))
    >>> float(settled(4.0, 0.1)), slope(np.zeros(2))
    (0.9851498039445435, array([2., 2.]))
    """
    if isinstance(f, NjitOp):
        return f
    if not is_numba(f):
        if not callable(f) or not hasattr(f, "__code__"):
            raise OperationError(f"njit_op takes a function, compiled by Numba or not, not {f!r}")
        import numba

        f = numba.njit(f)
    return NjitOp(f)

"""Long loops of which a gradient keeps few states, in Python and in functions that Numba compiles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.calls.of_numba import njit_op
from tapegrad.errors import OperationError, StructureError
from tapegrad.flow import counted
from tapegrad.njit import is_numba
from tapegrad.value import number_of

# Loops of fewer steps are few instructions anyway.
_LEAST = 16


class _ForNumba:
    """A function that answers for itself in Python, and for something else to Numba."""

    def __init__(self, function: Callable[..., Any], type_: Callable[[], Any]) -> None:
        self._function, self._type = function, type_
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> str:
        return str(self._function.__qualname__)

    @property
    def _numba_type_(self) -> Any:
        return self._type()


def _numba_type() -> Any:
    # Numba is not imported before somebody compiles a function that has a loop.
    from tapegrad.njit.leash import numba_type

    return numba_type()


@functools.partial(_ForNumba, type_=_numba_type)
def checkpointed_loop(
    step: Callable[..., Any], state: Any, n: int, *args: Any, memory_limit: int | None = None
) -> Any:
    """state = step(state, i, *args) for i from 0 to n - 1, whose gradient keeps few of the states.

    The gradient is that of the loop written out. It keeps some sqrt(n) of the n states, takes the steps again from
    these, a stretch at a time, and goes back over each. That costs about one or two more passes over the loop. Where
    as many states do not fit into memory fewer are kept, down to about log n, by the binomial schedule of Griewank and
    Walther.

    Args:
        step: step(state, i, *args) returns the next state, nested and shaped as the one it is given. It must depend on
            nothing else: not on random numbers, and on nothing that changes while the loop runs.
        state: the first state.
        n: the number of steps, 0 or more.
        args: what all steps are given. Gradients flow to floats and arrays among them.
        memory_limit: in Python code, how many bytes the states may take that are kept.

    In a function compiled by Numba, `step` is one too; a state is a number, an array, or a (named) tuple of such, with
    whole numbers and truth values as well; an argument may also be a function. There are at most 16 arguments. Numbers
    and arrays of a state keep the types that they have at first, so start with 0.0, not 0, where there will be floats;
    gradients compute in float64. A step may change the arrays of its state in place, and return them: the first state
    is left as it is, and no two arrays of a state are ever one. A loop that is differentiated refuses a step that
    changes an array among its arguments. Loops may be in steps of loops. `set_memory_limit` says how much may be kept.
    Second derivatives, and `record`, write all steps on the tape. A gradient that compiled code calls refuses it.

    In Python, with Values, `step` is recorded once, as by `fori_loop`; where steps read numbers and so cannot be one
    program, all are kept, and a RecordingWarning says so. With a `step` compiled by Numba the whole loop is one
    operation, as by `njit_op`.

    Raises OperationError where n is no whole number, or negative (ValueError in compiled code), where a memory limit
    has no room for two states, and in a gradient where the steps give other numbers when they are taken again;
    StructureError, ShapeError where a state changes its nesting or shapes (ValueError or Numba's TypingError in
    compiled code).

    >>> import numba
    >>> import tapegrad as tg
    >>> @numba.njit
    ... def step(x, i, rate):
    ...     return rate * x * (1.0 - x)
    >>> @numba.njit
    ... def settled(rate):
    ...     return tg.checkpointed_loop(step, 0.1, 100_000, rate)
    >>> value, slope = tg.value_and_grad(settled)(2.5)
    >>> round(value, 9), round(slope, 9)
    (0.6, 0.16)
    >>> value, slope = tg.value_and_grad(lambda rate: tg.checkpointed_loop(step, 0.1, 100_000, rate))(2.5)
    >>> round(value, 9), round(slope, 9)
    (0.6, 0.16)
    """
    if not callable(step):
        raise StructureError(f"checkpointed_loop: step must be a function, not {step!r:.60} ({type(step).__name__})")
    count = number_of(n)
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        raise OperationError(f"checkpointed_loop: n must be a whole number, not {n!r}")
    count = int(count)
    if count < 0:
        raise OperationError(f"checkpointed_loop: n must not be negative, it is {count}")
    if is_numba(step):
        if memory_limit is not None:
            raise OperationError(
                "checkpointed_loop: with a step compiled by Numba there is no memory_limit: see set_memory_limit"
            )
        return _in_numba(step, len(args))(state, count, *args)
    if memory_limit is None and count >= _LEAST:
        size = sum(np.size(x) for x in pytree.flatten(state)[0])
        memory_limit = 8 * size * 2 * (math.isqrt(count) + 1) or None
    body = lambda i, now: step(now, i, *args)
    return counted(0, count, body, state, memory_limit, "checkpointed_loop", "step", "checkpointed_loop")


@functools.cache
def _in_numba(step: Any, count: int) -> Any:
    """The whole loop as an operation, with so many arguments for its steps."""
    import numba

    from tapegrad.njit.leash import loop

    # Numba would make a tuple of all arguments, with the function in it, of a call with `*args`.
    names = ", ".join(["state", "n", *(f"x{k}" for k in range(count))])
    space: dict[str, Any] = {"loop": loop, "step": step}
    exec(f"def checkpointed_loop({names}):\n    return loop(step, {names})", space)
    return njit_op(numba.njit(space["checkpointed_loop"]))

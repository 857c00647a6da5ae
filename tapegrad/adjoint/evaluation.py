"""Calling a function on the tape where its arguments are, so that derivatives of it can be written there.

The arguments that a derivative is taken with respect to are copied first, and the function is called with the copies.
So what depends on a copy belongs to the function, and other uses of the same arguments do not. Derivatives can
therefore be nested to any depth, and the function may use Values from around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.tangent import push_forward
from tapegrad.arguments import in_words, not_floats, owners, real_dtype
from tapegrad.errors import CutGradientError
from tapegrad.functions.special import differentiated
from tapegrad.ops import BY_NAME
from tapegrad.tape import Tape, current_tape, recording_tape
from tapegrad.value import Value, apply, as_value, leaf, refuse_unlike


class Evaluation(NamedTuple):
    """One call of a function on a tape: its inputs, and what it returned."""

    tape: Tape
    structure: Any
    owner: list[int]
    inputs: dict[int, Value]
    outputs: list[Any]
    result_structure: Any

    @property
    def result(self) -> Any:
        """What the function returned."""
        return pytree.unflatten(self.result_structure, self.outputs)

    def values(self) -> tuple[list[Value], list[int]]:
        """The outputs that are Values, and their positions."""
        at = [i for i, y in enumerate(self.outputs) if isinstance(y, Value)]
        return [self.outputs[i] for i in at], at

    def pull(self, seeds: Sequence[Any]) -> dict[int, Value]:
        """The derivative of sum(seeds * outputs) with respect to each input, by leaf number."""
        outputs, at = self.values()
        found = pull_back(list(self.inputs.values()), outputs, [seeds[i] for i in at]) if outputs else []
        grads = dict(zip(self.inputs, found, strict=False))
        return {i: zeros(x) if grads.get(i) is None else grads[i] for i, x in self.inputs.items()}  # type: ignore[misc]

    def push(self, tangents: dict[int, Any]) -> list[Any]:
        """The derivative of each output along tangents of the inputs."""
        outputs, at = self.values()
        given = [tangents.get(i) for i in self.inputs]
        found = push_forward(list(self.inputs.values()), given, outputs) if outputs else []
        known, dtype = dict(zip(at, found, strict=True)), self.tape.dtype
        return [
            t if (t := known.get(i)) is not None
            else zeros(y) if isinstance(y, Value) else np.zeros(np.shape(y), dtype)[()]
            for i, y in enumerate(self.outputs)
        ]  # fmt: skip

    def argument(self, number: int, leaves: dict[int, Any]) -> Any:
        """The entries of `leaves` that belong to one argument, nested as the argument is; None where there is none."""
        own = [leaves.get(i) for i, n in enumerate(self.owner) if n == number]
        return pytree.unflatten(pytree.children(self.structure)[number], own)


def zeros(x: Value) -> Value:
    """A constant of the shape of a Value, zero."""
    return leaf(x._tape, np.zeros(x.shape, x.dtype))


def holds_values(leaves: Sequence[Any]) -> bool:
    """Whether any of the leaves is a Value, or an object array that holds some."""
    return any(
        isinstance(x, Value)
        or (isinstance(x, np.ndarray) and x.dtype == object and any(isinstance(y, Value) for y in x.flat))
        for x in leaves
    )


def on_tape(args: Any) -> bool:
    """Whether a derivative is to be written on a tape: arguments are Values, or a function is being recorded."""
    if recording_tape() is not None:
        return True
    if all(x.__class__ is float or (x.__class__ is np.ndarray and x.dtype != object) for x in args):
        # Most calls have only floats and plain arrays; these are recognised without flattening the arguments.
        return False
    return holds_values(pytree.flatten(args)[0])


def called(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a function of Values.

    NumPy says "setting an array element with a sequence" of a Value that is stored into a float array, and what we say
    is only its cause: that is raised instead.
    """
    try:
        return f(*args, **kwargs)
    except ValueError as error:
        if isinstance(error.__cause__, CutGradientError):
            raise error.__cause__ from None
        raise


def evaluate(
    f: Callable[..., Any], args: Sequence[Any], numbers: Sequence[int] | None
) -> Evaluation:
    """Call a function, with copies of the arguments in `numbers`; where it is None, of all leaves that are floats.

    Raises IntegerInputError where an argument in `numbers` holds anything but floats.
    """
    leaves, structure = pytree.flatten(tuple(args))
    owner = owners(structure)
    if numbers is not None:
        numbers = checked(numbers, len(args))
    tape = next((x._tape for x in leaves if isinstance(x, Value)), None) or current_tape(_dtype(leaves))
    inputs = {}
    for i, x in enumerate(leaves):
        if numbers is None and not is_float(x):
            continue
        if numbers is None or owner[i] in numbers:
            inputs[i] = leaves[i] = _copy(x, tape, owner[i])
    with differentiated(inputs.values()):
        result = called(f, *pytree.unflatten(structure, leaves))
    outputs, result_structure = pytree.flatten(result)
    outputs = [as_value(y, tape, "result") if isinstance(y, np.ndarray) and y.dtype == object else y for y in outputs]
    return Evaluation(tape, structure, owner, inputs, outputs, result_structure)


def checked(numbers: Sequence[int], count: int) -> list[int]:
    """Argument numbers, those counted from the end turned into numbers from the front. Raises IndexError."""
    for n in numbers:
        if not -count <= n < count:
            raise IndexError(f"argnums names argument {n}, the function has {count}")
    return [n % count for n in numbers]


def _dtype(leaves: Sequence[Any]) -> Any:
    arrays = {x.dtype.newbyteorder("=") for x in leaves if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    return real_dtype(arrays, "an argument") if arrays else None


def is_float(x: Any) -> bool:
    """Whether something given as an argument can be differentiated: a float, or an array or Value of them."""
    if isinstance(x, Value):
        return not x.size or x._tape.kind(x._slot) == ""
    return isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind in "fO")


def _copy(x: Any, tape: Tape, argument: int) -> Value:
    refuse_unlike(x, "an argument")
    if isinstance(x, np.ndarray) and x.dtype == object:
        x = as_value(x, tape, "an argument")
    if not is_float(x):
        raise not_floats(argument, "integers" if isinstance(x, Value) else in_words(x))
    if isinstance(x, Value):
        return apply(BY_NAME["copy"], (as_value(x, tape, "an argument"),))
    return leaf(tape, np.asarray(x, tape.dtype), True)

"""Functions of whole arrays as one instruction: what matrix functions and Fourier transforms are made with.

They are calls of Python as `call.py` has them, but know more of themselves: arguments are arrays, not nested
structures, and the shapes of results follow from those of the arguments. So nothing needs to be evaluated while
recording, and a call in a sweep costs less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.errors import DTypeError, ShapeError, UnsupportedError
from tapegrad.functions import stack
from tapegrad.functions.registry import holds_value
from tapegrad.layout import dense
from tapegrad.ops.external import external
from tapegrad.ops.record import STRUCTURED
from tapegrad.recording.certificate import Certificate, Kink
from tapegrad.sweeps import callbacks
from tapegrad.value import Value, as_value, contiguous, handle, operand, tape_of, view

Shape = tuple[int, ...]
Key = tuple[Any, ...]
# Functions by their keys, and what makes those that have options, by name: pickled calls find their functions again.
_known: dict[Key, ArrayFunction] = {}
_families: dict[str, Callable[..., ArrayFunction]] = {}


class ArrayFunction:
    """A function of arrays with rules for its derivatives, which are written in NumPy for numbers and Values alike.

    Args:
        key: its name, and the options that it was made with where it is one of a `family`.
        value: value(*arrays) returns an array, or a tuple of them where `shapes` returns a list.
        shapes: shapes(*shapes) returns the shape of the result, or a list of shapes.
        vjp: vjp(w, z, *arrays) returns the gradient of <w, z> for each argument, None for zero; z is the result.
        jvp: jvp(tangents, z, *arrays) returns the derivative of the result; None among the tangents stands for zero.
        kink: kink(*arrays) returns how far the arguments are from where there is no derivative.
    """

    def __init__(
        self, key: Key, value: Callable[..., Any], shapes: Callable[..., Any], vjp: Callable[..., Any],
        jvp: Callable[..., Any], kink: Callable[..., float] | None = None,
    ) -> None:  # fmt: skip
        self.key, self.name = key, key[0]
        self.value, self.shapes, self.vjp, self.jvp, self.kink = value, shapes, vjp, jvp, kink
        if len(key) == 1:
            _known[key] = self

    def __reduce__(self) -> Any:
        return _again, (self.key,)

    def __call__(self, *args: Any) -> Any:
        """The result: computed of plain arrays, recorded where any argument is a Value."""
        for x in args:
            if isinstance(x, Value):
                return _recorded(self, args)
        return self.value(*args)


def _again(key: Key) -> ArrayFunction:
    found = function_of(key)
    assert found is not None
    return found


def function_of(key: Key) -> ArrayFunction | None:
    """The function that has a key; None where there is none."""
    if len(key) == 1:
        return _known.get(key)
    make = _families.get(key[0])
    return None if make is None else make(*key[1:])


def family(name: str) -> Callable[[Callable[..., ArrayFunction]], Callable[..., ArrayFunction]]:
    """Decorator: what makes functions of a name for options, which are positional; each is made once."""

    def register(make: Callable[..., ArrayFunction]) -> Callable[..., ArrayFunction]:
        _families[name] = made = functools.lru_cache(1024)(make)
        return made

    return register


def arrays_of(what: str, *args: Any) -> list[Any]:
    """Arguments as Values and plain arrays of floats; lists and object arrays that hold Values become Values.

    Raises UnsupportedError for what is no real number, DTypeError where an array has another dtype than a Value.
    """
    found = [x if isinstance(x, Value) else stack(x) if holds_value(x) else np.asarray(x) for x in args]
    dtype = next((x.dtype for x in found if isinstance(x, Value)), None)
    for i, x in enumerate(found):
        if isinstance(x, Value):
            continue
        if x.dtype.kind not in "fiub":
            raise UnsupportedError(f"{what}: an operand of {x.dtype} cannot be used with a Value")
        if isinstance(args[i], np.ndarray) and x.ndim and x.dtype.kind == "f":
            if dtype not in (None, x.dtype):
                raise DTypeError(
                    f"{what}: an array of {x.dtype} meets a Value of {dtype}; convert it with .astype(np.{dtype})"
                )
        else:
            found[i] = x.astype(dtype or float)
    return found


def _recorded(function: ArrayFunction, args: Sequence[Any]) -> Any:
    tape = tape_of(args)
    kept: list[Any] = []
    values = []
    for x in args:
        if isinstance(x, Value):
            values.append(contiguous(as_value(x, tape, function.name)))
            kept.append(None)
        else:
            # A copy, as of everything that a recording takes from around it.
            kept.append(np.array(x, tape.dtype))
    made = ArrayCall(function, [x.shape for x in args], kept)
    number = callbacks.register(made)
    tape.calls[number] = made
    params = [number, made.size, *[v.size for v in values]]
    slot = tape.run(external.opcode, STRUCTURED, made.size, [operand(v) for v in values], params)
    # Once more: the tape may have tidied up before it took the instruction.
    tape.calls[number] = made
    return made.nested(handle(tape, slot, dense((made.size,))))


class ArrayCall:
    """What an instruction `external` stands for: a function, and those of its arguments that are constants."""

    exact = False

    def __init__(self, function: ArrayFunction, shapes: list[Shape], kept: list[Any]) -> None:
        self.function, self.kept, self.all_shapes = function, kept, shapes
        self.at = [i for i, x in enumerate(kept) if x is None]
        self.own_shapes = [shapes[i] for i in self.at]
        found = function.shapes(*shapes)
        self.many = isinstance(found, list)
        self.shapes: list[Shape] = found if self.many else [found]
        self.size = sum(map(math.prod, self.shapes))

    def _arguments(self, own: Sequence[Any]) -> list[Any]:
        args = list(self.kept)
        for i, shape, x in zip(self.at, self.own_shapes, own, strict=True):
            args[i] = None if x is None else _shaped(x, shape)
        return args

    def nested(self, flat: Any) -> Any:
        """A flat result, adjoint or tangent as one array, or as a tuple of them."""
        if not self.many:
            return _shaped(flat, self.shapes[0])
        parts, start = [], 0
        for shape in self.shapes:
            n = math.prod(shape)
            parts.append(_shaped(flat[start : start + n], shape))
            start += n
        return tuple(parts)

    def _flat(self, result: Any) -> Any:
        if not self.many:
            return np.reshape(result, -1)
        return np.concatenate([np.reshape(x, -1) for x in result])

    # On numbers

    def forward(self, operands: list[np.ndarray]) -> Any:
        """The result, flat."""
        return self._flat(self.function.value(*self._arguments(operands)))

    def reverse(
        self, operands: list[np.ndarray], result: np.ndarray, adjoint: np.ndarray, wanted: Sequence[bool]
    ) -> Sequence[Any]:
        """For each operand its adjoint, None for zero."""
        if not adjoint.any():
            return [None] * len(operands)
        with np.errstate(all="ignore"):
            grads = self.function.vjp(self.nested(adjoint), self.nested(result), *self._arguments(operands))
        return [grads[i] for i in self.at]

    def tangent(self, operands: list[np.ndarray], result: np.ndarray, tangents: list[np.ndarray]) -> Any:
        """The tangent of the result, flat."""
        if not any(t.any() for t in tangents):
            return np.zeros_like(result)
        with np.errstate(all="ignore"):
            return self._flat(self._pushed(self.nested(result), self._arguments(operands), tangents))

    def _pushed(self, result: Any, args: list[Any], tangents: Sequence[Any]) -> Any:
        along: list[Any] = [None] * len(args)
        for i, shape, t in zip(self.at, self.own_shapes, tangents, strict=True):
            along[i] = None if t is None else _shaped(t, shape)
        return self.function.jvp(along, result, *args)

    def certificate(self, operands: list[np.ndarray]) -> Any:
        """How far it is to where there is no derivative; None for a function that has one everywhere."""
        if self.function.kink is None:
            return None
        distance = float(self.function.kink(*self._arguments(operands)))
        return Certificate(distance > 0.0, (Kink(distance, 0, self.function.name, "a function of arrays", 0, ()),))

    # On Values

    def pullback(self, instruction: Any, adjoint: Value) -> list[Any]:
        """The adjoints of the operands as Values, each of one axis."""
        args = self._arguments([x.value for x in instruction.operands])
        grads = self.function.vjp(self.nested(adjoint), self.nested(instruction.result), *args)
        return [self._as_flat_value(grads[i], adjoint) for i in self.at]

    def pushforward(self, instruction: Any, tangents: list[Any]) -> Any:
        """The tangent of the result as a Value of one axis."""
        args = self._arguments([x.value for x in instruction.operands])
        pushed = self._pushed(self.nested(instruction.result), args, tangents)
        parts = [self._as_flat_value(x, instruction.result) for x in (pushed if self.many else (pushed,))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _as_flat_value(self, x: Any, like: Value) -> Any:
        return None if x is None else as_value(x, like._tape, self.function.name).reshape(-1)


def _shaped(x: Any, shape: Shape) -> Any:
    if shape or not isinstance(x, Value):
        return x.reshape(shape)
    return view(x, x._slot, None)


def require(condition: Any, message: str) -> None:
    """Raise ShapeError with this message where a condition does not hold."""
    if not condition:
        raise ShapeError(message)

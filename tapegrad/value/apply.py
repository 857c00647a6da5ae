"""Recording: operands made Values of one tape, shapes broadcast, an instruction appended."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeVar, cast

import numpy as np

from tapegrad.errors import (
    DTypeError,
    OperationError,
    OuterValueError,
    ShapeError,
    TapeMismatchError,
    UnsupportedError,
)
from tapegrad.layout import FlagLayout, Layout, broadcast_shapes, broadcast_strides, dense, flags, merge_axes
from tapegrad.ops import BY_NAME, Elementwise, Operation, Structured
from tapegrad.ops.record import DENSE, ELEMENTWISE, STRIDED, STRUCTURED, UNIFORM, record
from tapegrad.tape import Tape, current_tape
from tapegrad.tape.ambient import ambient, made_float64
from tapegrad.value.handle import Handle
from tapegrad.value.numbers import refuse_unlike
from tapegrad.value.reading import Reader

R = TypeVar("R", bound="Recorder")

# A single truth value among arrays of them.
_TRUTH = FlagLayout((), ())

NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Recorder(Reader):
    """The part of Value that puts things on the tape. Class methods, since not every operand is a Value."""

    __slots__ = ()

    @classmethod
    def _of(cls, x: Any, tape: Tape, what: str) -> Self:
        """A number or array as a constant of `tape`; a Value of that tape as it is.

        Raises TapeMismatchError, DTypeError, UnsupportedError.
        """
        if isinstance(x, Handle):
            if x._tape is not tape:
                raise _mismatch(x._tape, tape, what)
            return cls._on(tape, x._slot, None) if x._is_integer else cast(Self, x)
        if isinstance(x, NUMBERS):
            return cls._constant(tape, float(x))
        refuse_unlike(x, what)
        array = np.asarray(x)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype == object:
            return cls._stacked(array, tape)
        if array.dtype.kind not in "fiub":
            raise UnsupportedError(
                f"{what}: an operand of type {type(x).__name__} ({array.dtype}) cannot be used with a Value"
            )
        if array.dtype.kind == "f" and isinstance(x, list | tuple):
            # Plain numbers in a list have no dtype of their own.
            array = array.astype(tape.dtype)
        if array.dtype.kind == "f" and array.ndim and array.dtype.itemsize > tape.dtype.itemsize:
            array = _narrowed(array, tape, what)
        if array.ndim == 0:
            return cls._constant(tape, float(array))
        if not tape.recording:
            return cls._leaf(tape, array)
        # A loop may use the same array again and again: a recording holds it only once.
        key = array.shape, array.dtype.str, hashlib.blake2b(array.tobytes(), digest_size=16).digest()
        slot = tape.arrays.get(key)
        if slot is None:
            made = cls._leaf(tape, array)
            tape.arrays[key] = made._slot
            return made
        return cls._on(tape, slot, flags(dense(array.shape)) if array.dtype.kind == "b" else dense(array.shape))

    @classmethod
    def _constant(cls, tape: Tape, number: float) -> Self:
        value = cls._on(tape, tape.constant(number), None)
        if not tape.recording:
            # The constant may have been recorded on a page that is gone. So the handle holds a page for it alone, and
            # it cannot be forgotten before it is used.
            value._page = tape.pin(value._slot)
        return value

    @classmethod
    def _stacked(cls, array: np.ndarray, tape: Tape) -> Self:
        """An object array of scalar Values and numbers as one Value."""
        given: list[Any] = [*array.reshape(-1)]
        for x in given:
            if not isinstance(x, Handle | int | float | np.number):
                raise UnsupportedError(f"an object array of Values holds {type(x).__name__}")
            if isinstance(x, Handle) and x.size != 1:
                raise ShapeError(f"an object array of Values holds one of shape {x.shape}: it takes scalars only")
        if array.ndim == 0:
            return cls._of(array[()], tape, "stack")
        if not len(given):
            return cls._leaf(tape, array.astype(float))
        values = [cls._of(x, tape, "stack") for x in given]
        return cls._structured("concatenate", tape, array.shape, values, [1, len(values), *[1] * len(values)])

    @classmethod
    def _apply(cls, operation: Elementwise, args: Sequence[Any]) -> Self:
        """Record an elementwise operation on Values and plain numbers or arrays, broadcast by NumPy's rules.

        Raises ShapeError, DTypeError, TapeMismatchError.
        """
        if len(args) != operation.arity:
            raise OperationError(f"{operation.name} takes {operation.arity} operands, {len(args)} were given")
        first = args[0]
        tape = first._tape if first.__class__ is cls else tape_of(args)
        if len(args) == 1 and first.__class__ is cls and first._layout is None:
            a = first._slot
            return cls._on(tape, tape.scalar(operation.opcode, a, a, a), None)
        # Values made here are held until the instruction is on the tape, so that the tape does not forget them before.
        held: list[Any] = []
        slots: list[int] = []
        layouts: list[Layout | None] = []
        scalar = True
        for x in args:
            if x.__class__ is float and tape.recording:
                # A recording keeps its constants.
                slots.append(tape.constant(x))
                layouts.append(None)
                continue
            if x.__class__ is not cls or x._tape is not tape:
                x = cls._of(x, tape, operation.name)
                held.append(x)
            slots.append(x._slot)
            layouts.append(x._layout)
            scalar = scalar and x._layout is None
        if scalar:
            a, b, c = slots[0], slots[min(1, len(slots) - 1)], slots[-1]
            return cls._on(tape, tape.scalar(operation.opcode, a, b, c), None)
        if FlagLayout in [layout.__class__ for layout in layouts] and None in layouts:
            layouts = cls._truths(args, layouts)
        opcode, n, record, layout = _run(operation, *layouts)
        return cls._on(tape, tape.run_like(opcode, n, record, slots if n else ()), layout)

    @classmethod
    def _truths(cls, args: Sequence[Any], layouts: list[Layout | None]) -> list[Layout | None]:
        """The layouts of operands, where single truth values that stand beside arrays of them are marked as such."""
        if not all(layout is None or layout.__class__ is FlagLayout for layout in layouts):
            return layouts
        return [_TRUTH if layout is None and _is_truth(x) else layout for x, layout in zip(args, layouts, strict=True)]

    @classmethod
    def _structured(
        cls, name: str, tape: Tape, shape: Sequence[int], operands: Sequence[Handle], params: Sequence[int]
    ) -> Self:
        """Record a structured operation; the parameters are those that its kernels read."""
        row = BY_NAME[name]
        slot = tape.run(row.opcode, STRUCTURED, math.prod(shape), [operand(x) for x in operands], [*params])
        layout = dense(shape) if len(shape) else None
        return cls._on(tape, slot, flags(layout) if of_truths(row, [x._layout for x in operands]) else layout)

    @classmethod
    def _apply_structured(cls, operation: Structured, args: Sequence[Any], options: dict[str, Any]) -> Self:
        """Record a structured operation on dense operands.

        The parameters come from its `params` rule, called with the operands' shapes and the options, or are given as
        `params`. Raises OperationError where the operation has no such rule or the operands do not have the shapes it
        says.
        """
        name = operation.name
        tape = tape_of(args)
        values = [contiguous(cls._of(x, tape, name)) for x in args]
        if operation.views is None or ("params" not in options and operation.params is None):
            raise OperationError(f"{name} cannot be called: it is declared without its rules `views` and `params`")
        if operation.arity >= 0 and len(values) != operation.arity:
            raise OperationError(f"{name} takes {operation.arity} operands, {len(values)} were given")
        if operation.params is None:
            params = options["params"]
        else:
            params = options.get("params") or operation.params(*[v.shape for v in values], **options)
        params = [int(p) for p in params]
        operands, shape = operation.views(params)
        for i, (v, (wanted, _)) in enumerate(zip(values, operands, strict=True)):
            if v.size != math.prod(wanted):
                raise OperationError(f"{name}: operand {i} has shape {v.shape}, its parameters say {tuple(wanted)}")
        return cls._structured(name, tape, shape, values, params)


def _is_truth(x: Any) -> bool:
    if isinstance(x, Handle):
        return x._tape.kind(x._slot) == "b"
    return isinstance(x, bool | np.bool_)


class _Run(NamedTuple):
    """How an elementwise operation over many elements is recorded: its record without slots, and its result."""

    opcode: int
    n: int
    record: list[int]
    layout: Layout | None


@functools.lru_cache(1 << 12)
def _run(operation: Elementwise, *layouts: Layout | None) -> _Run:
    """How an operation is recorded, which depends on the layouts of its operands alone. Programs repeat themselves, so
    this is remembered."""
    if all(layout.__class__ is FlagLayout for layout in layouts):
        operation = _on_truths(operation)
    shape = broadcast_shapes([() if layout is None else layout.shape for layout in layouts], operation.name)
    n = math.prod(shape)
    reach = [(0, 1) if layout is None else layout.reach for layout in layouts]
    axes, strides = merge_axes(shape, [broadcast_strides(layout, shape) for layout in layouts])
    params = [len(axes), *axes]
    for s in strides:
        if (len(axes) == 1 and s[0] == 1) or n == 1:
            mode = DENSE
        elif not any(s):
            mode = UNIFORM
        else:
            mode = STRIDED
        params += [mode, *s]
    layout = dense(shape) if shape else None
    operands = [(0, low, high) if n else (0, 0, 0) for low, high in reach]
    numbers = record(ELEMENTWISE, 0, n, operands, params)
    truth = operation.truth or of_truths(operation, layouts)
    return _Run(operation.opcode, n, numbers, flags(layout) if truth else layout)


def of_truths(row: Operation, layouts: Sequence[Layout | None]) -> bool:
    """Whether an operation's results are truth values because the operands that they consist of are."""
    givers = row.kind_givers(layouts)
    return bool(givers) and all(layout.__class__ is FlagLayout for layout in givers)


def _on_truths(operation: Elementwise) -> Elementwise:
    """The operation that is recorded when all operands are truth values: NumPy adds them by `or`, for one.

    Raises UnsupportedError for an operation that NumPy refuses, as it does to subtract them.
    """
    other = operation.on_truths
    if isinstance(other, str):
        raise UnsupportedError(f"{operation.name} of truth values is not defined: {other}")
    return operation if other is None else cast(Elementwise, other)


def _narrowed(array: np.ndarray, tape: Tape, what: str) -> np.ndarray:
    """An array of wider floats for a tape that is being recorded, and then is recorded again in float64.

    Raises DTypeError where there is nothing to record again, or float64 is too narrow too.
    """
    if array.dtype.itemsize > 8:
        raise DTypeError(
            f"{what}: an array of {array.dtype} meets a Value, which holds at most float64; convert it with "
            ".astype(float)"
        )
    if not made_float64(tape):
        raise DTypeError(
            f"{what}: an array of {array.dtype} meets a Value of {tape.dtype}, whose tape has one dtype; convert the "
            f"array with .astype(np.{tape.dtype}), or what the Value is made of with .astype(np.{array.dtype})"
        )
    with np.errstate(over="ignore"):
        return array.astype(tape.dtype)


def _mismatch(a: Tape, b: Tape, what: str) -> Exception:
    if a.dtype != b.dtype:
        return DTypeError(
            f"{what}: a Value of {a.dtype} meets a Value of {b.dtype}; a tape has one dtype, so make both of arrays of "
            "the same, or pass the arrays to tg.grad and its like, which convert them"
        )
    if a.finished or b.finished:
        where = "one was recorded inside a function whose recording is finished"
    elif a.recording != b.recording and (b if a.recording else a) is ambient.tapes.get(a.dtype):
        return OuterValueError(
            f"{what}: Values of two tapes meet: one comes from outside the function that is being recorded. Pass it to "
            "the function as an argument, or take the derivative by tg.grad or its like, which then is a Value too"
        )
    elif a.recording or b.recording:
        where = "one comes from outside the function that is being recorded; pass it to the function as an argument"
    elif a.owner != b.owner:
        where = "they belong to two threads"
    else:
        where = "each must be recorded on the same tape"
    return TapeMismatchError(f"{what}: Values of two tapes meet: {where}")


def tape_of(args: Sequence[Any]) -> Tape:
    """The tape of the first Value among the arguments."""
    for arg in args:
        if isinstance(arg, Handle):
            return arg._tape
    return current_tape()


def contiguous(value: R) -> R:
    """The value itself if its elements stand in row-major order without gaps, else a copy that does."""
    layout = value._layout
    return value if layout is None or layout.dense else value._apply(BY_NAME["copy"], (value,))


def operand(x: Handle) -> tuple[int, int, int]:
    """What a record says of an operand: its first element's slot, and the slots it reaches from there."""
    low, high = (0, 1) if x._layout is None else x._layout.reach
    return x._slot, low, high


def power(base: R, exponent: Any) -> R:
    """base ** exponent; with a constant exponent the base may be negative, and no logarithm is taken."""
    if isinstance(exponent, NUMBERS):
        special = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(float(exponent))
        if exponent == 1:
            return base
        if special:
            return base._apply(BY_NAME[special], (base,))
        return base._apply(BY_NAME["power_constant"], (base, exponent))
    if isinstance(exponent, np.ndarray) and exponent.dtype != object:
        return base._apply(BY_NAME["power_constant"], (base, exponent))
    return base._apply(BY_NAME["power"], (base, exponent))

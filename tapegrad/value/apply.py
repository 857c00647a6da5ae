"""Recording elementwise operations: operands made Values of one tape, shapes broadcast, an instruction appended."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tapegrad.errors import DTypeError, OperationError, TapeMismatchError, UnsupportedError
from tapegrad.layout import FlagLayout, broadcast_shapes, broadcast_strides, dense, flags, merge_axes
from tapegrad.ops import BY_NAME, Elementwise, Structured
from tapegrad.ops.record import DENSE, ELEMENTWISE, STRIDED, STRUCTURED, UNIFORM
from tapegrad.tape import Tape, current_tape
from tapegrad.value.handle import HANDLERS, Handle, handle, leaf

if TYPE_CHECKING:
    from tapegrad.value.value import Value

NUMBERS = (int, float, np.integer, np.floating, np.bool_)


def as_value(x: Any, tape: Tape, what: str) -> Value:
    """A number or array as a constant of `tape`; a Value of that tape as it is.

    Raises TapeMismatchError, DTypeError, UnsupportedError.
    """
    if isinstance(x, Handle):
        if x._tape is not tape:
            raise _mismatch(x._tape, tape, what)
        return cast("Value", x)
    if isinstance(x, NUMBERS):
        return _constant(tape, float(x))
    array = np.asarray(x)
    if array.dtype == object:
        return HANDLERS["stack_objects"](array, tape)
    if array.dtype.kind not in "fiub":
        raise UnsupportedError(
            f"{what}: an operand of type {type(x).__name__} ({array.dtype}) cannot be used with a Value"
        )
    if array.dtype.kind == "f" and array.ndim and array.dtype != tape.dtype:
        raise DTypeError(
            f"{what}: an array of {array.dtype} meets a Value of {tape.dtype}; convert it with .astype(np.{tape.dtype})"
        )
    if array.ndim == 0:
        return _constant(tape, float(array))
    if not tape.recording:
        return leaf(tape, array)
    # In a loop the same array is captured again and again: a recording holds it once.
    key = array.shape, array.dtype.str, hashlib.blake2b(array.tobytes(), digest_size=16).digest()
    slot = tape.arrays.get(key)
    if slot is None:
        made = leaf(tape, array)
        tape.arrays[key] = made._slot
        return made
    return handle(tape, slot, flags(dense(array.shape)) if array.dtype.kind == "b" else dense(array.shape))


def _constant(tape: Tape, number: float) -> Value:
    # The constant may be old, and the pages that it was recorded on gone: until it is used, the handle keeps it.
    value = handle(tape, tape.constant(number), None)
    value._page = tape.pin(value._slot)
    return value


def _mismatch(a: Tape, b: Tape, what: str) -> Exception:
    if a.dtype != b.dtype:
        return DTypeError(f"{what}: a Value of {a.dtype} meets a Value of {b.dtype}; a tape has one dtype")
    if a.finished or b.finished:
        where = "one was recorded inside a function whose recording is finished"
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


def apply(operation: Elementwise, args: Sequence[Any]) -> Value:
    """Record an elementwise operation on Values and plain numbers or arrays, broadcast by NumPy's rules.

    Raises ShapeError, DTypeError, TapeMismatchError.
    """
    if len(args) != operation.arity:
        raise OperationError(f"{operation.name} takes {operation.arity} operands, {len(args)} were given")
    if len(args) == 1 and isinstance(args[0], Handle) and args[0]._layout is None:
        tape = args[0]._tape
        return handle(tape, tape.scalar(operation.opcode, args[0]._slot, args[0]._slot, args[0]._slot), None)
    tape = tape_of(args)
    values = [as_value(x, tape, operation.name) for x in args]
    layouts = [v._layout for v in values]
    if all(layout.__class__ is FlagLayout for layout in layouts):
        operation = _on_truths(operation)
    if all(layout is None for layout in layouts):
        a, b, c = values[0]._slot, values[min(1, len(values) - 1)]._slot, values[-1]._slot
        return handle(tape, tape.scalar(operation.opcode, a, b, c), None)
    shape = broadcast_shapes([v.shape for v in values], operation.name)
    slot = _record_run(tape, operation.opcode, shape, values)
    layout = dense(shape) if shape else None
    return handle(tape, slot, flags(layout) if operation.truth else layout)


def _on_truths(operation: Elementwise) -> Elementwise:
    """What an operation is on arrays of truth values: NumPy adds them by `or`, and refuses to subtract them."""
    other = operation.on_truths
    if isinstance(other, str):
        raise UnsupportedError(f"{operation.name} of truth values is not defined: {other}")
    return operation if other is None else cast(Elementwise, other)


def _record_run(tape: Tape, opcode: int, shape: tuple[int, ...], values: list[Value]) -> int:
    operands = []
    n = math.prod(shape)
    for v in values:
        low, high = v._layout_or_scalar().reach()
        operands.append((v._slot, low, high) if n else (0, 0, 0))
    strides = [broadcast_strides(v._layout, shape) for v in values]
    axes, merged = merge_axes(shape, strides)
    params = [len(axes), *axes]
    for s in merged:
        if (len(axes) == 1 and s[0] == 1) or n == 1:
            mode = DENSE
        elif not any(s):
            mode = UNIFORM
        else:
            mode = STRIDED
        params += [mode, *s]
    return tape.run(opcode, ELEMENTWISE, n, operands, params)


def contiguous(value: Any) -> Value:
    """The value itself if its elements stand in row-major order without gaps, else a copy that does."""
    layout = value._layout
    return value if layout is None or layout.dense else apply(BY_NAME["copy"], (value,))


def operand(x: Value) -> tuple[int, int, int]:
    """What a record says of an operand: its first element's slot, and the slots it reaches from there."""
    low, high = x._layout_or_scalar().reach()
    return x._slot, low, high


def apply_structured(operation: Structured, args: Sequence[Any], options: dict[str, Any]) -> Value:
    """Record a structured operation on dense operands.

    The parameters come from its `params` rule, called with the operands' shapes and the options, or are given as
    `params`. Raises OperationError where the operation has no such rule or the operands do not have the shapes it says.
    """
    name = operation.name
    tape = tape_of(args)
    values = [contiguous(as_value(x, tape, name)) for x in args]
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
    slot = tape.run(operation.opcode, STRUCTURED, math.prod(shape), [operand(v) for v in values], params)
    return handle(tape, slot, dense(shape) if len(shape) else None)


def power(base: Any, exponent: Any) -> Value:
    """base ** exponent; with a constant exponent the base may be negative, and no logarithm is taken."""
    if isinstance(exponent, NUMBERS):
        special = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(float(exponent))
        if exponent == 1:
            return +base
        if special:
            return apply(BY_NAME[special], (base,))
        return apply(BY_NAME["power_constant"], (base, exponent))
    if isinstance(exponent, np.ndarray) and exponent.dtype != object:
        return apply(BY_NAME["power_constant"], (base, exponent))
    return apply(BY_NAME["power"], (base, exponent))

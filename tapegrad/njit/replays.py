"""Calling compiled recordings from Numba code: their Numba types, and the code that replays. Imports Numba.

What such code has of a recording is an address, of a few words that lead to the records of its branches; see
`tapegrad.native.image`. The type says what goes in and comes out: so two recordings of the same arguments and results
are of one type, and code that is handed a recording is compiled once for both.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.core.imputils import lower_constant
from numba.core.registry import cpu_target
from numba.core.runtime import _nrt_python
from numba.core.typing import signature
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import (
    NativeValue,
    intrinsic,
    lower_getattr,
    models,
    overload,
    register_model,
    unbox,
)

from tapegrad.compiled.pointers import (
    array_of,
    pointer_float32,
    pointer_float64,
    pointer_int64,
    pointer_uint8,
)
from tapegrad.errors import GuardError, IndexRangeError, IntegerInputError, ShapeError
from tapegrad.native import image
from tapegrad.njit.arrays import loops
from tapegrad.njit.forms import Form, Leaf, Nest, check, described, leaves
from tapegrad.njit.numbers import jit
from tapegrad.njit.words import allocate, call_program, copy_bytes, exchange, put_if_zero, release, set_word, word

free: Callable[[int], Any] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_nrt_python.c_helpers["Free"])

# The words that a `Replay` is the address of: how many branches there are, which one fitted last, and where the
# addresses of their records are. A `RecordingType` is the address of two such addresses, for value and gradient.
BRANCHES, LAST, RECORDS = range(3)

_POINTERS = {"float64": "pointer_float64", "float32": "pointer_float32", "int64": "pointer_int64",
             "bool": "pointer_uint8"}  # fmt: skip
_NO_MEMORY = "there is no memory for a replay"
_OTHER_BRANCH = (
    "a recording was called from Numba code with numbers for which the function takes a branch that was not recorded: "
    "call the recording from Python at such numbers, and compile() it, before Numba code is handed it, or write "
    "np.where for the branch"
)
_OUT_OF_RANGE = "an index or a label of a recording that was called from Numba code is out of range"


class Replay(types.Callable):
    """The type of what replays a program."""

    def __init__(self, form: Form, name: str = "") -> None:
        self.form = form
        given = ", ".join(map(described, form.arguments))
        super().__init__(name=name or f"recording of {given} [{form.digest}]")

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:
        """The signature of a call. Raises TypingError where arguments are others than recorded."""
        if kws:
            raise TypingError("a recording is called with arguments by position")
        given, wanted = [types.unliteral(t) for t in args], self.form.arguments
        if len(given) != len(wanted):
            raise TypingError(f"recorded with {len(wanted)} arguments, called with {len(given)}")
        for n, (t, of) in enumerate(zip(given, wanted, strict=True)):
            check(f"argument {n}", t, of)
        template, _, own, _ = _caller(self.form).get_call_template((self, *given), {})
        found = template(context).apply(own, {})
        return signature(found.return_type, *given, recvr=self)

    def get_call_signatures(self) -> Any:
        """None are known before somebody calls."""
        return (), True

    def get_impl_key(self, sig: Any) -> Any:
        """What the code of a call is found by."""
        return _caller(self.form).get_overload(sig.args)


class RecordingType(Replay):
    """The type of a recording, which is called for its value; `both` and `slope` replay its gradient, with the value
    or without, or are None, and `why` says why."""

    def __init__(self, value: Form, both: Form | None, slope: Form | None, why: str) -> None:
        self.both = None if both is None else Replay(both)
        self.slope = None if slope is None else Replay(slope)
        self.why = why
        super().__init__(value, f"{Replay(value).name}, with gradient [{both.digest if both else why}]")


@functools.cache
def prepare() -> None:
    """Make these types known to Numba, once, also where it is in the midst of compiling."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


@register_model(Replay)
@register_model(RecordingType)
class _Address(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, ir.IntType(64))


@infer_getattr
class _Methods(AttributeTemplate):
    key = RecordingType

    def resolve_value_and_grad(self, t: Any) -> Any:
        if t.both is None:
            raise TypingError(t.why)
        return t.both

    def resolve_grad(self, t: Any) -> Any:
        if t.slope is None:
            raise TypingError(t.why)
        return t.slope


@lower_getattr(RecordingType, "value_and_grad")
@lower_getattr(RecordingType, "grad")
def _gradient_of(context: Any, builder: Any, t: Any, value: Any) -> Any:
    pointer = builder.inttoptr(value, ir.IntType(64).as_pointer())
    return builder.load(builder.gep(pointer, [ir.IntType(64)(1)]))


# Code that Numba has compiled stays as long as the function that it is of, which nobody tells us: so does what it has
# the addresses of.
_kept: list[Any] = []


@lower_constant(Replay)
@lower_constant(RecordingType)
def _constant(context: Any, builder: Any, t: Any, value: Any) -> Any:
    found = value._numba_words_
    _kept.append(found)
    # Numba does not keep on disk what was compiled with addresses of this process, if it is told of them.
    return builder.ptrtoint(context.add_dynamic_addr(builder, int(found.ctypes.data), "recording"), ir.IntType(64))


@unbox(Replay)
@unbox(RecordingType)
def _unboxed(t: Any, thing: Any, c: Any) -> Any:
    # Whoever calls has the object, and with it the words, for as long as the call lasts.
    address = c.pyapi.object_getattr_string(thing, "_numba_address_")
    value = c.pyapi.long_as_longlong(address)
    c.pyapi.decref(address)
    return NativeValue(value, is_error=c.pyapi.c_api_error())


@intrinsic
def words_of(typingctx: Any, replay: Any) -> Any:
    """The address of the words of a `Replay`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not isinstance(replay, RecordingType):
            return args[0]
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(replay), code


_IDLE, _ALIGNED = image.IDLE, image.ALIGNED
_IMAGE, _SIZE, _ADDRESSES, _COUNT, _GUARDS = (
    8 * n for n in (image.IMAGE, image.SIZE, image.ADDRESSES, image.COUNT, image.GUARDS)
)


@jit
def taken(record):
    """The address of a block in which nobody else replays: one that is kept with a record, or a copy of its image."""
    for i in range(_IDLE):
        block = exchange(record + 8 * i, 0)
        if block != 0:
            return block
    return _copied(record)


@jit
def _copied(record):
    size = word(record + _SIZE)
    memory = allocate(size + _ALIGNED)
    if memory == 0:
        raise MemoryError(_NO_MEMORY)
    block = (memory + _ALIGNED - 1) // _ALIGNED * _ALIGNED
    copy_bytes(block, word(record + _IMAGE), size)
    set_word(block, memory)
    addresses = word(record + _ADDRESSES)
    for i in range(word(record + _COUNT)):
        at = block + word(addresses + 8 * i)
        set_word(at, word(at) + block)
    return block


@jit
def given_back(record, block):
    """Keep a block for others, or give its memory back where enough are kept."""
    for i in range(_IDLE):
        if put_if_zero(record + 8 * i, block):
            return
    release(word(block))


@jit
def is_guard(record, step):
    """Whether a step is a guard."""
    return array_of(pointer_uint8(word(record + _GUARDS)), step + 1)[step] != 0


def led(block, at, x, there):
    """Have the pointer of an input or result lead to an array where that can be, else into the block; returns whether
    it leads to the array. `there` says whether it may."""


@overload(led)
def _led(block, at, x, there):
    contiguous = x.layout == "C" and x.aligned

    def impl(block, at, x, there):
        slot = word(at + 8)
        if slot < 0:
            return False
        if contiguous and there:
            set_word(block + slot, np.int64(x.ctypes.data))
            return True
        set_word(block + slot, block + word(at))
        return False

    return impl


@functools.cache
def _caller(form: Form) -> Any:
    """The function (replay, arguments) that replays: Numba compiles it for types of arguments."""
    names = [f"a{n}" for n in range(len(form.arguments))]
    arguments = [pair for name, node in zip(names, form.arguments, strict=True) for pair in leaves(node, name)]
    lines: list[str] = []
    for of, x in arguments:
        # Recordings of functions with other names for their parameters share this code.
        where = f"argument {x.removeprefix('a')}"
        if of.static is not None:
            lines += [f"if {x} != {of.static}:", f"    raise ShapeError('{where}: recorded with {of.static}')"]
        elif of.shape is not None:
            wrong = f"{where}: recorded with {described(of)}, called with an array of another shape"
            lines += [f"if {x}.shape != {of.shape}:", f"    raise ShapeError('{wrong}')"]
        elif of.dtype == "int64":
            wrong = f"{where}: an integer above {form.most}, which a recording of {form.dtype} does not hold exactly"
            lines += [f"if {x} > {form.most} or {x} < -{form.most}:", f"    raise IntegerInputError('{wrong}')"]
    used = _used(form.returned)
    for i in used:
        if form.results[i].shape is not None:
            lines.append(f"y{i} = np.empty({form.results[i].shape}, np.{form.results[i].dtype})")
    lines += [
        "words = words_of(replay)",
        f"count, last, records = word(words), word(words + {8 * LAST}), word(words + {8 * RECORDS})",
        "for turn in range(count):",
    ]
    inner = [
        "branch = last + turn if last + turn < count else last + turn - count",
        "record = word(records + 8 * branch)",
        "block = taken(record)",
        f"inputs, results = word(record + {8 * image.INPUTS}), word(record + {8 * image.RESULTS})",
    ]
    fed = [(of, x) for of, x in arguments if of.static is None]
    for k, (of, x) in enumerate(fed):
        inner += _put(form, of, x, f"inputs + {16 * k}")
    for i, of in enumerate(form.results):
        if of.shape is not None:
            array = f"y{i}" if i in used else "array_of(pointer_float64(block), 0)"
            there = i in used and of.dtype == form.dtype == of.stored and of.dense
            inner.append(f"led{i} = led(block, results + {16 * i}, {array}, {there})")
    inner += [
        f"code = word(record + {8 * image.CODE})",
        f"failed = call_program(code, block + word(record + {8 * image.VALUES_AT}), "
        f"block + word(record + {8 * image.TABLE_AT}))",
        "if failed < 0:",
    ]
    done: list[str] = []
    for i in used:
        done += _fetched(form.results[i], i)
    done += ["given_back(record, block)", "if turn > 0:", f"    set_word(words + {8 * LAST}, branch)"]
    inner += [*_inside([*done, f"return {_written(form.returned)}"])]
    inner += ["held = is_guard(record, failed)", "given_back(record, block)"]
    inner += ["if not held:", f"    raise IndexRangeError({_OUT_OF_RANGE!r})"]
    lines += [*_inside(inner), f"raise GuardError({_OTHER_BRANCH!r})"]
    text = f"def call({', '.join(['replay', *names])}):\n" + "\n".join(_inside(lines))
    space: dict[str, Any] = {
        "np": np, "word": word, "set_word": set_word, "words_of": words_of, "taken": taken, "given_back": given_back,
        "is_guard": is_guard, "led": led, "array_of": array_of, "call_program": call_program,
        "pointer_float64": pointer_float64, "pointer_float32": pointer_float32, "pointer_int64": pointer_int64,
        "pointer_uint8": pointer_uint8, "ShapeError": ShapeError, "IntegerInputError": IntegerInputError,
        "GuardError": GuardError, "IndexRangeError": IndexRangeError, **_classes(form.returned),
    }  # fmt: skip
    exec(compile(text, "<replay of tapegrad>", "exec"), space)
    return jit(space["call"])


def _inside(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _used(returned: Any) -> list[int]:
    """The numbers of the results that are returned."""
    return sorted({i for part in returned.parts for i in _used(part)}) if isinstance(returned, Nest) else [returned]


def _put(form: Form, of: Leaf, x: str, at: str) -> list[str]:
    """Lines that hand an argument over."""
    real, to = form.dtype, f"{_POINTERS[form.dtype]}(block + word({at}))"
    if of.shape is None:
        return [f"array_of({to}, 1)[0] = np.{real}({x})"]
    copied = [f"to = array_of({to}, {of.size})", *_loop(of.shape, "to[{0}] = np." + real + "(" + x + "[{1}])")]
    return [f"if not led(block, {at}, {x}, {of.dtype == real}):", *_inside(copied)]


def _fetched(of: Leaf, i: int) -> list[str]:
    """Lines that read a result."""
    dtype = "bool_" if of.dtype == "bool" else of.dtype
    # The first and the last element in memory, counted from the element that is first in the array.
    ends = [(n - 1) * s for n, s in zip(of.shape or (), of.strides, strict=True)] if of.size else []
    first, last = sum(s for s in ends if s < 0), sum(s for s in ends if s > 0)
    at = f"block + word(results + {16 * i}) + {first * np.dtype(of.stored).itemsize}"
    source = f"array_of({_POINTERS[of.stored]}({at}), {last - first + 1 if of.size else 0})"
    if of.shape is None:
        return [f"y{i} = np.{dtype}({source}[0])"]
    copied = _loop(of.shape, f"y{i}[{{1}}] = np.{dtype}(found[{{0}} - {first}])", of.strides)
    return [f"if not led{i}:", *_inside([f"found = {source}", *copied])]


def _loop(shape: tuple[int, ...], body: str, strides: tuple[int, ...] | None = None) -> list[str]:
    """Loops over an array around a line, in which {0} is the position of an element in memory and {1} its index."""
    if strides is None:
        strides = tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
    axes = list(range(len(shape)))
    position = " + ".join(f"i{k}" if s == 1 else f"i{k} * {s}" for k, s in zip(axes, strides, strict=True)) or "0"
    return loops(axes, [str(n) for n in shape], [body.format(position, ", ".join(f"i{k}" for k in axes) or "()")])


def _written(returned: Any) -> str:
    if not isinstance(returned, Nest):
        return f"y{returned}"
    inner = ", ".join(map(_written, returned.parts))
    if returned.named is not None:
        return f"{_class_name(returned.named)}({inner})"
    return f"({inner},)" if returned.parts else "()"


def _classes(returned: Any) -> dict[str, type]:
    found: dict[str, type] = {}
    if isinstance(returned, Nest):
        for part in returned.parts:
            found |= _classes(part)
        if returned.named is not None:
            found[_class_name(returned.named)] = returned.named
    return found


def _class_name(named: type) -> str:
    return f"{named.__name__}_{id(named)}"

"""Tapes in code that runs without Python: taken from a list of those that nobody uses, and given back whatever is
raised. Imports Numba.

Such a tape has the header that `memory` describes, so that the same code appends to it. Two words follow, for its
adjoints. The function that makes room is compiled too: Python is not asked for anything, so that any number of threads
may do this at the same time, also those of `prange`.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from tapegrad.compiled.pointers import array_of, matrix_of, pointer_float64, pointer_uint32
from tapegrad.njit.memory import CAPACITY, FIRST, GROW, LENGTH, LINKS, NUMBERS, Tape
from tapegrad.njit.numbers import FULL, jit
from tapegrad.njit.sweeps import reverse
from tapegrad.njit.words import (
    allocate,
    copy_bytes,
    exchange,
    put_if_zero,
    release,
    set_word,
    word,
    zero_bytes,
)
from tapegrad.program.memory import memory

_I64 = ir.IntType(64)
# How many tapes that nobody uses are kept, by each function that Numba compiles, and up to how many rows.
_IDLE, _KEPT = 16, 1 << 22
_AT_FIRST = 1024

_LIKE = Tape(True)
_LINKS, _NUMBERS = _LIKE.links.strides[0], _LIKE.numbers.strides[0]
_WIDTHS = _LIKE.links.shape[1], _LIKE.numbers.shape[1]
_EACH = _LINKS + _NUMBERS + 8
# The words of the header, as positions in bytes. The last two are ours: the adjoints, and how many there is room for.
_LENGTH, _CAPACITY, _AT_LINKS, _AT_NUMBERS, _GROW = (8 * n for n in (LENGTH, CAPACITY, LINKS, NUMBERS, GROW))
_ADJOINTS = 8 * len(_LIKE.header)
_ROOM = _ADJOINTS + 8
_WORDS = _ROOM + 8
# Rows are numbered in 32 bits.
_MOST = 2**31 - 1
_sweep = jit(reverse.function)


@jit
def take(tapes, grow):
    """The address of the header of a tape that nobody else uses; the list of those begins at `tapes`."""
    tape = 0
    for i in range(_IDLE):
        tape = exchange(tapes + 8 * i, 0)
        if tape != 0:
            break
    if tape == 0:
        tape = allocate(_WORDS)
        if tape == 0:
            raise MemoryError(FULL)
        zero_bytes(tape, _WORDS)
    set_word(tape + _GROW, grow)
    set_word(tape + _LENGTH, FIRST)
    return tape


@jit
def give(tapes, tape):
    """Keep a tape for others, or give its memory back where it is long or enough are kept."""
    if word(tape + _CAPACITY) <= _KEPT:
        for i in range(_IDLE):
            if put_if_zero(tapes + 8 * i, tape):
                return
    for at in (_AT_LINKS, _AT_NUMBERS, _ADJOINTS):
        if word(tape + at) != 0:
            release(word(tape + at))
    release(tape)


@functools.cache
def _grow(limit):
    """The function that makes room for more rows: 1 where there is some now."""

    @jit
    def more(tape):
        before = word(tape + _CAPACITY)
        after = min(max(2 * before, _AT_FIRST), _MOST, limit // _EACH)
        if after <= before:
            return 0
        links, numbers = allocate(after * _LINKS), allocate(after * _NUMBERS)
        if links == 0 or numbers == 0:
            if links != 0:
                release(links)
            if numbers != 0:
                release(numbers)
            return 0
        if before > 0:
            copy_bytes(links, word(tape + _AT_LINKS), before * _LINKS)
            copy_bytes(numbers, word(tape + _AT_NUMBERS), before * _NUMBERS)
            release(word(tape + _AT_LINKS))
            release(word(tape + _AT_NUMBERS))
        set_word(tape + _AT_LINKS, links)
        set_word(tape + _AT_NUMBERS, numbers)
        set_word(tape + _CAPACITY, after)
        return 1

    return more


@jit
def pulled(tape, row, count):
    """The adjoints of all rows, that of one row being 1, or all being 0 where that is row 0; `count` rows are given."""
    length = max(row + 1, FIRST + count)
    if word(tape + _ROOM) < length:
        if word(tape + _ADJOINTS) != 0:
            release(word(tape + _ADJOINTS))
        room = max(length, word(tape + _CAPACITY))
        found = allocate(8 * room)
        set_word(tape + _ADJOINTS, found)
        set_word(tape + _ROOM, room if found != 0 else 0)
        if found == 0:
            raise MemoryError(FULL)
    adjoints = array_of(pointer_float64(word(tape + _ADJOINTS)), length)
    adjoints[:] = 0.0
    if row > 0:
        adjoints[row] = 1.0
        rows = word(tape + _LENGTH)
        links = matrix_of(pointer_uint32(word(tape + _AT_LINKS)), rows, _WIDTHS[0])
        partials = matrix_of(pointer_float64(word(tape + _AT_NUMBERS)), rows, _WIDTHS[1])
        _sweep(links, partials, adjoints, FIRST + count, row + 1)
    return adjoints


def _tapes(builder: Any) -> Any:
    """The address of the list of tapes that nobody uses: a variable of the module that is being written."""
    module, name = builder.module, "tapegrad.tapes"
    found = module.globals.get(name)
    if found is None:
        found = cgutils.add_global_variable(module, ir.ArrayType(_I64, _IDLE), name)
        found.linkage, found.initializer = "internal", ir.Constant(ir.ArrayType(_I64, _IDLE), [0] * _IDLE)
    return builder.ptrtoint(found, _I64)


def _growing(context: Any, builder: Any) -> Any:
    """The address of the function that compiled code calls for more room, which raises nothing."""
    module, name = builder.module, "tapegrad.grow"
    found = module.globals.get(name)
    if found is None:
        found = ir.Function(module, ir.FunctionType(_I64, [_I64]), name)
        found.linkage = "internal"
        inner = ir.IRBuilder(found.append_basic_block("begin"))
        _, made = _called(context, inner, _made(_grow(memory.limit), types.int64), [found.args[0]])
        inner.ret(made)
    return builder.ptrtoint(found, _I64)


def _made(function: Any, *of: Any) -> Any:
    """What Numba has made of a function for arguments of these types."""
    function.compile(of)
    return function.overloads[of]


def _called(context: Any, builder: Any, made: Any, args: Any) -> Any:
    """Write a call of what Numba has made; returns its status and what it returned."""
    context.add_linking_libs([made.library])
    return context.call_internal_no_propagate(builder, made.fndesc, made.signature, args)


def with_tape(context: Any, builder: Any, made: Any, args: Any) -> Any:
    """Write a call of what Numba has made of a function of the address of a tape and of arguments; returns what it
    returned. The tape is given back even if it raises something, which is then raised here."""
    tapes, word_ = _tapes(builder), types.int64
    status, tape = _called(context, builder, _made(take, word_, word_), [tapes, _growing(context, builder)])
    kind = context.get_value_type(made.signature.return_type)
    found = cgutils.alloca_once_value(builder, cgutils.get_null_value(kind))
    # In a `try` statement what was raised is noted, and the code goes on to the end of the call.
    with builder.if_else(status.is_error, likely=False) as (failed, taken):
        with failed:
            context.call_conv.return_status_propagate(builder, status)
        with taken:
            status, result = _called(context, builder, made, [tape, *args])
            _called(context, builder, _made(give, word_, word_), [tapes, tape])
            builder.store(result, found)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
    return builder.load(found)

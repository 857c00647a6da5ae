"""Kernels of operations over many elements, compiled when a tape first needs them and called by address.

A sweep that held the loops of every operation would take a minute to compile, and every user would pay for
operations that are never used. So the sweep calls through a table of addresses, three an operation (forward,
reverse, tangent), found by name when the sweep is loaded. A tape sees to it that the kernels of its operations are in
the table before it is swept; an address that is missing makes the sweep stop, not crash.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.compiled import compiled_in, interpreted
from tapegrad.compiled.callable import flushes, load
from tapegrad.compiled.floats import take_subnormals_for_zero
from tapegrad.compiled.machine import add_symbol
from tapegrad.errors import OperationError
from tapegrad.ops import TABLE, Elementwise
from tapegrad.ops.windows import PARTS
from tapegrad.sweeps import blas  # noqa: F401  (kernels that are loaded find its table by name)

MAX_OPERATIONS = 1024
KINDS = ("forward", "reverse", "tangent")
FORWARD, REVERSE, TANGENT = range(3)
# After the kernels of operations, the table has an entry for each kind of sweep: the function that carries out one
# instruction over many elements (`forward_run`, `reverse_run`, `tangent_run`). Such a function is compiled only when a
# tape has such an instruction, because it takes as long to compile as all the rest.
RUNS = len(KINDS) * MAX_OPERATIONS
# And one each for the functions that copy operands to scratch, and back: so each is compiled once, and not as a part of
# each of those above.
COPIES = RUNS + len(KINDS)
FETCH, SCATTER = range(2)
# And for the parts that several kernels have in common.
PARTS_AT = COPIES + 2
TABLE_SIZE = PARTS_AT + len(PARTS)

_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))
NAMES = {dtype.name: f"tapegrad_kernels_{dtype.name}" for dtype in _DTYPES}
_addresses = {dtype: np.zeros(TABLE_SIZE, np.int64) for dtype in _DTYPES}
_known: set[tuple[np.dtype, int]] = set()
# Callbacks into Python must live as long as their addresses are in use.
_callbacks: list[Any] = []
# The Python functions behind those callbacks.
entries: list[Any] = []
# Where nothing is compiled, the kernels as Python functions, by dtype and position in the table of addresses.
_interpreted: dict[tuple[np.dtype, int], Callable[..., Any]] = {}
for _dtype in _DTYPES:
    add_symbol(NAMES[_dtype.name], _addresses[_dtype].ctypes.data)


def is_missing(dtype: np.dtype, opcode: int, kind: int) -> bool:
    """Whether a kernel is not in the table yet."""
    return (dtype, len(KINDS) * opcode + kind) not in _known


def require(name: str, text: Callable[[], str], dtype: np.dtype, opcode: int, kind: int) -> None:
    """Compile a kernel, or load it from the disk, and put its address in the table.

    `text` makes the text of the generated module that has the kernel, and `name` is unique to that module.
    """
    if opcode >= MAX_OPERATIONS:
        raise OperationError(f"there is room for {MAX_OPERATIONS} operations, this is number {opcode + 1}")
    row = TABLE[opcode]
    index, function = len(KINDS) * opcode + kind, f"{KINDS[kind]}_{row.name}"
    _put(dtype, index, function, name, text, lambda types: _type(types, row, dtype), loops=True)


def need_runs(dtype: np.dtype, kind: int) -> bool:
    """Whether the function that carries out instructions over many elements is not in the table yet."""
    return (dtype, RUNS + kind) not in _known


def require_runs(name: str, text: Callable[[], str], dtype: np.dtype, kind: int) -> None:
    """As `require`, for the function that carries out instructions over many elements."""

    def signature(types: Any) -> Any:
        real = getattr(types, dtype.name)[::1]
        whole, side, flags = types.int64, types.int64[::1], types.uint8[::1]
        return types.boolean(types.uint32[::1], whole, side, flags, real, real, real)

    _put(dtype, RUNS + kind, f"{KINDS[kind]}_run", name, text, signature)


def need_copies(dtype: np.dtype, which: int) -> bool:
    """Whether the function that copies operands to scratch, or back, is not in the table yet."""
    return (dtype, COPIES + which) not in _known


def require_copies(name: str, text: Callable[[], str], dtype: np.dtype, which: int) -> None:
    """As `require`, for the function that copies operands to scratch (FETCH), or back (SCATTER)."""

    def signature(types: Any) -> Any:
        real, whole = getattr(types, dtype.name)[::1], types.int64
        return types.boolean(types.int64[::1], whole, whole, real, real, whole, whole)

    _put(dtype, COPIES + which, ("fetch", "scatter")[which], name, text, signature)


def need_part(dtype: np.dtype, which: int) -> bool:
    """Whether a part that kernels have in common is not in the table yet."""
    return (dtype, PARTS_AT + which) not in _known


def require_part(name: str, text: Callable[[], str], dtype: np.dtype, which: int) -> None:
    """As `require`, for a part that kernels have in common."""
    function, arguments = PARTS[which]

    def signature(types: Any) -> Any:
        kinds = {"s": types.int64[::1], "i": types.int64, "v": getattr(types, dtype.name)[::1]}
        return types.void(*[kinds[letter] for letter in arguments])

    _put(dtype, PARTS_AT + which, function.__name__, name, text, signature)


def _put(
    dtype: np.dtype, index: int, function: str, name: str, text: Callable[[], str], signature: Callable[[Any], Any],
    loops: bool = False,
) -> None:  # fmt: skip
    if interpreted():
        space: dict[str, Any] = {}
        exec(text(), space)
        _interpreted[dtype, index] = space[function]
    else:
        _addresses[dtype][index] = load(f"{function}_{dtype.name}_{name}", text, function, signature, loops)
    _known.add((dtype, index))


def _type(types: Any, row: Any, dtype: np.dtype) -> Any:
    real = types.CPointer(getattr(types, dtype.name))
    if isinstance(row, Elementwise):
        return types.void(types.int64, *[real] * 8)
    whole = types.int64
    return whole(types.CPointer(whole), whole, whole, types.CPointer(types.uint8), real, real, whole)


# Memory seen as an array. NumPy's `ctypeslib.as_array` would do, but it is slower, and ctypes keeps a type for each
# length that it has met.
_memory: Any = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_WRITABLE = 0x200


def install(dtype: np.dtype, opcode: int, kind: int, function: Callable[..., Any]) -> None:
    """Put a Python function in the table as the kernel of a structured operation: function(side, k, flags, v, d)."""
    index = len(KINDS) * opcode + kind
    whole, bytes_, size = np.dtype(np.int64), np.dtype(np.uint8), dtype.itemsize

    def called(result: Any, _: Any, side: Any, n_side: int, k: int, flags: Any, v: Any, d: Any, n: int) -> int:
        # ctypes returns zero where an exception ends this. So the result, which is zero before, is what says that all
        # went well.
        flushed = flushes(dtype) and take_subnormals_for_zero(0)
        sides = np.frombuffer(_memory(side, 8 * n_side, _WRITABLE), whole)
        marks = np.frombuffer(_memory(flags, n_side, _WRITABLE), bytes_)
        values = np.frombuffer(_memory(v, size * n, _WRITABLE), dtype)
        went_well = function(sides, k, marks, values, np.frombuffer(_memory(d, size * n, _WRITABLE), dtype))
        if flushed:
            # Not while Python runs: its own numbers keep their subnormals.
            take_subnormals_for_zero(1)
        result[0] = went_well
        return 0

    count, address = ctypes.c_int64, ctypes.c_void_p
    kind_of_call = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.POINTER(count), address, address, count, count, address, address, address, count
    )
    callback = kind_of_call(called)
    _callbacks.append(callback)
    entries.append(called)
    _interpreted[dtype, index] = lambda side, n_side, k, flags, v, d, n: function(side, k, flags, v, d)
    _addresses[dtype][index] = ctypes.cast(callback, ctypes.c_void_p).value or 0
    _known.add((dtype, index))


# Functions that the sweeps call. These here run where nothing is compiled, and get slices of arrays. In compiled code
# those of `kernel_calls` take their places, and get addresses.


@compiled_in("tapegrad.sweeps.kernel_calls")
def at(v, p):
    # The address of element p of an array.
    return v[p:]


@compiled_in("tapegrad.sweeps.kernel_calls")
def call_run(index, n, z, x, y, w, dz, dx, dy, dw):
    # Call kernel `index` of the table on n elements: z, x, y and w are the addresses of the results and of the
    # operands, dz, dx, dy and dw those of their adjoints or tangents.
    _interpreted[z.dtype, int(index)](n, z, x, y, w, dz, dx, dy, dw)
    return True


@compiled_in("tapegrad.sweeps.kernel_calls")
def call_runs(kind, flat, i, side, flags, v, d, scratch):
    # Carry out instruction i, which works on many elements, by `forward_run`, `reverse_run` or `tangent_run`.
    return _interpreted[v.dtype, RUNS + kind](flat, i, side, flags, v, d, scratch)


@compiled_in("tapegrad.sweeps.kernel_calls")
def call_copy(which, side, k, j, v, scratch, start, m):
    # Copy elements start to start + m of operand j, which is not dense, to scratch, by `fetch` of `operands`; or add
    # those in scratch to the operand's, by `scatter`.
    return _interpreted[v.dtype, COPIES + which](side, k, j, v, scratch, start, m)


@compiled_in("tapegrad.sweeps.kernel_calls")
def call_structured(index, side, k, flags, v, d):
    # Call kernel `index` for the instruction whose record is at position k of the side array. v has values, d adjoints
    # or tangents.
    return _interpreted[v.dtype, int(index)](side, len(side), k, flags, v, d, len(v))


@compiled_in("tapegrad.sweeps.kernel_calls")
def as_array(array, n):
    return array

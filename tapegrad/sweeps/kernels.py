"""Kernels of operations over many elements, compiled when a tape first needs them and called by address.

A sweep that held the loops of every operation would take a minute to compile, and every user would pay for
operations that are never used. So the sweep calls through a table of addresses, three an operation (forward,
reverse, tangent), found by name when the sweep is loaded from the cache. A tape sees to it that the kernels of its
operations are in the table before it is swept; an address that is missing makes the sweep stop, not crash.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import carray, cfunc, config, types
from numba.extending import intrinsic

from tapegrad.errors import OperationError
from tapegrad.ops import TABLE, Elementwise, Structured

MAX_OPERATIONS = 1024
KINDS = ("forward", "reverse", "tangent")
FORWARD, REVERSE, TANGENT = range(3)

_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))
_NAMES = {dtype: f"tapegrad_kernels_{dtype.name}" for dtype in _DTYPES}
_addresses = {dtype: np.zeros(len(KINDS) * MAX_OPERATIONS, np.int64) for dtype in _DTYPES}
_compiled: dict[tuple[np.dtype, int], Any] = {}
# Where nothing is compiled, the functions themselves stand in for their addresses.
_interpreted: dict[tuple[np.dtype, int], Callable[..., Any]] = {}
for _dtype in _DTYPES:
    llvmlite.binding.add_symbol(_NAMES[_dtype], _addresses[_dtype].ctypes.data)


def with_repair(function: Any, load: Callable[[], Any]) -> Any:
    """Compile or load a function; where what the cache holds of it is damaged, drop that and compile anew."""
    try:
        return load()
    except (EOFError, pickle.UnpicklingError, ValueError, IndexError, AttributeError, KeyError, TypeError) as error:
        # Unpickling a damaged file can raise almost anything; an error of another origin comes again.
        function = getattr(function, "py_func", function)
        path = Path(function.__code__.co_filename)
        damaged = list(path.parent.glob(f"__pycache__/{path.stem}.{function.__name__}-*.nb?"))
        if not damaged:
            raise
        for file in damaged:
            file.unlink(missing_ok=True)
        try:
            return load()
        except Exception:
            raise error from None


def is_missing(dtype: np.dtype, opcode: int, kind: int) -> bool:
    """Whether a kernel is not in the table yet."""
    return (dtype, len(KINDS) * opcode + kind) not in _compiled


def require(module: Any, dtype: np.dtype, opcode: int, kind: int) -> None:
    """Compile a kernel, or load it from the cache, and put its address in the table.

    `module` is the generated module where the kernel's source stands.
    """
    index = len(KINDS) * opcode + kind
    if opcode >= MAX_OPERATIONS:
        raise OperationError(f"there is room for {MAX_OPERATIONS} operations, this is number {opcode + 1}")
    row = TABLE[opcode]
    function = getattr(module, f"{KINDS[kind]}_{row.name}")
    real = types.CPointer(types.float64 if dtype == np.float64 else types.float32)
    if isinstance(row, Elementwise):
        signature = types.void(types.intp, *[real] * 8)
    else:
        assert isinstance(row, Structured)
        signature = types.boolean(types.CPointer(types.int64), types.intp, types.intp, real, real, types.intp)
    if config.DISABLE_JIT:
        _interpreted[dtype, index] = function
        _compiled[dtype, index] = function
    else:
        compiled = cfunc(signature, cache=True, nogil=True, error_model="numpy")
        _compiled[dtype, index] = kernel = with_repair(function, lambda: compiled(function))
        _addresses[dtype][index] = kernel.address


def install(dtype: np.dtype, opcode: int, kind: int, function: Callable[..., Any], c_type: Any) -> None:
    """Put a Python function in the table, as the kernel of a structured operation."""
    index = len(KINDS) * opcode + kind
    _interpreted[dtype, index] = function
    _compiled[dtype, index] = callback = c_type(function)
    _addresses[dtype][index] = ctypes.cast(callback, ctypes.c_void_p).value or 0


def _address(context: Any, builder: Any, dtype: np.dtype, index: Any) -> Any:
    i64 = ir.IntType(64)
    name = _NAMES[dtype]
    table = builder.module.globals.get(name)
    if table is None:
        table = ir.GlobalVariable(builder.module, ir.ArrayType(i64, len(KINDS) * MAX_OPERATIONS), name)
    return builder.load(builder.gep(table, [ir.Constant(i64, 0), index]))


def _call(context: Any, builder: Any, dtype: np.dtype, index: Any, result: Any, args: list[Any], missing: Any) -> Any:
    address = _address(context, builder, dtype, index)
    out = builder.alloca(missing.type)
    builder.store(missing, out)
    with builder.if_then(builder.icmp_unsigned("!=", address, ir.Constant(address.type, 0))):
        kind = ir.FunctionType(result, [a.type for a in args])
        value = builder.call(builder.inttoptr(address, kind.as_pointer()), args)
        builder.store(ir.Constant(missing.type, 1) if isinstance(result, ir.VoidType) else value, out)
    return builder.load(out)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


@intrinsic
def _call_run(typingctx, index, n, v, z, x, y, w, d, dz, dx, dy, dw):
    # Positions, not slices: Numba counts references to a slice, which costs more than a short block takes.
    whole = types.intp
    signature = types.boolean(whole, whole, v, whole, whole, whole, whole, d, whole, whole, whole, whole)

    def generate(context, builder, signature, args):
        index, n, v, *places = args[:7]
        d, *others = args[7:]
        values, adjoints = (_data(context, builder, signature.args[k], a) for k, a in ((2, v), (7, d)))
        pointers = [builder.gep(values, [p]) for p in places] + [builder.gep(adjoints, [p]) for p in others]
        dtype = np.dtype(signature.args[2].dtype.name)
        missing = ir.Constant(ir.IntType(1), 0)
        return _call(context, builder, dtype, index, ir.VoidType(), [n, *pointers], missing)

    return signature, generate


@intrinsic
def _call_structured(typingctx, index, side, k, v, g):
    signature = types.boolean(types.intp, side, types.intp, v, g)

    def generate(context, builder, signature, args):
        index, side, k, v, g = args
        _, side_kind, _, v_kind, g_kind = signature.args
        i8 = ir.IntType(8)
        sides = context.make_array(side_kind)(context, builder, side)
        values = context.make_array(v_kind)(context, builder, v)
        call = [sides.data, sides.nitems, k, values.data, _data(context, builder, g_kind, g), values.nitems]
        dtype = np.dtype(v_kind.dtype.name)
        result = _call(context, builder, dtype, index, i8, call, ir.Constant(i8, 0))
        return builder.icmp_unsigned("!=", result, ir.Constant(i8, 0))

    return signature, generate


def _interpret_run(index, n, v, z, x, y, w, d, dz, dx, dy, dw):
    windows = [v[p : p + n] for p in (z, x, y, w)] + [d[p : p + n] for p in (dz, dx, dy, dw)]
    _interpreted[v.dtype, int(index)](n, *windows)
    return True


def _interpret_structured(index, side, k, v, g):
    return _interpreted[v.dtype, int(index)](side, len(side), k, v, g, len(v))


def _interpret_carray(array, shape):
    return array


# Call kernel `index` of the table. A run: n; the values, and where in them the block's results and operands begin; the
# adjoints or tangents, and the same.
# A structured operation: the side array, where the record stands in it, values, and adjoints or tangents.
call_run = _interpret_run if config.DISABLE_JIT else _call_run
call_structured = _interpret_structured if config.DISABLE_JIT else _call_structured
as_array = _interpret_carray if config.DISABLE_JIT else carray

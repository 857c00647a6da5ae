"""A Numba function compiled again, so that it takes recorded numbers. Imports Numba.

The twin of a function is compiled from the same Python function, with the same settings but for those that recorded
numbers have no part in (`parallel`, caches, signatures). One pass more changes what it names: functions that it calls
become twins, `prange` is `range`, `np.float64(x)` is x, and, where that is asked for, `np.zeros` and its like make
arrays that recorded numbers can be stored in.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import ir, ir_utils
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.dispatcher import Dispatcher
from numba.core.typing.npydecl import parse_dtype
from numba.core.untyped_passes import IRProcessing
from numba.extending import intrinsic

from tapegrad.njit import arrays, keys, linked, products, scalars
from tapegrad.njit.linked import overload
from tapegrad.njit.numbers import OPERATIONS, PARTIALS, Recorded, is_recorded


@functools.cache
def prepare() -> None:
    """Make recorded numbers known to Numba, once."""
    for module in (scalars, arrays, products):
        module.register()
    _first_ours()


def _first_ours() -> None:
    """Numba asks its own templates first, and some take arrays of any elements for arrays of floats; so have it ask
    ours first. These answer for recorded numbers only."""
    from numba.core.registry import cpu_target

    context = cpu_target.typing_context
    context.refresh()

    def is_ours(template: Any) -> bool:
        made = getattr(template, "_overload_func", None)
        return str(getattr(made, "__module__", "")).startswith("tapegrad.njit")

    for key, known in list(context._globals.items()):
        if isinstance(known, types.Function) and any(map(is_ours, known.templates)):
            first = sorted(known.templates, key=lambda t: not is_ours(t))
            dict.__setitem__(context._globals, key, types.Function(tuple(first)))
    context._attributes[types.Array].sort(key=lambda template: type(template).__module__ != arrays.__name__)


def as_float(x):
    """np.float64(x)."""
    return np.float64(x)


@overload(as_float)
def _as_float(x):
    return (lambda x: x) if is_recorded(x) else (lambda x: np.float64(x))


def _relaxed(of: Recorded) -> dict[Any, Any]:
    """What stands for `np.zeros`, `np.empty` and `np.ones` where arrays of floats are to take recorded numbers: they
    make numbers that depend on nothing."""
    element = _ELEMENTS[of]

    def zeros(shape, dtype=None):
        return np.zeros(shape)

    def ones(shape, dtype=None):
        return np.ones(shape)

    @overload(zeros)
    def _zeros(shape, dtype=None):
        if not _is_float(dtype):
            return lambda shape, dtype=None: np.zeros(shape, dtype)

        def impl(shape, dtype=None):
            out = np.empty(shape, element())
            out[...] = 0.0
            return out

        return impl

    @overload(ones)
    def _ones(shape, dtype=None):
        if not _is_float(dtype):
            return lambda shape, dtype=None: np.ones(shape, dtype)

        def impl(shape, dtype=None):
            out = np.empty(shape, element())
            out[...] = 1.0
            return out

        return impl

    return {np.zeros: zeros, np.empty: zeros, np.ones: ones}


def _is_float(dtype: Any) -> bool:
    return arrays.is_none(dtype) or isinstance(parse_dtype(dtype), types.Float)


def _element_of(of: Recorded) -> Any:
    @intrinsic
    def element(typingctx):
        return types.DType(of)(), lambda context, builder, signature, args: context.get_dummy_value()

    return element


_ELEMENTS = {of: _element_of(of) for of in (PARTIALS, OPERATIONS)}


@functools.cache
def _named_instead(of: Recorded, relaxed: bool) -> dict[Any, Any]:
    """What is named in place of what the user's function names."""
    found: dict[Any, Any] = {numba.prange: range}
    return found | _relaxed(of) if relaxed else found


@functools.cache
def pipeline(of: Recorded, relaxed: bool) -> Any:
    """How twins are compiled, for one kind of recorded numbers."""
    instead = _named_instead(of, relaxed)

    def stand_in(found: Any, called: bool) -> Any:
        # What `njit_op` returns stands for its function.
        function = getattr(found, "dispatcher", found)
        if isinstance(function, Dispatcher):
            return twin(function, of, relaxed)
        if found is np.float64 and called:
            return as_float
        try:
            return instead.get(found)
        except TypeError:
            return None

    @register_pass(mutates_CFG=False, analysis_only=False)
    class Names(FunctionPass):
        """Changes what a function names."""

        _name = f"tapegrad_names_{of.partials}_{relaxed}"

        def __init__(self) -> None:
            FunctionPass.__init__(self)

        def run_pass(self, state: Any) -> bool:
            code = state.func_ir
            called = {x.func.name for block in code.blocks.values() for x in block.find_exprs(op="call")}
            for block in code.blocks.values():
                for statement in block.find_insts(ir.Assign):
                    found = _named(code, statement.value)
                    new = None if found is None else stand_in(found, statement.target.name in called)
                    if new is not None:
                        _name(code, statement, new)
            _change_methods(code)
            return True

    class Twins(CompilerBase):
        """The passes of parts, and that one."""

        def define_pipelines(self) -> list[Any]:
            found = linked.passes(self.state, f"tapegrad_twins_{of.partials}_{relaxed}")
            found.add_pass_after(Names, IRProcessing)
            found.finalize()
            return [found]

    return Twins


def _name(code: Any, statement: Any, found: Any) -> None:
    """Have a statement bind its name to an object."""
    statement.value = ir.Global(found.__name__, found, statement.loc)
    code._definitions[statement.target.name] = [statement.value]


def _change_methods(code: Any) -> None:
    """Write calls of arrays' methods that have functions of ours as calls of these. (Numba does not allow a method that
    it has to be another one for some arrays.)"""
    found = {}
    for block in code.blocks.values():
        for statement in block.find_insts(ir.Assign):
            value = statement.value
            if isinstance(value, ir.Expr) and value.op == "getattr" and value.attr in arrays.METHODS:
                found[statement.target.name] = statement
    for block in code.blocks.values():
        for call in block.find_exprs(op="call"):
            statement = found.get(call.func.name)
            # Each such call has a name of its own for the method: compilers of Python make one.
            if statement is not None and isinstance(statement.value, ir.Expr) and _named(code, statement.value) is None:
                call.args = [statement.value.value, *call.args]
                _name(code, statement, arrays.METHODS[statement.value.attr])


def _named(code: Any, value: Any) -> Any:
    """The object that a statement takes from around the function; None where it is something else."""
    if isinstance(value, ir.Global | ir.FreeVar):
        return value.value
    if isinstance(value, ir.Expr) and value.op == "getattr":
        module = ir_utils.guard(ir_utils.get_definition, code, value.value)
        if isinstance(module, ir.Global | ir.FreeVar) and isinstance(module.value, ModuleType):
            return getattr(module.value, value.attr, None)
    return None


_twins: dict[Any, dict[Any, Any]] = {}


def twin(dispatcher: Any, of: Recorded, relaxed: bool) -> Any:
    """The twin of a Numba function; the same one each time."""
    made = _twins.setdefault(dispatcher, {})
    if (of, relaxed) not in made:
        keys.note(dispatcher)
        options = {name: x for name, x in dispatcher.targetoptions.items() if name in keys.OPTIONS}
        # What lies beyond an array of recorded numbers would be taken for the address of a tape.
        options["boundscheck"] = True
        made[of, relaxed] = linked.jit(pipeline_class=pipeline(of, relaxed), **options)(dispatcher.py_func)
    return made[of, relaxed]

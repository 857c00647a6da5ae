"""`checkpointed_loop` as Numba's compiled code has it. Imports Numba.

Called with recorded numbers of a tape of partial derivatives, a loop takes its steps with numbers that depend on
nothing, so that they leave no rows, and the tape keeps a `kept_loops.Loop` in place of them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from tapegrad.njit.handed import changed, lifted, rows_of, stripped, tape_of
from tapegrad.njit.nesting import KINDS, NAME, check_arguments, check_state, recorded_type
from tapegrad.njit.numbers import PARTIALS, jit
from tapegrad.njit.products import function_of
from tapegrad.njit.states import begun, gathered, plain, renewed, sizes, spread

NEGATIVE = f"{NAME}: n must not be negative"

# Arguments have names of their own: Numba would make a tuple of `*args`, and pointers of functions in it.
_NAMES = [f"a{k}" for k in range(16)]
_SIGNATURE = ", ".join(["step", "state", "n", *(f"{name}=None" for name in _NAMES)])
# What `tapegrad.checkpointed_loop` is in compiled code.
loop = function_of(_SIGNATURE, ["raise NotImplementedError"])
loop.__name__ = loop.__qualname__ = NAME


@functools.cache
def numba_type() -> Any:
    """What Numba takes `tapegrad.checkpointed_loop` for."""
    context = cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(loop)


def _typed(step, state, n, *given):
    args = tuple(t for t in given if not isinstance(t, types.Omitted) and t is not None)
    if not isinstance(step, types.Dispatcher):
        raise TypingError(f"{NAME}: step must be a function that Numba compiles (@njit), not {step}")
    if not isinstance(types.unliteral(n), types.Integer):
        raise TypingError(f"{NAME}: n must be a whole number, not {n}")
    check_state(state)
    check_arguments(args)
    of = recorded_type(state) or next(filter(None, map(recorded_type, args)), None)
    return _kept(step.dispatcher, args) if of is PARTIALS else _steps(None if of is None else KINDS[of], args)


overload(loop)(function_of(_SIGNATURE, [f"return typed(step, state, n, {', '.join(_NAMES)})"], typed=_typed))


def _given(args: tuple[Any, ...]) -> str:
    """The text of a tuple of all arguments but functions, in whose places are None."""
    inner = "".join("None, " if isinstance(t, types.Dispatcher) else f"a{k}, " for k, t in enumerate(args))
    return f"({inner})"


def _call(state: str, args: tuple[Any, ...], space: dict[str, Any]) -> str:
    """The text that calls step with arguments from the tuple `own`; functions are named in it."""
    given = []
    for k, t in enumerate(args):
        given.append(f"f{k}" if isinstance(t, types.Dispatcher) else f"own[{k}]")
        if isinstance(t, types.Dispatcher):
            space[f"f{k}"] = t.dispatcher
    return f"step({', '.join([state, 'i', *given])})"


def _steps(kind: Any, args: tuple[Any, ...]) -> Any:
    """The loop as it is: without recorded numbers, or with all of its operations recorded."""
    space: dict[str, Any] = {"begun": begun, "renewed": renewed, "kind": kind}
    lines = ["if n < 0:", f"    raise ValueError({NEGATIVE!r})", f"own = {_given(args)}",
             f"now = begun({'None' if kind is None else 'kind()'}, state)", "for i in range(n):",
             f"    now = renewed(now, {_call('now', args, space)})", "return now"]  # fmt: skip
    return function_of(_SIGNATURE, lines, **space)


def _stretch(step: Any, args: tuple[Any, ...]) -> Any:
    """The compiled function that takes some of the steps: from a flat state to a flat state, on a tape, or on none
    where that is 0. Returns whether a step changed its arguments."""
    space: dict[str, Any] = {
        "step": step, "partials": KINDS[PARTIALS], "gathered": gathered, "lifted": lifted, "renewed": renewed,
        "spread": spread, "changed": changed,
    }  # fmt: skip
    lines = [
        "kind = partials()",
        "state = gathered(kind, tape, like, values, whole)",
        "own = lifted(kind, tape, args)",
        "for i in range(start, stop):",
        f"    state = renewed(state, {_call('state', args, space)})",
        "spread(state, values, rows, whole)",
        "return changed(own, args)",
    ]
    return jit(function_of("tape, like, args, values, whole, rows, start, stop", lines, **space))


def _kept(step: Any, args: tuple[Any, ...]) -> Any:
    partials, steps_by_python = KINDS[PARTIALS], _steps_by_python(_stretch(step, args))

    # Python has no objects for recorded numbers, and so no call of this.
    @jit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
    def whole_loop(state, n, args):
        if n < 0:
            raise ValueError(NEGATIVE)
        kind = partials()
        first = begun(kind, state)
        if n == 0:
            return first
        tape = tape_of(first) | tape_of(args)
        floats, wholes = sizes(first)
        values, whole, rows = np.empty(floats), np.empty(wholes, np.int64), np.empty(floats, np.int64)
        spread(first, values, rows, whole)
        like = plain(first)
        steps_by_python(tape, (like, stripped(args), stripped(args), values, whole, rows, rows_of(args), np.int64(n)))
        return gathered(kind, tape, like, values, whole)

    return function_of(_SIGNATURE, [f"return whole_loop(state, n, {_given(args)})"], whole_loop=whole_loop)


# Code that has the address of an object must not be kept on disk, and is not: Numba sees it. The objects stay.
_known: list[Any] = []


def _steps_by_python(stretch: Any) -> Any:
    """What has Python take the steps and keep the loop: (tape, what `kept_loops.go` is given).

    Compiled code does not call `stretch` itself: the code of the steps would then be a part of that of the loop, of the
    function that has the loop, and of what calls that, and be optimised as often."""
    _known.append(stretch)

    @intrinsic
    def steps_by_python(typingctx, tape, given):
        like, args, _, values, whole, rows, _, n = given
        stretch.compile((types.int64, like, args, values, whole, rows, n, n))

        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            python = context.get_python_api(builder)
            lock = python.gil_ensure()
            manager = context.get_env_manager(builder)
            module = python.import_module(context.insert_const_string(builder.module, "tapegrad.njit.kept_loops"))
            go = python.object_getattr_string(module, "go")
            # What makes an object of a number takes over its reference.
            context.nrt.incref(builder, signature.args[1], args[1])
            own = python.from_native_value(signature.args[1], args[1], manager)
            address = python.long_from_longlong(args[0])
            function = context.add_dynamic_addr(builder, id(stretch), info="stretch")
            found = python.call_function_objargs(go, [function, address, own])
            for x in (own, address, go, module):
                python.decref(x)
            failed = cgutils.is_null(builder, found)
            with builder.if_else(failed, likely=False) as (then, otherwise):
                with then:
                    python.gil_release(lock)
                    context.call_conv.return_exc(builder)
                with otherwise:
                    python.decref(found)
                    python.gil_release(lock)
            return context.get_dummy_value()

        return types.none(types.int64, given), code

    return steps_by_python

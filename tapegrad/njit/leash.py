"""`checkpointed_loop` as Numba's compiled code has it. Imports Numba.

Called with recorded numbers of a tape of partial derivatives, a loop takes its steps with numbers that depend on
nothing, so that they leave no rows, and the tape keeps a `Loop` in place of them: see `kept_loops`.
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

from tapegrad.njit import states
from tapegrad.njit.numbers import PARTIALS, jit
from tapegrad.njit.products import function_of
from tapegrad.njit.states import (
    KINDS,
    changed,
    gathered,
    lifted,
    plain,
    renewed,
    rows_of,
    settled,
    sizes,
    spread,
    stripped,
    tape_of,
)

NEGATIVE = f"{states.NAME}: n must not be negative"
CHANGES = (
    f"{states.NAME}: step changes an array that it is given as an argument, so that it could not be computed again: "
    "make the array a part of the state"
)


def loop(step, state, n, *args):
    """What `tapegrad.checkpointed_loop` is in compiled code."""


@functools.cache
def numba_type() -> Any:
    """What Numba takes `tapegrad.checkpointed_loop` for."""
    context = cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(loop)


@overload(loop)
def _loop(step, state, n, *args):
    args = tuple(args[0]) if len(args) == 1 and isinstance(args[0], types.StarArgTuple) else args
    if not isinstance(step, types.Dispatcher):
        raise TypingError(f"{states.NAME}: step must be a function that Numba compiles (@njit), not {step}")
    if not isinstance(types.unliteral(n), types.Integer):
        raise TypingError(f"{states.NAME}: n must be a whole number, not {n}")
    states.check_state(state)
    of = states.recorded_type(types.Tuple((state, *args)))
    if of is not PARTIALS:
        return _steps(KINDS.get(of))
    states.check_arguments(types.Tuple(args))
    return _kept(_stretch(step.dispatcher))


def _steps(kind: Any) -> Any:
    """The loop as it is: without recorded numbers, or with all of its operations recorded."""
    first = "settled(None, state)" if kind is None else "settled(kind(), state)"
    lines = ["if n < 0:", f"    raise ValueError({NEGATIVE!r})", f"now = {first}", "for i in range(n):",
             "    now = renewed(now, step(now, i, *args))", "return now"]  # fmt: skip
    return function_of("step, state, n, *args", lines, settled=settled, renewed=renewed, kind=kind)


def _stretch(step: Any) -> Any:
    """The compiled function that takes some of the steps: from a flat state to a flat state, on a tape, or on none
    where that is 0. Returns whether a step changed its arguments."""
    partials = KINDS[PARTIALS]

    @jit
    def stretch(tape, like, args, values, whole, rows, start, stop):
        kind = partials()
        state = gathered(kind, tape, like, values, whole)
        own = lifted(kind, tape, args)
        for i in range(start, stop):
            state = renewed(state, step(state, i, *own))
        spread(state, values, rows, whole)
        return changed(own, args)

    return stretch


def _kept(stretch: Any) -> Any:
    partials, handed = KINDS[PARTIALS], _handed(stretch)

    def impl(step, state, n, *args):
        if n < 0:
            raise ValueError(NEGATIVE)
        kind = partials()
        first = settled(kind, state)
        if n == 0:
            return first
        tape = tape_of(first) | tape_of(args)
        floats, wholes = sizes(first)
        values, whole, rows = np.empty(floats), np.empty(wholes, np.int64), np.empty(floats, np.int64)
        spread(first, values, rows, whole)
        like, kept, running = plain(first), stripped(args), stripped(args)
        before, whole_before, nowhere = values.copy(), whole.copy(), np.empty(floats, np.int64)
        if stretch(np.int64(0), like, running, values, whole, nowhere, np.int64(0), np.int64(n)):
            raise ValueError(CHANGES)
        if changed(running, kept):
            raise ValueError(CHANGES)
        if tape != 0:
            handed(tape, (like, kept, before, whole_before, rows, rows_of(args), values, whole, np.int64(n)))
        return gathered(kind, tape, like, values, whole)

    return impl


# Code that has the address of an object must not be kept on disk, and is not: Numba sees it. The objects stay.
_known: list[Any] = []


def _handed(stretch: Any) -> Any:
    """What has Python keep a loop: (tape, what is kept)."""
    _known.append(stretch)

    @intrinsic
    def handed(typingctx, tape, kept):
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            python = context.get_python_api(builder)
            lock = python.gil_ensure()
            manager = context.get_env_manager(builder)
            name = context.insert_const_string(builder.module, "tapegrad.njit.kept_loops")
            module = python.import_module(name)
            keep = python.object_getattr_string(module, "keep")
            # What makes an object of a number takes over its reference.
            context.nrt.incref(builder, signature.args[1], args[1])
            own = python.from_native_value(signature.args[1], args[1], manager)
            address = python.long_from_longlong(args[0])
            function = context.add_dynamic_addr(builder, id(stretch), info="stretch")
            found = python.call_function_objargs(keep, [function, address, own])
            for x in (own, address, keep, module):
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

        return types.none(types.int64, kept), code

    return handed

"""A stretch of training in one compiled call: batches in, sweeps, optimiser, sums out, with the GIL released.

The sweep and the optimiser's kernel are called by address. Called as functions, they would be compiled into the loop
once more: seconds, for every user and every optimiser, instead of a fraction of one. Read `train` first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.typing import signature as make_signature
from numba.extending import intrinsic

from tapegrad.optim.kernels import clip_values, global_norm, scale_to_norm

VALUES, GRADIENT = 1, 3  # what `steps` of a sweep says: values alone, or values and adjoints


class Plan(NamedTuple):
    """A recorded step: its tape, and where things stand in the arena. Parameters come first, from slot 0."""

    sweep: Any  # address
    code: np.ndarray
    side: np.ndarray
    values: np.ndarray
    adjoints: np.ndarray
    nothing: np.ndarray  # of no elements: inputs are copied here, not by the sweep
    n_params: int
    batch: int
    x: int  # slot of the inputs
    y: int  # slot of the targets
    loss: int
    logits: int
    classes: int  # 0 where there is no accuracy


class Rule(NamedTuple):
    """How parameters are updated."""

    update: Any  # address
    state: np.ndarray
    hyper: np.ndarray
    rates: np.ndarray  # of all steps of this stretch
    done: int  # updates before it
    clip_norm: float  # 0 for none
    clip_value: float


@njit(cache=True, nogil=True, error_model="numpy")
def train(plan, rule, xs, ys, order, start, learn, sums):
    # Batches `start`, `start + 1`, ... of the samples in `order`, as many as there are rates. Adds the losses times the
    # batch size to sums[0] and the right answers to sums[1]. Returns the batch whose sweep stopped and the instruction
    # it stopped at; (number of batches, -1) when all went well.
    p, g = plan.values[: plan.n_params], plan.adjoints[: plan.n_params]
    for step in range(start, rule.rates.shape[0]):
        copy_rows(xs, order, step * plan.batch, plan.batch, plan.values, plan.x)
        copy_rows(ys, order, step * plan.batch, plan.batch, plan.values, plan.y)
        steps = GRADIENT if learn else VALUES
        failed = call_sweep(
            plan.sweep, plan.code, plan.side, plan.values, plan.adjoints, plan.nothing, plan.loss, steps
        )
        if failed >= 0:
            return step, failed
        sums[0] += plan.values[plan.loss] * plan.batch
        sums[1] += right_answers(plan)
        if learn:
            if rule.clip_value > 0.0:
                clip_values(g, rule.clip_value)
            if rule.clip_norm > 0.0:
                scale_to_norm(g, global_norm(g), rule.clip_norm)
            call_update(rule.update, p, g, rule.state, rule.hyper, rule.rates[step], rule.done + step + 1)
    return rule.rates.shape[0], -1


@njit(nogil=True, error_model="numpy")
def copy_rows(table, order, first, count, v, to):
    # Loops, because assigning one slice to another takes Numba seconds to compile.
    n = table.shape[1]
    for i in range(count):
        row = order[first + i]
        for j in range(n):
            v[to + i * n + j] = table[row, j]


@njit(nogil=True, error_model="numpy")
def right_answers(plan):
    v, right = plan.values, 0
    for i in range(plan.batch if plan.classes else 0):
        a = plan.logits + i * plan.classes
        best = 0
        for j in range(1, plan.classes):
            if v[a + j] > v[a + best]:
                best = j
        # NaN compares with nothing, and is no answer.
        right += best == v[plan.y + i] and v[a + best] == v[a + best]
    return right


# Calling by address


def _call_address(result: Any, name: str) -> Any:
    """An intrinsic that calls a compiled function at an address, by Numba's own convention."""

    def typer(typingctx, address, *args):
        exact = make_signature(result, address, *args)

        def generate(context, builder, signature, values):
            arguments = signature.args[1:]
            kind = context.call_conv.get_function_type(signature.return_type, arguments)
            function = builder.inttoptr(values[0], ir.PointerType(kind))
            status, out = context.call_conv.call_function(
                builder, function, signature.return_type, arguments, values[1:]
            )
            with builder.if_then(status.is_error, likely=False):
                context.call_conv.return_status_propagate(builder, status)
            return out

        return exact, generate

    return typer


@intrinsic
def _call_sweep(typingctx, address, code, side, v, g, x, seed, steps):
    return _call_address(types.int64, "sweep")(typingctx, address, code, side, v, g, x, seed, steps)


@intrinsic
def _call_update(typingctx, address, p, g, state, hyper, rate, step):
    return _call_address(types.none, "update")(typingctx, address, p, g, state, hyper, rate, step)


def _call_function(function, *args):
    return function(*args)


call_sweep = _call_function if config.DISABLE_JIT else _call_sweep
call_update = _call_function if config.DISABLE_JIT else _call_update


def address_of(function: Any, *args: Any) -> Any:
    """The address of a compiled function for arguments like these, compiled now if need be.

    The function must be kept alive as long as the address is in use. Where nothing is compiled, the function itself.
    """
    if config.DISABLE_JIT:
        return function
    from numba import typeof

    kinds = tuple(typeof(a) for a in args)
    function.compile(kinds)
    compiled = function.overloads[kinds]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)

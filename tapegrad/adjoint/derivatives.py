"""Derivatives of functions of Values, as Values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import Evaluation, checked, evaluate, zeros
from tapegrad.adjoint.matching import check_numbers, chosen_tangents, matching, scalar_result, spread
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.tangent import push_forward
from tapegrad.arguments import argument_numbers
from tapegrad.functions import stack
from tapegrad.value import Value, as_value, leaf


def value_and_grad(
    f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool
) -> tuple[Any, Any]:
    """The value of a function and its gradient, as Values. Raises what `tapegrad.value_and_grad` raises."""
    numbers = argument_numbers(argnums)
    done = evaluate(f, args, numbers)
    found = [scalar_result(done, has_aux), *done.outputs[1:]]
    seeds = [1.0] + [None] * (len(found) - 1)
    grads = done._replace(outputs=found[:1]).pull(seeds)
    own = [done.argument(n, grads) for n in checked(numbers, len(args))]
    return done.result, own[0] if isinstance(argnums, int) else tuple(own)


def vjp(f: Callable[..., Any], primals: Sequence[Any]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of a function, and the function from a cotangent of the result to cotangents of the primals."""
    done = evaluate(f, primals, None)
    check_numbers(done.outputs)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        seeds = matching(cotangent, done.result_structure, [np.shape(y) for y in done.outputs], "cotangent", "result")
        grads = done.pull([None if s is None else as_value(s, done.tape, "a cotangent") for s in seeds])
        return tuple(done.argument(n, grads) for n in range(len(primals)))

    return done.result, pullback


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of a function, and its derivative along tangents."""
    done = evaluate(f, primals, None)
    check_numbers(done.outputs)
    return done.result, pushed(done, primals, tangents)


def jacobian(f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int], back: bool | None) -> Any:
    """The Jacobian of a function, as Values: one derivative program for each output, or each input."""
    numbers = checked(argument_numbers(argnums), len(args))
    done = evaluate(f, args, numbers)
    check_numbers(done.outputs)
    outputs, at = done.values()
    inputs = list(done.inputs.values())
    if back is None:
        back = sum(y.size for y in outputs) <= sum(x.size for x in inputs)
    blocks = (_by_rows if back else _by_columns)(inputs, outputs)
    shown: list[Any] = []
    for i, y in enumerate(done.outputs):
        leaves = {
            leaf_: blocks[at.index(i)][j] if i in at else np.zeros(np.shape(y) + x.shape, x.dtype)[()]
            for j, (leaf_, x) in enumerate(done.inputs.items())
        }
        own = [done.argument(n, leaves) for n in numbers]
        shown.append(own[0] if isinstance(argnums, int) else tuple(own))
    return pytree.unflatten(done.result_structure, shown)


def _by_rows(inputs: list[Value], outputs: list[Value]) -> list[list[Value]]:
    blocks = []
    for y in outputs:
        flat = y.reshape(-1)
        rows = [pull_back(inputs, [flat[i]], [1.0]) for i in range(y.size)]
        blocks.append([
            _stacked([zeros(x) if row[j] is None else row[j] for row in rows], 0, y.shape + x.shape, x)
            for j, x in enumerate(inputs)
        ])  # fmt: skip
    return blocks


def _by_columns(inputs: list[Value], outputs: list[Value]) -> list[list[Value]]:
    blocks: list[list[Value]] = [[] for _ in outputs]
    for j, x in enumerate(inputs):
        columns = []
        for i in range(x.size):
            seed = np.zeros(x.shape, x.dtype)
            seed.reshape(-1)[i] = 1.0
            tangents = [None] * j + [leaf(x._tape, seed)] + [None] * (len(inputs) - j - 1)
            columns.append(push_forward(inputs, tangents, outputs))
        for i, y in enumerate(outputs):
            column = [zeros(y) if c[i] is None else c[i] for c in columns]
            blocks[i].append(_stacked(column, y.ndim, y.shape + x.shape, x))
    return blocks


def _stacked(parts: list[Any], axis: int, shape: tuple[int, ...], x: Value) -> Value:
    if not parts:
        return leaf(x._tape, np.zeros(shape, x.dtype))
    return stack(parts, axis).reshape(shape)


def gradient_of(f: Callable[..., Any], argnums: int | Sequence[int]) -> Callable[..., Any]:
    """The gradient as a function of Values."""

    def gradient(*args: Any) -> Any:
        return value_and_grad(f, args, argnums, False)[1]

    gradient.__qualname__ = f"the gradient of {getattr(f, '__qualname__', repr(f))}"
    return gradient


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], argnums: Any) -> Any:
    """The Hessian of a scalar function times tangents: forward over reverse."""
    chosen, own = chosen_tangents(primals, tangents, argnums)
    along = spread(primals, chosen, own[0] if isinstance(chosen, int) and len(own) == 1 else own)
    return jvp(gradient_of(f, chosen), primals, along)[1]


def pushed(done: Evaluation, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The derivative, along tangents, of a function that has been called already."""
    leaves, structure = pytree.flatten(tuple(primals))
    given = matching(tuple(tangents), structure, [np.shape(x) for x in leaves], "tangents", "primals")
    known = {i: as_value(given[i], done.tape, "a tangent") for i in done.inputs if given[i] is not None}
    return pytree.unflatten(done.result_structure, done.push(known))

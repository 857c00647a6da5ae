"""Derivatives of functions of Values, as Values: the function is called on the tape where its arguments are.

The arguments that a derivative is taken with respect to are copied first. What follows the copies on the tape is the
function, whatever else its arguments are used for, so derivatives nest to any depth and may close over outer Values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.reverse import pull_back
from tapegrad.adjoint.tangent import push_forward
from tapegrad.arguments import argument_numbers, owners
from tapegrad.errors import DTypeError, IntegerInputError, NonScalarError, ShapeError, StructureError
from tapegrad.functions import stack
from tapegrad.ops import BY_NAME
from tapegrad.tape import Tape, current_tape, recording_tape
from tapegrad.value import Value, apply, as_value, leaf


class Evaluation(NamedTuple):
    """One call of a function on a tape: its inputs, and what it returned."""

    tape: Tape
    structure: Any
    owner: list[int]
    inputs: dict[int, Value]
    outputs: list[Any]
    result_structure: Any

    @property
    def result(self) -> Any:
        """What the function returned."""
        return pytree.unflatten(self.result_structure, self.outputs)

    def values(self) -> tuple[list[Value], list[int]]:
        """The outputs that are Values, and their positions."""
        at = [i for i, y in enumerate(self.outputs) if isinstance(y, Value)]
        return [self.outputs[i] for i in at], at

    def pull(self, seeds: Sequence[Any]) -> dict[int, Value]:
        """The derivative of sum(seeds * outputs) with respect to each input, by leaf number."""
        outputs, at = self.values()
        found = pull_back(list(self.inputs.values()), outputs, [seeds[i] for i in at]) if outputs else []
        grads = dict(zip(self.inputs, found, strict=False))
        return {i: _zeros(x) if grads.get(i) is None else grads[i] for i, x in self.inputs.items()}  # type: ignore[misc]

    def push(self, tangents: dict[int, Any]) -> list[Any]:
        """The derivative of each output along tangents of the inputs."""
        outputs, at = self.values()
        given = [tangents.get(i) for i in self.inputs]
        found = push_forward(list(self.inputs.values()), given, outputs) if outputs else []
        known = dict(zip(at, found, strict=True))
        return [
            known[i] if known.get(i) is not None else _zeros(y) if isinstance(y, Value) else np.zeros(np.shape(y))[()]
            for i, y in enumerate(self.outputs)
        ]

    def argument(self, number: int, leaves: dict[int, Any]) -> Any:
        """What belongs to the leaves of one argument, in its structure; None for a leaf without."""
        own = [leaves.get(i) for i, n in enumerate(self.owner) if n == number]
        return pytree.unflatten(pytree.children(self.structure)[number], own)


def _zeros(x: Value) -> Value:
    return leaf(x._tape, np.zeros(x.shape, x.dtype))


def holds_values(leaves: Sequence[Any]) -> bool:
    """Whether any of the leaves is a Value, or an object array, which may hold some."""
    return any(isinstance(x, Value) or (isinstance(x, np.ndarray) and x.dtype == object) for x in leaves)


def on_tape(args: Any) -> bool:
    """Whether a derivative is to be written on a tape: arguments are Values, or a function is being recorded."""
    if recording_tape() is not None:
        return True
    if all(x.__class__ is float or (x.__class__ is np.ndarray and x.dtype != object) for x in args):
        # What most calls are, told without taking the arguments apart.
        return False
    return holds_values(pytree.flatten(args)[0])


def evaluate(
    f: Callable[..., Any], args: Sequence[Any], numbers: Sequence[int] | None, kwargs: Any = None
) -> Evaluation:
    """Call a function on copies of the arguments numbered, of all that are floats where `numbers` is None.

    Raises IntegerInputError for a numbered argument that holds anything else.
    """
    leaves, structure = pytree.flatten(tuple(args))
    owner = owners(structure)
    if numbers is not None:
        numbers = checked(numbers, len(args))
    tape = next((x._tape for x in leaves if isinstance(x, Value)), None) or current_tape(_dtype(leaves))
    inputs = {}
    for i, x in enumerate(leaves):
        if numbers is None and not _is_float(x):
            continue
        if numbers is None or owner[i] in numbers:
            inputs[i] = leaves[i] = _copy(x, tape, owner[i])
    result = f(*pytree.unflatten(structure, leaves), **(kwargs or {}))
    outputs, result_structure = pytree.flatten(result)
    outputs = [as_value(y, tape, "result") if isinstance(y, np.ndarray) and y.dtype == object else y for y in outputs]
    return Evaluation(tape, structure, owner, inputs, outputs, result_structure)


def checked(numbers: Sequence[int], count: int) -> list[int]:
    """Argument numbers counted from the front. Raises IndexError."""
    for n in numbers:
        if not -count <= n < count:
            raise IndexError(f"argnums names argument {n}, the function has {count}")
    return [n % count for n in numbers]


def _dtype(leaves: Sequence[Any]) -> Any:
    arrays = {x.dtype for x in leaves if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    return arrays.pop() if len(arrays) == 1 else None


def _is_float(x: Any) -> bool:
    if isinstance(x, Value):
        return not x.size or x._tape.kind(x._slot) == ""
    return isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind in "fO")


def _copy(x: Any, tape: Tape, argument: int) -> Value:
    if isinstance(x, np.ndarray) and x.dtype == object:
        x = as_value(x, tape, "an argument")
    if not _is_float(x):
        what = "integers" if isinstance(x, Value) else repr(x)
        if isinstance(x, np.ndarray):
            what = f"an array of {x.dtype}"
        raise IntegerInputError(
            f"argument {argument} holds {what}: only floats can be differentiated; convert it with float(...) or "
            ".astype(float), or leave it out of argnums"
        )
    if isinstance(x, Value):
        return apply(BY_NAME["copy"], (as_value(x, tape, "an argument"),))
    return leaf(tape, np.asarray(x, tape.dtype), True)


def value_and_grad(
    f: Callable[..., Any], args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool, kwargs: Any = None
) -> tuple[Any, Any]:
    """The value of a function and its gradient, as Values. Raises what `tapegrad.value_and_grad` raises."""
    numbers = argument_numbers(argnums)
    done = evaluate(f, args, numbers, kwargs)
    found = [scalar_result(done, has_aux), *done.outputs[1:]]
    seeds = [1.0] + [None] * (len(found) - 1)
    grads = done._replace(outputs=found[:1]).pull(seeds)
    own = [done.argument(n, grads) for n in checked(numbers, len(args))]
    return done.result, own[0] if isinstance(argnums, int) else tuple(own)


def check_numbers(outputs: Sequence[Any]) -> None:
    """Raise StructureError unless there are results and all are numbers, arrays or Values."""
    if not outputs:
        raise StructureError("the function returned nothing to differentiate")
    for y in outputs:
        real = isinstance(y, Value | bool | int | float | np.integer | np.floating | np.bool_)
        if not real and not (isinstance(y, np.ndarray) and y.dtype.kind in "fiub"):
            what = f"an array of {y.dtype}" if isinstance(y, np.ndarray) else type(y).__name__
            raise StructureError(f"the function returned {what}, which has no derivative")


def check_one_result(structure: Any, has_aux: bool) -> None:
    """Raise NonScalarError or StructureError unless a function returned one leaf, or with `has_aux` a pair of one."""
    if has_aux:
        parts = [] if pytree.is_leaf(structure) else pytree.children(structure)
        if len(parts) != 2 or pytree.kind(structure) is not tuple or not pytree.is_leaf(parts[0]):
            raise StructureError("with has_aux the function must return a tuple of one number and something else")
    elif not pytree.is_leaf(structure):
        kind = pytree.kind(structure)
        what = "nothing" if kind is type(None) else f"a {kind.__name__}"
        raise NonScalarError(f"a gradient needs one scalar result, the function returned {what}")


def scalar_result(done: Evaluation, has_aux: bool) -> Any:
    """The number that a function returned. Raises NonScalarError, StructureError unless it is one."""
    check_one_result(done.result_structure, has_aux)
    y = done.outputs[0]
    if isinstance(y, Value) and y.size != 1:
        raise NonScalarError(f"a gradient needs a scalar result, the function returned shape {y.shape}: sum it first")
    if not isinstance(y, Value | int | float | np.number | np.ndarray) or np.size(y) != 1:
        raise NonScalarError(f"the function returned {type(y).__name__}, not a scalar Value")
    return y.reshape(()) if isinstance(y, Value) and y._layout is not None else y


def vjp(f: Callable[..., Any], primals: Sequence[Any]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of a function, and the function from a cotangent to those of the primals."""
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


def matching(given: Any, structure: Any, shapes: Sequence[tuple[int, ...]], what: str, of: str) -> list[Any]:
    """The leaves of a tangent or cotangent, one for each leaf of what it belongs to; None for zero.

    Raises StructureError or ShapeError where they do not match.
    """
    leaves: list[Any] = []

    def visit(node: Any, x: Any) -> None:
        if pytree.is_leaf(node):
            if isinstance(x, tuple | list | dict):
                raise StructureError(f"the {what} must be nested as the {of}: a {type(x).__name__} stands for a number")
            leaves.append(x)
            return
        if x is None:
            leaves.extend([None] * pytree.count(node))
            return
        parts, own = pytree.flatten_once(x)
        names = pytree.names(node)
        if isinstance(x, dict) and type(x) is pytree.kind(node):
            if set(x) != set(names):
                raise StructureError(f"the {what} has the keys {list(x)}, the {of} {names}")
            # The same keys, in whichever order.
            parts = [x[key] for key in names]
        elif pytree.is_leaf(own) or pytree.kind(own) is not pytree.kind(node) or pytree.names(own) != names:
            have = type(x).__name__ if pytree.is_leaf(own) else f"{type(x).__name__} of {len(parts)}"
            wanted = f"{pytree.kind(node).__name__} of {len(names)}"
            raise StructureError(f"the {what} must be nested as the {of}: a {wanted}, not a {have}")
        for child, part in zip(pytree.children(node), parts, strict=True):
            visit(child, part)

    visit(structure, given)
    for i, (x, shape) in enumerate(zip(leaves, shapes, strict=True)):
        if x is not None and np.shape(x) != shape:
            where = f" (number {i} of {len(shapes)})" if len(shapes) > 1 else ""
            raise ShapeError(f"the {what}{where} has shape {np.shape(x)}, the {of} {shape}")
    return leaves


def real_numbers(x: Any, dtype: Any, what: str) -> np.ndarray:
    """A tangent or cotangent as an array of a dtype. Raises DTypeError for what is not real."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{what} must be real numbers, not {'complex' if array.dtype.kind == 'c' else array.dtype}")
    return array.astype(dtype)


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
            leaf_: blocks[at.index(i)][j] if i in at else np.zeros(np.shape(y) + x.shape)[()]
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
            _stacked([_zeros(x) if row[j] is None else row[j] for row in rows], 0, y.shape + x.shape, x)
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
            column = [_zeros(y) if c[i] is None else c[i] for c in columns]
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


def check_tuples(primals: Any, tangents: Any) -> None:
    """Raise StructureError unless primals and tangents come in tuples or lists, one for each argument."""
    for x, what in ((primals, "primals"), (tangents, "tangents")):
        if not isinstance(x, tuple | list):
            raise StructureError(
                f"{what} must be a tuple with one entry for each argument, not {type(x).__name__}: write (x,) for one"
            )


def differentiable(primals: Sequence[Any]) -> int | tuple[int, ...]:
    """The arguments that hold nothing but floats: 0 where there is only one argument."""
    if len(primals) == 1:
        return 0
    return tuple(n for n, x in enumerate(primals) if all(map(_is_float, pytree.flatten(x)[0])))


def chosen_tangents(primals: Sequence[Any], tangents: Sequence[Any], argnums: Any) -> tuple[Any, Sequence[Any]]:
    """Which arguments are differentiated, and one tangent for each: all that are floats where `argnums` is None."""
    if argnums is not None:
        return argnums, tangents
    chosen = differentiable(primals)
    if isinstance(chosen, tuple) and len(tangents) == len(primals):
        tangents = [tangents[n] for n in chosen]
    return chosen, tangents


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], argnums: Any) -> Any:
    """The Hessian of a scalar function times tangents: forward over reverse."""
    chosen, own = chosen_tangents(primals, tangents, argnums)
    along = spread(primals, chosen, own[0] if isinstance(chosen, int) and len(own) == 1 else own)
    return jvp(gradient_of(f, chosen), primals, along)[1]


def spread(args: Sequence[Any], argnums: int | Sequence[int], own: Any) -> tuple[Any, ...]:
    """Tangents of the arguments numbered as tangents of all, None for the others."""
    numbers = checked(argument_numbers(argnums), len(args))
    parts = [own] if isinstance(argnums, int) else list(own)
    if len(parts) != len(numbers):
        raise ShapeError(f"there are {len(parts)} tangents for {len(numbers)} arguments")
    found: list[Any] = [None] * len(args)
    for n, part in zip(numbers, parts, strict=True):
        found[n] = part
    return tuple(found)


def pushed(done: Evaluation, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The derivative along tangents of a function that was evaluated."""
    leaves, structure = pytree.flatten(tuple(primals))
    given = matching(tuple(tangents), structure, [np.shape(x) for x in leaves], "tangents", "primals")
    known = {i: as_value(given[i], done.tape, "a tangent") for i in done.inputs if given[i] is not None}
    return pytree.unflatten(done.result_structure, done.push(known))

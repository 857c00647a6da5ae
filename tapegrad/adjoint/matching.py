"""Whether results can be differentiated, and whether tangents are nested and shaped as what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import Evaluation, checked, is_float
from tapegrad.arguments import argument_numbers
from tapegrad.errors import DTypeError, NonScalarError, ShapeError, StructureError
from tapegrad.value import Value


def matching(given: Any, structure: Any, shapes: Sequence[tuple[int, ...]], what: str, of: str) -> list[Any]:
    """The leaves of a tangent or cotangent, one for each leaf of what it belongs to; None for zero.

    Raises StructureError or ShapeError where they do not match.
    """
    leaves: list[Any] = []

    def visit(node: Any, x: Any) -> None:
        if pytree.is_leaf(node):
            if isinstance(x, tuple | list | dict):
                raise StructureError(f"the {what} must be nested as the {of}: a {type(x).__name__} is not a number")
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
            # The keys are the same, but their order may differ.
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
    """Raise NonScalarError or StructureError unless a function returned one leaf; with `has_aux`, a pair of one leaf
    and anything else."""
    if has_aux:
        parts = [] if pytree.is_leaf(structure) else pytree.children(structure)
        if len(parts) != 2 or pytree.kind(structure) is not tuple or not pytree.is_leaf(parts[0]):
            raise StructureError("with has_aux the function must return a tuple of one number and something else")
    elif not pytree.is_leaf(structure):
        kind = pytree.kind(structure)
        what = "nothing" if kind is type(None) else f"a {kind.__name__}"
        raise NonScalarError(f"a gradient needs one scalar result, the function returned {what}")


def scalar_result(done: Evaluation, has_aux: bool) -> Any:
    """The scalar that a function returned. Raises NonScalarError, StructureError, DTypeError if it returned none."""
    check_one_result(done.result_structure, has_aux)
    y = done.outputs[0]
    if isinstance(y, Value) and y.size != 1:
        raise NonScalarError(f"a gradient needs a scalar result, the function returned shape {y.shape}: sum it first")
    if not isinstance(y, Value | int | float | np.number | np.ndarray) or np.size(y) != 1:
        raise NonScalarError(f"the function returned {type(y).__name__}, not a scalar Value")
    if isinstance(y, Value) and y._tape.kind(y._slot) == "b":
        raise truth_result()
    return y.reshape(()) if isinstance(y, Value) and y._layout is not None else y


def truth_result() -> DTypeError:
    """The exception for a truth value where a number was to be differentiated."""
    return DTypeError("the function returned a truth value: its derivative is zero wherever it has one")


def check_tuples(primals: Any, tangents: Any) -> None:
    """Raise StructureError unless primals and tangents come in tuples or lists, one for each argument."""
    for x, what in ((primals, "primals"), (tangents, "tangents")):
        if not isinstance(x, tuple | list):
            raise StructureError(
                f"{what} must be a tuple with one entry for each argument, not {type(x).__name__}: write (x,) for one"
            )


def differentiable(primals: Sequence[Any]) -> int | tuple[int, ...]:
    """The numbers of the arguments that hold nothing but floats; 0 where there is only one argument, whatever it is."""
    if len(primals) == 1:
        return 0
    return tuple(n for n, x in enumerate(primals) if all(map(is_float, pytree.flatten(x)[0])))


def chosen_tangents(primals: Sequence[Any], tangents: Sequence[Any], argnums: Any) -> tuple[Any, Sequence[Any]]:
    """Which arguments are differentiated, and one tangent for each. Where `argnums` is None, these are the arguments
    that hold nothing but floats."""
    if argnums is not None:
        return argnums, tangents
    chosen = differentiable(primals)
    if isinstance(chosen, tuple) and len(tangents) == len(primals):
        tangents = [tangents[n] for n in chosen]
    return chosen, tangents


def spread(args: Sequence[Any], argnums: int | Sequence[int], own: Any) -> tuple[Any, ...]:
    """A tangent for each argument: those in `own` for the arguments in `argnums`, None for the others."""
    numbers = checked(argument_numbers(argnums), len(args))
    parts = [own] if isinstance(argnums, int) else list(own)
    if len(parts) != len(numbers):
        raise ShapeError(f"there are {len(parts)} tangents for {len(numbers)} arguments")
    found: list[Any] = [None] * len(args)
    for n, part in zip(numbers, parts, strict=True):
        found[n] = part
    return tuple(found)

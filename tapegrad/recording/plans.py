"""With respect to which arguments a derivative is taken, which tangents are given for them, and how it is nested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation, matching
from tapegrad.arguments import Input, Spec, argument_numbers, described, dtype_of, not_floats, owners
from tapegrad.errors import IntegerInputError, ShapeError


def hashable(argnums: int | Sequence[int]) -> int | tuple[int, ...]:
    """What a derivative is taken with respect to, as a key."""
    return argnums if isinstance(argnums, int) else tuple(argnums)


class Plan(NamedTuple):
    """How a derivative is taken.

    Attributes:
        numbers: the arguments that it is taken with respect to.
        several: whether `argnums` was a tuple, so that the derivative is a tuple too.
        single: the input, where it is the derivative by one argument that is an array; else None.
        wrt: the inputs that a sweep differentiates with respect to; None where these are the inputs for which gradients
            were wanted when the function was recorded.
        chosen: the same inputs, in the order of the arguments.
    """

    numbers: tuple[int, ...]
    several: bool
    single: int | None
    wrt: tuple[int, ...] | None
    chosen: tuple[int, ...]


class Plans:
    """The plans for arguments that fit a spec. `wanted` says for which leaves a gradient was wanted when the function
    was recorded."""

    def __init__(self, spec: Spec, wanted: Sequence[bool]) -> None:
        self._spec = spec
        self._wanted = wanted
        self._dtype = dtype_of(spec)
        self._owner = owners(spec.structure)
        self._inputs = [i for i, leaf in enumerate(spec.leaves) if isinstance(leaf, Input)]
        floats = [leaf for leaf in spec.leaves if isinstance(leaf, Input) and leaf.dtype.kind == "f"]
        self._narrow = any(leaf.dtype.itemsize < 8 and not leaf.scalar for leaf in floats)
        self._known: dict[int, Plan] = {}

    def tangents(self, numbers: Sequence[int], tangents: Sequence[Any]) -> dict[int, np.ndarray]:
        """Tangents of the arguments in `numbers`, as arrays by the number of the input."""
        nodes = pytree.children(self._spec.structure)
        if len(tangents) != len(numbers):
            raise ShapeError(f"there are {len(tangents)} tangents for {len(numbers)} arguments")
        found = {}
        for n, tangent in zip(evaluation.checked(numbers, len(nodes)), tangents, strict=True):
            at = [i for i, owner in enumerate(self._owner) if owner == n]
            shapes = [getattr(self._spec.leaves[i], "shape", ()) for i in at]
            given = matching.matching(tangent, nodes[n], shapes, f"tangent of argument {n}", "argument")
            for i, t in zip(at, given, strict=True):
                leaf = self._spec.leaves[i]
                if t is not None and isinstance(leaf, Input) and leaf.dtype.kind == "f":
                    found[self._inputs.index(i)] = matching.real_numbers(t, self._dtype, "a tangent")
                elif t is not None and np.any(t):
                    raise IntegerInputError(f"argument {n} holds integers: their tangent can only be zero, or None")
        return found

    def plan(self, argnums: int | Sequence[int], check: bool = True) -> Plan:
        known = self._known.get(argnums) if type(argnums) is int else None
        if known is not None:
            return known
        nodes = pytree.children(self._spec.structure)
        numbers = tuple(evaluation.checked(argument_numbers(argnums), len(nodes)))
        if check:
            self._check_floats(numbers)
        floats = [getattr(self._spec.leaves[i], "dtype", np.dtype(int)).kind == "f" for i in self._inputs]
        wanted = tuple(w for w, i in enumerate(self._inputs) if self._owner[i] in numbers and floats[w])
        # The inputs for which gradients were wanted when the function was recorded: for them `wrt` is None.
        everything = tuple(w for w, i in enumerate(self._inputs) if self._wanted[i])
        single = None
        if isinstance(argnums, int) and pytree.is_leaf(nodes[numbers[0]]) and wanted:
            leaf = self._owner.index(numbers[0])
            single = None if self._spec.leaves[leaf].scalar else self._inputs.index(leaf)
        chosen = tuple(sorted(wanted, key=lambda w: numbers.index(self._owner[self._inputs[w]])))
        plan = Plan(numbers, not isinstance(argnums, int), single, None if wanted == everything else wanted, chosen)
        if isinstance(argnums, int):
            self._known[argnums] = plan
        return plan

    def _check_floats(self, numbers: Sequence[int]) -> None:
        for i, leaf in enumerate(self._spec.leaves):
            if self._owner[i] in numbers and not (isinstance(leaf, Input) and leaf.dtype.kind == "f"):
                array = isinstance(leaf, Input) and not leaf.is_integer
                raise not_floats(self._owner[i], f"an array of {leaf.dtype}" if array else described(leaf))

    def in_own_dtypes(self, plan: Plan, derivative: Any) -> Any:
        """A derivative nested as the arguments of a plan, with arrays of the dtypes of the arguments: it may have been
        computed in float64 because other numbers were."""
        if not self._narrow:
            return derivative
        leaves, structure = pytree.flatten(derivative)
        owned = list(zip(self._owner, self._spec.leaves, strict=True))
        own = [leaf for number in plan.numbers for owner, leaf in owned if owner == number]
        return pytree.unflatten(structure, [_as(g, leaf) for g, leaf in zip(leaves, own, strict=True)])

    def gradient(self, plan: Plan) -> tuple[Any, list[int]]:
        """How a gradient is nested, and the input that each of its leaves belongs to."""
        nodes = pytree.children(self._spec.structure)
        own = [nodes[number] for number in plan.numbers]
        inputs = [w for n in plan.numbers for w in plan.chosen if self._owner[self._inputs[w]] == n]
        return pytree.tuple_of(own) if plan.several else own[0], inputs

    def shaped(self, plan: Plan, by_input: dict[int, Any], copy: bool = True) -> Any:
        """What `by_input` has for each input, nested as the arguments of a plan; None for a leaf that it does not have.
        """
        own = []
        for number in plan.numbers:
            leaves: list[Any] = []
            for i, owner in enumerate(self._owner):
                if owner == number:
                    g = by_input.get(self._inputs.index(i)) if i in self._inputs else None
                    leaves.append(None if g is None else _as(g.copy() if copy else g, self._spec.leaves[i]))
            own.append(pytree.unflatten(pytree.children(self._spec.structure)[number], leaves))
        return tuple(own) if plan.several else own[0]


def _as(g: Any, leaf: Any) -> Any:
    """A derivative with respect to an argument, in its dtype."""
    return float(g) if np.ndim(g) == 0 else g.astype(leaf.dtype, copy=False)

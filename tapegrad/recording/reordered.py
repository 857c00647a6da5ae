"""Calls of a recording with dicts whose keys are in another order than it was recorded with."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Spec, difference, spec_of
from tapegrad.attached import named_like
from tapegrad.errors import ShapeError, StructureError
from tapegrad.program import Branches, Program

# Of each recording, the nestings whose order of keys was found to make no difference.
_alike: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


def in_own_order(recording: Any, args: Sequence[Any], given: Spec) -> list[Any]:
    """The leaves of arguments that are not nested as recorded, in the recorded order, where only keys of dicts are in
    another order. Raises ShapeError where they differ in anything else, or where the function depends on the order.

    A function may go through a dict in its order. So it is recorded once more with the order that is new, and what that
    gives must be the program that is there.
    """
    own: Spec = recording.spec
    if own.structure == given.structure or not pytree.same_but_for_order(own.structure, given.structure):
        raise ShapeError(difference(own, given))
    try:
        ordered = pytree.unflatten(own.structure, pytree.leaves_as(own.structure, tuple(args)))
    except StructureError:
        raise ShapeError(difference(own, given)) from None
    spec, leaves = spec_of(ordered)
    if spec != own:
        raise ShapeError(difference(own, spec))
    known = _alike.setdefault(recording, set())
    if given.structure not in known:
        again = _recorded_as(recording, given.structure, leaves)
        if not _same(again, recording._branches.fitting(leaves, always=True)):
            raise ShapeError(
                f"{difference(own, given)}: {recording.name} does other steps then, or in another order; call it with "
                "the keys in the recorded order, or record it for this one"
            )
        known.add(given.structure)
    return leaves


def _recorded_as(recording: Any, structure: Any, leaves: Sequence[Any]) -> Program:
    """What is recorded where the function gets the same leaves in dicts of another order."""

    @named_like(recording.f)
    def reordered(*args: Any) -> Any:
        return recording.f(*pytree.unflatten(structure, pytree.leaves_as(structure, args)))

    branches = recording._branches
    return Branches(
        reordered, recording.spec, leaves, None, same_prefixes=False, captures=branches.captures,
        forced=recording.forced,
    ).program  # fmt: skip


def _same(one: Program, other: Program) -> bool:
    a, b = one.code, other.code
    return (
        one.structure == other.structure and a.dtype == b.dtype
        and all(map(np.array_equal, (a.rows, a.side), (b.rows, b.side)))
        and a.constants.tobytes() == b.constants.tobytes()
        and all(
            x.place == y.place and x.layout == y.layout
            and (x.constant is y.constant or np.array_equal(x.constant, y.constant))
            for x, y in zip(a.outputs, b.outputs, strict=True)
        )
    )  # fmt: skip

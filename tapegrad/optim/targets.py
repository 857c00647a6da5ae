"""Which of the parameters at hand an optimiser was made for, and whether they are those that it has worked on.

What an optimiser remembers is a vector. So it must never be given to other parameters of the same size, or to the same
in another order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import StructureError
from tapegrad.optim.groups import Entry, is_module, named_handles, place_on_tape
from tapegrad.optim.nested import Nested
from tapegrad.value import Value

# Which parameters an optimiser works on. If it was made with some: where they lie among these, as (start, stop). If
# not: how they are nested, their shapes, and the modules.
Target = tuple[Any, ...]


def offsets_among(made_with: Sequence[Any], entries: Sequence[Entry]) -> list[int | None]:
    """Where each parameter begins in the vector of those that an optimiser was made with; None for one that is not
    among them."""
    by_id: dict[int, int] = {}
    # Values that stand side by side on a tape are one stretch of it, as [tape, start, stop, offset], because a module
    # and its `flat` are different handles to the same numbers.
    stretches: list[list[Any]] = []
    at = 0
    for _, value in named_handles(made_with):
        by_id.setdefault(id(value), at)
        if _side_by_side(value):
            tape, start = value.tape, place_on_tape(value)
            last = stretches[-1] if stretches else None
            if last is not None and last[0] is tape and last[2] == start and last[3] + (start - last[1]) == at:
                last[2] += value.size
            else:
                stretches.append([tape, start, start + value.size, at])
        at += value.size
    return [_offset(entry.value, by_id, stretches) for entry in entries]


def _offset(value: Any, by_id: dict[int, int], stretches: list[list[Any]]) -> int | None:
    if id(value) in by_id:
        return by_id[id(value)]
    if _side_by_side(value):
        place = place_on_tape(value)
        for tape, start, stop, offset in stretches:
            if tape is value.tape and start <= place and place + value.size <= stop:
                return int(offset + place - start)
    return None


def _side_by_side(value: Any) -> bool:
    return isinstance(value, Value) and value.size > 0 and value._layout_or_scalar().dense


def target_among(offsets: Sequence[int | None], entries: Sequence[Entry]) -> Target:
    """What parameters are worked on, as stretches of those that the optimiser was made with."""
    found: list[tuple[int, int]] = []
    for offset, entry in zip(offsets, entries, strict=True):
        if offset is None or not entry.size:
            continue
        if found and found[-1][1] == offset:
            found[-1] = found[-1][0], offset + entry.size
        else:
            found.append((offset, offset + entry.size))
    return tuple(found)


def target_of(nested: Nested) -> Target:
    """What parameters are worked on by an optimiser that was made without any.

    Arrays and Values may be others at every step, so it is their names and shapes that count. Of modules alone names do
    not count, so that a model may be updated by itself or as a part of a nesting.
    """
    modules = tuple(x for x in nested.leaves if is_module(x))
    if modules and len(modules) == len(nested.leaves):
        return None, (), modules
    return nested.structure, tuple(() if is_module(x) else np.shape(x) for x in nested.leaves), modules


def _size(target: Target) -> int:
    return sum(stop - start for start, stop in target)


def check_same(before: Target, now: Target, made_with_some: bool) -> None:
    """Raise StructureError where an optimiser that remembers something is given other parameters than before."""
    if made_with_some:
        if before != now and _size(before) == _size(now):
            raise StructureError(
                "this optimiser has worked on other parts of the parameters that it was made with, or in another "
                "order, and what it remembers is of those: make an optimiser for each part"
            )
        return
    (structure, shapes, modules), (structure_now, shapes_now, modules_now) = before, now
    if len(modules) == len(modules_now) and any(x is not y for x, y in zip(modules, modules_now)):
        kind = type(next(x for x, y in zip(modules_now, modules) if x is not y)).__name__
        raise StructureError(
            f"this optimiser has worked on another module than this {kind}, and what it remembers is of that one: make "
            "an optimiser for each"
        )
    # Of arrays of another size in all, it is said elsewhere how many numbers there are.
    as_many = sum(map(math.prod, shapes)) == sum(map(math.prod, shapes_now))
    if len(modules) != len(modules_now) or (as_many and (structure != structure_now or shapes != shapes_now)):
        raise StructureError(
            "this optimiser has worked on parameters that were nested otherwise, or had other names, shapes or order, "
            "and what it remembers is of those: make an optimiser for each"
        )

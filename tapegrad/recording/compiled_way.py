"""The short way through a call of a compiled program; see `direct`, which has that of an interpreted one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import SURE, Input, Spec
from tapegrad.native import Native
from tapegrad.native.outer import address, home
from tapegrad.program import Workspace
from tapegrad.recording.direct import Holds, Short, never


class _View:
    """A workspace as the short way needs it."""

    __slots__ = ("arguments", "keep", "owner", "places", "pointers", "results", "values", "windows")

    def __init__(self, native: Native, workspace: Workspace, owner: Any) -> None:
        self.owner = owner
        self.arguments, self.keep = native.call(workspace)
        # The pointers to arrays that may stand elsewhere, and where in the workspace they stand otherwise.
        self.pointers, self.places = self.keep[1], home(native.outer, workspace)
        self.windows = [window for window, _ in workspace.feeds]
        self.values = memoryview(workspace.values.data)
        self.results = [None if o.place is None else o.window(workspace.values) for o in native.code.outputs]


def compiled_way(native: Native, spec: Spec, structure: Any, holds: Holds) -> Short:
    """The short way to all that a compiled program returns, for arguments of this structure that fit its spec.

    `holds` says whether what the function takes from around it is as it was recorded; see `Captures`.
    """
    leaves, dtype, outputs = spec.leaves, native.code.dtype, native.code.outputs
    if native.calls or native.whole.long or any(o.place is None or o.whole for o in outputs):
        return never
    if not all(isinstance(leaf, Input) and (leaf.dtype == dtype or leaf.is_integer) for leaf in leaves):
        return never
    own, integer, count, array, empty = np.dtype(dtype.name), object(), len(leaves), np.ndarray, np.empty
    kinds = [integer if x.is_integer else None if x.scalar else x.shape for x in leaves]
    scalars, starts = [leaf.scalar for leaf in leaves], [at for at, _ in native.code.spans]
    decided = list(native.decided.items())
    # The pointers to long arguments and results, which are read and written where the user has them.
    slots = [native.outer.inputs[i].number if i in native.outer.inputs else None for i in range(count)]
    new = [(i, array_.number, outputs[i].shape) for i, array_ in native.outer.outputs.items()]
    found = [(i, None if o.shape else o.place, i in native.outer.outputs) for i, o in enumerate(outputs)]
    put_together: Callable[[Any], Any] = native.structure.unflatten
    if pytree.children(native.structure) and all(map(pytree.is_leaf, pytree.children(native.structure))):
        put_together = tuple
    owner, whole, run = object(), native.whole, native.run
    take, idle, give = native.take, native.workspaces, native.workspaces.append

    def call(given: Any) -> Any:
        if len(given) != count:
            return None
        for x, shape in zip(given, kinds):
            if shape is None:
                if x.__class__ is not float:
                    return None
            elif shape is integer:
                if x.__class__ is not int or not -SURE < x < SURE:
                    return None
            elif x.__class__ is not array or x.dtype is not own or x.shape != shape:
                return None
        for i, number in decided:
            if given[i] != number:
                return None
        try:
            if holds is not None and not holds():
                return None
        except Exception:
            # Something that the function reads is gone, which the long way will find.
            return None
        try:
            workspace = idle.pop()
        except IndexError:
            workspace = take()
        view = workspace.view
        if view is None or view.owner is not owner:
            view = workspace.view = _View(native, workspace, owner)
        values, windows = view.values, view.windows
        for i, x in enumerate(given):
            if scalars[i]:
                values[starts[i]] = x
                continue
            slot = slots[i]
            if slot is not None:
                place = address(x)
                view.pointers[slot] = view.places[slot] if place is None else place
                if place is not None:
                    continue
            windows[i][...] = x
        results = view.results
        if new:
            results = results.copy()
            for i, slot, shape in new:
                results[i] = made = empty(shape, own)
                view.pointers[slot] = address(made)
        answer, whole.used = None, True
        if run(*view.arguments) < 0:
            answer = put_together([
                values[place] if place is not None else results[i] if is_new else results[i].copy()
                for i, place, is_new in found
            ])  # fmt: skip
        give(workspace)
        return answer

    nodes = pytree.children(structure)
    if all(map(pytree.is_leaf, nodes)):
        return call

    def nested(args: Any) -> Any:
        given, present = pytree.flatten(args)
        return call(given) if present == structure else None

    return nested

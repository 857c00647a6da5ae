"""The short way through a call: arguments that are arrays and floats, one program, value and gradient.

Most calls are of this kind, and what they cost besides the sweep is what users notice. So everything that does not
change from one call to the next is looked up once, when the function that takes the short way is made; and a call of
any other kind takes the long way.

Both functions that are made here take a workspace and its view in the same lines. They are written twice because a call
of a function that both share would add to the time of every gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import SURE, Input, Spec
from tapegrad.compiled.callable import INTERPRETED
from tapegrad.ops.record import OPCODE
from tapegrad.program import Lean, Program, Workspace
from tapegrad.recording.plans import Plan
from tapegrad.sweeps import ADJOINTS, VALUES, callbacks

# Takes arguments; returns (value, gradient), or None where they are not of the kind that was recorded, or the function
# takes another branch.
Short = Callable[[Any], Any]
# Says whether what the function takes from around it is as it was; None where there is nothing. See `Captures`.
Holds = Callable[[], Any] | None


def never(args: Any) -> Any:
    """In place of a short way, where there is none: every call is answered by None, and so takes the long way."""
    return None


def short_way(
    program: Program | Lean, spec: Spec, plan: Plan, holds: Holds, left: list[int]
) -> Short:
    """The short way to the value and gradient of a program, for arguments that fit a spec.

    `holds` says whether what the function takes from around it is as it was recorded; see `Captures`. After as many
    calls as `left` says it answers no more, so that it is asked whether the program is compiled by now.
    """
    leaves, dtype = spec.leaves, program.code.dtype
    if program.scalar is None or program.whole.long or INTERPRETED or not plan.chosen:
        return never
    if not all(isinstance(leaf, Input) and (leaf.dtype == dtype or leaf.is_integer) for leaf in leaves):
        return never
    if len(set(plan.numbers)) < len(plan.numbers):
        return never
    nodes = pytree.children(spec.structure)
    flat = all(map(pytree.is_leaf, nodes))
    if flat and len(leaves) == 1 and plan.single is not None:
        return _of_one_array(program, spec, plan, holds, left)
    wanted = [nodes[n] for n in plan.numbers]
    structure = pytree.tuple_of(wanted) if plan.several else wanted[0]
    put_together: Any = structure.unflatten
    if all(map(pytree.is_leaf, wanted)):
        put_together = tuple if plan.several else operator.itemgetter(0)
    call = _of_leaves(program, leaves, plan, put_together, holds, left)
    if flat:
        return call

    def nested(args: Any) -> Any:
        given, found = pytree.flatten(args)
        return call(given) if found == spec.structure else None

    return nested


class _View:
    """A workspace as the short way needs it. Single numbers are read and written through memory views: that is faster.
    """

    __slots__ = ("adjoints", "arguments", "frame", "gradients", "owner", "values", "windows", "words")

    def __init__(self, program: Program | Lean, workspace: Workspace, plan: Plan, owner: Any) -> None:
        assert program.scalar is not None
        # This frame is used by the short way only, so nothing in it has to be set again for the next call.
        frame = program.new_frame(workspace, VALUES | ADJOINTS, program.scalar, plan.wrt)
        self.owner = owner
        self.arguments, self.words = frame.arguments, frame.words
        self.windows, self.gradients = [window for window, _ in workspace.feeds], workspace.gradients
        self.values, self.adjoints = memoryview(workspace.values.data), memoryview(workspace.adjoints.data)
        self.frame = frame


def _check(program: Program | Lean, workspace: Workspace, failed: int, give: Callable[[Workspace], None]) -> None:
    """Raise what a Python function that the program calls has raised, and give the workspace back first.

    `failed` is the step at which the sweep stopped, or -1.
    """
    try:
        if failed < 0:
            callbacks.check(workspace.scratch)
        else:
            error = callbacks.raised(int(program.steps[failed, OPCODE]))
            if error is not None:
                raise error
    except BaseException:
        give(workspace)
        raise


def _of_one_array(program: Program | Lean, spec: Spec, plan: Plan, holds: Holds, left: list[int]) -> Short:
    (leaf,), place, owner = spec.leaves, program.scalar, object()
    shape, dtype, kind = leaf.shape, np.dtype(program.code.dtype.name), np.ndarray
    program.seed(has_aux=False)
    whole, calls = program.whole, bool(program.calls)
    run, take, idle, give = program.sweeps.prepared(), program.take, program.workspaces, program.workspaces.append

    def call(args: Any) -> Any:
        left[0] -= 1
        if len(args) != 1 or left[0] < 0:
            return None
        x = args[0]
        if x.__class__ is not kind or x.dtype is not dtype or x.shape != shape:
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
            view = workspace.view = _View(program, workspace, plan, owner)
        view.windows[0][...] = x
        answer, whole.used = None, True
        if run(*view.arguments) == 0 and view.words[0] < 0:
            answer = view.values[place], view.gradients[0].copy()
        if calls:
            _check(program, workspace, view.words[0], give)
        give(workspace)
        return answer

    return call


def _of_leaves(
    program: Program | Lean, specs: Any, plan: Plan, put_together: Callable[[Any], Any], holds: Holds, left: list[int]
) -> Short:
    scalars = [leaf.scalar for leaf in specs]
    place, owner, own = program.scalar, object(), np.dtype(program.code.dtype.name)
    # What each leaf must be: a float, an integer, or an array of a shape.
    integer = object()
    kinds = [integer if x.is_integer else None if x.scalar else x.shape for x in specs]
    decided = list(program.decided.items())
    starts = [at for at, _ in program.code.spans]
    chosen = [(scalars[w], starts[w], w) for w in plan.chosen]
    program.seed(has_aux=False)
    whole, calls = program.whole, bool(program.calls)
    run, take, idle, give = program.sweeps.prepared(), program.take, program.workspaces, program.workspaces.append
    count, array = len(kinds), np.ndarray

    def call(leaves: Any) -> Any:
        left[0] -= 1
        if len(leaves) != count or left[0] < 0:
            return None
        for x, shape in zip(leaves, kinds):
            if shape is None:
                if x.__class__ is not float:
                    return None
            elif shape is integer:
                if x.__class__ is not int or not -SURE < x < SURE:
                    return None
            elif x.__class__ is not array or x.dtype is not own or x.shape != shape:
                return None
        for i, number in decided:
            if leaves[i] != number:
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
            view = workspace.view = _View(program, workspace, plan, owner)
        values, windows = view.values, view.windows
        for i, x in enumerate(leaves):
            if scalars[i]:
                values[starts[i]] = x
            else:
                windows[i][...] = x
        answer, whole.used = None, True
        if run(*view.arguments) == 0 and view.words[0] < 0:
            adjoints, gradients = view.adjoints, view.gradients
            found = [adjoints[at] if scalar else gradients[w].copy() for scalar, at, w in chosen]
            answer = values[place], put_together(found)
        if calls:
            _check(program, workspace, view.words[0], give)
        give(workspace)
        return answer

    return call

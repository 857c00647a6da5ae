"""A recorded function of one lane, called for many lanes: each goes the way that it would go alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.batch.blocks import Block, blocks, on_threads
from tapegrad.batch.programs import Lanes, lanes_for, lanes_of
from tapegrad.errors import StructureError
from tapegrad.native import choice
from tapegrad.program import Branches, Program
from tapegrad.sweeps import VALUES, callbacks
from tapegrad.value import Value

# So few lanes of a branch are replayed one by one: to make a program for lanes would take longer.
FEW = 8

# Lanes that failed a guard: by the number of the guard and the bits of what was found there, which lanes.
Failed = dict[tuple[int, bytes], list[int]]


class Results:
    """What all lanes return: for each output an array with lanes as its first axis, or what is the same in all lanes.

    Args:
        total: how many lanes there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.structure: Any = None
        self.shapes: list[tuple[int, ...]] = []
        # For each output its array and None, or None and what is the same in all lanes.
        self.found: list[tuple[np.ndarray | None, Any]] = []

    def expect(self, program: Program, batched: Sequence[bool], every: bool) -> None:
        """Make room for what a program of one lane returns, if lanes differ in it or these are not `every` lane.

        Raises StructureError where lanes return what cannot stand in one array.
        """
        outputs = program.code.outputs
        if self.structure is None:
            self.structure, self.shapes = program.structure, [o.shape for o in outputs]
            self.found = [(None, None)] * len(outputs)
        if program.structure != self.structure:
            raise StructureError(f"lanes return what is nested differently: {self.structure} and {program.structure}")
        for i, (shape, o, own) in enumerate(zip(self.shapes, outputs, batched, strict=True)):
            if shape != o.shape:
                raise StructureError(f"lanes return arrays of shapes {shape} and {o.shape}: those of a batch have one")
            kind = program.code.dtype if o.place is not None and not o.whole else np.dtype(np.int64)
            if o.place is None:
                kind = _dtype_of(o.constant)
            array, shared = self.found[i]
            if array is None and (own or not every):
                array = np.empty((self.total, *shape), kind)
                if shared is not None:
                    array[...] = shared
                self.found[i] = array, None
            elif array is not None and np.result_type(array, kind) != array.dtype:
                self.found[i] = array.astype(np.result_type(array, kind)), None

    def put(self, i: int, target: Any, numbers: Any) -> None:
        """Set output i of some lanes; `numbers` have these as their first axis, or are the same for all of them."""
        array = self.found[i][0]
        if array is None:
            self.found[i] = None, numbers
        else:
            array[target] = numbers


def _dtype_of(constant: Any) -> np.dtype:
    if isinstance(constant, Value):
        return constant.dtype
    if isinstance(constant, bool | int | float | np.number | np.bool_ | np.ndarray):
        return np.result_type(constant)
    raise StructureError(f"a function of a batch must return numbers and arrays, it returned {constant!r}")


class Run:
    """One call of a recorded function for all lanes.

    Args:
        branches: its programs.
        leaves: the leaves of all arguments.
        axes: for each leaf the axis along which lanes have their own, or None where it is the same for all.
        total: how many lanes there are.
        how: whether programs are compiled; see `native.choice.mode`.
        threads: on how many threads blocks are computed.
        keep: whether results are kept; else only which lane takes which branch is found out.
    """

    def __init__(
        self, branches: Branches, leaves: Sequence[Any], axes: Sequence[int | None], total: int, how: str, threads: int,
        keep: bool = True,
    ) -> None:  # fmt: skip
        self._branches, self._leaves, self._axes, self._total = branches, leaves, axes, total
        self._how, self._threads, self._keep = how, threads, keep
        self.results = Results(total)
        self._taken: dict[int, tuple[Program, list[np.ndarray]]] = {}

    def lane(self, i: int) -> list[Any]:
        """The leaves of one lane."""
        return [x if axis is None else lane_of(x, axis, i) for x, axis in zip(self._leaves, self._axes, strict=True)]

    def all_lanes(self) -> Results:
        """The results of all lanes. Raises what the function raises in any of them."""
        while not self._is_done():
            pass
        return self.results

    def groups(self) -> Sequence[tuple[Program, np.ndarray | None]]:
        """The programs that lanes take, with the lanes that take each; None for all lanes."""
        if self._branches.stale:
            self._branches.renew(self.lane(0))
        program = self._branches.program
        if not len(program.guards):
            return [(program, None)]
        self.all_lanes()
        found = [(program, np.sort(np.concatenate(parts))) for program, parts in self._taken.values()]
        # In an order that does not hang on which branch was taken last.
        return sorted([part for part in found if len(part[1])], key=lambda part: int(part[1][0]))

    def _is_done(self) -> bool:
        """Call the function for all lanes. False where a branch met arrays of float64, and the others were recorded in
        float32: as in one call, all is computed in float64 from then on."""
        branches = self._branches
        self.results, self._taken = Results(self._total), {}
        if branches.stale:
            branches.renew(self.lane(0))
        dtype = branches.dtype
        todo: list[tuple[Program, np.ndarray | None]] = [(branches.program, None)]
        while todo:
            program, chosen = todo.pop(0)
            failed, refused = self._together(program, chosen)
            for lane in refused:
                self.alone(lane)
            for lanes in sorted(failed.values()):
                other = self.alone(lanes[0])
                if branches.dtype != dtype:
                    return False
                if len(lanes) <= FEW or other is program:
                    for lane in lanes[1:]:
                        self.alone(lane)
                else:
                    todo.append((other, np.array(lanes[1:])))
        return branches.dtype == dtype

    def _took(self, program: Program, lanes: Any) -> None:
        """Remember which branch lanes took, where that is all that is asked for."""
        if not self._keep:
            self._taken.setdefault(id(program), (program, []))[1].append(np.asarray(lanes, np.int64))

    def alone(self, lane: int) -> Program:
        """Call the function for one lane. Returns the program that fitted."""

        def read(form: Any, workspace: Any) -> tuple[Program, list[Any]]:
            return form.whole, [o.read(workspace.values) for o in form.code.outputs]

        try:
            program, found = self._branches.replay(self.lane(lane), VALUES, None, read)
        except Exception as error:
            error.add_note(f"in lane {lane} of the batch")
            raise
        self._took(program, [lane])
        if not self._keep:
            return program
        self.results.expect(program, [True] * len(found), False)
        for i, numbers in enumerate(found):
            self.results.put(i, slice(lane, lane + 1), np.asarray(numbers)[None])
        return program

    def _together(self, program: Program, chosen: np.ndarray | None) -> tuple[Failed, list[int]]:
        """Compute lanes, all or those chosen, with one program. Returns those that take another branch, and those that
        must be computed alone."""
        count = self._total if chosen is None else len(chosen)
        if program.calls and len(program.guards):
            # A lane that takes another branch must not call functions of Python on this one.
            return {}, list(range(count)) if chosen is None else chosen.tolist()
        batched = tuple(self._axes[i] is not None for i in program.leaves)
        lanes = lanes_of(program, batched, lanes_for(program, count), self._keep)
        parts = blocks(chosen, self._total, lanes.count)
        form = choice.form_for_steps(lanes.program, len(parts), self._how)
        form = lanes.program.for_results() if form is lanes.program else form
        if self._keep:
            self.results.expect(program, [own for _, own in lanes.outputs], chosen is None and not len(lanes.expected))
        found: list[tuple[Failed, list[int]]] = [({}, []) for _ in parts]

        def work(number: int) -> None:
            found[number] = self._block(program, lanes, form, parts[number])

        # Functions of Python are called in the thread that called this.
        on_threads(len(parts), work, 1 if program.calls else self._threads)
        failed: Failed = {}
        for block, (own, refused) in zip(parts, found, strict=True):
            for key, which in own.items():
                failed.setdefault(key, []).extend(which)
            others = {lane for which in own.values() for lane in which} | set(refused)
            if not self._keep:
                self._took(program, [lane for lane in block.numbers() if lane not in others])
        return failed, [lane for _, refused in found for lane in refused]

    def _block(self, program: Program, lanes: Lanes, form: Any, block: Block) -> tuple[Failed, list[int]]:
        workspace = form.take()
        try:
            workspace.fill([
                self._leaves[i] if self._axes[i] is None else block.of(self._leaves[i], self._axes[i])  # type: ignore[arg-type]
                for i in program.leaves
            ])  # fmt: skip
            stopped = form.sweep(workspace, VALUES, -1, None)
            if program.calls:
                callbacks.check(workspace.scratch)
            if stopped >= 0:
                error = callbacks.raised(int(form.steps[stopped, 0]))
                if error is not None:
                    raise error
                # An operand was refused: of a lane alone it can be said which, and some lanes may not come there.
                return {}, block.numbers()
            outputs, values = form.code.outputs, workspace.values
            failed, target, passed = self._guards(lanes, outputs, values, block)
            for i, (_, own) in enumerate(lanes.outputs):
                if outputs[i].place is None:
                    self.results.put(i, target, outputs[i].read(values))
                elif own:
                    numbers = np.moveaxis(outputs[i].window(values), -1, 0)[: block.count]
                    self.results.put(i, target, numbers if passed is None else numbers[passed])
                else:
                    shared = outputs[i]._replace(whole=program.code.outputs[i].whole).read(values)
                    self.results.put(i, target, shared)
            return failed, []
        finally:
            form.give(workspace)

    def _guards(
        self, lanes: Lanes, outputs: Sequence[Any], values: np.ndarray, block: Block
    ) -> tuple[Failed, Any, np.ndarray | None]:
        """What lanes fail which guard; where the results of the others go, and which these are; None for all."""
        if not len(lanes.expected):
            return {}, block.target, None
        found = np.empty((len(lanes.expected), block.count), values.dtype)
        for row, i in zip(found, lanes.guards, strict=True):
            row[...] = outputs[i].window(values)[: block.count] if outputs[i].shape else outputs[i].read(values)
        good = same(found, lanes.expected[:, None])
        passed: np.ndarray = np.asarray(good.all(0))
        if passed.all():
            return {}, block.target, None
        numbers, failed, first = block.numbers(), dict[tuple[int, bytes], list[int]](), np.argmin(good, 0)
        for k in np.flatnonzero(~passed).tolist():
            guard = int(first[k])
            failed.setdefault((guard, found[guard, k].tobytes()), []).append(numbers[k])
        return failed, np.array(numbers)[passed], passed


def same(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where numbers are the same to a guard: NaN is NaN, and 0.0 is not -0.0."""
    return ((x == y) & (np.signbit(x) == np.signbit(y))) | (np.isnan(x) & np.isnan(y))


def lane_of(x: np.ndarray, axis: int, i: int) -> Any:
    """One lane of an array: a number of NumPy where the array has one axis. A truth value stays an array, since a plain
    one would be a part of the recording, and each of the two another recording."""
    found = x[(slice(None),) * axis + (i,)]
    return np.asarray(found) if x.dtype.kind == "b" else found

"""Sums and means over a batch, of values and gradients, in which nothing is stored for a lane.

The sum over the lanes of a block is written as a program, and so is its gradient: what is the same in all lanes, the
parameters of a model say, gets its gradient by one product of matrices where each lane alone would take one of vectors.
Blocks are added up in their order, so that sums have the same bits for any number of threads.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.reverse import pull_back
from tapegrad.arguments import Input, Spec
from tapegrad.batch.blocks import Block, blocks, on_threads
from tapegrad.batch.programs import lanes_for
from tapegrad.batch.runs import Run
from tapegrad.batch.writing import write_lanes
from tapegrad.errors import ExtraMissingError, UnsupportedError
from tapegrad.native import choice
from tapegrad.ops import BY_NAME
from tapegrad.program import Program, write_with
from tapegrad.program.build import code_of
from tapegrad.program.memory import memory
from tapegrad.program.outputs import scalar_place
from tapegrad.sweeps import VALUES, callbacks
from tapegrad.tape import Tape, recording_on
from tapegrad.value import Value, contiguous, leaf

# Of so many blocks for each thread the sums are kept until their turn comes.
_AHEAD = 4

Progress = Callable[[int, int], Any]


class Summed:
    """The program of the sum over the lanes of a block, and of its gradient.

    Args:
        program: the program of one lane, whose result is one number.
        batched: for each of its inputs whether lanes have numbers of their own.
        chosen: the inputs with respect to which the gradient is taken.
        count: how many lanes.

    Its first input says which lanes count: those that only fill a block up do not.

    A function of long arrays, such as the weights of a network, is summed first and then differentiated. So the
    gradient of what is the same in all lanes takes one product of matrices, and none is made for a lane. Where the
    gradient is short beside the program, as for a simulation with a few parameters, it is written for one lane and then
    summed: what reaches a number is added up in each lane as it arrives, and lanes are added up once.
    """

    def __init__(self, program: Program, batched: Sequence[bool], chosen: Sequence[int], count: int) -> None:
        self.count = count
        self._program, self._batched, self._chosen = program, batched, chosen
        dtype, tape = program.code.dtype, Tape(program.code.dtype, recording=True)
        shapes = [(count,), *((*s, count) if own else s for s, own in zip(program.shapes, batched, strict=True))]
        length = sum(math.prod(program.shapes[i]) for i in chosen)
        with recording_on(tape):
            counts, *inputs = [leaf(tape, np.zeros(shape), True) for shape in shapes]
            write = self._lanes_first if length > len(program.code.steps) else self._gradient_first
            results = [contiguous(y) if isinstance(y, Value) else y for y in write(tape, counts, inputs)]
            code = code_of(tape, len(shapes), results)
        spec = Spec(pytree.flatten(tuple(0.0 for _ in shapes))[1], tuple(Input(s, dtype, False) for s in shapes))
        self.program = Program(code, pytree.flatten([0.0] * len(results))[1], spec, (), tape.calls)
        memory.register(self.program)

    def _lanes_first(self, tape: Tape, counts: Value, inputs: list[Value]) -> list[Any]:
        written = write_lanes(self._program, tape, inputs, self._batched, self.count)
        total = self._sum(counts, written.outputs[0], written.batched[0], ())
        grads = self._gradient(tape, inputs, total)
        return [total, *(np.sum(g, -1) if self._batched[i] else g for i, g in zip(self._chosen, grads, strict=True))]

    def _gradient_first(self, tape: Tape, counts: Value, inputs: list[Value]) -> list[Any]:
        program, own = self._program, Tape(tape.dtype, recording=True)
        with recording_on(own):
            of_lane = [leaf(own, np.zeros(shape), True) for shape in program.shapes]
            value = write_with(program, own, of_lane, [])[0]
            found = [value, *self._gradient(own, of_lane, value)]
            code = code_of(own, len(of_lane), [contiguous(y) if isinstance(y, Value) else y for y in found])
        both = Program(code, pytree.flatten([0.0] * len(found))[1], program.spec, (), own.calls)
        written = write_lanes(both, tape, inputs, self._batched, self.count)
        shapes = [(), *(program.shapes[i] for i in self._chosen)]
        return [self._sum(counts, *one) for one in zip(written.outputs, written.batched, shapes, strict=True)]

    def _gradient(self, tape: Tape, inputs: list[Value], total: Any) -> list[Any]:
        """The gradient of a number with respect to the chosen inputs."""
        given = [inputs[i] for i in self._chosen]
        found = pull_back(given, [total], [1.0]) if isinstance(total, Value) else [None] * len(given)
        return [leaf(tape, np.zeros(x.shape)) if g is None else g for x, g in zip(given, found, strict=True)]

    def _sum(self, counts: Value, y: Any, batched: bool, shape: tuple[int, ...]) -> Any:
        """The sum of something over the lanes that count; what each has is of this shape."""
        if isinstance(y, Value | np.ndarray):
            y = np.reshape(cast(Any, y), (*shape, self.count) if batched else (*shape, 1))
        # A lane that does not count may be infinite or NaN.
        return np.sum(BY_NAME["where"](counts, y, 0.0), -1)


_known: weakref.WeakKeyDictionary[Program, dict[Any, Summed]] = weakref.WeakKeyDictionary()


class Sum:
    """The sum over the lanes of a batch of a recorded function's value and gradient.

    Args:
        run: the function and its lanes.
        leaves, axes, total, how, threads: as `Run` takes them.
        chosen: the inputs with respect to which the gradient is taken, by number.
    """

    def __init__(
        self, run: Run, leaves: Sequence[Any], axes: Sequence[int | None], total: int, how: str, threads: int,
        chosen: Sequence[int],
    ) -> None:  # fmt: skip
        self._run, self._leaves, self._axes, self._total = run, leaves, axes, total
        self._how, self._threads, self._chosen = how, threads, tuple(chosen)

    def all_lanes(self, progress: bool | Progress | None) -> list[np.ndarray]:
        """The sum of the values, and for each chosen input that of its gradients, in float64."""
        groups = self._run.groups()
        for program, _ in groups:
            scalar_place(program.code, program.structure, False)
        found: list[np.ndarray] | None = None
        with _reporting(progress, self._total) as report:
            for program, lanes in groups:
                for sums in self._blocks(program, lanes, report):
                    # Sums of blocks are added up in float64, whatever the blocks are computed in.
                    if found is None:
                        found = [x.astype(np.float64) for x in sums]
                        continue
                    for whole, part in zip(found, sums, strict=True):
                        whole += part
        assert found is not None
        return found

    def _blocks(self, program: Program, lanes: np.ndarray | None, report: Progress) -> Iterator[list[np.ndarray]]:
        """The sums of all blocks, in order."""
        batched = tuple(self._axes[i] is not None for i in program.leaves)
        count = lanes_for(program, self._total if lanes is None else len(lanes))
        known, key = _known.setdefault(program, {}), (batched, self._chosen, count)
        summed = known.get(key) or known.setdefault(key, Summed(program, batched, self._chosen, count))
        parts = blocks(lanes, self._total, count)
        form = choice.form_for_steps(summed.program, len(parts), self._how)
        form = summed.program.for_results() if form is summed.program else form
        threads = 1 if program.calls else self._threads
        for start in range(0, len(parts), _AHEAD * threads):
            some = parts[start : start + _AHEAD * threads]
            found: list[list[np.ndarray]] = [[] for _ in some]

            def work(
                number: int, some: list[Block] = some, found: list[list[np.ndarray]] = found
            ) -> None:
                found[number] = self._block(program, form, some[number])

            on_threads(len(some), work, threads)
            yield from found
            report(sum(block.count for block in some), self._total)

    def _block(self, program: Program, form: Any, block: Block) -> list[np.ndarray]:
        workspace = form.take()
        try:
            leaves = [
                self._leaves[i] if self._axes[i] is None else block.of(self._leaves[i], self._axes[i])  # type: ignore[arg-type]
                for i in program.leaves
            ]  # fmt: skip
            workspace.fill([block.counts, *leaves])
            stopped = form.sweep(workspace, VALUES, -1, None)
            if program.calls:
                callbacks.check(workspace.scratch)
            if stopped >= 0:
                raise callbacks.raised(int(form.steps[stopped, 0])) or self._refused(block)
            return [np.asarray(o.read(workspace.values)) for o in form.code.outputs]
        finally:
            form.give(workspace)

    def _refused(self, block: Block) -> Exception:
        """What is wrong with an operand, as the first lane says that has it."""
        for lane in block.numbers():
            try:
                self._run.alone(lane)
            except Exception as error:
                return error
        return UnsupportedError("an operation refused its operands in a block of lanes, and in none of its lanes alone")


@contextlib.contextmanager
def _reporting(progress: bool | Progress | None, total: int) -> Iterator[Progress]:
    """What is told how many lanes more are done: tqdm's bar if `progress` is True; where that is a function, it is
    called with the number of lanes that are done so far, and that of all."""
    done = 0

    def tell(count: int, total: int) -> None:
        nonlocal done
        done += count
        if callable(progress):
            progress(done, total)

    if progress is not True:
        yield tell
        return
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise ExtraMissingError("progress=True draws a bar by tqdm, which is not installed: pip install tqdm") from None
    with tqdm(total=total, unit="lane", unit_scale=True) as bar:
        yield lambda count, _: bar.update(count)

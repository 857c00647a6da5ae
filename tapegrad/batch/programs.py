"""The program of one branch for blocks of lanes, made once for each number of lanes."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input, Spec
from tapegrad.batch.writing import write_lanes
from tapegrad.program import Output, Program, write
from tapegrad.program.build import code_of
from tapegrad.program.memory import memory
from tapegrad.tape import Tape, recording_on
from tapegrad.value import leaf

# How many numbers a block has at most: so many stay in the second or third level of a processor's cache, where the
# interpreter finds them again. Compiled loops keep most of them in registers, and do not care.
_NUMBERS = 1 << 21
# The fewest and the most lanes of a block. Fewer would not fill vectors, and each instruction of the interpreter costs
# tens of nanoseconds besides its lanes, which more than a thousand would not make smaller.
_FEWEST, _MOST = 128, 1024
# No block has more numbers than this, however few lanes are left then.
_LARGEST = 1 << 26
# Arrays of fewer numbers than this many would become scalar instructions again.
_SHORT = 32


def lanes_for(program: Program, count: int) -> int:
    """How many lanes a block of a batch has. It depends on the program and the size of the batch alone, so that the
    same batch gives the same bits for any number of threads."""
    size, lanes = max(1, program.code.size), _FEWEST
    while 2 * lanes <= min(_MOST, _NUMBERS // size):
        lanes *= 2
    # A short batch has blocks of the next power of two, so that few sizes are made.
    while lanes >= 2 * max(count, 1) and (program.wide or lanes > _SHORT):
        lanes //= 2
    while lanes > 1 and lanes * size > _LARGEST:
        lanes //= 2
    return lanes


class Lanes:
    """A program for a block of lanes, without its guards.

    Args:
        program: the program of one lane.
        batched: for each of its inputs whether lanes have numbers of their own.
        count: how many lanes.
        keep: whether the outputs of the program of one lane are wanted; else only what its guards compare is.

    Attributes:
        program: the program of the block. An input of shape S that is batched has the shape (*S, lanes) there, and so
            have the outputs that depend on one.
        outputs: for each output of the program of one lane that of the block, or a constant; and whether it has lanes.
        guards: for each guard of the program of one lane the output of the block that has what it compares.
        expected: the numbers that guards compare with.
    """

    def __init__(self, program: Program, batched: tuple[bool, ...], count: int, keep: bool) -> None:
        self.count, self.batched = count, batched
        dtype = program.code.dtype
        tape = Tape(dtype, recording=True)
        shapes = [(*s, count) if own else s for s, own in zip(program.shapes, batched, strict=True)]
        with recording_on(tape):
            inputs = [leaf(tape, np.zeros(shape)) for shape in shapes]
            written = write_lanes(program, tape, inputs, batched, count)
            outputs = written.outputs if keep else []
            results = [*outputs, *(guard.found for guard in written.guards)]
            code = code_of(tape, len(inputs), results)
        # Every input counts as an array, so that numbers without axes are filled in as they are.
        spec = Spec(pytree.flatten(tuple(0.0 for _ in shapes))[1], tuple(Input(s, dtype, False) for s in shapes))
        self.program = Program(code, pytree.flatten([0.0] * len(results))[1], spec, (), tape.calls)
        own = code.outputs[: len(outputs)]
        self.outputs: list[tuple[Output, bool]] = list(zip(own, written.batched, strict=False))
        self.guards = range(len(own), len(results))
        self.expected = np.array([guard.expected for guard in written.guards], dtype)
        memory.register(self.program)


_known: weakref.WeakKeyDictionary[Program, dict[Any, Lanes]] = weakref.WeakKeyDictionary()


def lanes_of(program: Program, batched: tuple[bool, ...], count: int, keep: bool = True) -> Lanes:
    """The program of one branch for a block of so many lanes, made when it is first wanted; see `Lanes`."""
    known, key = _known.setdefault(program, {}), (batched, count, keep)
    found = known.get(key)
    if found is None:
        found = known.setdefault(key, Lanes(program, batched, count, keep))
    return found


_guards: weakref.WeakKeyDictionary[Program, Program] = weakref.WeakKeyDictionary()


def guards_of(program: Program) -> Program:
    """The guards of a program, with what they compare and nothing else."""
    found = _guards.get(program)
    if found is None:
        tape = Tape(program.code.dtype, recording=True)
        with recording_on(tape):
            inputs = [leaf(tape, np.zeros(shape)) for shape in program.shapes]
            write(program, tape, inputs)
            code = code_of(tape, len(inputs), [])
        spec = Spec(pytree.flatten(tuple(0.0 for _ in inputs))[1],
                    tuple(Input(shape, program.code.dtype, False) for shape in program.shapes))  # fmt: skip
        found = _guards.setdefault(program, Program(code, pytree.flatten([])[1], spec, (), tape.calls))
    return found

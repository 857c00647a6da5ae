"""A replay whose numbers are kept, all of them, forward and back, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.arguments import argument_numbers
from tapegrad.ops import passive_rows
from tapegrad.program import Branches, Program
from tapegrad.program.flow import flags_of
from tapegrad.sweeps import ADJOINTS, REVERSE, VALUES, callbacks, scratch, sweeps_for


class Replay(NamedTuple):
    """A replay that is over: the program of the branch that was taken, and all its numbers by place."""

    program: Program
    values: np.ndarray


class Back(NamedTuple):
    """A reverse sweep over a replay.

    Attributes:
        flags: which operands a gradient must reach.
        active: which places a gradient can flow to.
        adjoints: by place.
    """

    flags: np.ndarray
    active: np.ndarray
    adjoints: np.ndarray


def floats_among(recording: Any, argnums: int | Sequence[int] | None) -> tuple[int, ...]:
    """The inputs that are floats and belong to the arguments numbered by `argnums`; none where that is None."""
    if argnums is None:
        return ()
    # A tuple: what is asked for one number is remembered as checked.
    found: tuple[int, ...] = recording._plans.plan(argument_numbers(argnums), check=False).chosen
    return found


def replayed(branches: Branches, leaves: Sequence[Any]) -> Replay:
    """Replay the program that fits, interpreted and in its own arena, in which all numbers stay."""
    found: Replay = branches.replay(leaves, VALUES, None, lambda program, w: Replay(program, w.values.copy()))
    return found


def swept_back(replay: Replay, wrt: tuple[int, ...], seeds: Sequence[Any] | None = None) -> Back:
    """The adjoints of all numbers by inputs, from these adjoints of the results (None for zero), or from ones.

    Runs are swept one by one, and short ones as they were recorded: so each instruction has its own adjoint.
    """
    program, values = replay
    code, dtype = program.code, values.dtype
    d = np.zeros_like(values)
    for n, output in enumerate(code.outputs):
        if output.places is not None and (seeds is None or seeds[n] is not None):
            np.add.at(d, output.places, 1.0 if seeds is None else np.ravel(seeds[n]))
    flags = flags_of(code, np.zeros(len(code.side), np.uint8), wrt)
    active = program.flow(code.steps, program.places_of(wrt), passive_rows())[0]
    program.prepare(REVERSE)
    room, sweeps = scratch(dtype), sweeps_for(dtype)
    sweeps.run(sweeps.frame(code.steps, code.side, flags, values, d, room, -1, ADJOINTS))
    callbacks.check(room)
    return Back(flags, active, d)

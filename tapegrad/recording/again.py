"""A recorded function, called on a tape that is being recorded: its instructions are written there once more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad import pytree
from tapegrad.program import Branches, can_be_written, write
from tapegrad.sweeps import VALUES
from tapegrad.tape import recording_tape
from tapegrad.tape.ambient import made_float64
from tapegrad.value import Value, as_value


def written(f: Callable[..., Any], branches: Branches, args: Sequence[Any]) -> Any:
    """f(*args) on the tape that is being recorded. A replay at these arguments finds the program of the branch taken,
    whose instructions are written on that tape, so that f need not be called again; it is where there is none."""
    leaves, structure = pytree.flatten(tuple(args))
    tape, spec = recording_tape(), branches.spec
    if tape is None or structure != spec.structure:
        return f(*args)
    program = branches.program
    # Without guards the function takes this way whatever the arguments are, so they need not be computed.
    if len(program.guards) or branches.stale:
        tape.evaluate()
        numbers = [
            x._window(tape.values).astype(leaf.dtype) if isinstance(x, Value) else x
            for x, leaf in zip(leaves, spec.leaves, strict=True)
        ]
        program = branches.replay(numbers, VALUES, None, lambda program, _: program)
    if not can_be_written(program):
        return f(*args)
    if program.code.dtype.itemsize > tape.dtype.itemsize:
        # The function met arrays of float64 when it was recorded.
        made_float64(tape)
    return write(program, tape, [as_value(leaves[i], tape, "an argument") for i in program.leaves])

"""Recordings that came from a file: replayed as others are, and written where Values are given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input, Spec, difference, leaf_spec, plain_key
from tapegrad.errors import DTypeError, OperationError, ShapeError, UnsupportedError
from tapegrad.ops.record import OPCODE
from tapegrad.program import LoadedBranches, Program, write
from tapegrad.program.memory import checked, memory
from tapegrad.recording.plans import Plans
from tapegrad.recording.recording import Recording
from tapegrad.recording.standing import behind
from tapegrad.storage import Function
from tapegrad.storage import load as read
from tapegrad.sweeps import VALUES
from tapegrad.tape import EXPECT, Tape, recording_tape
from tapegrad.tape.ambient import made_float64
from tapegrad.value import Value, as_value


def load(
    path: str | os.PathLike[str], *, classes: Sequence[type] = (), memory_limit: int | None = None,
    compile: bool | None = None,
) -> Recording:  # fmt: skip
    """The recording that `Recording.save` wrote to a file.

    It needs none of the source that it was recorded from. Values and derivatives of every kind, compiled or not, are as
    before, but for two things that would take the function itself: a branch that was not recorded when it was saved
    raises BranchError, and patterns and certificates of what has a loop that is one instruction raise UnsupportedError.

    Files may come from anybody: all that instructions say is checked before any code touches it, nothing in a file is
    run as code, and no class or module is looked up by a name in it.

    Args:
        path: of the file.
        classes: named tuples and dataclasses of the arguments and results. For those that are not given classes with
            the same names and fields are made.
        memory_limit: how many bytes the numbers of one replay may take; None for what `set_memory_limit` says.
        compile: as for `record`.

    Raises DataError for a file that is none, damaged, of a later version or hostile; OperationError where it uses an
    operation that was declared by a user and is not declared here; FileNotFoundError and the like.

    >>> import os, tempfile
    >>> import tapegrad as tg
    >>> path = os.path.join(tempfile.mkdtemp(), "sines.tape")
    >>> tg.record(lambda x: np.sum(np.sin(x) * x), np.ones(3)).save(path)
    >>> tg.load(path).value_and_grad(np.zeros(3))
    (0.0, array([0., 0., 0.]))
    """
    if not all(isinstance(kind, type) for kind in classes):
        raise OperationError(f"classes must be classes, not {classes!r}")
    limit = memory.limit if memory_limit is None else checked(memory_limit)
    return Loaded(read(path, classes, limit), behind(None, compile)[1])


class Loaded(Recording):
    """A recording without a function: its programs stand for it."""

    def __init__(self, function: Function, compile: bool | None) -> None:
        spec = self.spec = function.spec
        self.forced, self._forgets, self._renews, self._gradients = compile, None, None, {}
        self._branches = LoadedBranches(function.name, spec, function.programs, function.last, compile)
        self._plans = Plans(spec, self._branches.wanted)
        flat = all(map(pytree.is_leaf, pytree.children(spec.structure)))
        self._plain = plain_key([_example(leaf) for leaf in spec.leaves]) if flat else None
        self._make_derived()

    @property
    def f(self) -> Callable[..., Any]:  # type: ignore[override]
        """What is called with Values: writes the program of the branch taken on their tape."""
        return self._on_values

    @property
    def unrolled(self) -> Any:
        """There is no function whose loops could be unrolled. Raises UnsupportedError."""
        raise UnsupportedError(
            f"{self.name} was loaded from a file and has a loop that is one instruction: patterns of sparse matrices, "
            "and certificates, take all steps of a loop, for which the function itself is needed"
        )

    @unrolled.setter
    def unrolled(self, _: Any) -> None:
        pass

    def _on_values(self, *args: Any) -> Any:
        leaves, structure = pytree.flatten(args)
        tape = next((x._tape for x in leaves if isinstance(x, Value)), recording_tape())
        if tape is None:
            return self(*args)
        leaves = [as_value(x, tape, "an argument") if _holds_values(x) else x for x in leaves]
        given = Spec(structure, tuple([
            _spec_like(x, leaf, tape) for x, leaf in zip(leaves, self.spec.leaves, strict=False)
        ]))  # fmt: skip
        if given != self.spec:
            raise ShapeError(difference(self.spec, given))
        program = self._taken(leaves, tape)
        if program.code.dtype.itemsize > tape.dtype.itemsize:
            if not tape.recording:
                raise DTypeError(f"{self.name} computes in {program.code.dtype}, the Values are {tape.dtype}")
            made_float64(tape)
        return write(
            program if tape.recording else _without_guards(program), tape,
            [as_value(leaves[i], tape, "an argument") for i in program.leaves],
        )  # fmt: skip

    def _taken(self, leaves: Sequence[Any], tape: Tape) -> Program:
        """The program of the branch that is taken at these numbers."""
        if len(self._branches.programs) == 1 and not len(self.program.guards):
            return self.program
        tape.evaluate()
        numbers = [
            x._window(tape.values).astype(leaf.dtype) if isinstance(x, Value) else x
            for x, leaf in zip(leaves, self.spec.leaves, strict=True)
        ]
        found: Program = self._branches.replay(numbers, VALUES, None, lambda program, _: program)
        return found


def _example(leaf: Any) -> Any:
    """Something that has the spec of a leaf."""
    if not isinstance(leaf, Input):
        return leaf.value
    return 0 if leaf.is_integer else 0.0 if leaf.scalar and leaf.dtype == np.float64 else np.zeros(leaf.shape, leaf.dtype)


def _holds_values(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


def _spec_like(x: Any, leaf: Any, tape: Tape) -> Any:
    """What an argument is. A Value can stand for numbers of its tape's dtype, integers of an array, and truth values:
    on a tape all are floats."""
    if not isinstance(x, Value):
        return leaf_spec(x)
    own = Input(x.shape, tape.dtype, x._layout is None)
    if not isinstance(leaf, Input) or own.shape != leaf.shape or x._is_integer != leaf.is_integer:
        return own
    return leaf if leaf.scalar or leaf.dtype.kind != "f" or leaf.dtype == tape.dtype else own


def _without_guards(program: Program) -> Program:
    # On a tape that is not recorded, numbers stay what they are, and so does the branch.
    code = program.code
    if not len(code.guards):
        return program
    rows = code.rows[code.rows[:, OPCODE] != EXPECT]
    return Program(dataclasses.replace(code, rows=rows), program.structure, program.spec, (), program.calls)

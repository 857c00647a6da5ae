"""Recordings that came from a file: replayed as others are, and written where Values are given."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree, storage
from tapegrad.arguments import Input, Spec, difference, leaf_spec, plain_key
from tapegrad.errors import DTypeError, OperationError, ShapeError, UnsupportedError
from tapegrad.ops.record import OPCODE
from tapegrad.program import LoadedBranches, Program, write
from tapegrad.program.memory import checked, memory
from tapegrad.recording.plans import Plans
from tapegrad.recording.recording import Recording
from tapegrad.recording.standing import checked_compile
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
    if not isinstance(classes, list | tuple | set | frozenset) or not all(isinstance(kind, type) for kind in classes):
        raise OperationError(f"classes must be a list of classes, as in classes=[Q], not {classes!r:.80}")
    if isinstance(path, bytes) or not isinstance(path, str | os.PathLike):
        raise OperationError(f"load takes the path of a file, not {path!r:.40} ({type(path).__name__})")
    limit = memory.limit if memory_limit is None else checked(memory_limit)
    return Loaded(read(path, classes, limit), checked_compile(compile))


def from_bytes(data: bytes, where: str, compile: bool | None = None) -> Recording:
    """The recording that `Recording.to_bytes` gave; `where` is what errors call it. Raises what `load` raises."""
    return Loaded(storage.from_bytes(data, where, (), memory.limit), checked_compile(compile))


class Loaded(Recording):
    """A recording without a function: its programs stand for it."""

    def __init__(self, function: Function, compile: bool | None) -> None:
        spec = self.spec = function.spec
        self.forced, self._forgets, self._renews, self._gradients = compile, None, None, {}
        self._branches = LoadedBranches(function.name, spec, function.programs, function.last, compile)
        self.f = _Function(self._branches, function.parameters)
        self._plans = Plans(spec, self._branches.wanted)
        flat = all(map(pytree.is_leaf, pytree.children(spec.structure)))
        self._plain = plain_key([_example(leaf) for leaf in spec.leaves]) if flat else None
        self._make_derived()

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


class _Function:
    """Stands for the function of a recording that was loaded: called with Values, it writes the program of the branch
    that is taken on their tape."""

    def __init__(self, branches: LoadedBranches, parameters: Sequence[str]) -> None:
        self._branches, self._parameters = branches, list(parameters)
        self.__qualname__ = self.__name__ = branches.name

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_ONLY
        return inspect.Signature([inspect.Parameter(name, kind) for name in self._parameters])

    def __call__(self, *args: Any) -> Any:
        branches, spec = self._branches, self._branches.spec
        leaves, structure = pytree.flatten(args)
        tape = next((x._tape for x in leaves if isinstance(x, Value)), recording_tape())
        if tape is not None:
            leaves = [as_value(x, tape, "an argument") if _holds_values(x) else x for x in leaves]
        given = Spec(structure, tuple([
            _spec_like(x, leaf, tape) for x, leaf in itertools.zip_longest(leaves, spec.leaves[: len(leaves)])
        ]))  # fmt: skip
        if given != spec:
            raise ShapeError(difference(spec, given))
        if tape is None:
            return branches.replay(leaves, VALUES, None, lambda program, workspace: program.result(workspace))
        program = self._taken(leaves, tape)
        if program.code.dtype.itemsize > tape.dtype.itemsize and not made_float64(tape):
            raise DTypeError(f"{branches.name} computes in {program.code.dtype}, the Values are {tape.dtype}")
        return write(
            program if tape.recording else _without_guards(program), tape,
            [as_value(leaves[i], tape, "an argument") for i in program.leaves],
        )  # fmt: skip

    def _taken(self, leaves: Sequence[Any], tape: Tape) -> Program:
        """The program of the branch that is taken at these numbers."""
        branches = self._branches
        if len(branches.programs) == 1 and not len(branches.program.guards):
            return branches.program
        tape.evaluate()
        numbers = [
            x._window(tape.values).astype(leaf.dtype) if isinstance(x, Value) else x
            for x, leaf in zip(leaves, branches.spec.leaves, strict=True)
        ]
        found: Program = branches.replay(numbers, VALUES, None, lambda program, _: program)
        return found


def _example(leaf: Any) -> Any:
    """Something that has the spec of a leaf."""
    if not isinstance(leaf, Input):
        return leaf.value
    if leaf.is_integer:
        return 0
    return 0.0 if leaf.scalar and leaf.dtype == np.float64 else np.zeros(leaf.shape, leaf.dtype)


def _holds_values(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


def _spec_like(x: Any, leaf: Any, tape: Tape | None) -> Any:
    """What an argument is. A Value can stand for numbers of its tape's dtype, integers of an array, and truth values:
    on a tape all are floats."""
    if tape is None or not isinstance(x, Value):
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

"""Derivatives of a recording as programs of their own, which are compiled."""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation
from tapegrad.arguments import argument_numbers, spec_of
from tapegrad.errors import TapegradError
from tapegrad.native import choice
from tapegrad.program import Branches, can_be_written
from tapegrad.program.outputs import scalar_place
from tapegrad.recording.compiled_way import compiled_way
from tapegrad.recording.direct import Short
from tapegrad.recording.lanes_back import lanes_back
from tapegrad.sparse import CompressedJacobian
from tapegrad.sweeps import VALUES
from tapegrad.value import as_value

# What the sweeps of a derivative take, in replays of values; and after how many seconds of sweeps it is asked again
# whether it should be compiled.
_SWEEPS, _ASK_AFTER = 3.0, 0.02
# The most lanes of a sparse matrix that are written as one program.
_MOST_LANES = 16


# What rules raise that cannot be run on Values, or on these. Not whatever a signal handler may raise.
_EXPECTED = (TapegradError, ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


class Derived:
    """The derivative programs of one recording.

    Args:
        recording: it refers to this, so it is referred to weakly.
        mode: how programs are carried out; see `tapegrad.native.choice`.
    """

    def __init__(self, recording: Any, mode: str) -> None:
        self._recording = weakref.ref(recording)
        self.mode = mode
        self._known: dict[Any, Branches] = {}
        # Why derivatives could not be written at the last attempt, in words.
        self.refused: dict[Any, str] = {}
        # How each derivative is written that was ever asked for.
        self._written_by: dict[Any, Callable[..., Any]] = {}
        # What sweeps have taken for a derivative, in seconds, about.
        self._spent: dict[Any, float] = {}
        # The derivatives that cannot be written as programs.
        self._unwritable: set[Any] = set()

    def results(self, program: Any) -> Any:
        """What to replay for the results of a program."""
        return choice.form_of(program, self.mode)

    def value_and_grad(self, leaves: Sequence[Any], argnums: Any, has_aux: bool) -> tuple[Any, Any] | None:
        """Value and gradient, by a compiled program; None where the sweeps of the interpreter are to be used."""
        key, both = self._gradient(argnums, has_aux)
        found: tuple[Any, Any] | None = self._answer(key, both, tuple(leaves))
        return found

    def _gradient(self, argnums: Any, has_aux: bool) -> tuple[Any, Callable[..., Any]]:
        structure = self._structure()

        def checked(*args: Any) -> Any:
            result = self._written(*args)
            # On a tape, a truth value is a number as any other.
            program = self._recording().program  # type: ignore[union-attr]
            scalar_place(program.code, program.structure, has_aux)
            return result

        def both(*leaves: Any) -> Any:
            args = pytree.unflatten(structure, leaves)
            return derivatives.value_and_grad(checked, args, argnums, has_aux)

        return ("value_and_grad", argnums, has_aux), both

    def hvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray], argnums: Any) -> Any:
        """The Hessian times tangents of inputs, by number; None where it is to be interpreted."""
        inputs = tuple(along)

        def product(leaves: Sequence[Any], *tangents: Any) -> Any:
            gradient = derivatives.gradient_of(self._written, argnums)
            args = pytree.unflatten(self._structure(), leaves)
            return derivatives.jvp(gradient, args, self._nested(inputs, tangents))[1]

        return self._answer(("hvp", argnums, inputs), product, (list(leaves), *along.values()))

    def jvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray]) -> Any:
        """The value and the derivative along tangents of inputs, by number; None where it is to be interpreted."""
        inputs = tuple(along)

        def both(leaves: Sequence[Any], *tangents: Any) -> Any:
            args = pytree.unflatten(self._structure(), leaves)
            return derivatives.jvp(self._written, args, self._nested(inputs, tangents))

        return self._answer(("jvp", inputs), both, (list(leaves), *along.values()))

    def matrix(self, compressed: CompressedJacobian, leaves: Sequence[Any], argnums: Any, symmetric: bool) -> Any:
        """A sparse Jacobian or Hessian; None where it is to be interpreted."""
        if compressed.count > _MOST_LANES or compressed.program.foreign or not can_be_written(compressed.program):
            return None
        back = lanes_back(compressed) if compressed.back else None
        if compressed.back and back is None:
            return None
        inputs = compressed.program.leaves

        def lanes(*leaves: Any) -> Any:
            args = pytree.unflatten(self._structure(), leaves)
            f = derivatives.gradient_of(self._written, argnums) if symmetric else self._written
            done = evaluation.evaluate(f, args, argument_numbers(argnums))
            return [
                done.push({
                    inputs[w]: as_value(seed.reshape(np.shape(leaves[inputs[w]])), done.tape, "a seed")
                    for w, seed in along.items()
                }) for along in compressed.seeds()
            ]  # fmt: skip

        key = "matrix", argnums, symmetric, id(compressed)
        if key not in self._written_by:
            # The function was recorded again, and has another pattern: that before is not asked for any more.
            for other in [k for k in self._written_by if k[:3] == key[:3]]:
                del self._written_by[other]
                self._known.pop(other, None)
                self._spent.pop(other, None)
        return self._answer(key, back or lanes, tuple(leaves), functools.partial(_entries, compressed))

    # The short way to value and gradient

    def form(self, argnums: Any) -> Any:
        """What computes value and gradient: machine code, or None where it is the interpreter."""
        branches = self._known.get(("value_and_grad", argnums, False))
        return None if branches is None else branches.program.native

    def short_way(self, argnums: Any, holds: Any) -> Short | None:
        """The short way to value and gradient by a compiled program; None where there is none."""
        branches = self._known.get(("value_and_grad", argnums, False))
        if branches is None or branches.program.native is None or branches.stale:
            return None
        return compiled_way(branches.program.native, branches.spec, self._structure(), holds)

    def calls_by_sweeps(self, argnums: Any) -> int:
        """How many calls may be answered by sweeps before it is asked again what should answer them; none where a
        compiled program should."""
        key = ("value_and_grad", argnums, False)
        if self._compiles(key):
            return 0
        self.gradient_for(argnums)
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.foreign or not np.isfinite(choice.compile_seconds(program)):
            return sys.maxsize
        return int(_ASK_AFTER / (_SWEEPS * choice.replay_seconds(program))) + 1

    def answered_by_sweeps(self, argnums: Any, calls: int) -> None:
        """Count calls that the short way has answered."""
        self._spend(("value_and_grad", argnums, False), calls)

    def _spend(self, key: Any, calls: int) -> None:
        seconds = choice.replay_seconds(self._recording().program)  # type: ignore[union-attr]
        self._spent[key] = self._spent.get(key, 0.0) + calls * _SWEEPS * seconds

    # Which

    def _compiles(self, key: Any) -> bool:
        """Whether a derivative is computed by a compiled program of its own, and not by sweeps of the interpreter."""
        if self.mode == choice.NEVER:
            return False
        program = self._recording().program  # type: ignore[union-attr]
        branches = self._known.get(key)
        programs = () if branches is None else branches.programs
        if any(map(choice.failed, programs)):
            return self.mode == choice.ALWAYS
        if key in self._unwritable or not can_be_written(program):
            return False
        # Rules of Python functions that a program calls may raise on Values where they do not on numbers, and most of
        # the time is theirs: derivatives of these are compiled only if that is asked for.
        if self.mode == choice.ALWAYS or (not program.foreign and choice.at_once(program)):
            return True
        # Other branches follow when they have been replayed often enough.
        return any(p.native is not None for p in programs)

    def _answer(
        self, key: Any, f: Callable[..., Any], args: tuple[Any, ...], read: Callable[..., Any] | None = None
    ) -> Any:
        self._named(key, f)
        if not self._compiles(key):
            self._count(key, f, args)
            return None
        spec, leaves = spec_of(args)
        self.refused.pop(key, None)
        try:
            branches = self._branches(key, f, spec, leaves)
            return branches.replay(leaves, VALUES, None, read or _result_of, lean=self.results)
        except _EXPECTED as error:
            calls = self._recording().program.foreign  # type: ignore[union-attr]
            if key in self._known and not calls:
                raise
            # The interpreter runs rules on numbers, not on Values, and has the answer, or an error that says what is
            # wrong. What cannot be written is not tried again, unless functions of Python are called, for which that
            # may depend on the numbers.
            self.refused[key] = f"{type(error).__name__}: {error}"
            if key not in self._known and not calls:
                self._unwritable.add(key)
        return None

    def _count(self, key: Any, f: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Once sweeps have taken as long as compiling would, the derivative is written as a program, and compiled in
        the background."""
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.foreign or key in self._unwritable or not can_be_written(program):
            return
        if key in self._known:
            # It was being compiled when this process was forked off another, where that went on.
            choice.in_background(self._known[key].program)
            return
        self._spend(key, 1)
        if self._spent[key] > _SWEEPS * choice.compile_seconds(program):
            try:
                choice.in_background(self._branches(key, f, *spec_of(args)).program)
            except _EXPECTED as error:
                # The interpreter answers, or says what is wrong.
                self.refused[key] = f"{type(error).__name__}: {error}"
                self._unwritable.add(key)

    def _branches(self, key: Any, f: Callable[..., Any], spec: Any, leaves: Sequence[Any]) -> Branches:
        branches = self._known.get(key)
        if branches is None:
            branches = self._known[key] = Branches(
                f, spec, leaves, (), same_prefixes=False, captures=self._recording().captures,  # type: ignore[union-attr]
                forget=functools.partial(_forget, weakref.ref(self), key),
                forced={choice.ALWAYS: True, choice.NEVER: False}.get(self.mode),
            )  # fmt: skip
        return branches

    def _named(self, key: Any, f: Callable[..., Any]) -> None:
        f.__qualname__ = f"{key[0]} of {self._recording().name}"  # type: ignore[union-attr]
        self._written_by.setdefault(key, f)

    # What there is, for whoever compiles it now or tells of it

    def gradient_for(self, argnums: Any) -> None:
        """Count the gradient among the derivatives that were asked for."""
        self._named(*self._gradient(argnums, False))

    def asked(self) -> list[Any]:
        """The keys of the derivatives that were asked for; each begins with the name of a method."""
        return list(self._written_by)

    def programs(self, key: Any) -> list[Any]:
        """The programs of a derivative, the one replayed last at the end; none where it is computed by sweeps."""
        branches = self._known.get(key)
        last = [] if branches is None else [branches.program]
        return [] if branches is None else [p for p in branches.programs if p is not last[0]] + last

    def write(self, key: Any, leaves: Sequence[Any]) -> None:
        """Have the programs of a derivative, recorded at these arguments with tangents of zero if there are none."""
        program = self._recording().program  # type: ignore[union-attr]
        args: tuple[Any, ...] = tuple(leaves)
        if key[0] in ("hvp", "jvp"):
            args = (list(leaves), *(np.zeros(program.shapes[w], program.code.dtype) for w in key[-1]))
        self._branches(key, self._written_by[key], *spec_of(args))

    # How derivatives are written

    def _structure(self) -> Any:
        return self._recording().spec.structure  # type: ignore[union-attr]

    def _written(self, *args: Any) -> Any:
        return self._recording().written(*args)  # type: ignore[union-attr]

    def _nested(self, along: Sequence[int], tangents: Sequence[Any]) -> Any:
        recording: Any = self._recording()
        given = dict(zip(along, tangents, strict=True))
        inputs = {leaf: number for number, leaf in enumerate(recording.program.leaves)}
        leaves = [given.get(inputs.get(i)) for i in range(len(recording.spec.leaves))]  # type: ignore[arg-type]
        return pytree.unflatten(recording.spec.structure, leaves)


def _forget(own: weakref.ref[Derived], key: Any) -> None:
    derived = own()
    recording = None if derived is None else derived._recording()
    if derived is not None:
        derived._known.pop(key, None)
    if recording is not None:
        recording.renew_short_ways()


def _entries(compressed: CompressedJacobian, program: Any, workspace: Any) -> Any:
    """The matrix, from the results of all lanes."""
    at = program.positions
    if at is None:
        lanes, rows = compressed.positions()
        outputs = program.code.outputs
        # A result that is constant has no place: the number behind all others is zero.
        zero = len(workspace.values) - 1
        places = [np.full(math.prod(o.shape), zero) if o.places is None else o.places for o in outputs]
        each = np.concatenate(places).reshape(compressed.count, -1)
        each = np.append(each, np.full((compressed.count, 1), zero), axis=1)
        at = program.positions = each[lanes, rows]
    return compressed.matrix(workspace.values.take(at))


def _result_of(program: Any, workspace: Any) -> Any:
    return program.result(workspace)

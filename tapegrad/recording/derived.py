"""Derivatives of a recording as programs of their own, which are compiled."""

from __future__ import annotations

import functools
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.arguments import spec_of
from tapegrad.errors import TapegradError
from tapegrad.native import choice
from tapegrad.program import Branches, Program, can_be_written
from tapegrad.recording.compiled_way import compiled_way
from tapegrad.recording.direct import Short
from tapegrad.recording.directions import Directions
from tapegrad.recording.held import Held
from tapegrad.recording.lanes_back import lanes_back
from tapegrad.recording.writing import Writing, Written
from tapegrad.sparse import CompressedJacobian
from tapegrad.sweeps import VALUES

# What the sweeps of a derivative take, in replays of values; and after how many seconds of sweeps it is asked again
# whether it should be compiled.
_SWEEPS, _ASK_AFTER = 3.0, 0.02
# The most lanes of a matrix that are written as one program.
_MOST_LANES = 16
# And the most instructions of the function that are written for all of them. Where a dense matrix needs more, so many
# are for the directions of one replay. Second derivatives have so many for each.
_WRITTEN, _LANES, _SECOND = 4096, 256, 4

Shapes = Sequence[tuple[int, ...]]
# A derivative held at arguments, or None; the result there and its program; and what counts sweeps.
Holding = tuple[Held | None, Any, Program, Callable[[], None]]


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
        self._writing = Writing(recording)
        self.mode = mode
        self._known: dict[Any, Branches] = {}
        # Why derivatives could not be written at the last attempt, in words.
        self.refused: dict[Any, str] = {}
        # How each derivative is written that was ever asked for, and the shapes of the tangents or cotangents that it
        # is a function of besides the arguments; None where it is one of their leaves.
        self._written_by: dict[Any, tuple[Written, Shapes | None]] = {}
        # For each dense matrix the directions that it is computed along, and the first of them as arguments.
        self._directions: dict[Any, tuple[Directions, list[np.ndarray]]] = {}
        # What sweeps have taken for a derivative, in seconds, about.
        self._spent: dict[Any, float] = {}
        # The derivatives that cannot be written as programs.
        self._unwritable: set[Any] = set()

    def results(self, program: Any) -> Any:
        """What to replay for the results of a program."""
        return choice.form_of(program, self.mode)

    # In each of these methods None stands for: it is to be computed by sweeps of the interpreter.

    def value_and_grad(self, leaves: Sequence[Any], argnums: Any, has_aux: bool) -> tuple[Any, Any] | None:
        """Value and gradient."""
        key = self._gradient(argnums, has_aux)
        found: tuple[Any, Any] | None = self._answer(key, tuple(leaves))
        return found

    def _gradient(self, argnums: Any, has_aux: bool) -> Any:
        return self._named(("value_and_grad", argnums, has_aux), self._writing.value_and_grad(argnums, has_aux))

    def hvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray], argnums: Any) -> Any:
        """The Hessian times tangents of inputs, by number."""
        return self._answer(self._product(argnums, tuple(along)), (list(leaves), *along.values()))

    def _product(self, argnums: Any, inputs: tuple[int, ...]) -> Any:
        return self._named(("hvp", argnums, inputs), self._writing.hvp(argnums, inputs), self._shapes(inputs))

    def jvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray]) -> Any:
        """The value and the derivative along tangents of inputs, by number."""
        return self._answer(self._forward(tuple(along)), (list(leaves), *along.values()))

    def _forward(self, inputs: tuple[int, ...]) -> Any:
        return self._named(("jvp", None, inputs), self._writing.jvp(inputs), self._shapes(inputs))

    def matrix(self, compressed: CompressedJacobian, leaves: Sequence[Any], argnums: Any, symmetric: bool) -> Any:
        """A sparse Jacobian or Hessian."""
        if compressed.count > _MOST_LANES or compressed.program.calls or not can_be_written(compressed.program):
            return None
        back = lanes_back(compressed) if compressed.back else None
        if compressed.back and back is None:
            return None
        key = "matrix", argnums, symmetric, id(compressed)
        if key not in self._written_by:
            # The function was recorded again, and has another pattern: that before is not asked for any more.
            for other in [k for k in self._written_by if k[:3] == key[:3]]:
                del self._written_by[other]
                self._known.pop(other, None)
                self._spent.pop(other, None)
        self._named(key, back or self._writing.sparse(argnums, compressed, symmetric))
        return self._answer(key, tuple(leaves), functools.partial(_entries, compressed))

    def jacobian(
        self, branches: Branches, leaves: Sequence[Any], wrt: tuple[int, ...], argnums: Any, back: bool | None
    ) -> tuple[Program, np.ndarray] | None:
        """The program that the arguments take, and its Jacobian, (outputs, inputs), from the outputs back if `back`;
        where that is None, it is chosen."""

        if self.mode == choice.NEVER:
            return None

        def key_of(program: Program) -> Any:
            outputs, inputs = [o.shape for o in program.code.outputs], self._shapes(wrt)
            chosen = sum(map(math.prod, outputs)) <= sum(map(math.prod, inputs)) if back is None else back
            return self._along(("jacobian", argnums, chosen, tuple(outputs)), wrt, outputs, chosen)

        key = key_of(branches.program)
        if self._compiles(key):
            program = branches.fitting(leaves, self.results)
            key = key_of(program)
        found = self._dense(key, leaves)
        return None if found is None else (program, found)

    def hessian(
        self, leaves: Sequence[Any], wrt: tuple[int, ...], rows: Shapes, argnums: Any
    ) -> np.ndarray | None:
        """The Hessian with respect to inputs; `rows` are the shapes of what the gradient consists of."""
        if self.mode == choice.NEVER:
            return None
        return self._dense(self._along(("hessian", argnums), wrt, rows, None), leaves)

    def _along(self, key: Any, wrt: tuple[int, ...], outputs: Shapes, back: bool | None) -> Any:
        if key not in self._directions:
            program = self._recording().program  # type: ignore[union-attr]
            each = max(1, choice.written_out(program) * (_SECOND if back is None else 1))
            most, width = min(_MOST_LANES, _WRITTEN // each), max(1, min(_MOST_LANES, _LANES // each))
            along = Directions(self._shapes(wrt), outputs, bool(back), program.code.dtype, most, width)
            self._directions[key] = along, along.seeds(0)
            self._named(key, self._writing.dense(key[1], wrt, along, back is None), [s.shape for s in along.seeds(0)])
        return key

    def _dense(self, key: Any, leaves: Sequence[Any]) -> np.ndarray | None:
        along, seeds = self._directions[key]
        if not along.count or not along.size:
            return None
        found: np.ndarray | None = self._answer(
            key, (list(leaves), *seeds), along.matrix, directions=along.count, width=along.width
        )
        return found

    # Derivatives at arguments that are held, as functions of tangents or cotangents. With these comes what counts that
    # sweeps compute them instead.

    def held_vjp(self, branches: Branches, leaves: Sequence[Any], inputs: tuple[int, ...]) -> Holding:
        """From cotangents of the outputs to those of inputs; with the result, and the program of it."""

        def key_of(program: Program) -> Any:
            shapes = [o.shape for o in program.code.outputs]
            return self._named(("vjp", None, tuple(shapes)), self._writing.vjp(inputs), shapes)

        return self._held_with_value(branches, leaves, key_of, lambda program: len(inputs))

    def held_jvp(self, branches: Branches, leaves: Sequence[Any], inputs: tuple[int, ...]) -> Holding:
        """From tangents of inputs to those of the outputs; with the result, and the program of it."""
        key = self._forward(inputs)
        return self._held_with_value(branches, leaves, lambda _: key, lambda program: len(program.code.outputs))

    def held_hvp(
        self, leaves: Sequence[Any], inputs: tuple[int, ...], argnums: Any
    ) -> tuple[Held | None, Callable[[], None]]:
        """From tangents of inputs to the Hessian times them."""
        key = self._product(argnums, inputs)
        # Nobody has swept at the arguments, so a sweep says whether anything is wrong with them.
        return self._hold(key, leaves, None, always=True), self._counting(key)

    def _held_with_value(
        self, branches: Branches, leaves: Sequence[Any], key_of: Callable[[Program], Any],
        results: Callable[[Program], int],
    ) -> Holding:  # fmt: skip
        value, program, key = None, branches.program, key_of(branches.program)
        if self._compiles(key) and not program.calls:
            value, program = branches.replay(leaves, VALUES, None, _result_and_program, lean=self.results)
            key = key_of(program)
        return self._hold(key, leaves, results(program)), value, program, self._counting(key)

    def _counting(self, key: Any) -> Callable[[], None]:
        # What is held may live longer than the recording.
        return functools.partial(_spend, weakref.ref(self), key)

    def _hold(self, key: Any, leaves: Sequence[Any], results: int | None, always: bool = False) -> Held | None:
        if self._recording().program.calls:  # type: ignore[union-attr]
            self.refused[key] = "it calls Python functions, which are not called again for each direction"
            return None
        seeds = [np.zeros(shape, self._dtype) for shape in self._written_by[key][1] or ()]

        def hold(branches: Branches, leaves: Sequence[Any]) -> Held:
            program = branches.fitting(leaves, self.results, always)
            return Held(program, leaves, len(seeds), results, self.mode)

        found: Held | None = self._ask(key, (list(leaves), *seeds), hold)
        return found

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
        return compiled_way(branches.program.native, branches.spec, self._writing.structure, holds)

    def calls_by_sweeps(self, argnums: Any) -> int:
        """How many calls may be answered by sweeps before it is asked again what should answer them; none where a
        compiled program should."""
        key = ("value_and_grad", argnums, False)
        if self._compiles(key):
            return 0
        self.gradient_for(argnums)
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.calls or not np.isfinite(choice.compile_seconds(program)):
            return sys.maxsize
        return int(_ASK_AFTER / (_SWEEPS * choice.replay_seconds(program))) + 1

    def answered_by_sweeps(self, argnums: Any, calls: int) -> None:
        """Count calls that the short way has answered."""
        self.spend(("value_and_grad", argnums, False), calls)

    def spend(self, key: Any, sweeps: int) -> None:
        """Count that sweeps have computed a derivative so often, or along so many directions."""
        seconds = choice.replay_seconds(self._recording().program)  # type: ignore[union-attr]
        self._spent[key] = self._spent.get(key, 0.0) + sweeps * _SWEEPS * seconds

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
        if self.mode == choice.ALWAYS or (not program.calls and choice.at_once(program)):
            return True
        # Other branches follow when they have been replayed often enough.
        return any(p.native is not None for p in programs)

    def _answer(
        self, key: Any, args: tuple[Any, ...], read: Callable[..., Any] | None = None, directions: int = 1,
        width: int = 1,
    ) -> Any:  # fmt: skip
        """The derivative at args, read from a replay; None where sweeps are to compute it, along so many directions.
        A replay computes as many as `width` says."""

        def replay(branches: Branches, leaves: Sequence[Any]) -> Any:
            return branches.replay(leaves, VALUES, None, read or _result_of, lean=self.results)

        return self._ask(key, args, replay, directions, width)

    def _ask(
        self, key: Any, args: tuple[Any, ...], ask: Callable[[Branches, Sequence[Any]], Any], directions: int = 1,
        width: int = 1,
    ) -> Any:  # fmt: skip
        """ask(programs of a derivative, leaves of args), or None; see `_answer`."""
        if not self._compiles(key):
            self._count(key, args, directions, width)
            return None
        spec, leaves = spec_of(args)
        self.refused.pop(key, None)
        try:
            return ask(self._branches(key, spec, leaves), leaves)
        except _EXPECTED as error:
            calls = self._recording().program.calls  # type: ignore[union-attr]
            if key in self._known and not calls:
                raise
            # The interpreter runs rules on numbers, not on Values, and has the answer, or an error that says what is
            # wrong. What cannot be written is not tried again, unless functions of Python are called, for which that
            # may depend on the numbers.
            self.refused[key] = f"{type(error).__name__}: {error}"
            if key not in self._known and not calls:
                self._unwritable.add(key)
        return None

    def _count(self, key: Any, args: tuple[Any, ...], directions: int, width: int) -> None:
        """Once sweeps have taken as long as compiling would, the derivative is written as a program, and compiled in
        the background."""
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.calls or key in self._unwritable or not can_be_written(program):
            return
        if key in self._known:
            # It was being compiled when this process was forked off another, where that went on.
            choice.in_background(self._known[key].program)
            return
        self.spend(key, directions)
        if self._spent[key] > width * _SWEEPS * choice.compile_seconds(program):
            try:
                choice.in_background(self._branches(key, *spec_of(args)).program)
            except _EXPECTED as error:
                # The interpreter answers, or says what is wrong.
                self.refused[key] = f"{type(error).__name__}: {error}"
                self._unwritable.add(key)

    def _branches(self, key: Any, spec: Any, leaves: Sequence[Any]) -> Branches:
        branches = self._known.get(key)
        if branches is None:
            branches = self._known[key] = Branches(
                self._written_by[key][0], spec, leaves, (), same_prefixes=False, captures=self._recording().captures,  # type: ignore[union-attr]
                forget=functools.partial(_forget, weakref.ref(self), key),
            )  # fmt: skip
        return branches

    def _named(self, key: Any, f: Written, shapes: Shapes | None = None) -> Any:
        f.__qualname__ = f"{key[0]} of {self._recording().name}"  # type: ignore[union-attr]
        self._written_by.setdefault(key, (f, shapes))
        return key

    def _shapes(self, inputs: Sequence[int]) -> list[tuple[int, ...]]:
        shapes = self._recording().program.shapes  # type: ignore[union-attr]
        return [shapes[w] for w in inputs]

    @property
    def _dtype(self) -> np.dtype:
        dtype: np.dtype = self._recording().program.code.dtype  # type: ignore[union-attr]
        return dtype

    # What there is, for whoever compiles it now or tells of it

    def gradient_for(self, argnums: Any) -> None:
        """Count the gradient among the derivatives that were asked for."""
        self._gradient(argnums, False)

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
        shapes = self._written_by[key][1]
        args = leaves if shapes is None else [list(leaves), *(np.zeros(shape, self._dtype) for shape in shapes)]
        self._branches(key, *spec_of(args))


def _forget(own: weakref.ref[Derived], key: Any) -> None:
    derived = own()
    recording = None if derived is None else derived._recording()
    if derived is not None:
        derived._known.pop(key, None)
    if recording is not None:
        recording.renew_short_ways()


def _spend(own: weakref.ref[Derived], key: Any) -> None:
    derived = own()
    if derived is not None and derived._recording() is not None:
        derived.spend(key, 1)


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


def _result_and_program(form: Any, workspace: Any) -> tuple[Any, Program]:
    form.whole.check_numbers()
    return form.result(workspace), form.whole


def _result_of(program: Any, workspace: Any) -> Any:
    return program.result(workspace)

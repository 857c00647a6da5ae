"""Derivatives of a recording as programs of their own, which are compiled."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.arguments import spec_of
from tapegrad.errors import TapegradError
from tapegrad.native import Fresh, Native, choice
from tapegrad.program import Branches, can_be_written
from tapegrad.recording.compiled_way import compiled_way
from tapegrad.recording.direct import Short, never
from tapegrad.recording.writing import Writing, Written
from tapegrad.sweeps import VALUES

# What the sweeps of a derivative take, in replays of values; and after how many seconds of sweeps it is asked again
# whether it should be compiled.
_SWEEPS, _ASK_AFTER = 3.0, 0.02
# What sweeps along several directions take besides, in seconds: preparing their arrays, and nesting the result.
_PASS = 5e-5

# So many instructions of a function at most are few: see `Derived.gradient_key`.
_SHORT = 64

# What rules raise that cannot be run on Values, or on these. Not whatever a signal handler may raise.
_EXPECTED = (TapegradError, ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)

Shapes = Sequence[tuple[int, ...]]
# In how many replays a compiled program computes what sweeps of another program do, and what finds the seconds that
# these take.
Rival = tuple[int, Callable[[], float]]


class Derived:
    """The derivative programs of one recording.

    Args:
        recording: it refers to this, so it is referred to weakly.
        mode: how programs are carried out; see `tapegrad.native.choice`.
    """

    def __init__(self, recording: Any, mode: str) -> None:
        self._recording = weakref.ref(recording)
        self.writing = Writing(recording)
        self.mode = mode
        self._known: dict[Any, Branches] = {}
        # Why derivatives could not be written at the last attempt, in words.
        self.refused: dict[Any, str] = {}
        # How each derivative is written that was ever asked for, and the shapes of the tangents or cotangents that it
        # is a function of besides the arguments; None where it is one of their leaves.
        self._written_by: dict[Any, tuple[Written, Shapes | None]] = {}
        # What sweeps have taken for a derivative, in seconds, about.
        self._spent: dict[Any, float] = {}
        # The derivatives that cannot be written as programs.
        self._unwritable: set[Any] = set()

    def results(self, program: Any) -> Any:
        """What to replay for what a program returns."""
        form = self.form_of(program)
        return Fresh(form) if isinstance(form, Native) and form.outer.outputs else form

    def form_of(self, program: Any) -> Any:
        """What to replay in place of a program."""
        return choice.form_of(program, self.mode)

    # In each of these methods None stands for: it is to be computed by sweeps of the interpreter.

    def value_and_grad(
        self, leaves: Sequence[Any], argnums: Any, has_aux: bool, alone: bool = False
    ) -> tuple[Any, Any] | None:
        """Value and gradient; the value may be None where the gradient is wanted `alone`."""
        found: tuple[Any, Any] | None = self.answer(self.gradient_key(argnums, has_aux, alone), leaves)
        return found

    def gradient_key(self, argnums: Any, has_aux: bool, alone: bool = False) -> Any:
        """The key of value and gradient, or of the gradient alone where that has a program of its own."""
        key = self._gradient(argnums, has_aux, alone)
        return self.named(key, self.writing.value_and_grad(argnums, has_aux, key[0] == "grad"))

    def _gradient(self, argnums: Any, has_aux: bool, alone: bool) -> Any:
        return "grad" if alone and self._is_short and not has_aux else "value_and_grad", argnums, has_aux

    @functools.cached_property
    def _is_short(self) -> bool:
        """Whether the function has a few instructions over long arrays. The last of them, which only the value needs,
        are a good part then, and code without them is made in no time. Else one program serves for both."""
        program = self._recording().program  # type: ignore[union-attr]
        return len(program.steps) <= _SHORT and self.mode != choice.NEVER and choice.at_once(program)

    def hvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray], argnums: Any) -> Any:
        """The Hessian times tangents of inputs, by number."""
        return self.answer(self.product_key(argnums, tuple(along)), leaves, tuple(along.values()))

    def product_key(self, argnums: Any, inputs: tuple[int, ...]) -> Any:
        """The key of the Hessian times tangents of inputs."""
        return self.named(("hvp", argnums, inputs), self.writing.hvp(argnums, inputs), self.shapes(inputs))

    def jvp(self, leaves: Sequence[Any], along: dict[int, np.ndarray]) -> Any:
        """The value and the derivative along tangents of inputs, by number."""
        return self.answer(self.forward_key(tuple(along)), leaves, tuple(along.values()))

    def forward_key(self, inputs: tuple[int, ...]) -> Any:
        """The key of the derivative along tangents of inputs."""
        return self.named(("jvp", None, inputs), self.writing.jvp(inputs), self.shapes(inputs))

    # Short ways

    def short_value(self, branches: Branches) -> Short:
        """A function from arguments to what the branch replayed last returns, where that is compiled, or to None."""
        program, holds = branches.program, branches.captures.holds
        native = program.native
        if native is None:
            return never
        known = (ways := branches.short_ways.setdefault(program, {})).get("value")
        if known is None or known[0] is not holds or known[1] is not native:
            possible = self.mode != choice.NEVER and not branches.stale
            made = compiled_way(native, branches.spec, branches.spec.structure, holds) if possible else never
            known = ways["value"] = holds, native, made
        found: Short = known[2]
        return found

    def form(self, argnums: Any, alone: bool) -> Any:
        """What computes value and gradient: machine code, or None where it is the interpreter."""
        branches = self._known.get(self._gradient(argnums, False, alone))
        return None if branches is None else branches.program.native

    def short_way(self, argnums: Any, holds: Any, alone: bool) -> Short | None:
        """The short way to value and gradient by a compiled program; None where there is none."""
        branches = self._known.get(self._gradient(argnums, False, alone))
        if branches is None or branches.program.native is None or branches.stale:
            return None
        return compiled_way(branches.program.native, branches.spec, self.writing.structure, holds)

    def calls_by_sweeps(self, argnums: Any) -> int:
        """How many calls may be answered by sweeps before it is asked again what should answer them; none where a
        compiled program should."""
        key = ("value_and_grad", argnums, False)
        if self.compiles(key):
            return 0
        self.gradient_for(argnums)
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.foreign or not np.isfinite(choice.compile_seconds(program)):
            return sys.maxsize
        return int(_ASK_AFTER / (_SWEEPS * choice.replay_seconds(program))) + 1

    def answered_by_sweeps(self, argnums: Any, calls: int) -> None:
        """Count calls that the short way has answered."""
        self.spend(("value_and_grad", argnums, False), calls)

    def spend(self, key: Any, sweeps: int) -> None:
        """Count that sweeps have computed a derivative so often, or along so many directions."""
        seconds = choice.replay_seconds(self._recording().program)  # type: ignore[union-attr]
        self._spent[key] = self._spent.get(key, 0.0) + sweeps * _SWEEPS * seconds

    def has_taken_long(self, key: Any) -> bool:
        """Whether sweeps of a derivative have taken as long as compiling it would."""
        program = self._recording().program  # type: ignore[union-attr]
        return self._spent.get(key, 0.0) > _SWEEPS * choice.compile_seconds(program)

    # Which

    def compiles(self, key: Any) -> bool:
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
        # The derivative would be larger still, and only writing it take as long as many sweeps.
        why = choice.too_large(program) if self.mode == choice.ALWAYS else None
        if why is not None:
            self.refused[key] = why
            return False
        # Rules of Python functions that a program calls may raise on Values where they do not on numbers, and most of
        # the time is theirs: derivatives of these are compiled only if that is asked for.
        if self.mode == choice.ALWAYS or (not program.foreign and choice.at_once(program)):
            return True
        # Other branches follow when they have been replayed often enough.
        return any(p.native is not None for p in programs)

    def answer(
        self, key: Any, leaves: Sequence[Any], seeds: Sequence[Any] = (), read: Callable[..., Any] | None = None,
        directions: int = 1, rival: Callable[[], Rival] | None = None,
    ) -> Any:  # fmt: skip
        """The derivative at leaves of arguments, with tangents or cotangents, read from a replay; None where sweeps are
        to compute it, along so many directions.

        `rival` makes what the compiled program is compared with; without it that is the same program, interpreted.
        """

        def replay(branches: Branches, leaves: Sequence[Any]) -> Any:
            # Whoever reads otherwise looks for results in the arena.
            lean = self.results if read is None else self.form_of
            return branches.replay(leaves, VALUES, None, read or _result_of, lean=lean)

        return self.ask(key, leaves, seeds, replay, directions, rival)

    def ask(
        self, key: Any, leaves: Sequence[Any], seeds: Sequence[Any], ask: Callable[[Branches, Sequence[Any]], Any],
        directions: int = 1, rival: Callable[[], Rival] | None = None,
    ) -> Any:  # fmt: skip
        """ask(programs of a derivative, all that they take), or None; see `answer`."""
        if not self.compiles(key):
            self._count(key, leaves, seeds, directions, rival)
            return None
        self.refused.pop(key, None)
        try:
            return ask(self._branches(key, leaves, seeds), [*leaves, *seeds])
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

    def _count(
        self, key: Any, leaves: Sequence[Any], seeds: Sequence[Any], directions: int,
        rival: Callable[[], Rival] | None,
    ) -> None:  # fmt: skip
        """Once sweeps have taken as long as compiling would, the derivative is written as a program, and compiled in
        the background."""
        program = self._recording().program  # type: ignore[union-attr]
        if self.mode == choice.NEVER or program.foreign or key in self._unwritable or not can_be_written(program):
            return
        if key in self._known:
            # It was being compiled when this process was forked off another, where that went on.
            choice.in_background(self._known[key].program)
            return
        self.spend(key, directions)
        if rival is not None:
            self._spent[key] += _PASS
        if self.has_taken_long(key):
            try:
                found = self._branches(key, leaves, seeds).program
                found.rival = None if rival is None else rival()
                choice.in_background(found)
            except _EXPECTED as error:
                # The interpreter answers, or says what is wrong.
                self.refused[key] = f"{type(error).__name__}: {error}"
                self._unwritable.add(key)

    def _branches(self, key: Any, leaves: Sequence[Any], seeds: Sequence[Any]) -> Branches:
        """The programs of a derivative, recorded if there are none."""
        branches = self._known.get(key)
        if branches is None:
            f, shapes = self._written_by[key]
            spec, given = spec_of(leaves if shapes is None else (list(leaves), *seeds))
            branches = self._known[key] = Branches(
                f, spec, given, (), same_prefixes=False, captures=self._recording().captures,  # type: ignore[union-attr]
                forget=functools.partial(_forget, weakref.ref(self), key),
                forced={choice.ALWAYS: True, choice.NEVER: False}.get(self.mode),
            )  # fmt: skip
        return branches

    def named(self, key: Any, f: Written, shapes: Shapes | None = None) -> Any:
        """The key of a derivative that is written so; `shapes` are those of tangents or cotangents that it takes
        besides the arguments, and None where it takes their leaves one by one."""
        if key not in self._written_by:
            f.__qualname__ = f"{key[0]} of {self._recording().name}"  # type: ignore[union-attr]
            self._written_by[key] = f, shapes
        return key

    def shapes(self, inputs: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of inputs, by number."""
        shapes = self._recording().program.shapes  # type: ignore[union-attr]
        return [shapes[w] for w in inputs]

    def zeros(self, key: Any) -> list[np.ndarray]:
        """Tangents or cotangents that a derivative takes, all zero."""
        dtype = self._recording().program.code.dtype  # type: ignore[union-attr]
        return [np.zeros(shape, dtype) for shape in self._written_by[key][1] or ()]

    def drop(self, kind: tuple[Any, ...]) -> None:
        """Forget the derivatives whose keys begin so: nobody will ask for them any more."""
        for key in [k for k in self._written_by if k[: len(kind)] == kind]:
            del self._written_by[key]
            self._known.pop(key, None)
            self._spent.pop(key, None)

    # What there is, for whoever compiles it now or tells of it

    def gradient_for(self, argnums: Any) -> None:
        """Count the gradient among the derivatives that were asked for."""
        self.gradient_key(argnums, False)

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
        self._branches(key, leaves, self.zeros(key))

    def program_at(self, key: Any, leaves: Sequence[Any]) -> Any:
        """The program of a derivative for the branch that is taken at these arguments, recorded if there is none."""
        return self._branches(key, leaves, self.zeros(key)).fitting(leaves)


def _forget(own: weakref.ref[Derived], key: Any) -> None:
    derived = own()
    recording = None if derived is None else derived._recording()
    if derived is not None:
        derived._known.pop(key, None)
    if recording is not None:
        recording.renew_short_ways()


def _result_of(program: Any, workspace: Any) -> Any:
    return program.result(workspace)

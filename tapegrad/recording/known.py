"""The recordings that are kept for a function, so that whoever differentiates it again finds them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from tapegrad import pytree
from tapegrad.arguments import INTEGER, Input, Spec, leaf_spec, spec_of
from tapegrad.attached import attached
from tapegrad.errors import UnsupportedError
from tapegrad.njit import is_numba
from tapegrad.program import Branches
from tapegrad.recording.carrying import Carrying, recording_of
from tapegrad.recording.direct import Short
from tapegrad.recording.recording import Recording
from tapegrad.recording.standing import behind
from tapegrad.tape import Tape, recording_tape
from tapegrad.tape.ambient import ambient
from tapegrad.value import Value

# A static argument that is another one at every call would make more and more recordings.
MAX_RECORDINGS = 128
# What recordings are kept under, besides, where compiled programs are forced or forbidden.
_NAMES = {None: "", True: ", always compiled", False: ", never compiled"}
# Writing a recording on a tape takes some 100 us, in which a function of fewer instructions is run.
_WORTH_WRITING = 256


class Known:
    """The recordings of one function, one for each nesting, shapes, dtypes and static arguments.

    Args:
        f: the function.
        forced: whether their programs are compiled; see `StandIn`.

    Attributes:
        f: the function.
        quick: recordings by the key that `arguments.plain_key` gives.
        short: the short way to value and gradient that was taken last, for each `argnums` and whether the gradient was
            wanted alone; see `direct`.
    """

    def __init__(self, f: Callable[..., Any], forced: bool | None = None) -> None:
        self.f, self._forced = f, forced
        self.quick: dict[Any, Recording] = {}
        self.short: dict[Any, Short] = {}
        self._recordings: dict[Spec, Recording] = {}

    def __reduce__(self) -> Any:
        # What was recorded is recorded again.
        return Known, (self.f, self._forced)

    def __len__(self) -> int:
        return len(self._recordings)

    def at(self, args: Sequence[Any]) -> tuple[Recording, list[Any]]:
        """The recording for arguments, made if there is none, and the leaves of the arguments."""
        spec, leaves = spec_of(args)
        recording = self._recordings.get(spec)
        if recording is None:
            # A weak reference, so that there is no circle.
            own = weakref.ref(self)
            recording = recording_of(self.f, spec, leaves, self._forced, lambda: Recording(
                self.f, spec, leaves, None, forget=lambda: _forget(own(), spec), compile=self._forced,
                renew_short=self.short.clear,
            ))  # fmt: skip
            # Other threads may be at the same: a list is made in one step, and what is gone already does not matter.
            for oldest in list(self._recordings)[: max(0, len(self._recordings) + 1 - MAX_RECORDINGS)]:
                self._forget(oldest)
            self._recordings[spec] = recording
        return recording, leaves

    def repeatable(self, args: Sequence[Any]) -> Recording:
        """The recording for arguments, of a function whose result is taken to follow from these alone. Raises
        UnsupportedError for one that carries numbers."""
        recording, _ = self.at(args)
        if isinstance(recording, Carrying):
            raise UnsupportedError(
                f"{recording.name} reads or writes buffers, asks a module for its mode, or draws random numbers; "
                "tg.checkpoint and its like take functions of their arguments alone, which they may call again: pass "
                "these numbers as arguments"
            )
        return recording

    def carrying(self, args: Sequence[Any]) -> tuple[Recording, list[Any]]:
        """As `at`, where the function turned out to carry numbers in a branch that was not recorded at first."""
        spec, leaves = spec_of(args)
        self._forget(spec)
        recording = self._recordings[spec] = Carrying(self.f, spec, leaves, self._forced)
        return recording, leaves

    def _forget(self, spec: Spec) -> None:
        gone = self._recordings.pop(spec, None)
        # Other threads may add to it. A dict is copied in one step; a list of its items is not, as Python may look for
        # garbage while it makes these, and let other threads run.
        self.quick = {key: recording for key, recording in self.quick.copy().items() if recording is not gone}
        self.short.clear()

    def on_tape(self, args: Sequence[Any]) -> Callable[..., Any]:
        """The function, for a call with these arguments on the tape that is being recorded: where it was recorded for
        such arguments and is long, what is called writes that recording there."""
        tape = recording_tape()
        if tape is None or not self._recordings or ambient.unrolling:
            return self.f
        leaves, structure = pytree.flatten(tuple(args))
        if any(isinstance(x, Value) and x._tape is not tape for x in leaves):
            return self.f
        specs = (_spec_on(tape, x) if isinstance(x, Value) else leaf_spec(x) for x in leaves)
        recording = self._recordings.get(Spec(structure, tuple(specs)))
        return self.f if recording is None or len(recording) < _WORTH_WRITING else recording.written


def branches_of(recording: Recording) -> Branches:
    """The programs of all branches of a recording, and what finds the one that fits."""
    return recording._branches


def _spec_on(tape: Tape, x: Value) -> Input:
    return INTEGER if x._is_integer else Input(x.shape, tape.dtype, x._layout is None)


def _forget(recordings: Known | None, spec: Spec) -> None:
    if recordings is not None:
        recordings._forget(spec)


def known(f: Any, forced: bool | None = None) -> Known:
    """The recordings of a function. A recording, and what `recorded` returns, stand for their function.

    What is asked to be compiled always, or never, has recordings of its own, so that none gets what another asked for.
    """
    f, forced = behind(f, forced)
    if is_numba(f):
        return _known_of_numba(f, forced, keywords=False)
    return attached(f, f"recordings{_NAMES[forced]}", lambda f: Known(f, forced))


def known_with_keywords(f: Any, forced: bool | None = None) -> Known:
    """The recordings of a function whose keyword arguments are one more argument, a dict, the last."""
    f, forced = behind(f, forced)
    if is_numba(f):
        return _known_of_numba(f, forced, keywords=True)

    def make(f: Any) -> Known:
        return Known(lambda *args: f(*args[:-1], **args[-1]), forced)

    return attached(f, f"recordings with keywords{_NAMES[forced]}", make)


def on_values(f: Any) -> Any:
    """The function that can be called with Values: in place of one of Numba one that writes what it does."""
    if not is_numba(f):
        return f
    from tapegrad.njit.recordable import recordable

    return recordable(f)


class KnownOfNumba(Known):
    """The same of a Numba function, which is recorded anew at every call, but where an ordinary recording is needed."""

    def __init__(self, dispatcher: Any, forced: bool | None, keywords: bool) -> None:
        from tapegrad.recording.of_numba import OfNumba

        f = on_values(dispatcher)
        super().__init__((lambda *args: f(*args[:-1], **args[-1])) if keywords else f, forced)
        find = super().at
        self._answers: Any = OfNumba(dispatcher, lambda args: find(args)[0], keywords)

    def at(self, args: Sequence[Any]) -> tuple[Any, list[Any]]:
        return self._answers, list(args)


@functools.cache
def _known_of_numba(dispatcher: Any, forced: bool | None, keywords: bool) -> KnownOfNumba:
    return KnownOfNumba(dispatcher, forced, keywords)

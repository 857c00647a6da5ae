"""Making recordings, and doing without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec

from tapegrad.arguments import spec_of
from tapegrad.recording.carrying import recording_of
from tapegrad.recording.known import on_values
from tapegrad.recording.recording import Recording
from tapegrad.recording.standing import behind


class Unrecorded(Recording):
    """Answers as a recording does that is called with Values: each answer is written on their tape. For such calls
    nothing is recorded apart, so this has no program."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f

P = ParamSpec("P")


def record(f: Callable[P, Any], *examples: Any, compile: bool | None = None) -> Recording:
    """Record a function at example arguments.

    Args:
        f: a function of numbers, arrays, or nested tuples, lists, dicts and dataclasses of them, written in NumPy or
            with Python operators. Arrays that it takes from around it become constants of the recording; `stats` lists
            them. Where what it takes from around it has changed, it is recorded again: at once where a name is bound to
            something else, soon after, and with a RecordingWarning, where an array was changed in place.
        examples: arguments to record at. Floats, integers and arrays may change between replays; booleans, strings and
            other objects are part of the recording. An integer behaves as Python's int in the function; where it
            decides something, as in `range(n)`, each number is a branch. A `numpy.random.Generator` is drawn from at
            every replay, from the one that is given then.
        compile: True to replay compiled programs from the first call on, False never to, None to leave that choice,
            which depends on how large the program is and how often it is replayed. See `Recording.compile`.

    Raises DTypeError, StructureError; OperationError where `compile` is something else.

    >>> import numpy as np
    >>> r = record(lambda x: np.sum(np.sin(x) * x), np.ones(3))
    >>> r.value_and_grad(np.zeros(3))
    (0.0, array([0., 0., 0.]))
    """
    spec, leaves = spec_of(examples)
    own, forced = on_values(f), behind(f, compile)[1]
    return recording_of(own, spec, leaves, forced, lambda: Recording(own, spec, leaves, None, compile=forced))

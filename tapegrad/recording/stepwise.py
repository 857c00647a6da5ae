"""Recordings in which loops are unrolled, for what has to see every step: patterns and certificates."""

from __future__ import annotations

from typing import Any

from tapegrad.attached import named_like
from tapegrad.tape.ambient import unrolling


def has_loops(recording: Any) -> bool:
    """Whether a recording has loops that are one instruction, in any of its branches."""
    return any(call.exact for program in recording.programs for call in program.calls.values())


def stepwise(recording: Any, make: Any) -> Any:
    """A recording of the same function with all steps of loops on the tape, kept by the recording; itself where it has
    no loops. `make` makes a recording of a function at leaves of arguments."""
    if not has_loops(recording):
        return recording
    if recording.unrolled is None:
        f = recording.f

        def unrolled(*args: Any) -> Any:
            with unrolling():
                return f(*args)

        program = recording.program
        workspace = program.latest()
        leaves: list[Any] = [getattr(leaf, "value", None) for leaf in recording.spec.leaves]
        for window, leaf in workspace.feeds:
            own = recording.spec.leaves[leaf]
            leaves[leaf] = window[()].astype(own.dtype) if window.shape else own.dtype.type(window[()])
        recording.unrolled = make(named_like(f)(unrolled), recording.spec, leaves, None, compile=recording.forced)
    return recording.unrolled

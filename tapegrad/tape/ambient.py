"""The tapes of this thread, on which new Values go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapegrad.tape.tape import Tape


class _Current(threading.local):
    """The tapes of this thread, one a dtype, and the recording that is going on, if any."""

    def __init__(self) -> None:
        self.tapes: dict[np.dtype, Tape] = {}
        self.recording: Tape | None = None
        # Whether nothing is recorded and nobody looks for faults, so that calls of derivatives may take their short
        # way; and what is to be looked for, where somebody does: see `tapegrad.debugging`.
        self.plain = True
        self.debugging: Any = None
        # Whether loops are to be recorded step by step, and whether their steps are compiled: see `native.choice.mode`.
        self.unrolling = False
        # While a step of a loop is tried out, what whole numbers knew of guards on them before it: see `value.integer`.
        self.guarded: dict[int, Any] | None = None
        self.forced: bool | None = None


# Reading `ambient.recording` takes half the time of calling `recording_tape()`, which returns the same.
ambient = _Current()


def current_tape(dtype: Any = None) -> Tape:
    """The tape that new values of this thread go on: one for each dtype, or the recording that is going on.

    A recording of float32 that meets float64 is made again, in float64. Raises DTypeError for a dtype that is neither.

    >>> import numpy as np
    >>> current_tape(np.float32).dtype
    dtype('float32')
    """
    if ambient.recording is not None:
        if dtype is not None and np.dtype(dtype).itemsize > ambient.recording.dtype.itemsize:
            made_float64(ambient.recording)
        return ambient.recording
    kind = np.dtype(np.float64 if dtype is None else dtype)
    tape = ambient.tapes.get(kind)
    if tape is None:
        tape = ambient.tapes[kind] = Tape(kind)
    return tape


def made_float64(tape: Tape) -> bool:
    """Have a recording that goes on be one of float64: that of float32 is made again. False where none goes on."""
    if not tape.recording or tape.finished:
        return False
    tape.too_narrow |= tape.dtype != np.float64
    return True


def recording_tape() -> Tape | None:
    """The tape of the recording that is going on in this thread, if any."""
    return ambient.recording


def set_recording(tape: Tape | None) -> None:
    """Have new values of this thread go on a recording, or on the thread's own tapes."""
    ambient.recording = tape
    ambient.plain = tape is None and ambient.debugging is None


@contextmanager
def on_fresh_tapes() -> Iterator[None]:
    """Have this thread's new values go on tapes of their own.

    A function that a sweep calls may use Values and `backward` itself. On the tape that is being swept it would move
    the arrays under the sweep and write over its adjoints.
    """
    recording, tapes = ambient.recording, ambient.tapes
    set_recording(None)
    ambient.tapes = {}
    try:
        yield
    finally:
        set_recording(recording)
        ambient.tapes = tapes


@contextmanager
def recording_on(tape: Tape | None) -> Iterator[Tape | None]:
    """Within the block, new values of this thread go on `tape`; if it is None, on the thread's own tapes."""
    before = ambient.recording
    set_recording(tape)
    try:
        yield tape
    finally:
        set_recording(before)


@contextmanager
def unrolling() -> Iterator[None]:
    """Within the block loops are recorded step by step, for those who have to see every step on the tape."""
    before = ambient.unrolling
    ambient.unrolling = True
    try:
        yield
    finally:
        ambient.unrolling = before


@contextmanager
def compiling(forced: bool | None) -> Iterator[None]:
    """Within the block the steps of loops that are recorded are compiled always, never, or where it pays (None)."""
    before = ambient.forced
    ambient.forced = forced
    try:
        yield
    finally:
        ambient.forced = before

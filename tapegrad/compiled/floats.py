"""The control word of the processor's arithmetic, from Python."""

from __future__ import annotations

from tapegrad.compiled.callable import FLUSH, compiled
from tapegrad.compiled.marks import compiled_in


@compiled_in("tapegrad.compiled.pointers")
def control_word() -> int:
    """The control word."""
    return 0


@compiled_in("tapegrad.compiled.pointers")
def set_control_word(word: int) -> int:
    """Another control word."""
    return 0


@compiled(flush="int64")
def take_subnormals_for_zero(flush):  # type: ignore[no-untyped-def]
    """Whether they are taken for zero in this thread from now on; returns whether they were."""
    before = control_word()
    set_control_word((before | FLUSH) if flush else (before & ~FLUSH))
    return 1 if before & FLUSH else 0

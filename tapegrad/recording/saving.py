"""What takes a recording out of the process that it was made in."""

from __future__ import annotations

import inspect
import os
from typing import Any

from tapegrad import storage
from tapegrad.recording.standing import StandIn


class Saving(StandIn):
    """The methods of a recording that write files."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, from which `tapegrad.load` makes a recording again, in a process that has none of the
        source that it was recorded from.

        The file has the programs of all branches that were recorded so far, the constants, the labels, and what the
        arguments are: no code, and no pickle. docs/tape-format.md says how it is laid out. It is written whole or not
        at all, in place of what was there.

        Raises UnsupportedError where the recording calls a Python function (`external`, `checkpoint`, `custom_vjp`,
        solvers), whose code cannot be in a file; StructureError where an argument or result is nested in, or is, what a
        file cannot say: a module of `tapegrad.nn`, a function.
        """
        recording: Any = self
        programs = recording.programs
        storage.save(path, storage.Function(
            recording.name, _parameters(recording.f), recording.spec, programs, programs.index(recording.program)
        ))  # fmt: skip


def _parameters(f: Any) -> list[str]:
    """What a function calls its arguments, as far as it says."""
    try:
        given = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]

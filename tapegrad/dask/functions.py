"""A function of one row, recorded at the first row of the data, and ready to be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad.dask import tasks
from tapegrad.dask.arguments import Arguments
from tapegrad.dask.graphs import Graph
from tapegrad.dask.travel import Payload, packed
from tapegrad.errors import ShapeError
from tapegrad.recording import Recording, behind, branches_of, record

# How many recordings of a function are kept, one for each nesting, shapes and dtypes of arguments.
MOST = 16


class Ready(NamedTuple):
    """A recording, the arguments that it was made at, and what workers need of it."""

    recording: Recording
    example: Any
    programs: list[Any]
    payload: Payload


class Function:
    """A function of one row, with its recordings.

    Args:
        f: the function.
        compile: as for `record`.
        patience: see `graphs.computed`.
    """

    def __init__(self, f: Callable[..., Any], compile: bool | None, patience: float) -> None:
        # Raises where f is no function, or `compile` no truth value.
        behind(f, compile)
        self.f, self.compile, self.patience = f, compile, patience
        self._known: dict[Any, Ready] = {}

    def ready(self, arguments: Arguments) -> Ready:
        """The recording for arguments. It is made at the first row, which is computed where there is none yet.

        Raises ShapeError where there is no row, and what recording and sending the function raise.
        """
        spec = arguments.spec()
        found = self._known.pop(spec, None)
        if found is None:
            example = arguments.of_row(self._first_row(arguments))
            recording = record(self.f, *example, compile=self.compile)
        else:
            recording, example = found.recording, found.example
            branches = branches_of(recording)
            if branches.stale:
                branches.renew(recording.check(example))
        if found is None or found.programs != recording.programs:
            payload = packed(recording, self.f, example)
            found = Ready(recording, example, recording.programs, payload)
        for oldest in list(self._known)[: max(0, len(self._known) + 1 - MOST)]:
            # Another thread may have taken it out.
            self._known.pop(oldest, None)
        self._known[spec] = found
        return found

    def _first_row(self, arguments: Arguments) -> list[Any]:
        for chunk in range(arguments.chunks):
            if not any(x.chunks[0][chunk] == 0 for x in arguments.arrays):
                graph = Graph("first-row", arguments)
                row = graph.add_on_rows(("row", chunk), chunk, tasks.first_row, arguments.names, chunk)
                found: list[Any] | None = graph.compute(row, self.patience)
                if found is not None:
                    return found
        raise ShapeError("the batch is empty: no chunk of the arguments has a row")

"""Graphs of tasks for Dask, and waiting for what they compute."""

from __future__ import annotations

import contextlib
import operator
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import get_scheduler
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from tapegrad.dask.arguments import Arguments
from tapegrad.errors import ClusterError, UnsupportedError

# How many parts are added up by one task. More would make the last tasks long, fewer would make more of them.
FAN_IN = 8
# How often it is looked whether there is still somebody at work, in seconds.
_LOOK = 0.5


class Graph:
    """Tasks over the chunks of rows of some arguments.

    Args:
        what: a word for the names of the tasks, which Dask's dashboard shows.
        arguments: whose chunks the tasks read.
        lasts: whether the graph outlives the call that it is made in.
    """

    def __init__(self, what: str, arguments: Arguments, lasts: bool = False) -> None:
        self.name = f"tapegrad-{what}-{uuid.uuid4().hex}"
        self._arguments, self._tasks = arguments, dict[Hashable, Any]()
        # What lasts is a Dask array, for which Dask does the same when it is computed.
        self._arrays, self._lasts = arguments.arrays if lasts else arguments.optimized(), lasts

    def add(self, part: Sequence[Any], function: Callable[..., Any], *args: Any) -> Any:
        """Add a task: a function of arguments, of which some are what other tasks return. Returns what stands for its
        result among the arguments of others."""
        key = (f"{self.name}-{part[0]}", *part[1:])
        self._tasks[key] = Task(key, function, *args)
        return TaskRef(key)

    def add_on_rows(self, part: Sequence[Any], chunk: int, function: Callable[..., Any], *args: Any) -> Any:
        """Add a task whose last arguments are a chunk of each argument that has rows.

        The tasks that make the chunk become a part of it, where they are no results that are kept: half as many tasks
        then come back to the scheduler, and no worker holds more chunks than it works on.
        """
        keys = self._arguments.keys(chunk)
        made = self.add(part, function, *args, *map(TaskRef, keys))
        if not self._lasts:
            before = {key: x.dask.get(key) for key, x in zip(keys, self._arrays, strict=True)}
            own = [task for task in before.values() if type(task) is Task]
            self._tasks[made.key] = Task.fuse(*own, self._tasks[made.key])
        return made

    def total(self, parts: Sequence[Any], function: Callable[..., Any]) -> Any:
        """Add a tree of tasks that make one of some parts, each of neighbours, always in the same order."""
        level = 0
        while len(parts) > 1:
            parts = [
                self.add(("added", level, k), function, *parts[at : at + FAN_IN])
                for k, at in enumerate(range(0, len(parts), FAN_IN))
            ]
            level += 1
        return parts[0]

    def compute(self, wanted: Any, patience: float) -> Any:
        """What a task returns; see `computed`."""
        return computed(self._delayed(wanted), patience)

    def array(self, parts: Sequence[Any], number: int, like: np.ndarray) -> da.Array:
        """A Dask array of the items of this number in what tasks return, one for each chunk of rows. Each is an array
        with rows as its first axis, for the rest of the shape and dtype of `like`."""
        name, zeros = f"{self.name}-{number}", (0,) * (like.ndim - 1)
        items = {(name, i, *zeros): Task((name, i, *zeros), operator.getitem, x, number) for i, x in enumerate(parts)}
        layers = HighLevelGraph.from_collections(name, items, dependencies=[self._delayed(parts[0])])
        chunks = self._arguments.arrays[0].chunks[0], *((n,) for n in like.shape[1:])
        return da.Array(layers, name, chunks, dtype=like.dtype, meta=np.empty((0,) * like.ndim, like.dtype))

    def _delayed(self, wanted: Any) -> Delayed:
        layers = HighLevelGraph.from_collections(self.name, self._tasks, dependencies=self._arrays)
        return Delayed(wanted.key, layers, layer=self.name)


def computed(wanted: Delayed, patience: float) -> Any:
    """What a task returns, computed by Dask's client where there is one, else as Dask's configuration says.

    Args:
        wanted: the task.
        patience: for how many seconds there may be no scheduler or no worker.

    Raises ClusterError where there is none for longer, or where workers end again and again at one task; and what the
    tasks raise.
    """
    client = _client()
    if client is None:
        return wanted.compute()
    if client.asynchronous:
        raise UnsupportedError(
            "Dask's client is asynchronous, and gradients are waited for: call this in a thread, with a client of its "
            "own, Client(address)"
        )
    with _explained():
        # Parameters of many megabytes are meant to travel with the graph: see docs/guide/dask.md.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
            future = client.compute(wanted)
        try:
            _wait(client, future, patience)
            return future.result()
        finally:
            future.release()


def _client() -> Any:
    """Dask's client, where that is what computes."""
    owner = getattr(get_scheduler(), "__self__", None)
    return owner if hasattr(owner, "scheduler_info") else None


def _wait(client: Any, future: Any, patience: float) -> None:
    from distributed import TimeoutError, wait

    well = time.monotonic()
    while True:
        with contextlib.suppress(TimeoutError):
            wait(future, timeout=_LOOK)
            return
        lacks = _lacks(client)
        if lacks is None:
            well = time.monotonic()
        elif time.monotonic() - well > patience:
            raise ClusterError(f"{lacks}, for more than {patience:g} seconds (patience={patience:g})")


def _lacks(client: Any) -> str | None:
    """What the cluster lacks to go on; None where nothing is known to be wrong."""
    if client.status != "running":
        return f"Dask's scheduler cannot be reached (the client is {client.status})"
    if not client.scheduler_info().get("workers"):
        return "Dask's cluster has no worker"
    return None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Within the block errors of Dask's about lost workers and schedulers say what has happened."""
    from distributed import CancelledError, KilledWorker
    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            "workers ended again and again at one task, mostly for want of memory: make chunks of fewer rows, or give "
            f"workers more memory ({error!s:.500})"
        ) from error
    except (CancelledError, ClosedClientError, CommClosedError) as error:
        raise ClusterError(f"Dask's scheduler is gone, or what it computed was cancelled: {error!s:.500}") from error

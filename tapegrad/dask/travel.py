"""How a recorded function gets to the workers of a cluster: as plain arrays, and with its code only where it must.

What travels is a dict of plain things, so that a worker with another version of tapegrad can still read which one it
came from. Each worker process makes a recording of it once, and keeps the last few.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped,unused-ignore]
import numpy as np

from tapegrad.errors import BranchError, ClusterError, StructureError, UnsupportedError
from tapegrad.native import choice
from tapegrad.ops import RUN, TABLE
from tapegrad.program import Program
from tapegrad.recording import Recording, behind, from_bytes, on_values, record
from tapegrad.storage.programs import side_with_calls

# How many functions a worker keeps.
MOST = 16

Payload = dict[str, Any]


def version() -> str:
    """The version of tapegrad in this process."""
    return str(sys.modules["tapegrad"].__version__)


# On the client


def packed(recording: Recording, f: Callable[..., Any], example: Sequence[Any]) -> Payload:
    """What workers need of a function of one row.

    Args:
        recording: of the function.
        f: the function itself. It travels where the recording has guards, or calls Python functions.
        example: the arguments that it was recorded at.

    Raises UnsupportedError where neither the recording nor the function can be sent.
    """
    stored, function, unstored, unpickled = None, None, "", ""
    # The program of the example is the one that the digest is of.
    recording(*example)
    try:
        stored = recording.to_bytes()
    except (StructureError, UnsupportedError) as error:
        unstored = str(error)
    if stored is None or any(len(program.guards) for program in recording.programs):
        try:
            function = cloudpickle.dumps((behind(f, None)[0], tuple(example)))
        except Exception as error:
            unpickled = f"{type(error).__name__}: {error}"
    if stored is None and function is None:
        raise UnsupportedError(
            f"{recording.name} cannot be sent to workers: as a recording, because {unstored}; as Python code, because "
            f"cloudpickle raised {unpickled:.300}"
        )
    compiled = is_compiled(recording)
    checksum = hashlib.sha256(repr((stored, function, compiled)).encode()).hexdigest()
    return {
        "tapegrad": version(), "name": recording.name, "checksum": checksum, "recording": stored, "function": function,
        "unpickled": unpickled, "compile": compiled, "digest": digest(recording.program),
    }  # fmt: skip


def is_compiled(recording: Recording) -> bool:
    """Whether workers compile a function. That is settled here, once for all of them: to leave it to each worker, by
    how often it has replayed the function, would make the last digits of a result depend on who computed what."""
    how = choice.mode(recording.forced)
    if how != choice.AUTO:
        return how == choice.ALWAYS
    return all(math.isfinite(choice.compile_seconds(program)) for program in recording.programs)


def digest(program: Program) -> str:
    """What is the same of two programs that were recorded in different processes only if they compute the same."""
    code = program.code
    opcodes, which = np.unique(code.rows[:, 0], return_inverse=True)
    names = [f"{TABLE[op % RUN].name}{op // RUN}" for op in opcodes.tolist()]
    # Operations that users declare may have other numbers in another process, their names are the same.
    rank = np.argsort(np.argsort(names))
    made = hashlib.sha256("\n".join([str(code.dtype), *sorted(names)]).encode())
    side = side_with_calls(code, list(program.calls))
    for array in (rank[which].astype(np.int64), code.rows[:, 1:], side, code.constants):
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


# In a worker


class Opened:
    """A function as a worker has it.

    Attributes:
        recording: what is replayed.
    """

    def __init__(self, payload: Payload) -> None:
        self._payload, self._lock = payload, threading.Lock()
        self._first, self._prepared = threading.Lock(), set[int]()
        self._is_own = payload["recording"] is None
        if self._is_own:
            self.recording = self._recorded()
        else:
            name = f"the recording of {payload['name']} that was sent"
            self.recording = from_bytes(payload["recording"], name, payload["compile"])

    @contextlib.contextmanager
    def prepared(self, rows: int) -> Iterator[None]:
        """Within the block so many rows are computed. Where that is the first time, programs are compiled: by one
        thread, for which the others wait, instead of by each of them."""
        # Blocks of lanes are as long as this says: see `batch.programs.lanes_for`.
        key = min(rows, 1 << 12).bit_length()
        with contextlib.nullcontext() if key in self._prepared else self._first:
            yield
        self._prepared.add(key)

    def after(self, error: BranchError) -> Recording:
        """The recording to go on with where rows took a branch that the one that was sent does not have: made here, of
        the function itself. Raises the error where there is none."""
        with self._lock:
            if not self._is_own:
                if self._payload["function"] is None:
                    raise BranchError(
                        f"{self._payload['name']} takes a branch in some rows that its first row does not take, and "
                        f"its code could not be sent along, to be recorded here: {self._payload['unpickled']}. Write "
                        "np.where in place of the branch, or a function that cloudpickle can pickle"
                    ) from error
                self.recording, self._is_own = self._recorded(), True
        return self.recording

    def _recorded(self) -> Recording:
        name = self._payload["name"]
        try:
            f, example = cloudpickle.loads(self._payload["function"])
        except Exception as error:
            raise ClusterError(
                f"the code of {name} cannot be made a function in a worker: {type(error).__name__}: {error}. It is "
                "needed there for branches that the first row does not take. Functions of modules that workers do not "
                "have travel after cloudpickle.register_pickle_by_value(module)"
            ) from error
        recording = record(on_values(f), *example, compile=self._payload["compile"])
        recording(*example)
        if digest(recording.program) != self._payload["digest"]:
            raise ClusterError(
                f"{name}, recorded in a worker, does something else than where it was sent from. It takes something "
                "from around it that is another thing here: a global of a module that was changed, random numbers, "
                "another version of the module. Pass it as an argument"
            )
        return recording


_opened: OrderedDict[str, Opened] = OrderedDict()
_lock = threading.Lock()


def opened(payload: Payload) -> Opened:
    """The function that was sent, made at the first call in a process and kept from then on.

    Raises ClusterError where this process has another version of tapegrad than the one that sent it.
    """
    sent = payload.get("tapegrad")
    if sent != version():
        raise ClusterError(
            f"the client has tapegrad {sent}, this worker {version()}: install the same version in the environments of "
            "client, scheduler and workers"
        )
    key = payload["checksum"]
    with _lock:
        found = _opened.pop(key, None) or Opened(payload)
        _opened[key] = found
        while len(_opened) > MOST:
            _opened.popitem(last=False)
    return found

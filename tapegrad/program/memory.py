"""The memory that recordings and their workspaces take together, and its limit.

Programs are registered when they are made. When much has been added since the last look, they are counted, and while
there is too much, what was not used for longest goes: first workspaces that nobody uses, then programs. A function
whose program is gone is recorded again when it is called.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tapegrad.errors import OperationError

# What is taken where nothing else is said: of the machine's memory, or of what the process may use of it.
_SHARE = 1 / 4
# Of the limit, what workspaces that nobody uses may take; their arrays are made again in no time compared to programs.
_IDLE = 1 / 8
# Of the limit, what may be added before everything is counted again.
_SLACK = 1 / 64
# How many times as long as looking for circles has taken it is not done again.
_REST = 20
# When so many bytes have been given back, the C library is asked to return them to the system.
_LARGE = 1 << 26
# What is assumed where the machine does not say how much memory it has, in bytes.
_UNKNOWN = 8 << 30


class Held(Protocol):
    """What is registered. It says whether it was `used` since it was last asked, and can give memory back."""

    used: bool

    @property
    def nbytes(self) -> int:
        """All that it holds."""

    @property
    def idle_bytes(self) -> int:
        """The part of it that workspaces hold that nobody uses."""

    def drop_workspaces(self) -> None:
        """Give back workspaces that nobody uses."""

    def forget(self) -> None:
        """Give back everything, if it can be made again."""


class Memory:
    """Everything that is registered, and the limit in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: list[weakref.ref[Any]] = []
        self._added = 0
        # When Python may next be asked to look for what nobody refers to.
        self._next = 0.0

    def register(self, held: Held) -> None:
        """Count something from now on, for as long as it lives."""
        self._held.append(weakref.ref(held))
        self.add(held.nbytes)

    def add(self, count: int) -> None:
        """Say that so many bytes more are held."""
        self._added += count
        if self._added > self.limit * _SLACK:
            self.shrink()

    def held(self) -> int:
        """Bytes that are held now."""
        return sum(x.nbytes for x in self._living())

    def _collect(self) -> None:
        """Have Python free what nobody refers to but itself, unless it has just done that and much time went into it.
        """
        now = time.perf_counter()
        if now > self._next:
            gc.collect()
            done = time.perf_counter()
            self._next = done + _REST * (done - now)

    def _living(self) -> Iterator[Any]:
        return (x for ref in list(self._held) if (x := ref()) is not None)

    def shrink(self) -> None:
        """Give back what was not used for longest, while more is held than the limit allows."""
        self._added = 0
        if self.held() > self.limit:
            self._collect()
        # What was used since the last time goes to the end, in the order in which it stands.
        order = sorted(self._living(), key=lambda held: held.used)
        for held in order:
            held.used = False
        total, idle = sum(held.nbytes for held in order), sum(held.idle_bytes for held in order)
        before = total
        for held in order:
            if total <= self.limit and idle <= self.limit * _IDLE:
                break
            freed = held.idle_bytes
            held.drop_workspaces()
            total, idle = total - freed, idle - freed
        for held in order:
            if total <= self.limit:
                break
            total -= held.nbytes
            held.forget()
        if before - total > _LARGE:
            _return_to_system()
        # Others may have registered something meanwhile: it stands at the end of the list.
        known = {id(held) for held in order}
        self._held = [weakref.ref(held) for held in order] + [
            ref for ref in self._held if (x := ref()) is not None and id(x) not in known
        ]


def _return_to_system() -> None:
    # glibc keeps what was freed in pieces between others. Elsewhere there is no such function.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _of_the_machine() -> int:
    """Bytes of memory that this process may use."""
    found = []
    with suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        # There may be no such file, or it may say "max".
        with suppress(OSError, ValueError):
            found.append(int(Path(group).read_text(encoding="ascii")))
    return min((n for n in found if n > 0), default=_UNKNOWN)


def _standard_limit() -> int:
    given = os.environ.get("TAPEGRAD_MEMORY", "")
    if not given:
        return int(_of_the_machine() * _SHARE)
    return checked(int(given) if given.isdigit() else given, "TAPEGRAD_MEMORY")


def checked(limit: Any, what: str = "a memory limit") -> int:
    """A limit in bytes. Raises OperationError for what is not a positive number of them; `what` is what was said so."""
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit >= 1:
        raise OperationError(f"{what} must be a number of bytes, at least 1, not {limit!r}")
    return int(min(limit, 1 << 62))


memory = Memory(_standard_limit())


def set_memory_limit(limit: int | None = None) -> int:
    """Limit the memory that recordings and their workspaces take together, in bytes; returns the limit before.

    By default it is what the environment variable TAPEGRAD_MEMORY says, else a quarter of the machine's memory, and
    None sets it back to that. When there is more, workspaces and recordings that were not used for longest are given
    back, except those that are in use and recordings made by `record` that are still referred to. A function whose
    recording is gone is recorded again. What a single call needs is not limited.

    Raises OperationError for what is not a positive number.

    >>> before = set_memory_limit(100_000_000)
    >>> set_memory_limit(before)
    100000000
    """
    before, memory.limit = memory.limit, _standard_limit() if limit is None else checked(limit)
    memory.shrink()
    return before


def memory_held() -> int:
    """The bytes that recordings and their workspaces take now.

    >>> memory_held() >= 0
    True
    """
    return memory.held()

"""What a step changes around it: counters, lists, random generators. A step that does is called for every step of its
loop, and what calling it on trial has changed is undone.

Looked at are the closure cells and the globals that the step and the functions there name, and in these numbers, lists,
dicts, sets, short arrays, attributes of objects and random generators.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

# The most elements of a container that are looked at, and the most things.
_LONG, _MOST = 10_000, 1_000
_PLAIN = (int, float, complex, str, bytes, bool, tuple, frozenset, type(None))


class Around:
    """What stands around a function, as it is now."""

    def __init__(self, f: Any) -> None:
        # For each thing what it is now, what reads it, and what puts it back.
        self._known: list[tuple[Any, Callable[[], Any], Callable[[Any], Any]]] = []
        self._seen: set[int] = set()
        self._hold: list[Any] = []
        waiting = [f]
        while waiting and len(self._known) < _MOST:
            x = waiting.pop()
            # Objects of others may raise whatever they like when they are looked at.
            with contextlib.suppress(Exception):
                waiting += self._look(x)

    def _look(self, x: Any) -> list[Any]:
        """Note what one thing is; returns what it leads to."""
        if id(x) in self._seen or isinstance(x, (*_PLAIN, ModuleType, type)):
            return []
        self._seen.add(id(x))
        self._hold.append(x)
        if isinstance(x, MethodType):
            return [x.__self__, x.__func__]
        if isinstance(x, FunctionType):
            return self._look_around(x)
        if isinstance(x, list) and len(x) <= _LONG:
            self._note(lambda: list(x), lambda then: x.__setitem__(slice(None), then))
        elif isinstance(x, dict | set) and len(x) <= _LONG:
            self._note(x.copy, lambda then: (x.clear(), x.update(then)))
        elif isinstance(x, np.ndarray):
            if x.size <= _LONG and x.flags.writeable:
                self._note(x.copy, lambda then: np.copyto(x, then))
        elif isinstance(x, random.Random):
            self._note(x.getstate, x.setstate)
        elif isinstance(x, np.random.Generator):
            bits = x.bit_generator
            self._note(lambda: bits.state, lambda then: setattr(bits, "state", then))
        elif isinstance(x, np.random.RandomState):
            self._note(lambda: x.get_state(legacy=False), x.set_state)
        elif type(getattr(x, "__dict__", None)) is dict and not callable(x):
            return [vars(x)]
        return []

    def _look_around(self, f: FunctionType) -> list[Any]:
        found = []
        for cell in f.__closure__ or ():
            try:
                found.append(cell.cell_contents)
            except ValueError:
                continue
            if id(cell) not in self._seen:
                self._seen.add(id(cell))
                self._note(functools.partial(getattr, cell, "cell_contents"), functools.partial(_fill, cell))
        names = f.__globals__
        for name in f.__code__.co_names:
            if name in names:
                x = names[name]
                found.append(x)
                if isinstance(x, _PLAIN):
                    self._note(functools.partial(names.get, name), functools.partial(names.__setitem__, name))
                elif isinstance(x, ModuleType) and x in (random, np):
                    found.append(random._inst if x is random else np.random.mtrand._rand)
        return [x for x in found if not str(getattr(x, "__module__", "")).startswith(("tapegrad.", "numpy."))
                or isinstance(x, np.random.Generator | np.random.RandomState | random.Random)]  # fmt: skip

    def _note(self, read: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self._known.append((read(), read, put))

    def changed(self) -> bool:
        """Whether anything is not what it was."""
        return any(not _same(then, read()) for then, read, _ in self._known)

    def restore(self) -> None:
        """Put everything back."""
        for then, read, put in self._known:
            if not _same(then, read()):
                put(then)


def _fill(cell: Any, content: Any) -> None:
    cell.cell_contents = content


def _same(a: Any, b: Any) -> bool:
    """Whether two things are one, or are plain and equal, with containers compared element by element."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return all(map(_same, a.flat, b.flat)) if a.dtype == object else a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(x, b[key]) for key, x in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, (*_PLAIN, set)) and bool(a == b)

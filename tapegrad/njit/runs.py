"""Calling a Numba function with recorded numbers: one run, which leaves its tape and what was returned."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.adjoint import evaluation
from tapegrad.arguments import in_words, not_floats
from tapegrad.errors import DTypeError, StructureError, UnsupportedError
from tapegrad.names import originals
from tapegrad.njit.advice import refused
from tapegrad.njit.memory import Tape

_GIVEN, _KEPT, _PLAIN = "given", "kept", "plain"


class Argument(NamedTuple):
    """How an argument is handed over: its leaves, the kind of each, and the text that puts them together, in which
    `{}` stands for a leaf. Of named tuples it has the class, by name and identity; `classes` are these."""

    leaves: list[Any]
    kinds: list[str]
    text: str
    classes: tuple[type, ...]


class Driver(NamedTuple):
    """What runs a function on a tape: `call(kind, address of the tape, *leaves)`, and the kinds of the leaves."""

    call: Callable[..., Any]
    kind: Any
    kinds: list[str]


def _kinds(given: list[Argument], relaxed: bool) -> list[str]:
    """The kinds of all leaves, where arrays of floats that are not differentiated may take recorded numbers."""
    return [
        _KEPT if relaxed and kind == _PLAIN and is_real(x) and np.ndim(x) > 0 and x.flags.writeable else kind
        for argument in given
        for x, kind in zip(argument.leaves, argument.kinds, strict=True)
    ]


def _named(kind: type) -> str:
    return f"{kind.__name__}_{id(kind)}"


def is_real(x: Any) -> bool:
    """Whether something given as an argument can be differentiated."""
    return isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")


class Function:
    """A Numba function, and what was compiled to differentiate it."""

    def __init__(self, dispatcher: Any) -> None:
        self.dispatcher = dispatcher
        self.name = dispatcher.__qualname__
        self._drivers: dict[Any, Driver] = {}
        self._lock = threading.RLock()

    def bound(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Arguments by position. Raises TypeError where they do not fit the function."""
        if not kwargs:
            return tuple(args)
        return inspect.signature(self.dispatcher.py_func).bind(*args, **kwargs).args

    def run(self, tape: Tape, partials: bool, args: Sequence[Any], wanted: Sequence[bool]) -> tuple[Any, list[Any]]:
        """Call the function on a tape, which holds partial derivatives or operations. `wanted` says for each argument
        whether it is differentiated; the rows from 1 on are its floats. Returns what the function returned, in which
        recorded numbers are `Number` and `Numbers`, and the leaves that are differentiated.

        Raises UnsupportedError where it does something that cannot be recorded, and what the function raises.
        """
        given = [self._argument(x, want) for x, want in zip(args, wanted, strict=True)]
        leaves = [x for argument in given for x in argument.leaves]
        own = [x for argument in given for x, kind in zip(argument.leaves, argument.kinds, strict=True)
               if kind == _GIVEN]  # fmt: skip
        key = (partials, *((tuple(a.kinds), a.text, a.classes) for a in given), *map(_type, leaves))
        driver = self._drivers.get(key)
        if driver is None:
            with self._lock, originals():
                driver = self._drivers.get(key) or self._first(tape, given, leaves)
                self._drivers[key] = driver
        if self._shared(leaves, driver.kinds):
            self._check_shared(args)
        try:
            with originals():
                result = driver.call(driver.kind, tape.address, *leaves)
        except MemoryError:
            if tape.failed is not None and not isinstance(tape.failed, MemoryError):
                raise tape.failed from None
            raise
        return result, own

    def _argument(self, x: Any, wanted: bool) -> Argument:
        if not wanted:
            return Argument([x], [_PLAIN], "{}", ())
        if is_real(x):
            return Argument([_checked(x)], [_GIVEN], "{}", ())
        if type(x) is tuple or (isinstance(x, tuple) and hasattr(x, "_fields")):
            parts = [self._argument(y, True) for y in x]
            classes = tuple(c for p in parts for c in p.classes)
            inner = ", ".join(p.text for p in parts)
            text = f"({inner},)" if type(x) is tuple and parts else f"({inner})"
            if type(x) is not tuple:
                text, classes = f"{_named(type(x))}{text}", (*classes, type(x))
            return Argument([y for p in parts for y in p.leaves], [k for p in parts for k in p.kinds], text, classes)
        if isinstance(x, list | dict):
            raise StructureError(
                f"{self.name} is a Numba function: what is differentiated must be a float, an array of floats, or a "
                f"tuple of these, not a {type(x).__name__}"
            )
        # What is no float stays what it is; who asks for its derivative is told.
        return Argument([x], [_PLAIN], "{}", ())

    def _first(self, tape: Tape, given: list[Argument], leaves: list[Any]) -> Driver:
        """Find the compiled code on disk, or compile. Arrays that the function makes by `np.zeros` are of floats where
        that is possible, else of recorded numbers; so are arrays that it is given and stores recorded numbers in."""
        # Numba is imported here, and not before: somebody has a function of it.
        from numba.core.errors import NumbaError

        from tapegrad.njit import kept

        partials = tape.partials
        name = None
        if None not in map(exact, leaves):
            texts = [x for argument in given for x in (argument.text, argument.kinds)]
            name = kept.name_of(self.dispatcher, partials, texts, [c for a in given for c in a.classes], leaves)
        found = None if name is None else kept.find(name)
        if found is not None:
            relaxed, call = found
            return Driver(call, None, _kinds(given, relaxed))
        failed: Any = None
        for relaxed in (False, True):
            kinds = _kinds(given, relaxed)
            try:
                self._shared(leaves, kinds)
            except UnsupportedError as error:
                besides = f"\nIf it stores differentiated numbers there: {error}"
                raise refused(self.dispatcher, failed, besides) from None
            try:
                made, kind = self._compiled(partials, given, kinds, relaxed, leaves)
            except NumbaError as error:
                failed = error
                continue
            if None in map(exact, leaves):
                # Which code is meant is for Numba to find out at each call.
                return Driver(made, kind, kinds)
            (overload,) = made.overloads.values()
            if name is not None:
                kept.save(name, overload, relaxed)
            return Driver(overload.entry_point, kind, kinds)
        raise refused(self.dispatcher, failed) from None

    def _compiled(
        self, partials: bool, given: list[Argument], kinds: list[str], relaxed: bool, leaves: list[Any]
    ) -> tuple[Any, Any]:
        """The driver for arguments like these, and the object that it takes first. Raises what Numba raises."""
        from numba.types import pyobject

        from tapegrad.njit import drivers, linked, numbers, twins

        twins.prepare()
        of = numbers.PARTIALS if partials else numbers.OPERATIONS
        names = iter([f"ax{i}" for i in range(len(leaves))])
        text = [argument.text.format(*(next(names) for _ in argument.leaves)) for argument in given]
        classes = {_named(c): c for argument in given for c in argument.classes}
        twin = twins.twin(self.dispatcher, of, relaxed)
        made: Any = drivers.driver(twin, ", ".join(text), kinds, classes)
        kind = numbers.OF_PARTIALS if partials else numbers.OF_OPERATIONS
        for x in leaves:
            if made.typeof_pyval(x) is pyobject:
                raise UnsupportedError(
                    f"{self.name} is a Numba function, and {type(x).__name__}, which it is given, is not a type that "
                    "Numba knows"
                )
        made.compile(tuple(made.typeof_pyval(x) for x in (kind, 0, *leaves)))
        for overload in made.overloads.values():
            # Numbers, arrays and tuples have been lowered to plain ones by now.
            if "recorded(" in str(overload.signature.return_type):
                raise UnsupportedError(
                    f"{self.name} returns a list, or something else that is no number, array or tuple, with numbers "
                    "that are differentiated: return them as a tuple, or as an array, np.array(...)"
                )
            linked.connect(overload.library)
        return made, kind

    def _shared(self, leaves: list[Any], kinds: list[str]) -> bool:
        """Whether an array that is differentiated shares memory with another.

        Raises UnsupportedError where an array that results are stored in shares memory with another.
        """
        arrays = [(x, kind) for x, kind in zip(leaves, kinds, strict=True) if isinstance(x, np.ndarray)]
        found = False
        for i, (x, kind) in enumerate(arrays):
            for y, other in arrays[:i]:
                if not kind == other == _PLAIN and np.may_share_memory(x, y):
                    if _KEPT in (kind, other):
                        raise UnsupportedError(_SHARED.format(self.name))
                    found = True
        return found

    def _check_shared(self, args: Sequence[Any]) -> None:
        """Raise UnsupportedError where the function changes an array that it is given: it is called with copies."""
        copies = _copied(tuple(args))
        self.dispatcher(*copies)
        for x, copy in zip(_leaves(tuple(args)), _leaves(copies), strict=True):
            if isinstance(x, np.ndarray) and not np.array_equal(x, copy, equal_nan=x.dtype.kind in "fc"):
                raise UnsupportedError(_SHARED.format(self.name))


def _copied(x: Any) -> Any:
    if isinstance(x, tuple):
        parts = [_copied(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x.copy() if isinstance(x, np.ndarray) else x


_SHARED = (
    "{} changes an array that it is given, and an argument that is differentiated shares memory with another: those "
    "that are differentiated are copied, so the change would not be seen in both; pass a copy"
)


def exact(x: Any) -> Any:
    """What tells apart the arguments that Numba compiles different code for, where these are numbers, arrays of numbers
    and tuples of such; None for others."""
    if type(x) is np.ndarray:
        flags = x.flags
        if x.dtype.kind not in "biufc" or not x.dtype.isnative:
            return None
        return x.dtype, x.ndim, flags.c_contiguous, flags.f_contiguous, flags.writeable, flags.aligned
    if type(x) is int:
        return int if -(2**63) <= x < 2**63 else None
    if type(x) in (bool, float, complex, type(None)) or isinstance(x, np.number | np.bool_):
        return type(x)
    if type(x) is tuple:
        inner = tuple(map(exact, x))
        return None if None in inner else inner
    return None


def _type(x: Any) -> Any:
    found = exact(x)
    return ("", type(x)) if found is None else found


def _checked(x: Any) -> Any:
    if isinstance(x, np.ndarray) and x.dtype.itemsize > 8:
        raise DTypeError(f"a Numba function is differentiated in float64, not {x.dtype}")
    if isinstance(x, np.ndarray):
        return x if x.dtype.isnative and x.dtype.itemsize >= 4 else x.astype(np.float64)
    return float(x)


def check_floats(args: Sequence[Any], numbers: Sequence[int]) -> None:
    """Raise IntegerInputError where an argument that is differentiated holds anything but floats."""
    for n in evaluation.checked(numbers, len(args)):
        for leaf in _leaves(args[n]):
            if not is_real(leaf):
                if isinstance(leaf, list | dict):
                    continue
                raise not_floats(n, in_words(leaf))


def _leaves(x: Any) -> list[Any]:
    return [leaf for y in x for leaf in _leaves(y)] if isinstance(x, tuple) else [x]


# Numba keeps what it has compiled for ever, and so do we.
_functions: dict[Any, Function] = {}


def function(dispatcher: Any) -> Function:
    """What is kept with a Numba function."""
    found = _functions.get(dispatcher)
    return _functions.setdefault(dispatcher, Function(dispatcher)) if found is None else found

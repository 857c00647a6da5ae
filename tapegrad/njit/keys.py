"""What the code of a Numba function depends on, as bytes: code that is kept on disk is found by them. Imports Numba.

They hold the bytecode of the function and of all functions that it calls, and every number, array and name that these
take from around them. Whatever is not known to be the same thing in another process raises `Unknown`: then nothing is
kept, and each process compiles the function itself.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types as python
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import config, types
from numba.core.dispatcher import Dispatcher
from numba.core.typing.templates import builtin_registry

import tapegrad.njit
from tapegrad.ops import BY_UFUNC, TABLE

# What these hold is the same wherever their versions are.
_VERSIONED = {"builtins", "cmath", "math", "numba", "numpy", "operator", "random", "scipy"}
# Settings of a function that its twin has too.
OPTIONS = ("nogil", "fastmath", "error_model")
# Settings of Numba's that change what is compiled.
_SETTINGS = (
    "OPT", "BOUNDSCHECK", "CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "LOOP_VECTORIZE", "SLP_VECTORIZE", "USING_SVML",
    "DEBUGINFO_DEFAULT", "DEBUG_NRT", "LLVM_REFPRUNE_PASS", "LLVM_REFPRUNE_FLAGS", "EXTEND_VARIABLE_LIFETIMES",
)  # fmt: skip
# Modules of what Numba tells itself; some of it is made from text, and has none, or that of what made it.
_NUMBAS = ("numba", "tapegrad", "abc", "None")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
# Folders whose files say how a function is compiled again.
_FOLDERS = ("njit", "ops", "sweeps", "compiled")


class Unknown(Exception):
    """Something that cannot be told to be the same in another process."""


def key(dispatcher: Any) -> bytes:
    """What the code of a Numba function depends on. Raises Unknown."""
    if _foreign():
        raise Unknown("another package has functions of its own compiled in place of NumPy's")
    found = _Key()
    found.add(dispatcher)
    for x in found.held:
        # Numba compiles a function once: what was compiled before a global number was changed has the number of before.
        if isinstance(x, Dispatcher) and _noted.get(x, digest := _digest(x)) != digest:
            raise Unknown(x)
    return b"\n".join(found.parts)


# The key of each function when its first twin was made, digested; b"" for one that had none.
_noted: dict[Any, bytes] = {}


def note(dispatcher: Any) -> None:
    """Remember what a function depends on: it is being compiled."""
    if dispatcher not in _noted:
        try:
            _noted[dispatcher] = _digest(dispatcher)
        except Unknown:
            _noted[dispatcher] = b""


def _digest(dispatcher: Any) -> bytes:
    found = _Key()
    found.add(dispatcher)
    return hashlib.sha256(b"\n".join(found.parts)).digest()


def key_of_class(cls: type) -> bytes:
    """What code depends on that takes named tuples of a class. Raises Unknown."""
    found = _Key()
    found.add(cls)
    return b"\n".join(found.parts)


@functools.cache
def surroundings() -> bytes:
    """What all of them depend on besides: our own source, versions, Numba's settings. Raises Unknown."""
    folder = Path(tapegrad.njit.__file__).parents[1]
    whole = hashlib.sha256()
    for name in _FOLDERS:
        for file in sorted((folder / name).rglob("*.py")):
            whole.update(file.read_bytes())
    from scipy import __version__ as scipy

    settings = [repr(getattr(config, name, None)) for name in _SETTINGS]
    return f"{whole.hexdigest()} {sys.version} {scipy} {settings}".encode()


def table() -> bytes:
    """The numbers of operations, which stand in code that records operations."""
    return " ".join(row.name for row in TABLE).encode()


def _foreign() -> bool:
    """Whether somebody else has told Numba how to compile functions or attributes that are not theirs."""
    for template in [*builtin_registry.functions, *builtin_registry.attributes]:
        made = getattr(template, "_overload_func", None) or getattr(template, "_definition_func", None) or template
        # Intrinsic functions change nothing before somebody names them.
        if _root(made.__module__) not in _NUMBAS and not hasattr(template, "_definition_func"):
            return True
    return False


class _Key:
    """Collects the parts of a key."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._seen: dict[int, int] = {}
        self._count = 0
        # Objects whose address is in `_seen` are held, so that no other has it.
        self.held: list[Any] = []

    def say(self, *what: Any) -> None:
        """Add words."""
        self.parts.append(" ".join(map(str, what)).encode())

    def _is_new(self, x: Any) -> bool:
        """Whether something is met for the first time; else say which it is."""
        if id(x) in self._seen:
            self.say("again", self._seen[id(x)])
            return False
        self._count += 1
        self._seen[id(x)] = self._count
        self.held.append(x)
        return True

    def add(self, x: Any, named: frozenset[str] = frozenset()) -> None:
        """Add something that a function takes from around it; `named` are the attributes that it names."""
        if type(x) in _PLAIN:
            self.say(type(x).__name__, repr(x))
        elif isinstance(x, np.generic):
            self.say(x.dtype.str, x.tobytes().hex())
        elif type(x) is np.ndarray and x.dtype.kind in "biufc":
            self.say("array", x.dtype.str, x.shape, x.strides, hashlib.sha256(x.tobytes()).hexdigest())
        elif isinstance(x, tuple):
            if type(x) is not tuple:
                self.add(type(x))
            self.say("tuple", len(x))
            for y in x:
                self.add(y, named)
        elif isinstance(x, frozenset):
            self.say("set", sorted(map(repr, x)))
            if not all(type(y) in _PLAIN for y in x):
                raise Unknown(x)
        elif isinstance(x, Dispatcher):
            if self._is_new(x):
                self.say("compiled", [(name, x.targetoptions.get(name)) for name in OPTIONS])
                self._function(x.py_func)
        elif isinstance(x, python.ModuleType):
            self._module(x, named)
        elif isinstance(x, np.dtype | types.Number | types.Boolean):
            self.say(type(x).__name__, x)
        elif isinstance(x, np.ufunc):
            self._ufunc(x)
        elif isinstance(x, type) and (issubclass(x, BaseException) or (issubclass(x, tuple) and hasattr(x, "_fields"))):
            _importable(x)
            self.say("class", x.__module__, x.__qualname__, getattr(x, "_fields", ""))
        else:
            # What a package says for certain, such as np.sum, math.sqrt, range, np.float64.
            if _root(getattr(x, "__module__", None)) not in _VERSIONED:
                raise Unknown(x)
            _importable(x)
            self.say("known", x.__module__, x.__qualname__)

    def _module(self, module: Any, named: frozenset[str]) -> None:
        self.say("module", module.__name__)
        if _root(module.__name__) in _VERSIONED or not self._is_new(module):
            return
        for name in sorted(named):
            if hasattr(module, name):
                self.say("attribute", name)
                self.add(getattr(module, name), named)
        # Another function may name other attributes of it.
        del self._seen[id(module)]

    def _ufunc(self, x: Any) -> None:
        special = sys.modules.get("scipy.special")
        if not any(getattr(module, x.__name__, None) is x for module in (np, special) if module):
            raise Unknown(x)
        row = BY_UFUNC.get(x)
        rule = getattr(row, "value", None)
        if rule is not None and _root(getattr(rule, "__module__", None)) != "tapegrad":
            raise Unknown(x)
        self.say("ufunc", x.__name__)

    def _function(self, f: Any) -> None:
        codes = list(_codes(f.__code__))
        named = frozenset(name for code in codes for name in code.co_names)
        for code in codes:
            table = getattr(code, "co_exceptiontable", b"")
            self.say(
                "code", code.co_code.hex(), table.hex(), code.co_names, code.co_varnames, code.co_freevars,
                code.co_cellvars, code.co_flags, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount,
            )  # fmt: skip
            for constant in code.co_consts:
                if not isinstance(constant, python.CodeType):
                    self.add(constant)
        self.add(f.__defaults__)
        self.add(tuple(sorted((f.__kwdefaults__ or {}).items())))
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            self.say("around", name)
            try:
                self.add(cell.cell_contents, named)
            except ValueError:
                raise Unknown(name) from None
        for name in sorted({name for code in codes for name in _globals(code)}):
            self.say("global", name)
            if name in f.__globals__:
                self.add(f.__globals__[name], named)
            elif name in vars(sys.modules["builtins"]):
                self.add(vars(sys.modules["builtins"])[name], named)
            else:
                raise Unknown(name)


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _importable(x: Any) -> None:
    """Raise Unknown where another process does not find this very object by its names."""
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", None)
    found: Any = None if module == "__main__" else sys.modules.get(str(module))
    for part in str(name).split("."):
        found = getattr(found, part, None)
    if name is None or found is not x:
        raise Unknown(x)


def _codes(code: Any) -> Iterator[Any]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, python.CodeType):
            yield from _codes(constant)


def _globals(code: Any) -> set[str]:
    return {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}

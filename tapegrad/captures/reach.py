"""From a function to all that it reads from around it: closure cells, globals, defaults, attributes, and what is in
these.

It is not known which attributes of which object a function reads. So of each object that can be reached those
attributes count whose names stand anywhere in the code that can be reached. Globals of installed packages are taken to
stay as they are, but for the package that the function itself is from.
"""

from __future__ import annotations

import array
import functools
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from tapegrad.attached import strong
from tapegrad.captures import drawing
from tapegrad.captures.reading import names_of

# Objects that are followed for one function, at most.
_MOST = 4096
# A list or dict with more elements than this is watched as a whole, not element by element at every call.
_FEW = 8

_PACKAGE = str(Path(__file__).parents[1])
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OURS = __name__.partition(".")[0]
_PLAIN = (
    int, float, complex, str, bytes, type(None), type(...), slice, range, np.generic, np.dtype, np.ufunc, CodeType,
)  # fmt: skip
# What sparse matrices of SciPy hold.
_OF_SPARSE = frozenset(["data", "indices", "indptr", "coords", "offsets", "rows", "_dict"])
# Methods that Python calls without their names standing in the code.
_CALLED = frozenset(
    ["__call__", "__iter__", "__len__", "__getitem__", "__getattr__", "__contains__", "__enter__", "__bool__"]
    + [f"__{side}{name}__" for side in ("", "r") for name in ("add", "sub", "mul", "truediv", "pow", "matmul")]
)


class Binding(NamedTuple):
    """One name and what it is bound to.

    Attributes:
        text: how the object is read, as Python.
        holder: the cell, dict, list or object that binds it.
        key: the key, index or attribute.
        found: what was bound when this was made.
        name: what to call it in messages.
    """

    text: str
    holder: Any
    key: Any
    found: Any
    name: str

    @property
    def place(self) -> tuple[Any, ...]:
        """What tells it from others."""
        return id(self.holder), self.text, self.key

    def condition(self, i: int) -> str:
        """That it is bound to what it was, as Python, where holder, key and what was found are called h, k, o and i."""
        read = self.text.format(h=f"h{i}", k=self.key if self.text == _ATTRIBUTE else f"k{i}")
        return f"{read} == o{i}" if self.text == _LENGTH else f"{read} is o{i}"

    def now(self) -> Any:
        """What is bound now. Raises whatever reading it raises where nothing is."""
        if self.text == _CELL:
            return self.holder.cell_contents
        if self.text == _ITEM:
            return self.holder[self.key]
        if self.text == _PRESENT:
            return self.key in self.holder
        return len(self.holder) if self.text == _LENGTH else getattr(self.holder, self.key)


_CELL, _ITEM, _ATTRIBUTE, _LENGTH, _PRESENT = "{h}.cell_contents", "{h}[{k}]", "{h}.{k}", "len({h})", "({k} in {h})"


class Reach:
    """All that a function can reach.

    Attributes:
        bindings: the names.
        arrays, collections: arrays, and lists, dicts and sets of many elements, with names for messages.
        generators: of random numbers.
        names_random: whether the code names `random`, and so may draw from the generators that all share.
    """

    def __init__(self, f: Any, given: Iterable[Any]) -> None:
        self.bindings: list[Binding] = []
        self.arrays: list[tuple[str, np.ndarray]] = []
        self.collections: list[tuple[str, Any]] = []
        self.generators: list[Any] = []
        self.names_random = False
        self._names: set[str] = set()
        self._met: dict[int, Any] = {}
        self._places: set[Any] = set()
        self._objects: list[tuple[str, Any]] = []
        self._scanned: dict[int, set[str]] = {}
        self._own = _top(getattr(strong(f), "__module__", None))
        self._visit("", f)
        for x in given:
            self._visit("an argument", x)
        known = -1
        # More code names more attributes, and behind these there may be more code.
        while known != len(self._names) + len(self._met):
            known = len(self._names) + len(self._met)
            for name, x in self._objects:
                self._scan(name, x)

    def _bind(self, text: str, holder: Any, key: Any, found: Any, name: str) -> None:
        binding = Binding(text, holder, key, found, name)
        if binding.place not in self._places:
            self._places.add(binding.place)
            self.bindings.append(binding)

    def _visit(self, name: str, x: Any) -> None:
        x = strong(x)
        if isinstance(x, _PLAIN) or id(x) in self._met or len(self._met) >= _MOST:
            return
        self._met[id(x)] = x
        if isinstance(x, np.ndarray) and x.dtype.hasobject:
            self.collections.append((name, x))
            self._elements(name, x.reshape(-1).tolist())
        elif isinstance(x, np.ndarray):
            self.arrays.append((name, x))
        elif isinstance(x, FunctionType):
            self._function(x)
        elif isinstance(x, MethodType | BuiltinMethodType):
            self._visit(name, getattr(x, "__func__", None))
            self._visit(name, x.__self__)
        elif isinstance(x, functools.partial):
            self._visit(name, x.func)
            self._elements(name, x.args)
            self._elements(name, x.keywords.values())
        elif isinstance(x, list | tuple | dict | set | frozenset | deque | array.array | bytearray):
            self._collection(name, x)
        elif isinstance(x, drawing.generators()):
            self.generators.append(x)
        elif isinstance(x, ModuleType):
            if self._is_open(x.__name__):
                self._objects.append((name, x))
        elif isinstance(x, type):
            if self._is_open(x.__module__):
                self._objects.append((name, x))
        elif _top(type(x).__module__) == _OURS:
            if getattr(type(x), "read_by_recordings", False):
                self._own_attributes(name, x)
                self._what_is_called(name, x)
                return
            # Our own objects hold functions of users. They say which of them are recorded, if not all are.
            functions = [y for y in getattr(x, "__dict__", {}).values() if callable(y)]
            self._elements(name, getattr(x, "recorded_functions", functions))
        elif type(x).__module__.startswith("scipy.sparse."):
            # Its products read all of it, whatever the code names.
            for key in sorted(_OF_SPARSE & getattr(x, "__dict__", {}).keys()):
                self._bind(_ATTRIBUTE, x, key, getattr(x, key), f"{name}.{key}")
                self._visit(f"{name}.{key}", getattr(x, key))
        else:
            if getattr(type(x), "read_by_recordings", False):
                self._what_is_called(name, x)
            self._objects.append((name, x))
            self._visit(name, type(x))

    def _is_open(self, module: str) -> bool:
        return (_top(module) == self._own != _OURS) or not _is_installed(_top(module))

    def _function(self, f: FunctionType) -> None:
        names, is_open = names_of(f.__code__), self._is_open(str(f.__globals__.get("__name__")))
        self.names_random |= "random" in names.attributes
        if is_open:
            self._names |= names.attributes
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            try:
                found = cell.cell_contents
            except ValueError:
                # It is not bound yet.
                continue
            # Cells of our own functions, and of those of libraries, hold what these keep for themselves.
            if is_open:
                self._bind(_CELL, cell, None, found, name)
            self._visit(name, found)
        for attribute in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(f, attribute)
            if defaults:
                self._bind(_ATTRIBUTE, f, attribute, defaults, f"the defaults of {f.__qualname__}")
                self._visit(f"a default of {f.__qualname__}", defaults)
        if not is_open:
            return
        self._objects.append((f.__name__, f))
        for name in sorted(names.globals & f.__globals__.keys()):
            found = f.__globals__[name]
            if not isinstance(found, ModuleType) or self._is_open(found.__name__):
                self._bind(_ITEM, f.__globals__, name, found, name)
            self._visit(name, found)

    def _own_attributes(self, name: str, x: Any) -> None:
        """Bind what stands in the attributes of an object of ours, such as a layer, but not its notes."""
        own = vars(x)
        for key, found in own.copy().items():
            if not key.startswith("_"):
                self._bind(_ITEM, own, key, found, f"{name}.{key}")
                self._visit(f"{name}.{key}", found)

    def _what_is_called(self, name: str, x: Any) -> None:
        """Bind the class of a layer, and the method that calls go to, in the place of which it may get another."""
        own, method = vars(x), type(x).called_by_recordings
        self._bind(_ATTRIBUTE, x, "__class__", type(x), f"the class of {name}")
        if method in own:
            self._bind(_ITEM, own, method, own[method], f"{name}.{method}")
            self._visit(f"{name}.{method}", own[method])
        else:
            self._bind(_PRESENT, own, method, False, f"{name}.{method}")

    def _collection(self, name: str, x: Any) -> None:
        elements = list(x.values()) if isinstance(x, dict) else list(x)
        if isinstance(x, list | dict) and len(x) <= _FEW:
            self._bind(_LENGTH, x, None, len(x), name)
            for key, found in dict(x).items() if isinstance(x, dict) else enumerate(list(x)):
                self._bind(_ITEM, x, key, found, f"{name}[{key!r}]")
        elif not isinstance(x, tuple | frozenset):
            self.collections.append((name, x))
        self._elements(name, elements)

    def _elements(self, name: str, elements: Iterable[Any]) -> None:
        for x in elements:
            self._visit(name, x)

    def _scan(self, name: str, x: Any) -> None:
        """Bind the attributes of a module, class or instance whose names are in the code."""
        done = self._scanned.setdefault(id(x), set())
        new = (self._names | _CALLED if isinstance(x, type) else self._names) - done
        done |= new
        if isinstance(x, type):
            self._scan_class(name, x, new)
            return
        # Where an object keeps its attributes they are what was assigned; reading one may make a new object each time.
        own: dict[str, Any] = getattr(x, "__dict__", {})
        for key in sorted(new):
            path = f"{name}.{key}" if name else key
            if key in own:
                found = own[key]
                self._bind(_ITEM, own, key, found, path)
            elif isinstance(x, ModuleType):
                continue
            elif _is_stored(type(x), key):
                found = getattr(x, key, None)
                self._bind(_ATTRIBUTE, x, key, found, path)
            else:
                if hasattr(type(x), key) and hasattr(x, "__dict__"):
                    # A method, in the place of which the object may get something of its own.
                    self._bind(_PRESENT, own, key, False, path)
                continue
            self._visit(path, found)

    def _scan_class(self, name: str, x: type, names: set[str]) -> None:
        for base in x.__bases__:
            self._visit(name, base)
        if any(base is not object and not self._is_open(base.__module__) for base in x.__mro__):
            # What such a base class calls is not known, so it may be any method.
            names |= {key for key, found in vars(x).items() if isinstance(found, FunctionType)}
        for key in sorted(names & vars(x).keys()):
            found = vars(x)[key]
            if isinstance(found, property):
                self._visit(name, found.fget)
            elif isinstance(found, staticmethod | classmethod):
                self._visit(name, found.__func__)
            elif isinstance(found, FunctionType):
                self._bind(_ATTRIBUTE, x, key, found, f"{x.__qualname__}.{key}")
                self._visit(name, found)
            elif not hasattr(found, "__get__"):
                self._bind(_ATTRIBUTE, x, key, found, f"{x.__qualname__}.{key}")
                self._visit(f"{x.__qualname__}.{key}", found)


def _is_stored(kind: type, key: str) -> bool:
    """Whether instances of a class have an attribute as data: in a slot, or as a plain object of the class."""
    for base in kind.__mro__:
        if key in vars(base):
            found = vars(base)[key]
            return not hasattr(found, "__get__") or type(found).__name__ == "member_descriptor"
    return False


def _top(module: Any) -> str:
    return str(module).partition(".")[0]


@functools.lru_cache(1 << 10)
def _is_installed(top: str) -> bool:
    """Whether a module, by the first part of its name, belongs to Python, to this package or to an installed one."""
    if top in sys.stdlib_module_names:
        return True
    found = sys.modules.get(top)
    places = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
    return any(p and str(p).startswith((_PACKAGE, *_INSTALLED)) for p in places)


def can_change(x: Any) -> bool:
    """Whether an object is more than a number or string: something that may hold other things at another time."""
    return not isinstance(x, _PLAIN)

"""The tree of a module: which parameters and modules stand in its attributes, in lists, tuples and dicts too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tapegrad.nn.parameter import Parameter, parameter_of
from tapegrad.value import Value

_NUMBERS = (bool, int, float, complex, str, bytes, type(None), np.generic)
# What the elements of long lists and dicts are mostly: nothing is in them.
_PLAIN = frozenset([bool, int, float, str, bytes, type(None), np.ndarray])
# Attributes in which a module notes things about itself.
NOTES = ("_known", "_marked", "_made_on")
# And those that a recording does not depend on, or is told apart by in another way.
_UNMARKED = (*NOTES, "_training")
# Arrays of up to so many bytes are compared number by number, longer ones by which array they are.
_FEW_BYTES = 1 << 12


class Tree:
    """The part of `Module` that knows what it is made of."""

    # What stands in its attributes decides what it computes: see `captures.reach`.
    read_by_recordings = True
    # And whether this one of its methods, or its class, has been replaced.
    called_by_recordings = "forward"

    # The attribute whose parts are named without it: "0.weight" in a `Sequential`, not "modules.0.weight".
    _unnamed: str | None = None

    def _parts(self) -> Iterator[tuple[str, Any]]:
        # The parameters and modules in its attributes, but not those inside of these modules. Parameters that are
        # attributes themselves come first, as in PyTorch.
        # A copy, as another thread that is the first to call it may add its notes.
        own = vars(self).copy()
        yield from ((name, value) for name, value in own.items() if isinstance(value, Parameter))
        for name, value in own.items():
            if not isinstance(value, Parameter) and name not in NOTES:
                yield from _inside("" if name == self._unnamed else name, value, ())

    def named_children(self) -> Iterator[tuple[str, Any]]:
        """The modules in its attributes, with their names: "head", "blocks.0" in a list or tuple, "heads.en" in a dict.

        >>> from tapegrad.nn import Linear, Sequential, Tanh
        >>> list(Sequential(Linear(2, 3), Tanh()).named_children())
        [('0', Linear(2, 3)), ('1', Tanh())]
        """
        return ((name, part) for name, part in self._parts() if isinstance(part, Tree))

    def children(self) -> Iterator[tuple[str, Any]]:
        """The same as `named_children`."""
        return self.named_children()

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """The module itself, under the name "", and all modules inside of it, each once, with their names.

        >>> from tapegrad.nn import Linear, Sequential, Tanh
        >>> [name for name, _ in Sequential(Linear(2, 3), Sequential(Tanh())).named_modules()]
        ['', '0', '1', '1.0']
        """
        yield from self._modules("", set())

    def _modules(self, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield name, self
        for key, child in self.named_children():
            yield from child._modules(f"{name}.{key}" if name else key, seen)

    def modules(self) -> Iterator[Any]:
        """The module itself and all modules inside of it, each once.

        >>> from tapegrad.nn import Linear, Sequential, Tanh
        >>> [type(m).__name__ for m in Sequential(Linear(2, 3), Tanh()).modules()]
        ['Sequential', 'Linear', 'Tanh']
        """
        return (module for _, module in self.named_modules())

    def _tree(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Parameter]]:
        # A parameter or module that occurs twice counts once, under the name by which it is met first.
        seen = set() if seen is None else seen
        if id(self) in seen:
            return
        seen.add(id(self))
        for name, part in self._parts():
            if isinstance(part, Tree):
                yield from part._tree(f"{prefix}{name}.", seen)
            elif id(part) not in seen:
                seen.add(id(part))
                yield prefix + name, part

    def _marks(self, keep: bool = True) -> Marks:
        return Marks(self, keep)


class Marks:
    """All that a recording of a module may depend on, but for the numbers of its parameters: which modules and
    parameters stand where in its tree, and their other attributes. Equal marks of one module: the recording still
    holds.

    The mode, training or evaluation, is none of them: recordings for both are kept (see `buffers.modes_of`).

    Numbers and strings are compared by value, other objects by which object they are, and arrays of a few numbers by
    these as well. A module that keeps its own marks is not kept alive by them (`keep`).
    """

    def __init__(self, module: Tree, keep: bool = True) -> None:
        self.module = module if keep else None
        self._found: list[Any] = []
        self._met: dict[int, tuple[int, Any]] = {}
        self._note("", module)
        if not keep:
            self._met.pop(id(module))

    @property
    def reached(self) -> Any:
        """The module: what its methods read belongs to what a recording depends on. See `pytree.behind`."""
        return self.module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Marks) and self.module is other.module and self._found == other._found

    def __hash__(self) -> int:
        return hash((id(self.module), len(self._found)))

    def _note(self, name: Any, x: Any) -> None:
        if isinstance(x, _NUMBERS):
            # As a text, because NaN is not equal to itself, and -0.0 is to 0.0.
            self._found.append((name, type(x), repr(x) if isinstance(x, float | complex | np.generic) else x))
            return
        met = self._met.get(id(x))
        if met is not None:
            self._found.append((name, met[0]))
            return
        # What was met is kept alive, or another object could get its id.
        self._met[id(x)] = len(self._met), x
        if isinstance(x, Tree | list | tuple | dict):
            of_module = isinstance(x, Tree)
            items: Any = {key: x for key, x in vars(x).copy().items() if key not in _UNMARKED} if of_module else x
            self._found.append((name, type(x), id(x) if of_module else None, len(items)))
            for key, item in _items(items):
                self._note(key, item)
        elif isinstance(x, np.ndarray) and x.nbytes <= _FEW_BYTES and not x.dtype.hasobject:
            self._found.append((name, x.dtype, x.shape, x.tobytes()))
        else:
            self._found.append((name, id(x)))


def _items(x: Any) -> Iterable[tuple[Any, Any]]:
    return x.items() if isinstance(x, dict) else enumerate(x)


def _inside(name: str, value: Any, within: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    # The parameters and modules in nested lists, tuples and dicts. A list that holds itself is looked at once.
    if isinstance(value, Parameter | Tree):
        yield name, value
    elif isinstance(value, list | tuple | dict) and id(value) not in within:
        for key, item in _items(value):
            if type(item) not in _PLAIN:
                if isinstance(item, Value | tuple) and not isinstance(value, tuple):
                    # It may have been put into the list when there was no parameter in it yet.
                    same, item = item, tied(item)
                    if item is not same:
                        value[key] = item
                yield from _inside(f"{name}.{key}" if name else str(key), item, (*within, id(value)))


def tied(x: Any, within: tuple[int, ...] = ()) -> Any:
    """Parameters in place of their handles, in a copy of nested lists, tuples and dicts; what has none is itself."""
    if isinstance(x, Value):
        return parameter_of(x) or x
    if not isinstance(x, list | tuple | dict) or id(x) in within:
        return x
    new: dict[Any, Any] = {}
    for key, item in _items(x):
        if type(item) not in _PLAIN:
            found = tied(item, (*within, id(x)))
            if found is not item:
                new[key] = found
    if not new:
        return x
    if isinstance(x, tuple):
        items = [new.get(i, item) for i, item in enumerate(x)]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    copy = x.copy()
    for key, item in new.items():
        copy[key] = item
    return copy


def holds_parameters(x: Any, within: tuple[int, ...] = ()) -> bool:
    """Whether there are parameters in nested lists, tuples and dicts; those of modules do not count.

    >>> holds_parameters([1.0, {"w": Parameter(np.zeros(2))}])
    True
    """
    if type(x) is Parameter:
        return True
    if not isinstance(x, list | tuple | dict) or id(x) in within:
        return False
    return any(type(v) not in _PLAIN and holds_parameters(v, (*within, id(x))) for _, v in _items(x))


def replaced(x: Any, made: dict[int, Any], copied: Callable[[Any], Any]) -> Any:
    """A copy of nested lists, tuples and dicts in which `copied` takes the place of what is no container, where
    parameters or modules are among it; else the object itself. `made` has the copies by the ids of what they are of."""
    if id(x) in made:
        return made[id(x)]
    if not isinstance(x, list | tuple | dict) or not any(True for _ in _inside("", x, ())):
        return copied(x)
    if isinstance(x, tuple):
        items = [replaced(item, made, copied) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    # An empty copy first, as a list may hold itself; `copy` keeps what subclasses have besides.
    copy = made[id(x)] = x.copy()
    for key, item in _items(x):
        copy[key] = replaced(item, made, copied)
    return copy

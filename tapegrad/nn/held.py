"""Lists and dicts of parameters, as a module shows them: reading gives Values, changing changes the module's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.errors import ShapeError, StructureError
from tapegrad.nn.calls import calls
from tapegrad.nn.parameter import Parameter, is_of_a_model
from tapegrad.nn.tree import holds_parameters, tied
from tapegrad.value import Value


class HeldList(MutableSequence[Any]):
    """A module's list of parameters. Its elements are read as Values; to append, insert, assign and delete changes the
    list that the module has.

    >>> import numpy as np
    >>> from tapegrad.nn import Module
    >>> class Two(Module):
    ...     def __init__(self):
    ...         self.w = [Parameter(np.ones(2)), Parameter(np.zeros(3))]
    >>> module = Two()
    >>> [w.shape for w in module.w]
    [(2,), (3,)]
    >>> module.w.append(Parameter(np.zeros(4)))
    >>> [name for name, _ in module.named_parameters()]
    ['w.0', 'w.1', 'w.2']
    """

    def __init__(self, held: list[Any], read: Callable[[Parameter], Any]) -> None:
        self.held, self._read = held, read

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: Any) -> Any:
        found = self.held[index]
        if isinstance(index, slice):
            return [shown(x, self._read) for x in found]
        return shown(found, self._read)

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            self.held[index] = taken(value, f"[{index!r}]", self.held[index])
        else:
            self.held[index] = [taken(x, "an element") for x in value]

    def __delitem__(self, index: Any) -> None:
        del self.held[index]

    def insert(self, index: int, value: Any) -> None:
        """Put something before a position."""
        self.held.insert(index, taken(value, "an element"))

    def __add__(self, other: Any) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Any) -> list[Any]:
        return [*other, *self]

    def __repr__(self) -> str:
        return repr(self.held)


class HeldDict(MutableMapping[Any, Any]):
    """A module's dict of parameters; see `HeldList`."""

    def __init__(self, held: dict[Any, Any], read: Callable[[Parameter], Any]) -> None:
        self.held, self._read = held, read

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.held)

    def __getitem__(self, key: Any) -> Any:
        return shown(self.held[key], self._read)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.held[key] = taken(value, f"[{key!r}]", self.held.get(key))

    def __delitem__(self, key: Any) -> None:
        del self.held[key]

    def __repr__(self) -> str:
        return repr(self.held)


# Functions that take nested arguments, as `tg.scan` does, see what a plain list or dict of the Values would show.
pytree.register(HeldList, lambda x: (list(x), None, list(map(str, range(len(x))))), lambda _, parts: list(parts))
pytree.register(
    HeldDict, lambda x: (list(x.values()), tuple(x), list(map(str, x))), lambda keys, parts: dict(zip(keys, parts))
)


def shown(x: Any, read: Callable[[Parameter], Any]) -> Any:
    """What a module shows of what it holds: Values for parameters, in nested lists, tuples and dicts too."""
    if type(x) is Parameter:
        return read(x)
    if not isinstance(x, list | tuple | dict) or not holds_parameters(x):
        return x
    if isinstance(x, list):
        return HeldList(x, read)
    if isinstance(x, dict):
        return HeldDict(x, read)
    items = [shown(item, read) for item in x]
    return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)


def taken(x: Any, name: str, old: Any = None) -> Any:
    """What a module keeps of what is put into it under a name: the parameters themselves of which it gets the handles,
    and the list or dict itself that a module has shown. `old` is what was there before.

    Results of a call are kept as they are. Raises StructureError for a view of a parameter, and for what is no
    parameter in the place of one; ShapeError for another module's parameter in the place of one of another shape.
    """
    new: Any = x.held if isinstance(x, HeldList | HeldDict) else x
    if not calls.depth:
        new = tied(new)
        _refuse_views(new, name)
    _refuse_numbers(old, new, name)
    if new is not x and isinstance(old, Parameter) and old.shape != new.shape:
        raise ShapeError(
            f"{name} is a parameter of shape {old.shape}, it cannot be tied to one of shape {new.shape}; to use the "
            "other one transposed, say, calculate with it in forward"
        )
    return new


def _refuse_views(x: Any, name: str, within: tuple[int, ...] = ()) -> None:
    if isinstance(x, Value):
        if is_of_a_model(x):
            raise StructureError(
                f"{name} would hold a view of a model's parameters, which does not follow when these change: assign "
                "the parameter itself, read anew, and calculate the view in forward"
            )
    elif isinstance(x, list | tuple | dict) and id(x) not in within:
        for item in x.values() if isinstance(x, dict) else x:
            if not isinstance(item, np.ndarray | int | float | str):
                _refuse_views(item, name, (*within, id(x)))


def _refuse_numbers(old: Any, new: Any, name: str) -> None:
    """Raise StructureError where something that is no parameter would take the place of one."""
    if isinstance(old, Parameter) and not isinstance(new, Parameter):
        raise StructureError(
            f"{name!r} is a parameter: write model.{name}.data = numbers to change its numbers, or assign a Parameter"
            if name[:1] != "["
            else f"{name} is a parameter: write ...{name}.data = numbers to change its numbers, or assign a Parameter"
        )

"""Modules made of modules: one after another, in lists and dicts, with their input added; and `Flatten`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, StructureError
from tapegrad.nn.calls import called
from tapegrad.nn.module import Module


def _module(x: Any, what: str) -> Module:
    if not isinstance(x, Module):
        raise StructureError(f"{what} takes modules, not {type(x).__name__}")
    return x


class _Chain(tuple[Module, ...]):
    """The modules of a `Sequential`. Called, it gives what the method `modules` of other modules gives."""

    def of(self, module: Module) -> _Chain:
        self._module = module
        return self

    def __call__(self) -> Iterator[Module]:
        return Module.modules(self._module)


class Sequential(Module):
    """Modules one after another: the output of each is the input of the next.

    They can be replaced, `model[2] = module`, and removed, `del model[2]`; `model[:2]` is a chain of the first two
    modules themselves. Raises StructureError for what is no module.

    >>> from tapegrad.nn import Linear, Tanh
    >>> Sequential(Linear(2, 3), Tanh(), Linear(3, 1))
    Sequential(
      (0): Linear(2, 3)
      (1): Tanh()
      (2): Linear(3, 1)
      13 parameters, float64
    )
    """

    _unnamed = "chain"

    def __init__(self, *modules: Module) -> None:
        self.chain = tuple(_module(m, type(self).__name__) for m in modules)

    def forward(self, x: Any) -> Any:
        for module in self.chain:
            x = module(x)
        return x

    def append(self, module: Module) -> Sequential:
        """Put a module at the end; returns the chain itself."""
        self.chain = (*self.chain, _module(module, type(self).__name__))
        return self

    @property
    def modules(self) -> Any:
        """The modules of the chain, a tuple that can be assigned. Called, as `modules()`, it gives the chain itself and
        all modules inside of it, each once, as the method of other modules does."""
        return _Chain(self.chain).of(self)

    @modules.setter
    def modules(self, modules: Iterable[Module]) -> None:
        self.chain = tuple(_module(m, type(self).__name__) for m in modules)

    def __len__(self) -> int:
        return len(self.chain)

    def __getitem__(self, index: Any) -> Any:
        return Sequential(*self.chain[index]) if isinstance(index, slice) else self.chain[index]

    def __setitem__(self, index: int, module: Module) -> None:
        chain = list(self.chain)
        chain[index] = _module(module, type(self).__name__)
        self.chain = tuple(chain)

    def __delitem__(self, index: Any) -> None:
        chain = list(self.chain)
        del chain[index]
        self.chain = tuple(chain)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.chain)


class ModuleList(Module):
    """A list of modules, for a `forward` that goes through it. A plain list of modules does as well.

    Raises TypeError for what is no module.

    >>> from tapegrad.nn import Linear
    >>> layers = ModuleList(Linear(n, n + 1) for n in (2, 3))
    >>> layers.append(Linear(4, 1, bias=False))
    ModuleList(
      (0): Linear(2, 3)
      (1): Linear(3, 4)
      (2): Linear(4, 1, bias=False)
      29 parameters, float64
    )
    >>> [name for name, _ in layers.named_parameters()]
    ['0.weight', '0.bias', '1.weight', '1.bias', '2.weight']
    """

    _unnamed = "listed"

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.listed = [_module(m, "ModuleList") for m in modules]

    def append(self, module: Module) -> ModuleList:
        """Put a module at the end; returns the list itself."""
        self.listed.append(_module(module, "ModuleList"))
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Put modules at the end; returns the list itself."""
        self.listed.extend([_module(m, "ModuleList") for m in modules])
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before a position."""
        self.listed.insert(index, _module(module, "ModuleList"))

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: Any) -> Any:
        return ModuleList(self.listed[index]) if isinstance(index, slice) else self.listed[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.listed[index] = _module(module, "ModuleList")

    def __delitem__(self, index: Any) -> None:
        del self.listed[index]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.listed)


class ModuleDict(Module):
    """Modules by name, for a `forward` that chooses among them. A plain dict of modules does as well.

    Raises TypeError for what is no module, or a name that is no string.

    >>> from tapegrad.nn import Linear
    >>> heads = ModuleDict({"mean": Linear(3, 1), "spread": Linear(3, 1)})
    >>> heads["mean"](np.zeros((2, 3))).shape
    (2, 1)
    >>> [name for name, _ in heads.named_parameters()]
    ['mean.weight', 'mean.bias', 'spread.weight', 'spread.bias']
    """

    _unnamed = "named"

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        self.named: dict[str, Module] = {}
        self.update(modules)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Take over modules by name."""
        for name, module in dict(modules).items():
            self[name] = module

    def keys(self) -> Iterable[str]:
        """The names, in the order in which they were put in."""
        return self.named.keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self.named.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """The names and modules."""
        return self.named.items()

    def __len__(self) -> int:
        return len(self.named)

    def __getitem__(self, name: str) -> Module:
        return self.named[name]

    def __setitem__(self, name: str, module: Module) -> None:
        if not isinstance(name, str):
            raise StructureError(f"the names in a ModuleDict are strings, not {type(name).__name__}")
        self.named[name] = _module(module, "ModuleDict")

    def __delitem__(self, name: str) -> None:
        del self.named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __contains__(self, name: object) -> bool:
        return name in self.named


class Residual(Sequential):
    """x + f(x), where f is a chain of modules.

    Raises ShapeError where f gives another shape than it gets.

    >>> from tapegrad.nn import Linear, Tanh
    >>> block = Residual(Linear(3, 8), Tanh(), Linear(8, 3))
    >>> block(np.zeros((2, 3))).shape
    (2, 3)
    """

    def forward(self, x: Any) -> Any:
        result = super().forward(x)
        if np.shape(result) != np.shape(x):
            raise ShapeError(
                f"{called(self)} adds what its modules give to what they get: they got shape {np.shape(x)} and gave "
                f"{np.shape(result)}"
            )
        return x + result


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` as one, by default all but the first, along which the samples lie.

    Raises ShapeError for axes that the array does not have, or in another order.

    >>> Flatten()(np.zeros((5, 2, 3, 4))).shape
    (5, 24)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        shape = np.shape(x)
        n = len(shape)
        first, last = (d + n if d < 0 else d for d in (self.start_dim, self.end_dim))
        if not 0 <= first <= last < n:
            raise ShapeError(
                f"{called(self)} joins axes {self.start_dim} to {self.end_dim}, which an array of shape {shape} has not"
            )
        return np.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))

    def describe(self) -> str:
        return "" if (self.start_dim, self.end_dim) == (1, -1) else f"{self.start_dim}, {self.end_dim}"

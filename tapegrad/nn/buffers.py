"""What a module holds besides parameters: buffers, which are numbers that no optimiser changes, and its mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from tapegrad.carried import note_mode, note_own_mode
from tapegrad.errors import DTypeError, OperationError
from tapegrad.tape import recording_tape


class Buffer:
    """Numbers of a module that are no parameters, such as running statistics.

    Assign one to an attribute of a module. Reading the attribute gives an array that cannot be changed in place, or a
    number where it has no axes; assigning numbers of the same shape to it writes them, and so does `self.n += 1`, which
    leaves what was read before as it is. No gradient flows through a buffer. In a recorded function reading gives a
    Value: each replay reads the numbers that the buffer has then, and writes what the function writes. So do the
    compiled steps of `Training`.

    Buffers are saved with a module's parameters, but they are not among `parameters()`, nor in `flat`, and a derivative
    with respect to the module has none. Copies of a module that a derivative makes share its buffers.

    Args:
        data: the initial numbers: floats, integers or truth values. Integers are exact up to 2**53 in steps of a
            float64 model, and up to 2**24 in those of a float32 model.
        persistent: whether `state_dict` has them.

    Raises DTypeError for other numbers.

    >>> from tapegrad.nn import Module
    >>> class Counted(Module):
    ...     def __init__(self):
    ...         self.calls = Buffer(np.array(0))
    ...     def forward(self, x):
    ...         self.calls += 1
    ...         return x
    >>> model = Counted()
    >>> y = model(1.0), model(2.0)
    >>> model.calls
    np.int64(2)
    """

    def __init__(self, data: Any, persistent: bool = True) -> None:
        array = np.array(data)
        if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8 or array.dtype == np.float16:
            raise DTypeError(f"a buffer holds float64, float32, integers or truth values, not {array.dtype}")
        self.persistent = persistent
        self.put(array)

    def __repr__(self) -> str:
        return f"Buffer(shape={self._numbers.shape}, dtype={self._numbers.dtype})"

    def __reduce__(self) -> Any:
        return Buffer, (self._numbers, self.persistent)

    @property
    def numbers(self) -> np.ndarray:
        """The numbers, as an array that is not to be changed."""
        return self._numbers

    def put(self, numbers: np.ndarray) -> None:
        """Have other numbers, of the same shape and dtype."""
        self._numbers = numbers
        numbers.flags.writeable = False


class HasState:
    """The part of `Module` that is about buffers and the mode."""

    _training = True
    # The tape on which it stands for an argument of a recorded function; see `structure`. That is not replayed with a
    # module in another mode.
    _made_on: Any = None

    @property
    def training(self) -> bool:
        """Whether it is in training, as it is at first, and not in evaluation; see `train` and `eval`."""
        tape = recording_tape()
        if tape is not None and self._made_on is not tape:
            note_mode(self, self._training)
        return self._training

    @training.setter
    def training(self, mode: bool) -> None:
        if not isinstance(mode, bool):
            raise OperationError(f"training mode is True or False, not {mode!r}")
        note_own_mode(self)
        object.__setattr__(self, "_training", mode)

    def train(self, mode: bool = True) -> Self:
        """Put it and all modules in it into training (or with False, into evaluation), and return it.

        Batch normalisation and dropout behave otherwise in training. What was recorded in one mode is not replayed in
        the other.

        >>> from tapegrad.nn import Linear, Sequential
        >>> model = Sequential(Linear(2, 2))
        >>> model.eval()[0].training, model.train()[0].training
        (False, True)
        """
        for _, module in walk(self):
            module.training = mode
        return self

    def eval(self) -> Self:
        """Put it and all modules in it into evaluation, and return it."""
        return self.train(False)

    def named_buffers(self) -> list[tuple[str, np.ndarray]]:
        """The numbers of all buffers with their names, as "layers.0.running_mean"."""
        return [(name, b.numbers) for name, b in buffers_of(self)]

    def buffers(self) -> list[np.ndarray]:
        """The numbers of all buffers."""
        return [b.numbers for _, b in buffers_of(self)]


def walk(module: Any, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """A module and all modules in it, each once, with what their attributes' names begin with."""
    seen = set() if seen is None else seen
    if id(module) not in seen:
        seen.add(id(module))
        yield prefix, module
        for name, child in module.children():
            yield from walk(child, f"{prefix}{name}.", seen)


def buffers_of(module: Any) -> list[tuple[str, Buffer]]:
    """All buffers of a module and of those in it, each once, with their names."""
    found: dict[int, tuple[str, Buffer]] = {}
    for prefix, part in walk(module):
        for name, x in vars(part).copy().items():
            if isinstance(x, Buffer):
                found.setdefault(id(x), (prefix + name, x))
    return list(found.values())


def modes_of(module: Any) -> tuple[bool, ...]:
    """The modes of a module and of all modules in it."""
    return tuple([part._training for _, part in walk(module)])


@contextmanager
def in_mode(module: Any, training: bool) -> Iterator[None]:
    """Within the block a module is in training, or in evaluation; afterwards all its parts are in their own modes.

    Parts that are in evaluation while the module itself is in training stay there: they were frozen on purpose.
    """
    before = [(part, part._training) for _, part in walk(module)]
    if not (training and before[0][1]):
        module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode

"""Where parameters live: one flat vector on the tape for all parameters of a model, and views of it.

A `Parameter` is made with initial numbers and belongs to a module. When a model is first used, `gather` puts the
parameters of its whole tree side by side into one `Store`, whose `flat` is a single leaf of the tape. From then on
`parameter.value` is a view of that leaf. While `substitute` is in force, the views are of another vector instead:
that is how a model is run on the tape of a recording.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary, ref

import numpy as np

from tapegrad.carried import carrier_of_models
from tapegrad.errors import DTypeError
from tapegrad.tape import given_numbers, recording_on, recording_tape
from tapegrad.value import Value


class Parameter:
    """Numbers of a module that training changes.

    Assign one to an attribute of a module, in its `__init__`; reading the attribute gives a `Value`.

    Args:
        data: the initial numbers, float64 or float32.

    Raises DTypeError for other dtypes.

    >>> Parameter(np.zeros((2, 3)))
    Parameter(shape=(2, 3), dtype=float64)
    """

    def __init__(self, data: Any) -> None:
        array = np.asarray(data)
        if array.dtype not in (np.float64, np.float32):
            raise DTypeError(f"a parameter holds float64 or float32, not {array.dtype}: convert it with .astype(float)")
        self.shape = array.shape
        self.size = array.size
        self.dtype = array.dtype
        self._initial: np.ndarray | None = np.array(array)
        self.store: Store | None = None
        self.start = 0
        self._fixed: Any = None
        self._view: Value | None = None

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype})"

    def __reduce__(self) -> Any:
        # A copy, or what comes out of a pickle, has numbers of its own. In a gradient these stay plain arrays.
        return Parameter.fixed if isinstance(self._fixed, np.ndarray) else Parameter, (self.data(),)

    @classmethod
    def fixed(cls, value: Any) -> Parameter:
        """A parameter that stands for a given Value or array, in a copy of a module; see `Module`'s structure."""
        made = object.__new__(cls)
        # The gradient of a parameter without axes is a number.
        value = np.asarray(value) if isinstance(value, float) else value
        made.shape, made.size, made.dtype = np.shape(value), int(np.size(value)), value.dtype
        made._initial, made.store, made.start, made._view = None, None, 0, None
        made._fixed = value
        return made

    @property
    def is_fixed(self) -> bool:
        """Whether it stands for a given Value or array, and has no numbers of its own."""
        return self._fixed is not None

    def data(self) -> np.ndarray:
        """Its numbers, as an array of their own."""
        if self._fixed is not None:
            return np.array(self._fixed.data if isinstance(self._fixed, Value) else self._fixed)
        if self.store is None:
            assert self._initial is not None
            return self._initial.copy()
        return np.array(self.store.data[self.start : self.start + self.size].reshape(self.shape))

    @property
    def numbers(self) -> np.ndarray:
        """Its numbers, as an array of their own: so steps of another model's training carry them, see `Carrier`."""
        return self.data()

    def put(self, numbers: np.ndarray) -> None:
        """Never called: nothing that is recorded writes parameters."""
        raise NotImplementedError("recorded functions do not write parameters")

    def value(self) -> Any:
        """The handle to its numbers: a view of the flat vector that is in force."""
        if self._fixed is not None:
            return self._fixed
        other = _substitutes.flats.get(id(self))
        if other is not None:
            flat, at = other
            return flat[at : at + self.size].reshape(self.shape)
        assert self.store is not None
        if _substitutes.constant and recording_tape() is not None:
            return Value(self.data(), requires_grad=False)
        carrier = carrier_of_models()
        if carrier is not None:
            found = carrier.read(self)
            return found if isinstance(found, Value) else Value(found, requires_grad=False)
        if self._view is None:
            self._view = self.store.flat[self.start : self.start + self.size].reshape(self.shape)
            _by_handle[id(self._view)] = self
        return self._view

    @property
    def is_carried(self) -> bool:
        """Whether a step that is being recorded reads it as the parameter of a model from around it."""
        if self._fixed is not None or carrier_of_models() is None:
            return False
        return id(self) not in _substitutes.flats

    def move(self, store: Store, start: int) -> None:
        """Let it be a part of a store, from `start` on."""
        _by_handle.pop(id(self._view), None)
        self.store, self.start, self._initial, self._view = store, start, None, None

    def is_shown_as(self, value: Value) -> bool:
        """Whether a Value is the handle that reading the parameter gives, and no copy or other view."""
        return self._view is value


# The parameters by the ids of their handles, and all stores that are on a tape: handles cannot carry a note of where
# they are from.
_by_handle: WeakValueDictionary[int, Parameter] = WeakValueDictionary()
_on_tapes: WeakValueDictionary[int, Store] = WeakValueDictionary()


def parameter_of(value: Value) -> Parameter | None:
    """The parameter whose handle a Value is, None where it is none."""
    found = _by_handle.get(id(value))
    return found if found is not None and found.is_shown_as(value) else None


def is_of_a_model(value: Value) -> bool:
    """Whether a Value shows numbers of some model's parameters, as a slice or a transpose of one does."""
    stores = [store() for store in _on_tapes.valuerefs()]
    return any(store is not None and store.shows(value) for store in stores)


class Store:
    """The numbers of several parameters. They go on the tape, as one leaf, when the leaf is first asked for."""

    def __init__(self, named: Sequence[tuple[str, Parameter]], dtype: np.dtype) -> None:
        numbers = [p.data().reshape(-1) for _, p in named]
        self._data: np.ndarray | None = np.concatenate(numbers) if numbers else np.zeros(0, dtype)
        self._flat: Value | None = None
        self.size = self._data.size
        self._labels: list[tuple[int, int, str]] = []
        self._members = [ref(p) for _, p in named]
        at = 0
        for name, p in named:
            p.move(self, at)
            if p.size:
                self._labels.append((at, at + p.size, name))
            at += p.size

    def members(self) -> list[Parameter]:
        """The parameters that stand here, as far as there are any more."""
        return [p for p in (member() for member in self._members) if p is not None and p.store is self]

    @property
    def flat(self) -> Value:
        """The leaf. It goes on this thread's own tape, also while a function is recorded: to that it is a Value from
        around it."""
        if self._flat is None:
            with recording_on(None):
                self._flat, self._data = Value(self._data), None
                _on_tapes[id(self)] = self
                for start, stop, name in self._labels:
                    self._flat[start:stop].label = name
        return self._flat

    def shows(self, value: Value) -> bool:
        """Whether a Value is a view of the leaf, or the leaf itself."""
        flat = self._flat
        return flat is not None and flat._tape is value._tape and 0 <= value._slot - flat._slot < self.size

    @property
    def data(self) -> np.ndarray:
        """The numbers, as a vector that is not to be changed. Any thread may ask for it."""
        data = self._data
        if data is not None:
            return data
        flat = self.flat
        if self.size and flat._tape.owner != threading.get_ident():
            return given_numbers(flat._tape, flat._slot, self.size)
        return flat.data


def gather(named: Sequence[tuple[str, Parameter]]) -> Store:
    """Put parameters side by side into a new store, labelled by their names. Raises DTypeError for mixed dtypes."""
    dtypes = {p.dtype for _, p in named}
    if len(dtypes) > 1:
        kinds = ", ".join(f"{name} {p.dtype}" for name, p in named)
        raise DTypeError(f"the parameters of a model must have one dtype, found {kinds}")
    return Store(named, dtypes.pop() if dtypes else np.dtype(np.float64))


class _Substitutes(threading.local):
    """The vectors that are used in place of stores in this thread, by the id of the parameter: (vector, where in it the
    parameter begins). Not by the store: that has parameters of a whole model, where a part of it may be meant, and a
    parameter may be moved to another one meanwhile."""

    def __init__(self) -> None:
        self.flats: dict[int, tuple[Any, int]] = {}
        self.constant = False


_substitutes = _Substitutes()


@contextmanager
def substitute(parameters: Sequence[Parameter], flat: Any) -> Iterator[None]:
    """Within the block, these parameters are views of `flat` (a Value or array) instead, one after another."""
    before, own, at = _substitutes.flats, dict[int, tuple[Any, int]](), 0
    for p in parameters:
        own[id(p)] = flat, at
        at += p.size
    _substitutes.flats = before | own
    try:
        yield
    finally:
        _substitutes.flats = before


@contextmanager
def constant_models() -> Iterator[None]:
    """Within the block, what is recorded takes the parameters of models from around it as constants."""
    before = _substitutes.constant
    _substitutes.constant = True
    try:
        yield
    finally:
        _substitutes.constant = before

"""`Module`: a function with parameters, made of other modules."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from tapegrad.carried import note_marks, read, write
from tapegrad.errors import DTypeError, OuterValueError, ShapeError, StructureError, TapegradError
from tapegrad.nn.buffers import Buffer, HasState, buffers_of
from tapegrad.nn.calls import calls, converted, note_place, one_call
from tapegrad.nn.held import shown, taken
from tapegrad.nn.parameter import Parameter, Store, gather, substitute
from tapegrad.nn.structure import register
from tapegrad.nn.tree import NOTES, Marks, Tree
from tapegrad.optim.archive import read_arrays, write_arrays
from tapegrad.value import Value

# Counts the changes of any module that were noticed. Where the parameters of a module stand, as it has noted, holds
# until the next change.
_version = itertools.count(1)
_latest = 0
# Held while parameters are moved: threads that are the first to call a model move them once.
_gathering = threading.RLock()
_FIXED = "this module holds given numbers, such as a gradient: it has no flat vector"


def _changed() -> None:
    global _latest
    _latest = next(_version)


def structure_version() -> int:
    """A number that is another one after `parameters()` of a module has found it changed: another module or parameter
    in it, or another option. What was recorded before may be out of date."""
    return _latest


class Module(HasState, Tree):
    """Base class of everything with parameters.

    Subclass it, assign `Parameter`s and modules to attributes in `__init__`, alone or in lists, tuples and dicts
    (nested as well), and define `forward`. Reading a parameter's attribute gives a `Value`, and so does reading an
    element of a list of parameters. Numbers that are no parameters are `Buffer`s; `train` and `eval` choose between two
    modes, which `forward` may ask for: `self.training`.

    A parameter that is read and assigned to another attribute, `self.decode = self.embed.weight`, stands in both places
    and counts once. What is calculated with it belongs into `forward`; a view of it is refused.

    All parameters of the outermost module stand side by side in one vector, `flat`, a single leaf of the tape; each
    parameter is a view of it. So an optimiser is one loop, and `scipy.optimize` gets one array. Attributes that are
    assigned later, what is appended to a list or put into a dict, or a module made part of a larger one, are gathered
    anew: ask for `parameters()` and `flat` when the model is complete.

    Modules are pytrees: `tg.grad(loss)(model, x, y)` is a module of the same structure that holds the gradient.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter(np.array([2.0, 3.0]))
    ...     def forward(self, x):
    ...         return self.factor * x
    >>> model = Scale()
    >>> loss = model([1.0, 1.0]).sum()
    >>> loss.backward()
    >>> model.factor.grad.tolist()
    [1.0, 1.0]
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('factor', (2,))]
    """

    # Where its parameters were found: the number of changes then, the store, the first and last place, the parameters.
    _known: tuple[int, Store, int, int, list[tuple[str, Parameter]]] | None = None
    _marked: Marks | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)

    if TYPE_CHECKING:
        # Subclasses define it with whatever arguments they have.
        forward: Callable[..., Any]
    else:

        def forward(self, *args: Any) -> Any:
            """What the module computes. To be defined by the subclass."""
            raise NotImplementedError(f"{type(self).__name__} must define forward(self, x)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, after floats in arrays and lists among the arguments are converted to the dtype of the parameters.

        Whole numbers stay what they are: an `Embedding` looks up rows by them, other layers convert them themselves.
        """
        if calls.depth:
            try:
                return self.forward(*args, **kwargs)
            except TapegradError as error:
                note_place(error, self)
                raise
        named = self._gathered()
        dtype = named[0][1].dtype if named else None
        if dtype is not None:
            args = tuple(converted(x, dtype) for x in args)
            kwargs = {name: converted(x, dtype) for name, x in kwargs.items()}
        try:
            with one_call(self, dtype):
                return self.forward(*args, **kwargs)
        except OuterValueError as error:
            error.add_note(
                f"{type(self).__name__} is called with its own parameters: pass the model itself to the function, or "
                "model.flat.data, and call model.call_with(flat, x) in it"
            )
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).copy().items() if name not in NOTES}

    # Attributes

    def __setattr__(self, name: str, value: Any) -> None:
        old = self.__dict__.get(name)
        if isinstance(old, Buffer) and not isinstance(value, Buffer | None):
            write(old, value, f"{type(self).__name__}.{name}")
            return
        if isinstance(value, Tree | Parameter) and not name.isidentifier():
            raise StructureError(
                f"{name!r} is no attribute: what stands in a Sequential, list or dict is replaced there, as by "
                "model.blocks[0] = module"
            )
        object.__setattr__(self, name, taken(value, name, old))

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if type(found) is Parameter or (isinstance(found, list | tuple | dict) and name != "__dict__"):
            return shown(found, self._read)
        if type(found) is Buffer:
            return read(found, f"{type(self).__name__}.{name}")
        return found

    def _read(self, parameter: Parameter) -> Any:
        if parameter.store is None and not parameter.is_fixed:
            self._gathered()
            if parameter.store is None:
                raise StructureError("a parameter was put into a model while the model is called: do it before")
        if parameter.is_carried:
            note_marks(self, calls.outermost)
        return parameter.value()

    # Its parameters

    def _gathered(self, whole: bool = False) -> list[tuple[str, Parameter]]:
        # The named parameters. They are put side by side in one store, if they are not yet: but only where all of them
        # are asked for as one vector (`whole`), if modules outside of this one have parameters in the same stores.
        named = list(self._tree())
        if calls.depth or any(p.is_fixed for _, p in named):
            return named
        known = self._known
        if known is not None and known[0] == _latest and known[4] == named:
            return named
        with _gathering:
            return self._gather(named, whole)

    def _gather(self, named: list[tuple[str, Parameter]], whole: bool) -> list[tuple[str, Parameter]]:
        stores = {id(p.store) for _, p in named}
        ends = list(itertools.accumulate((p.size for _, p in named), initial=named[0][1].start if named else 0))
        if not named or len(stores) > 1 or None in [p.store for _, p in named] or [
            p.start for _, p in named
        ] != ends[:-1]:
            if not whole and _shares_stores([p for _, p in named]):
                # Others have handles to what stands there, which would be those of nothing any more.
                rest = [(name, p) for name, p in named if p.store is None]
                if rest:
                    gather(rest)
                    _changed()
                object.__setattr__(self, "_known", None)
                return named
            store = gather(named)
            ends = [e - ends[0] for e in ends]
            _changed()
        else:
            found = named[0][1].store
            assert found is not None
            store = found
        object.__setattr__(self, "_known", (_latest, store, ends[0], ends[-1], named))
        return named

    def _noticed(self) -> None:
        # Whether anything else has changed since the last time; if so, the number of changes tells.
        marks = self._marks(keep=False)
        if self._marked is not None and self._marked != marks:
            _changed()
        object.__setattr__(self, "_marked", marks)

    def _place(self) -> tuple[Store, int, int]:
        self._gathered(whole=True)
        if self._known is None:
            raise StructureError(_FIXED)
        return self._known[1:4]

    @property
    def flat(self) -> Value:
        """All parameters as one vector: a leaf of the tape, or for a part of a larger module a view of one."""
        store, start, stop = self._place()
        return store.flat if stop - start == store.size else store.flat[start:stop]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters, float64 where there are none."""
        return next((p.dtype for _, p in self._tree()), np.dtype(np.float64))

    def parameters(self) -> list[Value]:
        """The handles to all parameters, each once."""
        self._noticed()
        return [p.value() for _, p in self._gathered()]

    def named_parameters(self) -> list[tuple[str, Value]]:
        """The handles to all parameters with their names, as "layers.0.weight"."""
        return [(name, p.value()) for name, p in self._gathered()]

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to zero."""
        for _, p in self._gathered():
            p.value().zero_grad()

    def call_with(self, flat: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the module with other numbers in place of its parameters.

        Args:
            flat: a vector like `self.flat`, a Value or an array. A Value may be on another tape: so, inside
                `tg.record`, the model is recorded as a function of its parameters.
            args, kwargs: what the module is called with.

        Raises ShapeError for a vector of another size.

        >>> from tapegrad.nn import Linear
        >>> model = Linear(2, 1)
        >>> model.call_with(np.array([1.0, 2.0, 10.0]), np.array([[1.0, 1.0]]))
        array([[13.]])
        """
        with self.bound(flat):
            return self(*args, **kwargs)

    @contextmanager
    def bound(self, flat: Any) -> Iterator[Module]:
        """Within the block the module's parameters are views of `flat`; see `call_with`."""
        named = list(self._tree())
        parameters, size = [p for _, p in named], sum(p.size for _, p in named)
        if any(p.is_fixed for p in parameters):
            raise StructureError(_FIXED)
        if np.shape(flat) != (size,):
            raise ShapeError(f"the parameters are a vector of {size} numbers, this has shape {np.shape(flat)}")
        with substitute(parameters, flat):
            if isinstance(flat, Value):
                for name, p in named:
                    if p.size:
                        p.value().label = name
            yield self

    # Saving

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of all parameters and buffers by name."""
        buffers = {name: np.array(b.numbers) for name, b in buffers_of(self) if b.persistent}
        return {name: p.data() for name, p in self._tree()} | buffers

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over parameters and buffers by name. Nothing is changed unless all of them fit.

        Raises StructureError for missing or unknown names, ShapeError and DTypeError for other shapes or dtypes.
        """
        self._check_names(list(saved))
        named = self._gathered()
        names = [name for name, _ in named]
        buffers = [(name, b) for name, b in buffers_of(self) if b.persistent]
        expected: list[tuple[str, str, Any]] = [("parameter", name, p) for name, p in named]
        expected += [("buffer", name, b.numbers) for name, b in buffers]
        for kind, name, own in expected:
            array = np.asarray(saved[name])
            if array.shape != own.shape:
                raise ShapeError(f"{kind} {name!r} has shape {own.shape}, the saved one {array.shape}")
            if array.dtype != own.dtype:
                raise DTypeError(f"{kind} {name!r} is {own.dtype}, the saved one {array.dtype}")
        if named:
            self.flat.data = np.concatenate([np.asarray(saved[name]).reshape(-1) for name in names])
        for name, b in buffers:
            b.put(np.array(saved[name]))

    def _check_names(self, found: list[str]) -> None:
        names = [name for name, _ in self._gathered()] + [name for name, b in buffers_of(self) if b.persistent]
        missing, unknown = [n for n in names if n not in found], [n for n in found if n not in names]
        if missing or unknown:
            kinds = (("missing", missing), ("unknown", unknown))
            faults = "; ".join(f"{kind}: {', '.join(map(repr, some))}" for kind, some in kinds if some)
            raise StructureError(f"the saved parameters are not those of this {type(self).__name__}; {faults}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all parameters and buffers to an .npz file, by name, without pickle. `numpy.load` reads it too."""
        write_arrays(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote. Nothing is changed unless all of it fits.

        Raises FileNotFoundError, DataError for a file that is no archive of arrays, and what `load_state_dict` raises.
        """
        self.load_state_dict(read_arrays(path, self._check_names))

    # How it looks

    def describe(self) -> str:
        """The text between the parentheses of its `repr`, for a module that holds no other modules."""
        return ""

    def __repr__(self) -> str:
        text = self._lines()
        named = list(self._tree())
        if calls.depth == 0 and "\n" in text:
            size = sum(p.size for _, p in named)
            text = f"{text[:-1]}  {size:,} parameters, {self.dtype}\n)"
        return text

    def _lines(self) -> str:
        inside = [f"({name}): {child._lines()}".replace("\n", "\n  ") for name, child in self.named_children()]
        if not inside:
            return f"{type(self).__name__}({self.describe()})"
        return f"{type(self).__name__}(\n" + "".join(f"  {line}\n" for line in inside) + ")"


def _shares_stores(parameters: list[Parameter]) -> bool:
    """Whether the stores of parameters have others, too."""
    own = {id(p) for p in parameters}
    stores = {id(p.store): p.store for p in parameters if p.store is not None}
    return any(id(p) not in own for store in stores.values() for p in store.members())

"""Numbers that a recorded function reads, writes or draws, and that are no arguments of it.

A program is a function of its inputs alone. So what such a function takes from elsewhere becomes inputs, and what it
writes becomes results: whoever replays the program reads the numbers before, and writes the new ones after. Which these
are is found by calling the function once more, before it is recorded: that is a `Plan`.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from tapegrad.errors import DTypeError, ShapeError, UnsupportedError
from tapegrad.tape import recording_tape
from tapegrad.tape.ambient import ambient
from tapegrad.value import Value
from tapegrad.value.numbers import Numbers


class NeedsCarrierError(UnsupportedError):
    """A function reads, writes or draws numbers where they would be constants of the recording."""


class UnplannedError(UnsupportedError):
    """A function that is recorded for another branch reads or writes numbers that the plan does not name."""


_UNPLANNED = "in this branch buffers are read or written that the recording does not have: record it anew"


class Cell(Protocol):
    """Numbers that live outside of recordings."""

    @property
    def numbers(self) -> np.ndarray:
        """What they are now: an array that is not to be changed."""

    def put(self, numbers: np.ndarray) -> None:
        """Have others in their place, of the same shape."""


class Call(NamedTuple):
    """One draw: the number of the generator among those of the arguments, and which method is called with what."""

    generator: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def drawn(self, generators: Sequence[Any]) -> Any:
        """The numbers, drawn now."""
        return getattr(generators[self.generator], self.method)(*self.args, **self.kwargs)

    def same(self, other: Call) -> bool:
        """Whether both ask for the same."""
        return self[:2] == other[:2] and _same(self[2:], other[2:])

    def __str__(self) -> str:
        said = [*map(repr, self.args), *(f"{name}={x!r}" for name, x in self.kwargs.items())]
        return f"{self.method}({', '.join(said)})"


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(x, b[key]) for key, x in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)


class Plan:
    """What a function reads, writes and draws, in the order in which it does so first.

    Attributes:
        cells: what it reads or writes.
        written: which of them it writes, by number.
        draws: the random numbers that it draws.
        modes: modules from around the function whose mode it has asked for, and what that was.
        marks: modules from around the function whose parameters it has read, and what they were made of.
    """

    # Nothing in here is a function of the user's; see `captures.reach`.
    recorded_functions = ()

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.written: list[int] = []
        self.draws: list[Call] = []
        self.modes: list[tuple[weakref.ref[Any], bool]] = []
        self.marks: list[tuple[weakref.ref[Any], Any]] = []

    @property
    def holds(self) -> bool:
        """Whether all modules are in the modes in which they were, and made of the same. One that is gone is asked no
        more."""
        modules = [(of(), mode) for of, mode in self.modes]
        made = [(of(), marks) for of, marks in self.marks]
        return all(module is None or module._training is mode for module, mode in modules) and all(
            module is None or module._marks(keep=False) == marks for module, marks in made
        )

    def number(self, cell: Cell) -> int:
        """The number of a cell, -1 where it is none of them."""
        return next((i for i, own in enumerate(self.cells) if own is cell), -1)

    def add(self, cell: Cell, written: bool) -> None:
        """Have a cell among them."""
        i = self.number(cell)
        if i < 0:
            i = len(self.cells)
            self.cells.append(cell)
        if written and i not in self.written:
            self.written.append(i)

    def join(self, other: Plan) -> None:
        """Have the cells of another plan of the same function, which was made for another branch. Raises
        UnsupportedError where that draws other numbers."""
        if not self.draws_as(other):
            raise _other_draws(self.draws, other.draws)
        for i, cell in enumerate(other.cells):
            self.add(cell, i in other.written)

    def draws_as(self, other: Plan) -> bool:
        """Whether both draw the same."""
        return len(self.draws) == len(other.draws) and all(map(Call.same, self.draws, other.draws))

    def inputs(self) -> list[np.ndarray]:
        """The numbers of all cells, as arrays with an axis at least: a single whole number would otherwise behave as
        Python's, and decide branches."""
        return [cell.numbers.reshape(cell.numbers.shape or (1,)) for cell in self.cells]

    def put(self, numbers: Sequence[Any]) -> None:
        """Write what a call has left in the cells that it writes."""
        for i, new in zip(self.written, numbers, strict=True):
            put_in(self.cells[i], new)


def put_in(cell: Cell, new: Any) -> None:
    """Have numbers in a cell, in its own shape and dtype."""
    old = cell.numbers
    array = np.asarray(new).reshape(old.shape)
    if old.dtype.kind in "iu" and array.dtype.kind == "f":
        array = np.rint(array)
    cell.put(np.array(array, old.dtype))


def _other_draws(recorded: Sequence[Call], now: Sequence[Call]) -> UnsupportedError:
    told = [", ".join(map(str, calls)) or "nothing" for calls in (recorded, now)]
    return UnsupportedError(
        f"the random numbers that a recorded function draws hang on the branch that it takes: first {told[0]}, now "
        f"{told[1]}. Draw in every branch the same, before it, and choose with np.where"
    )


class Carrier:
    """What a function meets while it is called with a plan.

    Args:
        plan: the plan.
        cells, draws: in place of the numbers of its cells, and of what it draws: Values mostly. Without these the plan
            is made: numbers are those of now.
        models: whether parameters of models from around the function are among the cells. Otherwise they are Values
            from around it, as others are, by which one may differentiate.
    """

    recorded_functions = ()

    def __init__(
        self, plan: Plan, cells: Sequence[Any] | None = None, draws: Sequence[Any] = (), models: bool = False
    ) -> None:
        self.plan, self._finding, self.models = plan, cells is None, models
        self.tape = recording_tape()
        self._now: dict[int, Any] = {}
        for cell, given in zip(plan.cells, cells or (), strict=cells is not None):
            self._now[id(cell)] = given if cell.numbers.shape else given.reshape(())
        self._given, self._next = draws, 0
        self._generators: list[Any] = []
        # Modules whose mode was asked for, or was set by the function itself.
        self._asked: list[Any] = []

    def draw_from(self, generators: Sequence[Any]) -> None:
        """Say which generators the arguments hold. Where the plan is made, copies of them are drawn from."""
        if self._finding:
            self._generators = [copy.deepcopy(g) for g in generators]

    def read(self, cell: Cell) -> Any:
        """What stands for the numbers of a cell."""
        if id(cell) not in self._now:
            if not self._finding:
                raise UnplannedError(_UNPLANNED)
            self.plan.add(cell, written=False)
            self._now[id(cell)] = _shown(cell.numbers.copy())
        return self._now[id(cell)]

    def write(self, cell: Cell, new: Any) -> None:
        """Have other numbers stand for it from now on."""
        if self._finding:
            self.plan.add(cell, written=True)
        elif self.plan.number(cell) not in self.plan.written:
            raise UnplannedError(_UNPLANNED)
        self._now[id(cell)] = new.detach() if isinstance(new, Value) else new

    def draw(self, call: Call) -> Any:
        """The random numbers of a call."""
        if self._finding:
            found = call.drawn(self._generators)
            if np.asarray(found).dtype.kind not in "fiub":
                raise UnsupportedError(f"{call} of a generator gives no numbers, which a replay could draw again")
            self.plan.draws.append(call)
            return found
        draws, i = self.plan.draws, self._next
        if i >= len(draws) or not draws[i].same(call):
            raise _other_draws(draws, [*draws[:i], call])
        self._next += 1
        return self._given[i]

    def note_mode(self, module: Any, mode: bool) -> None:
        """Say that the function has asked for the mode of a module.

        Raises UnsupportedError where that was another when the plan was made: only another thread can have changed it
        since, and the recording would be neither of the one mode nor of the other.
        """
        if any(x is module for x in self._asked):
            return
        self._asked.append(module)
        noted = next((was for of, was in self.plan.modes if of() is module), None)
        if noted is None:
            self.plan.modes.append((weakref.ref(module), mode))
        elif noted is not mode:
            raise UnsupportedError(
                f"the mode of a {type(module).__name__} was changed by another thread while a function that asks for "
                "it was recorded: call train() and eval() between calls"
            )

    def note_own(self, module: Any) -> None:
        """Say that the function itself sets the mode of a module."""
        self._asked.append(module)

    def written(self) -> list[Any]:
        """What stands for the cells that are written, at the end."""
        if not self._finding and self._next < len(self.plan.draws):
            raise _other_draws(self.plan.draws, self.plan.draws[: self._next])
        return [self._now[id(self.plan.cells[i])] for i in self.plan.written]

    @contextmanager
    def in_force(self) -> Iterator[Carrier]:
        """Within the block, what is read, written or drawn on this tape is this carrier's."""
        before = _current.carrier
        _current.carrier = self
        try:
            yield self
        finally:
            _current.carrier = before


class _Current(threading.local):
    carrier: Carrier | None = None
    # Whether nothing may be written or drawn, as nobody could tell how often.
    refuses = False


_current = _Current()


@contextmanager
def nothing_is_written() -> Iterator[None]:
    """Within the block what writes buffers or draws numbers raises NeedsCarrierError, outside of recordings too."""
    before = _current.refuses
    _current.refuses = True
    try:
        yield
    finally:
        _current.refuses = before


def carrier_here(what: str, again: bool = False) -> Carrier | None:
    """The carrier that is in force, or None where nothing is recorded.

    `again` says whether what is done may be done again and again, as the step of a loop is tried out. Raises
    NeedsCarrierError where something is recorded without a carrier.
    """
    carrier, tape = _current.carrier, recording_tape()
    refuses = _current.refuses and not again
    if carrier is not None and carrier.tape is tape and (again or ambient.guarded is None) and not refuses:
        return carrier
    if tape is None and not refuses:
        return None
    raise NeedsCarrierError(
        f"{what} inside a function that is recorded where such numbers would be drawn or read once and for all, as in "
        "tg.vmap, tg.checkpoint, the step of a long loop, or what is saved or exported: call model.eval() before, or "
        "pass the numbers as arguments"
    )


def read(cell: Cell, name: str) -> Any:
    """The numbers of a cell, or what stands for them in a recording. `name` is what messages call it."""
    carrier = carrier_here(f"the buffer {name} is read", again=True)
    return _shown(cell.numbers) if carrier is None else carrier.read(cell)


def _shown(numbers: np.ndarray) -> Any:
    """The numbers of a cell such that `self.n += 1` in a module writes the cell, as it does in a recording, and leaves
    the arrays that were read before as they are. One without axes is a single number, as in results of NumPy's."""
    return numbers.view(Numbers) if numbers.shape else numbers[()]


def write(cell: Cell, new: Any, name: str) -> None:
    """Have new numbers in a cell, at once or at the end of each replay. No gradient flows through a cell.

    Raises ShapeError, DTypeError for what does not fit.
    """
    old = cell.numbers
    if np.shape(new) != old.shape:
        raise ShapeError(f"the buffer {name} has shape {old.shape}, it cannot take numbers of shape {np.shape(new)}")
    if not isinstance(new, Value) and np.asarray(new).dtype.kind not in "fiub":
        raise DTypeError(f"the buffer {name} holds numbers of {old.dtype}, not {np.asarray(new).dtype}")
    carrier = carrier_here(f"the buffer {name} is written")
    if carrier is not None:
        carrier.write(cell, new)
    else:
        put_in(cell, new.data if isinstance(new, Value) else new)


def carrier_of_models() -> Carrier | None:
    """The carrier that is in force, if parameters of models from around the function are among its cells."""
    carrier = _current.carrier
    return carrier if carrier is not None and carrier.models and carrier.tape is recording_tape() else None


def note_marks(*modules: Any) -> None:
    """Say that parameters are read of modules, which may be from around the function."""
    carrier = carrier_of_models()
    for module in modules if carrier is not None else ():
        if module is not None and carrier is not None and all(of() is not module for of, _ in carrier.plan.marks):
            carrier.plan.marks.append((weakref.ref(module), module._marks(keep=False)))


def note_mode(module: Any, mode: bool) -> None:
    """Say that a function from around which a module comes has asked whether it is in training."""
    carrier = carrier_here(f"the mode of {type(module).__name__} is read", again=True)
    if carrier is not None:
        carrier.note_mode(module, mode)


def note_own_mode(module: Any) -> None:
    """Say that a function sets the mode of a module from around it, if one is recorded."""
    if _current.carrier is not None:
        _current.carrier.note_own(module)

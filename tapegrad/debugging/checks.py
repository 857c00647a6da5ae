"""What is checked while somebody looks for faults: methods that show or return numbers.

Such a method costs nothing when nobody looks, because it is another one then: as long as a block of `debug` is open in
any thread, methods that check stand in place of those that do not. In threads without such a block they do nothing
else than these.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapegrad.adjoint import matching
from tapegrad.debugging.backward import Way
from tapegrad.debugging.describe import Scene, blame_back, blame_forward
from tapegrad.debugging.forward import is_wrong
from tapegrad.debugging.recordings import all_numbers, blame_at, learn_lines, seeds_for
from tapegrad.debugging.report import Blame
from tapegrad.errors import IndexRangeError, LabelError, NonFiniteError
from tapegrad.inspect.reading import Reader, tape_shown
from tapegrad.inspect.replays import floats_among, replayed
from tapegrad.ops.record import OPCODE, OUT, A, B
from tapegrad.recording import Recording
from tapegrad.recording.of_numba import OfNumba
from tapegrad.tape import LEAF, Tape
from tapegrad.tape.ambient import ambient
from tapegrad.tape.lines import notes_of
from tapegrad.value import Value

# So many rows of a Jacobian are searched.
_ROWS = 10_000
_lock = threading.RLock()
_open = 0
_checking: list[tuple[Any, str, Any, Any]] = []


def install() -> None:
    """Have methods check, until `remove` has been called as often."""
    global _open
    with _lock:
        _open += 1
        if _open == 1:
            for kind, name, _, checking in _checking:
                setattr(kind, name, checking)


def remove() -> None:
    """See `install`."""
    global _open
    with _lock:
        _open -= 1
        if _open == 0:
            for kind, name, plain, _ in _checking:
                setattr(kind, name, plain)


def _checked(kind: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Declare what a method of a class is while somebody looks: called with the plain method and its arguments."""
    plain = getattr(kind, name)

    def declare(check: Callable[..., Any]) -> None:
        @functools.wraps(plain)
        def checking(self: Any, *args: Any, **kwargs: Any) -> Any:
            if ambient.debugging is None:
                return plain(self, *args, **kwargs)
            return check(plain, self, *args, **kwargs)

        _checking.append((kind, name, plain, checking))

    return declare


@contextmanager
def _not_looking() -> Any:
    """Within the block nothing is checked: the search replays, and finds the same fault again."""
    before, ambient.debugging = ambient.debugging, None
    try:
        yield before
    finally:
        ambient.debugging = before


def _raise(report: Blame | None, otherwise: str = "") -> None:
    """Raise what was found. An infinity that was given is none that was made."""
    if report is None and not otherwise:
        return
    if report is not None and report.given and report.what == "infinity":
        return
    raise NonFiniteError(str(report) if report is not None else otherwise, report)


# Values


def _look(tape: Tape, places: np.ndarray) -> None:
    """Raise where numbers of a tape, which are computed, are NaN or infinite."""
    wanted = ambient.debugging
    wrong = np.isnan if not wanted.infinity else lambda x: ~np.isfinite(x)
    if not wrong(tape.values[places]).any():
        return
    with _not_looking():
        report = blame_forward(_scene(tape, wanted), places)
        # Who looks at numbers that he has given himself knows them.
        if report is not None and not (report.given and tape.row_of(int(places[0])) == report.row):
            _raise(report)


def _scene(tape: Tape, wanted: Any) -> Scene:
    notes, reader = notes_of(tape), Reader(tape_shown(tape))

    def line(row: int) -> Any:
        slot = tape.addresses.slots_of(tape.code[row : row + 1, 1].astype(np.int64))
        return None if notes is None else notes.at(int(slot[0]))

    return Scene(reader, line, calls=tape.calls, nan_only=not wanted.infinity)


@_checked(Value, "_read")
def _read(plain: Callable[..., Any], self: Any, what: str) -> Any:
    if self.size:
        self._tape.evaluate()
        _look(self._tape, self._places())
    return plain(self, what)


@_checked(Value, "__repr__")
def _repr(plain: Callable[..., Any], self: Any) -> Any:
    if self.size and not self._tape.recording:
        self._tape.evaluate()
        _look(self._tape, self._places())
    return plain(self)


@_checked(Value, "backward")
def _backward(plain: Callable[..., Any], self: Any, seed: Any = None) -> None:
    tape = self._tape
    if self.size and not tape.recording:
        tape.evaluate()
        _look(tape, self._places())
    plain(self, seed)
    if not self.size or not is_wrong(tape.adjoints):
        return
    wanted = ambient.debugging
    with _not_looking():
        active = tape.active[: tape.slots] != 0
        leaves = np.flatnonzero(active) if wanted.anywhere else _leaf_places(tape)
        last = tape.row_of(int(self._places().max())) + 1
        way = Way(tape.code[:last], tape.side, tape.flags, tape.values, tape.adjoints, tape.active)
        _raise(blame_back(_scene(tape, wanted), way, leaves))


def _leaf_places(tape: Tape) -> np.ndarray:
    """The places of leaves that a gradient is wanted of."""
    rows = tape.code[: tape.length]
    leaves = rows[(rows[:, OPCODE] == LEAF) & (rows[:, A] == 1)]
    found = [np.arange(out, out + n) for out, n in leaves[:, [OUT, B]].tolist()]
    return np.concatenate([np.zeros(0, np.int64), *found])


@_checked(Tape, "evaluate")
def _evaluate(plain: Callable[..., Any], self: Tape) -> None:
    first = self.evaluated
    plain(self)
    if ambient.debugging.anywhere and self.evaluated > first:
        start = int(self.code[first, 1])
        _look(self, np.arange(start, self.slots))


# Recordings


def _checking_result(
    self: Any, compute: Callable[[], Any], leaves: Callable[[], Sequence[Any]], argnums: Any, what: str,
    branches: Callable[[], Any] | None = None, seeds: Callable[[], Any] | None = None,
    along: Callable[[], Any] | None = None, rows: int | None = None,
) -> Any:  # fmt: skip
    """The result of a method of a recording. Raises where it is NaN or infinite, and names the line of other errors."""
    wanted = ambient.debugging
    try:
        result = compute()
    except (LabelError, IndexRangeError) as error:
        if "(recorded at " in str(error):
            raise
        # The line was not noted when it was recorded. Once it is known, a replay of the function says it.
        with _not_looking():
            learn_lines(self._branches, self._branches.program, leaves())
            replayed(self._branches, leaves())
        raise
    numbers = all_numbers(result)
    wrong = [x for x in numbers if (is_wrong(x) if wanted.infinity else np.isnan(x).any())]
    if not wrong and not wanted.anywhere:
        return result
    with _not_looking():
        given = leaves()
        chosen = floats_among(self, argnums)
        look = functools.partial(blame_at, self, anywhere=wanted.anywhere, infinity=wanted.infinity)
        report = look(
            self._branches, given, chosen, seeds=seeds() if seeds is not None else None,
            along=along() if along is not None else False, rows=rows,
        )  # fmt: skip
        if report is None and wrong and branches is not None:
            # The numbers and the gradient are finite, so it is the gradient's derivative that is not. The gradient has
            # the lines of what it is the gradient of.
            learn_lines(self._branches, self._branches.program, given)
            report = look(branches(), given, chosen)
        kind = "NaN" if any(np.isnan(x).any() for x in wrong) else "infinite"
        _raise(report, f"the {what} of {self.name} is {kind}, and value and gradient are finite" if wrong else "")
    return result


def _is_plain(self: Any) -> bool:
    """Whether a recording is asked for numbers, not within another one, of which it would be a part."""
    return ambient.recording is None and hasattr(self, "_branches")


@_checked(Recording, "__call__")
def _call(plain: Callable[..., Any], self: Any, *args: Any) -> Any:
    if not _is_plain(self):
        return plain(self, *args)
    return _checking_result(self, lambda: plain(self, *args), lambda: self.check(args), None, "value")


@_checked(Recording, "evaluate")
def _evaluated(
    plain: Callable[..., Any], self: Any, leaves: Sequence[Any], argnums: Any, has_aux: bool, alone: bool = False
) -> Any:
    def seeds() -> list[Any]:
        # The gradient is that of the first result alone.
        outputs = self.program.code.outputs
        return [np.ones(outputs[0].shape), *[None] * (len(outputs) - 1)]

    if not _is_plain(self):
        return plain(self, leaves, argnums, has_aux, alone)
    return _checking_result(
        self, lambda: plain(self, leaves, argnums, has_aux, alone), lambda: leaves, argnums, "gradient", seeds=seeds
    )


def _of_arguments(name: str, what: str, second: bool = False) -> None:
    """A method that is called with arguments, and with `argnums`."""

    @_checked(Recording, name)
    def check(plain: Callable[..., Any], self: Any, *args: Any, argnums: Any = 0, **how: Any) -> Any:
        if not _is_plain(self):
            return plain(self, *args, argnums=argnums, **how)
        return _checking_result(
            self, lambda: plain(self, *args, argnums=argnums, **how), lambda: self.check(args), argnums, what,
            (lambda: self._gradient(args, argnums)) if second else None,
            along=(lambda: None) if name == "jacfwd" else None, rows=_ROWS if name in ("jacobian", "jacrev") else None,
        )  # fmt: skip


for _name, _what, _second in (
    ("value_and_grad", "gradient", False), ("grad", "gradient", False), ("elementwise_grad", "gradient", False),
    ("jacobian", "Jacobian", False), ("jacrev", "Jacobian", False), ("jacfwd", "Jacobian", False),
    ("hessian", "Hessian", True),
):  # fmt: skip
    _of_arguments(_name, _what, _second)


@_checked(OfNumba, "evaluate")
def _of_numba(
    plain: Callable[..., Any], self: Any, args: Sequence[Any], argnums: Any, has_aux: bool, alone: bool = False
) -> Any:
    # It is recorded anew at every call, for derivatives alone. The recording that is searched is an ordinary one.
    wanted, result = ambient.debugging, plain(self, args, argnums, has_aux, alone)
    numbers = all_numbers(result)
    if any(is_wrong(x) if wanted.infinity else np.isnan(x).any() for x in numbers):
        with _not_looking():
            recording = self._recorded(args)
            chosen = floats_among(recording, argnums)
            report = blame_at(recording, recording._branches, recording.check(args), chosen, infinity=wanted.infinity)
            _raise(report, f"the gradient of {recording.name} is NaN or infinite, and it is recorded as finite")
    return result


@_checked(Recording, "jvp")
def _jvp(plain: Callable[..., Any], self: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    if not _is_plain(self):
        return plain(self, primals, tangents)
    every = tuple(range(len(primals)))
    return _checking_result(
        self, lambda: plain(self, primals, tangents), lambda: self.check(tuple(primals)), every, "derivative",
        along=lambda: self._plans.tangents(every, tangents),
    )  # fmt: skip


@_checked(Recording, "hvp")
def _hvp(
    plain: Callable[..., Any], self: Any, primals: Sequence[Any], tangents: Sequence[Any], argnums: Any = None
) -> Any:
    if not _is_plain(self):
        return plain(self, primals, tangents, argnums)
    chosen, _ = matching.chosen_tangents(primals, tangents, argnums)
    return _checking_result(
        self, lambda: plain(self, primals, tangents, argnums), lambda: self.check(tuple(primals)), chosen,
        "product with the Hessian", lambda: self._gradient(primals, chosen),
    )  # fmt: skip


@_checked(Recording, "vjp")
def _vjp(plain: Callable[..., Any], self: Any, *primals: Any) -> Any:
    if not _is_plain(self):
        return plain(self, *primals)
    every = tuple(range(len(primals)))
    result, pullback = plain(self, *primals)
    _checking_result(self, lambda: result, lambda: self.check(primals), None, "value")

    def checked(cotangent: Any) -> Any:
        if ambient.debugging is None or ambient.recording is not None:
            return pullback(cotangent)
        return _checking_result(
            self, lambda: pullback(cotangent), lambda: self.check(primals), every, "gradient",
            seeds=lambda: seeds_for(self.program, cotangent),
        )  # fmt: skip

    return result, checked


@_checked(Recording, "linearize")
def _linearize(plain: Callable[..., Any], self: Any, *primals: Any) -> Any:
    if not _is_plain(self):
        return plain(self, *primals)
    result, along = plain(self, *primals)
    _checking_result(self, lambda: result, lambda: self.check(primals), None, "value")
    every = tuple(range(len(primals)))

    def checked(*tangents: Any) -> Any:
        if ambient.debugging is None or ambient.recording is not None:
            return along(*tangents)
        return _checking_result(
            self, lambda: along(*tangents), lambda: self.check(primals), every, "derivative",
            along=lambda: self._plans.tangents(every, tangents),
        )  # fmt: skip

    return result, checked

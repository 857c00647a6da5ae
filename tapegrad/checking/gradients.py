"""`check_grads`: the derivatives of a function, of any order, against differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.checking.differences import STEP, Slope
from tapegrad.checking.levels import Arrays, Level, first_level, flat, size_of
from tapegrad.checking.report import Ledger, Report, difference_text, element, farthest, short
from tapegrad.errors import CheckError, OperationError
from tapegrad.recording import on_values

_MODES = ("fwd", "rev")
# Where a derivative is wrong and the argument has no more elements than this, the message names the worst element.
_SEARCHED = 64


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    modes: Sequence[str] = ("fwd", "rev"),
    *,
    argnums: int | Sequence[int] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    eps: float | None = None,
    seed: int = 0,
) -> Report:
    """Check derivatives of f at a point against central differences.

    Args:
        f: a function of numbers, arrays, or nested structures of them, that returns the same.
        args: its arguments, a tuple. All floats among them are taken as float64; integers, strings and so on stay as
            they are.
        order: up to which order of derivative.
        modes: "fwd", "rev" or both; for higher orders every sequence of them is checked, such as fwd of rev.
        argnums: the argument, or arguments, to differentiate with respect to; by default all that hold floats.
        rtol, atol: |found - differences| <= atol + rtol max(|found|, |differences|), plus the estimated error of the
            differences themselves.
        eps: the first step of the differences, relative to the size of each argument; by default 1/32. Seven smaller
            ones follow, and all are extrapolated to zero.
        seed: of the random directions.

    Along a random direction v, with a random cotangent w: "fwd" compares J v, and "rev" <w'J, v>, with
    (f(x + h v) - f(x - h v)) / 2h for h -> 0. The next order does the same with the function (x, v) -> J v, or
    (x, w) -> w'J. Differences are those of f on NumPy's numbers where f takes them, else of replays; a value that a
    replay computes otherwise than NumPy is an error too.

    The idea is that of HIPS Autograd's `check_grads` (D. Maclaurin, D. Duvenaud, M. Johnson, J. Townsend; autograd,
    test_util.py).

    Raises CheckError, which is an AssertionError, where numbers differ, are NaN or infinite, or where f has a kink at
    the point: the differences from the left and from the right differ. IntegerInputError where there is no float to
    differentiate with respect to, StructureError where f returns none, CutGradientError for Values among the arguments,
    ValueError for an unknown mode or order, and what `record` raises.

    >>> import numpy as np
    >>> report = check_grads(lambda x, y: np.sum(np.sin(x) * y), (np.array([0.5, 1.0]), 2.0))
    >>> report.worst < 1e-6
    True
    >>> check_grads(lambda x: abs(x), (0.0,), order=1)
    Traceback (most recent call last):
        ...
    tapegrad.errors.CheckError: <lambda>: order 1 (fwd): in argument 0: ...
    """
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if not modes or not set(modes) <= set(_MODES):
        raise OperationError(f"modes must be some of {_MODES}, not {modes!r}")
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise OperationError(f"order must be a whole number from 1 on, not {order!r}")
    ledger = Ledger(str(getattr(f, "__name__", None) or repr(f)))
    level, point = first_level(on_values(f), args, argnums, ledger.subject)
    level.compare_value(ledger, "the value of ", point, ("by replay", "by NumPy"))
    _Run(ledger, modes, rtol, atol, STEP if eps is None else float(eps), seed).check(level, point, int(order), ())
    return ledger.report()


class _Trial(NamedTuple):
    """A derivative along one direction: by a mode, and by differences."""

    v: Arrays
    found: np.ndarray
    expected: np.ndarray
    error: Any
    # A size that the error is relative to, if it is larger than the numbers themselves.
    scale: float
    slope: Slope


class _Run:
    """The checks of one call."""

    def __init__(
        self, ledger: Ledger, modes: tuple[str, ...], rtol: float, atol: float, step: float, seed: int
    ) -> None:
        self.ledger, self.modes, self.rtol, self.atol, self.step, self.seed = ledger, modes, rtol, atol, step, seed
        self.rng = np.random.default_rng(seed)

    def check(self, level: Level, point: Arrays, order: int, path: tuple[str, ...]) -> None:
        """Check the derivative of a function, then those of its derivatives. `path` is how it was derived itself."""
        v = [self._drawn(np.shape(x)) * size_of(x) for x in point]
        w = [self._drawn(y.shape) for y in level.recorded]
        measured = level.along(point, v, self.step)
        for mode in self.modes:
            self.compare(level, point, (mode, *path), self.trial(level, point, mode, v, w, measured), w)
        if order == 1:
            return
        for mode in self.modes:
            along = v if mode == "fwd" else w
            try:
                derivative = level.derivative(mode, point, along)
                what = f"{_title((mode, *path))} as instructions: "
                derivative.compare_value(self.ledger, what, [*point, *along], ("by replay", "by sweeps"))
                self.check(derivative, [*point, *along], order - 1, (mode, *path))
            except CheckError:
                raise
            except Exception as error:
                error.add_note(f"while checking derivatives of order {len(path) + 2}")
                raise

    def _drawn(self, shape: tuple[int, ...]) -> Any:
        """Random numbers in a shape; for the shape (), a plain number."""
        return np.asarray(self.rng.normal(size=shape))[()]

    def trial(self, level: Level, point: Arrays, mode: str, v: Arrays, w: Arrays, measured: Slope) -> _Trial:
        """The derivative along v; for "rev" of the sum of results weighted by w."""
        if mode == "fwd":
            return _Trial(v, level.push(point, v), measured.value, measured.error, 0.0, measured)
        terms = [np.sum(g * d) for g, d in zip(level.pull(point, w), v, strict=True)]
        weights = flat(w)
        with np.errstate(invalid="ignore"):
            weighted = weights * measured.value
            error = np.sum(np.abs(weights) * measured.error)
            scale = float(np.sqrt(np.sum(np.square(weighted))))
        return _Trial(v, np.asarray(np.sum(terms)), np.asarray(np.sum(weighted)), error, scale, measured)

    def farthest(self, trial: _Trial) -> tuple[tuple[int, ...], float]:
        """The result that is farthest off, and by how many tolerances; a kink counts for infinitely many."""
        if not trial.expected.size:
            return (), 0.0
        at, over = farthest(
            trial.found, trial.expected, rtol=self.rtol, atol=self.atol, error=trial.error, scale=trial.scale
        )
        if not trial.slope.kink.any():
            return at, over
        return (int(np.argmax(trial.slope.kink)),) if trial.expected.ndim else (), np.inf

    def compare(self, level: Level, point: Arrays, path: tuple[str, ...], trial: _Trial, w: Arrays) -> None:
        """Raises CheckError unless a derivative agrees with differences."""
        self.ledger.checks += 1
        if self.farthest(trial)[1] > 1.0:
            raise CheckError(self.message(level, point, path, trial, w))
        sizes = np.maximum(np.abs(trial.found), np.abs(trial.expected))
        sizes = np.maximum(sizes, max(trial.scale, self.atol / (self.rtol or 1.0), 1e-300))
        worst = float(np.max(np.abs(trial.found - trial.expected) / sizes, initial=0.0))
        if worst >= self.ledger.worst:
            self.ledger.worst, self.ledger.where = worst, _title(path)

    def search(
        self, level: Level, point: Arrays, mode: str, w: Arrays, directions: Sequence[Arrays]
    ) -> tuple[int, _Trial]:
        """Of several directions the one along which the derivative is farthest off."""
        trials = [self.trial(level, point, mode, v, w, level.along(point, v, self.step)) for v in directions]
        return max(enumerate(trials), key=lambda pair: self.farthest(pair[1])[1])

    def message(self, level: Level, point: Arrays, path: tuple[str, ...], whole: _Trial, w: Arrays) -> str:
        """What is wrong: in which argument, along which direction, and both numbers."""
        parts = [[d if i == j else 0.0 * d for j, d in enumerate(whole.v)] for i in range(len(point))]
        number, trial = self.search(level, point, path[0], w, parts)
        own = np.asarray(trial.v[number])
        place = level.names[number]
        if 1 < own.size <= _SEARCHED:
            elements = list(np.ndindex(own.shape))
            singles = [
                [np.where(_only(own.shape, i), own, 0.0) if j == number else d for j, d in enumerate(trial.v)]
                for i in elements
            ]
            place = element(place, elements[self.search(level, point, path[0], w, singles)[0]])
        at, _ = self.farthest(trial)
        text = f"{self.ledger.subject}: {_title(path)}: in {place}: "
        text += difference_text(trial.found[at], trial.expected[at], ("derivative", "differences"))
        text += f" in {level.places()[at[0]]}" if at else " in the weighted sum of all results"
        text += f", along the direction {short(own)} of the argument, drawn with seed {self.seed}"
        return text + _hint(trial.slope)


def _only(shape: tuple[int, ...], i: tuple[int, ...]) -> np.ndarray:
    chosen = np.zeros(shape, bool)
    chosen[i] = True
    return chosen


def _hint(measured: Slope) -> str:
    """Why the differences may be wrong, and not the derivative; "" where there is no sign of that."""
    if not np.all(np.isfinite(measured.value)):
        return "; differences are not finite: the point lies at the edge of where the function is defined"
    left, right, bent = measured.left, measured.right, measured.kink
    if not bent.any():
        bent = np.abs(right - left) > 1e-2 * np.maximum(np.abs(left), np.abs(right))
    if not bent.any():
        return ""
    i = int(np.argmax(bent))
    return (
        f"; differences from the left ({left[i]:.6g}) and from the right ({right[i]:.6g}) differ: is there a kink at "
        "the point?"
    )


def _title(path: tuple[str, ...]) -> str:
    """The order of a derivative, and how it was taken.

    >>> _title(("rev", "fwd"))
    'order 2 (rev of fwd)'
    """
    return f"order {len(path)} ({' of '.join(path)})"

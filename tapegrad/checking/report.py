"""Comparing numbers: an error for the first that is wrong, a report if none is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.errors import CheckError

# The most that the estimated error of differences may add to a tolerance, relative to the largest number compared.
_MOST = 1e-4
# The estimated error is multiplied by this: it is the smallest of many estimates, so it is probably too small.
_DOUBT = 30.0


@dataclass(frozen=True)
class Report:
    """What was checked, all being well.

    Attributes:
        subject: the function or operation.
        checks: how many comparisons, of numbers or of whole arrays.
        worst: the largest relative error among those in double precision.
        where: where that was.
        skipped: what could not be checked, and why.

    >>> print(Report("sin", 12, 3e-11, "order 2, rev of fwd"))
    sin: 12 checks, worst relative error 3e-11 (order 2, rev of fwd)
    """

    subject: str
    checks: int
    worst: float
    where: str
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.subject}: {self.checks} checks, worst relative error {self.worst:.2g}"
        text += f" ({self.where})" if self.where else ""
        return "; not checked: ".join([text, *self.skipped])


class Ledger:
    """The comparisons made so far."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.checks = 0
        self.worst = 0.0
        self.where = ""
        self.skipped: list[str] = []

    def report(self) -> Report:
        """The report of all comparisons."""
        return Report(self.subject, self.checks, self.worst, self.where, tuple(self.skipped))

    def compare(
        self, what: str, found: Any, expected: Any, *, rtol: float, atol: float, error: Any = 0.0, scale: Any = 0.0,
        place: Callable[[tuple[int, ...]], str] | None = None, sides: tuple[str, str] = ("found", "expected"),
        single: bool = False,
    ) -> None:  # fmt: skip
        """|found - expected| <= atol + rtol max(|found|, |expected|, scale), element by element.

        The tolerance is larger by the estimated `error` of `expected`. Raises CheckError for the element that is
        farthest off, in words of `place`. Numbers computed in `single` precision do not count for the report's worst
        error.
        """
        a, b = np.asarray(found, float), np.asarray(expected, float)
        self.checks += 1
        if a.shape != b.shape:
            raise CheckError(f"{self.subject}: {what}: shape {a.shape} {sides[0]}, {b.shape} {sides[1]}")
        if not a.size:
            return
        i, over = farthest(a, b, rtol=rtol, atol=atol, error=error, scale=scale)
        if over > 1.0:
            at = place(i) if place else f" at {list(i)}" if i else ""
            raise CheckError(f"{self.subject}: {what}{at}: {difference_text(a[i], b[i], sides)}")
        sizes = np.maximum(np.maximum(np.abs(a), np.abs(b)), scale)
        with np.errstate(invalid="ignore"):
            relative = np.where(a == b, 0.0, np.abs(a - b)) / np.maximum(sizes, atol / rtol if rtol else 1.0)
        if not single and (not self.where or relative.max() > self.worst):
            self.worst, self.where = float(relative.max()), what


def farthest(
    a: np.ndarray, b: np.ndarray, *, rtol: float, atol: float, error: Any = 0.0, scale: Any = 0.0
) -> tuple[tuple[int, ...], float]:
    """The element where two arrays differ most, and by how many tolerances; NaN differs by infinitely many."""
    with np.errstate(all="ignore"):
        sizes = np.maximum(np.maximum(np.abs(a), np.abs(b)), scale)
        finite = sizes[np.isfinite(sizes)]
        most = _MOST * (finite.max() if finite.size else 0.0)
        allowed = atol + rtol * sizes + np.minimum(_DOUBT * np.asarray(error), most)
        apart = np.where(a == b, 0.0, np.abs(a - b))
        over = np.where(apart == 0.0, 0.0, apart / allowed)
    over = np.where(np.isnan(over) | (np.isinf(sizes) & (apart != 0.0)), np.inf, over)
    i = np.unravel_index(int(np.argmax(over)), over.shape)
    return tuple(int(n) for n in i), float(over[i])


def difference_text(found: Any, expected: Any, sides: tuple[str, str]) -> str:
    """Both numbers and their relative error, in words."""
    a, b = float(found), float(expected)
    with np.errstate(all="ignore"):
        relative = np.float64(abs(a - b)) / max(abs(a), abs(b)) if a != b else 0.0
    return f"{sides[0]} {a:.10g}, {sides[1]} {b:.10g} (relative error {relative:.3g})"


def element(name: str, index: tuple[int, ...]) -> str:
    """An element of something, as Python writes it.

    >>> element("argument 0", (2, 1)), element("argument 0", ())
    ('argument 0, element [2, 1]', 'argument 0')
    """
    return f"{name}, element [{', '.join(map(str, index))}]" if index else name


def short(x: np.ndarray, most: int = 8) -> str:
    """An array's numbers if there are few, else how many there are."""
    if x.size > most:
        return f"({x.size} numbers)"
    return np.array2string(x, precision=6, separator=", ", suppress_small=False).replace("\n", "")

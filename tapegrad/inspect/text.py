"""How numbers, arrays and labels are written in listings and pictures."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.errors import OperationError

# Labels that read as one word, with attributes and subscripts: `x1`, `∂u`, `layers[0].weight`, `params['w']`.
_PLAIN = r"""[^\s'"*+\-/^|=<>()\[\].,]+"""
_WORD = re.compile(rf"{_PLAIN}(\.{_PLAIN}|\[[^\[\]\s]*\])*")
_SLOT_NAME = re.compile(r"v\d+|-?\d.*")


def number(x: float) -> str:
    """A number inside a formula, to six digits, without a needless point.

    >>> number(3.0), number(0.1), number(1e-9)
    ('3', '0.1', '1e-09')
    """
    return f"{float(x):.6g}"


def spelled(x: float) -> str:
    """A number in a column, to six digits; a whole one keeps its point.

    >>> spelled(-6.0), spelled(2 / 3), spelled(1e12)
    ('-6.0', '0.666667', '1e+12')
    """
    text = number(x)
    return text + ".0" if text.lstrip("-").isdigit() else text


def fixed(x: float) -> str:
    """A number in a picture: four decimals, or four digits where those would show nothing or too much.

    >>> fixed(2.0), fixed(-0.0), fixed(1e-9), fixed(1.23456e12)
    ('2.0000', '0.0000', '1e-09', '1.235e+12')
    """
    x = float(x)
    if x == 0.0:
        return "0.0000"
    return f"{x:.4f}" if 1e-3 <= abs(x) < 1e6 else f"{x:.4g}"


def brief(array: np.ndarray, write: Callable[[float], str], edge: int = 3) -> str:
    """The numbers of an array, those in the middle left out.

    >>> brief(np.arange(100.0), spelled)
    '[0.0, 1.0, 2.0, ..., 97.0, 98.0, 99.0]'
    """
    return np.array2string(
        array,
        formatter={"float_kind": lambda x: write(float(x))},
        threshold=2 * edge + 2 if array.ndim < 2 else (2 * edge) ** 2,
        edgeitems=edge,
        separator=", ",
        max_line_width=1 << 20,
    )


def rows(array: Any, write: Callable[[float], str], most: int = 6) -> list[str]:
    """The numbers of an array as lines in columns, the middle of long rows and columns left out.

    >>> rows(np.arange(6.0).reshape(2, 3), number)
    ['0  1  2', '3  4  5']
    >>> rows(np.arange(100.0), number)
    ['0  1  2  …  97  98  99']
    """
    if array.ndim > 2:
        array = array.reshape(-1)
    table: np.ndarray = np.atleast_2d(array)
    down, across = _ends(table.shape[0], most), _ends(table.shape[1], most)
    cells = [["…" if None in (i, j) else write(float(table[i, j])) for j in across] for i in down]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # Figure spaces are as wide as digits, in every font.
    return ["  ".join(cell.rjust(w, "\u2007") for cell, w in zip(row, widths, strict=True)) for row in cells]


def _ends(n: int, most: int) -> list[int | None]:
    if n <= most:
        return list(range(n))
    return [*range(most // 2), None, *range(n - most // 2, n)]


def shape_text(shape: Sequence[int]) -> str:
    """A shape in a listing.

    >>> shape_text((2, 3)), shape_text((6,))
    ('(2, 3)', '(6)')
    """
    return f"({', '.join(map(str, shape))})"


def whole_number(x: Any, what: str) -> int:
    """What is given for a whole number, as one. Raises OperationError where it is something else."""
    try:
        return operator.index(x)
    except TypeError:
        raise OperationError(f"{what} must be a whole number, not {x!r}") from None


def as_word(label: str) -> str:
    """A label as one word of a formula: as it is where that cannot be misread, else in quotes.

    >>> as_word("x1"), as_word("x1*w1"), as_word("v7")
    ('x1', "'x1*w1'", "'v7'")
    """
    plain = _WORD.fullmatch(label) and label.isprintable() and not _SLOT_NAME.fullmatch(label)
    return label if plain else repr(label)

"""The rules of elementwise operations as functions of C: `native.rules` runs them on what is written here.

So there is no second table. A rule becomes a function of C of the same operations in the same order.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.native.rules import NotCompilable, value
from tapegrad.native.writer import IN_C, MATH, Register
from tapegrad.ops import Elementwise

_SIGNS = {"fadd": "+", "fsub": "-", "fmul": "*", "fdiv": "/"}
_TRUTHS = {"and": "&&", "or": "||", "xor": "!="}
_RELATIONS = {"olt": "<", "ole": "<=", "ogt": ">", "oge": ">=", "oeq": "==", "une": "!="}


class CWriter:
    """The body of a function of C, as it is written: what rules take for a writer of LLVM's language.

    Args:
        dtype: float64 or float32.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.suffix = "" if dtype == np.float64 else "f"
        self.dtype, self.lines = dtype, list[str]()

    def _new(self, text: str, truth: bool = False) -> Register:
        name = f"r{len(self.lines)}"
        self.lines.append(f"const {'int' if truth else 'real'} {name} = {text};")
        return Register(name, False, truth)

    def constant(self, number: float) -> Register:
        """A number that is known."""
        return Register(literal(number, self.dtype))

    def binary(self, operation: str, x: Register, y: Register) -> Register:
        """Arithmetic of numbers, logic of truth values."""
        sign = _SIGNS.get(operation)
        return self._new(f"{x.text} {sign or _TRUTHS[operation]} {y.text}", sign is None)

    def negative(self, x: Register) -> Register:
        """-x."""
        return self._new(f"-{x.text}" if not x.text.startswith("-") else f"-({x.text})")

    def compare(self, relation: str, x: Register, y: Register) -> Register:
        """Whether a relation holds."""
        if relation == "uno":
            return self._new(f"{x.text} != {x.text} || {y.text} != {y.text}", True)
        if relation == "one":
            return self._new(f"{x.text} < {y.text} || {x.text} > {y.text}", True)
        return self._new(f"{x.text} {_RELATIONS[relation]} {y.text}", True)

    def negated(self, x: Register) -> Register:
        """Whether a truth value is false."""
        return self._new(f"!{x.text}", True)

    def rounded(self, number: float) -> float:
        """A number as the dtype holds it."""
        return float(self.dtype.type(number))

    def select(self, condition: Register, x: Register, y: Register, usual: bool | None = None) -> Register:
        """x where the condition holds, else y. A compiler of C is told nothing of what is `usual`."""
        return self._new(f"{condition.text} ? {x.text} : {y.text}", x.truth and y.truth)

    def number(self, x: Register) -> Register:
        """A truth value as 1 or 0."""
        return self._new(f"(real){x.text}") if x.truth else x

    def truth(self, x: Register) -> Register:
        """Whether a number is not zero."""
        return x if x.truth else self._new(f"{x.text} != 0", True)

    def call(self, name: str, *xs: Register) -> Register:
        """A function of `math.h`, by NumPy's name."""
        if name not in MATH:
            raise NotCompilable(f"a rule that calls {name}")
        own = {"abs": "fabs"}.get(name) or IN_C.get(name, name)
        return self._new(f"{own}{self.suffix}({', '.join(x.text for x in xs)})")

    def lane_by_lane(self, name: str, *xs: Register) -> Register:
        """As `call`: there is one lane."""
        return self.call(name, *xs)

    def foreign(self, function: Any, *xs: Register) -> Register:
        """A function of SciPy's. Raises NotCompilable: C has none."""
        raise NotCompilable("it calls a function of SciPy's")


def literal(number: float, dtype: np.dtype) -> str:
    """A number as C writes it, exactly."""
    rounded = float(dtype.type(number))
    if rounded != rounded:
        return "NAN"
    if rounded in (np.inf, -np.inf):
        return "INFINITY" if rounded > 0 else "-INFINITY"
    text = repr(rounded) if dtype == np.float64 else repr(float(str(dtype.type(number))))
    return text + ("" if dtype == np.float64 else "f")


@functools.lru_cache(1024)
def function_of(row: Elementwise, dtype: np.dtype) -> str:
    """The function `op_NAME` of C that computes an operation. Raises UnsupportedError where C cannot."""
    writer: Any = CWriter(dtype)
    names = "xyw"[: row.arity]
    try:
        found = value(writer, row, [Register(name) for name in names])
    except NotCompilable as error:
        raise UnsupportedError(f"the operation {row.name} cannot be written in C: {error}") from None
    unused = [f"(void){name};" for name in names if not any(_names(name, text) for text in [*writer.lines, found.text])]
    # Of a single expression no register is needed.
    if len(writer.lines) == 1 and found.text == "r0":
        writer.lines, found = [], Register(writer.lines[0].split(" = ", 1)[1].rstrip(";"))
    body = [*unused, *writer.lines, f"return {found.text};"]
    given = ", ".join(f"real {name}" for name in names)
    return "\n".join([f"static real op_{row.name}({given})", "{", *(f"    {line}" for line in body), "}"])


def _names(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None

"""What is said of a NaN or an infinity: which instruction made it, of what, and by which line of the user's code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapegrad.inspect.text import brief, spelled
from tapegrad.tape.lines import Line


@dataclass(frozen=True)
class Numbers:
    """Numbers on the tape and what they are called.

    Attributes:
        name: a label, an argument's name, or the slot; "" for a constant number.
        numbers: one number, or an array.
    """

    name: str
    numbers: Any

    def __str__(self) -> str:
        return f"{self.name} = {written(self.numbers)}" if self.name else written(self.numbers)


@dataclass(frozen=True)
class Blame:
    """Where a NaN or an infinity began; `print` says it in a few lines.

    Attributes:
        what: "NaN", "infinity", or "overflow": an infinity that stands for a finite number which is too large.
        sweep: "forward", for numbers, "reverse", for the adjoints of a gradient, or "tangents", for a derivative in
            forward mode.
        given: whether it was not computed but given: in an argument, or as a constant.
        name: what it is called: a label, an argument's name, or the slot.
        index: which element it is; () for a single number.
        row: the number of the instruction in the listing.
        operation: the name of the operation.
        text: the instruction in algebra.
        operands: what it read: of an operation on elements those that made this one.
        result: what it made; in the reverse sweep the number that it had made, forward.
        adjoint: in the reverse sweep, the adjoint that arrived at the result; else None.
        added: in the reverse sweep, what it added to the adjoint of an operand; else None.
        tangents: of a derivative in forward mode, the tangents of the operands and of the result.
        line: the line of the user's code, None where it was not noted (outside of `tapegrad.debug`).
        step: of a loop, the number of the step; None otherwise.
        within: of a loop, what happened in that step.
        cause: in the reverse sweep, where an operand that is NaN or infinite itself came from.
        of: the name of the function.
    """

    what: str
    sweep: str
    given: bool
    name: str
    index: tuple[int, ...]
    row: int
    operation: str
    text: str
    operands: tuple[Numbers, ...] = ()
    result: Numbers | None = None
    adjoint: Any = None
    added: Numbers | None = None
    tangents: tuple[Numbers, ...] = ()
    line: Line | None = None
    step: int | None = None
    within: Blame | None = None
    cause: Blame | None = None
    of: str = field(default="", compare=False)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        at = f" at {list(self.index)}" if self.index else ""
        within = f" of {self.of}" if self.of else ""
        if self.given:
            yield f"{self.what} was given: {self.name}{at}{within}"
        elif self.sweep == "forward":
            yield f"{self.what} made{at} by instruction {self.row}{within}: {self.text}"
        elif self.sweep == "tangents":
            yield f"{self.what} made in the tangents{at} by instruction {self.row}{within}: {self.text}"
        else:
            yield f"{self.what} made on the way back{at} by instruction {self.row}{within}: {self.text}"
        if self.line is not None:
            yield f"  line      {self.line}"
            if self.line.source:
                yield f"            {self.line.source}"
        elif not self.given:
            yield "  line      not known: record the function within `with tapegrad.debug():`"
        for n, operand in enumerate(self.operands):
            yield f"  {'' if n else 'operands':<9} {operand}"
        if self.result is not None and not self.given:
            yield f"  result    {self.result}"
        if self.adjoint is not None:
            yield f"  adjoint   {written(self.adjoint)}, of the result"
        if self.added is not None:
            yield f"  added     {written(self.added.numbers)} to the adjoint of {self.added.name}"
        for n, tangent in enumerate(() if self.given else self.tangents):
            yield f"  {'' if n else 'tangents':<9} {written(tangent.numbers)}, of {tangent.name}"
        if self.step is not None:
            yield f"  step      {self.step}"
        for title, other in (("in this step", self.within), ("the operand came from this", self.cause)):
            if other is not None:
                yield f"  {title}:"
                yield from (f"    {line}" for line in other._lines())


def written(numbers: Any) -> str:
    """Numbers in a report: one to all its digits, of an array the ends."""
    array = np.asarray(numbers)
    return repr(array.item()) if array.size == 1 and not array.ndim else brief(array, spelled)

"""Instructions on single numbers as functions of LLVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.rules import value
from tapegrad.native.writer import Register, Writer
from tapegrad.ops import TABLE
from tapegrad.tape import EXPECT

# So many instructions make a function. LLVM's time grows faster than its input.
CHUNK = 1000


class ScalarsWriter:
    """Writes a stretch of scalar instructions, one after the other.

    Args:
        writer: an empty one, of one lane.
        rows: the instructions, (n, 5), with the numbers of steps in `numbers`.
        to: the place in the compiled program's arena of a place of the program's own.
        kept: whether a result is to be stored, because others read it.
        known: numbers that operations hold constant, by place: exponents, say.
    """

    def __init__(
        self, writer: Writer, rows: np.ndarray, numbers: Sequence[int], to: Callable[[int], int],
        kept: Callable[[int], bool], known: dict[int, float],
    ) -> None:  # fmt: skip
        self.w, self._rows, self._numbers = writer, rows, numbers
        self._to, self._kept, self._constants = to, kept, known
        self._registers: dict[int, Register] = {}

    def write(self, name: str) -> str:
        """The text of the function. It returns the number of the first guard that does not hold, or -1."""
        w, failed = self.w, Register("-1")
        for number, (op, out, *operands) in zip(self._numbers, self._rows.tolist(), strict=True):
            if op == EXPECT:
                failed = self._guard(number, operands, failed)
                continue
            row: Any = TABLE[op]
            xs = [
                self._constants[place] if j in row.held and place in self._constants else self._get(place)
                for j, place in enumerate(operands[: row.arity])
            ]
            found = value(w, row, xs)
            self._registers[out] = found
            if self._kept(out):
                w.lines.append(f"store {w.real} {found.text}, ptr {self._pointer(out)}, align {w.dtype.itemsize}")
        head = f"define internal i64 @{name}(ptr noalias %v) {{"
        return "\n".join([head, *w.lines, f"ret i64 {failed.text}", "}"])

    def _guard(self, number: int, operands: Sequence[int], failed: Register) -> Register:
        """The first guard that fails: the same number, zeros of the same sign, or both none, is what is expected."""
        w, (x, y) = self.w, (self._get(place) for place in operands[:2])
        bits = [w.new(f"bitcast {w.real} {z.text} to i{8 * w.dtype.itemsize}", False).text for z in (x, y)]
        equal = w.new(f"icmp eq i{8 * w.dtype.itemsize} {bits[0]}, {bits[1]}", False, True)
        none = w.binary("and", w.compare("uno", x, x), w.compare("uno", y, y))
        holds = w.binary("or", equal, none)
        before = w.new(f"icmp sge i64 {failed.text}, 0", False, True)
        keep = w.binary("or", holds, before)
        return w.new(f"select i1 {keep.text}, i64 {failed.text}, i64 {number}", False)

    def _get(self, place: int) -> Register:
        known = self._registers.get(place)
        if known is None:
            w = self.w
            known = w.new(f"load {w.real}, ptr {self._pointer(place)}, align {w.dtype.itemsize}", False)
            self._registers[place] = known
        return known

    def _pointer(self, place: int) -> str:
        return self.w.new(f"getelementptr {self.w.real}, ptr %v, i64 {self._to(place)}", False).text

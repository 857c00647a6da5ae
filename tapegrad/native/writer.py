"""LLVM's language, line by line: numbers in registers, alone or in vectors of one number for each lane."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.compiled import vector
from tapegrad.native import vector_functions
from tapegrad.native.foreign import calling

# What functions are called in LLVM that is an instruction of most processors, by their names here.
_INTRINSICS = {
    "abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint",
    "copysign": "copysign",
}  # fmt: skip
# And in C's library.
IN_C = {
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arctan2": "atan2", "arcsinh": "asinh", "arccosh": "acosh",
    "arctanh": "atanh",
} | {name: name for name in (
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "hypot",
    "cbrt", "erf", "erfc", "lgamma", "tgamma", "pow", "fmod",
)}  # fmt: skip
MATH = frozenset(_INTRINSICS) | frozenset(IN_C)


# Numbers of rows at most so far apart are read and written by whole vectors.
NEAR = 4
# What stands behind a choice of which it is known whether its condition usually holds.
USUAL = {True: ", !prof !0", False: ", !prof !1"}


class Register(NamedTuple):
    """A number, or a truth value, in the language: `text` names it. `wide` says that there is one for each lane.

    `known` is the number where it is a constant of the program. It is not written, so that programs that differ in
    constants share their code, but what is asked of it is answered beforehand.
    """

    text: str
    wide: bool = False
    truth: bool = False
    known: float | None = None


class Writer:
    """The body of a function of LLVM, as it is written.

    Args:
        dtype: float64 or float32.
        lanes: how many numbers a wide register has; 1 for none.
        stops: whether long loops end when there is a number other than zero at `%stop`, because somebody has pressed
            Ctrl-C.
    """

    def __init__(self, dtype: np.dtype, lanes: int, stops: bool = False) -> None:
        self.dtype, self.lanes = np.dtype(dtype), lanes
        self.real = "double" if self.dtype == np.float64 else "float"
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self._stops = stops
        self._serial = 0
        self._label = 0
        # Registers that hold the same number in every lane, by the number.
        self._everywhere: dict[str, Register] = {}

    def name(self) -> str:
        """A new name for a register."""
        self._serial += 1
        return f"%r{self._serial}"

    def label(self, what: str) -> str:
        """A new name for a block."""
        self._label += 1
        return f"{what}{self._label}"

    def new(self, text: str, wide: bool, truth: bool = False) -> Register:
        """A register with what an expression gives."""
        name = self.name()
        self.lines.append(f"{name} = {text}")
        return Register(name, wide, truth)

    def open(self, label: str) -> None:
        """Begin a block. What was known in vectors before need not be known here."""
        self.lines.append(f"{label}:")
        self._everywhere.clear()

    def unless_stopped(self, condition: str) -> str:
        """Whether a condition holds and nobody wants the program to stop."""
        if not self._stops:
            return condition
        seen, goes, both = self.name(), self.name(), self.name()
        self.lines += [f"{seen} = load volatile i64, ptr %stop, align 8", f"{goes} = icmp eq i64 {seen}, 0"]
        self.lines.append(f"{both} = and i1 {condition}, {goes}")
        return both

    def type(self, wide: bool, truth: bool = False) -> str:
        """The type of a register."""
        one = "i1" if truth else self.real
        return f"<{self.lanes} x {one}>" if wide else one

    def rounded(self, number: float) -> float:
        """A number as registers have it."""
        return float(np.asarray(number, self.dtype))

    def constant(self, number: float) -> Register:
        """A number that is known."""
        rounded = self.rounded(number)
        return Register(f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}")

    def wide(self, x: Register) -> Register:
        """The same number in every lane."""
        if x.wide or self.lanes == 1:
            return x
        known = self._everywhere.get(x.text)
        if known is None:
            kind, whole = self.type(False, x.truth), self.type(True, x.truth)
            one = self.new(f"insertelement {whole} poison, {kind} {x.text}, i32 0", True, x.truth)
            zeros = f"<{self.lanes} x i32> zeroinitializer"
            known = self.new(f"shufflevector {whole} {one.text}, {whole} poison, {zeros}", True, x.truth)
            self._everywhere[x.text] = known
        return known

    def alike(self, *xs: Register) -> tuple[tuple[Register, ...], bool]:
        """Numbers of which either all are wide or none, and whether they are."""
        wide = any(x.wide for x in xs)
        return tuple(self.wide(x) if wide else x for x in xs), wide

    def binary(self, operation: str, x: Register, y: Register) -> Register:
        """`fadd`, `fmul`, `and` and the like."""
        (x, y), wide = self.alike(x, y)
        return self.new(f"{operation} {self.type(wide, x.truth)} {x.text}, {y.text}", wide, x.truth)

    def negative(self, x: Register) -> Register:
        """-x."""
        return self.new(f"fneg {self.type(x.wide)} {x.text}", x.wide)

    def compare(self, relation: str, x: Register, y: Register) -> Register:
        """Whether a relation holds: `olt`, `une` and the like."""
        (x, y), wide = self.alike(x, y)
        return self.new(f"fcmp {relation} {self.type(wide)} {x.text}, {y.text}", wide, True)

    def negated(self, x: Register) -> Register:
        """Whether a truth value is false."""
        return self.binary("xor", x, Register("true", False, True) if not x.wide else self._true())

    def _true(self) -> Register:
        return Register("<" + ", ".join(["i1 true"] * self.lanes) + ">", True, True)

    def select(self, condition: Register, x: Register, y: Register, usual: bool | None = None) -> Register:
        """x where the condition holds, else y; `usual` is what it usually does, if that is known."""
        (condition, x, y), wide = self.alike(condition, x, y)
        of, kind = self.type(wide, True), self.type(wide, x.truth)
        known = "" if usual is None or wide else USUAL[usual]
        return self.new(f"select {of} {condition.text}, {kind} {x.text}, {kind} {y.text}{known}", wide, x.truth)

    def number(self, x: Register) -> Register:
        """A truth value as 1 or 0."""
        if not x.truth:
            return x
        return self.new(f"uitofp {self.type(x.wide, True)} {x.text} to {self.type(x.wide)}", x.wide)

    def truth(self, x: Register) -> Register:
        """Whether a number is not zero."""
        return x if x.truth else self.compare("une", x, self.constant(0.0))

    def two_sum(self, x: Register, y: Register) -> tuple[Register, Register]:
        """x + y, and what rounding loses of it, as Knuth finds that."""
        total = self.binary("fadd", x, y)
        part = self.binary("fsub", total, x)
        rest = self.binary("fsub", x, self.binary("fsub", total, part))
        return total, self.binary("fadd", rest, self.binary("fsub", y, part))

    def rows_within(self, first: int, count: int) -> Register:
        """Whether the row of each lane, the first of which is row `%t`, is one of `count` from `first` on."""
        n, kind = self.lanes, f"<{self.lanes} x i64>"
        one = self.new(f"insertelement {kind} poison, i64 %t, i32 0", True).text
        zeros = f"<{n} x i32> zeroinitializer"
        everywhere = self.new(f"shufflevector {kind} {one}, {kind} poison, {zeros}", True).text
        lanes = ", ".join(f"i64 {i - first}" for i in range(n))
        at = self.new(f"add {kind} {everywhere}, <{lanes}>", True).text
        return self.new(f"icmp ult {kind} {at}, <{', '.join([f'i64 {count}'] * n)}>", True, True)

    def total(self, x: Register) -> Register:
        """The sum of all lanes, in their order."""
        each = [self.new(f"extractelement {self.type(True)} {x.text}, i32 {i}", False) for i in range(self.lanes)]
        found = each[0]
        for y in each[1:]:
            found = self.binary("fadd", found, y)
        return found

    def gather(self, pointer: str, stride: int) -> Register:
        """Numbers that stand so far apart in memory, one for each lane."""
        n, kind, size = self.lanes, self.type(True), self.dtype.itemsize
        if 1 < stride <= NEAR:
            return self._near(pointer, stride)
        steps = ", ".join(f"i64 {i * stride}" for i in range(n))
        pointers = self.new(f"getelementptr {self.real}, ptr {pointer}, <{n} x i64> <{steps}>", True).text
        name = self.declare(
            f"llvm.masked.gather.v{n}f{8 * size}.v{n}p0", kind, f"<{n} x ptr>", "i32", f"<{n} x i1>", kind
        )
        self.declared[name[1:]] = self.declared[name[1:]].replace("memory(none)", "memory(read)")
        arguments = f"<{n} x ptr> {pointers}, i32 {size}, <{n} x i1> {self._true().text}, {kind} poison"
        return self.new(f"call {kind} {name}({arguments})", True)

    def _near(self, pointer: str, stride: int) -> Register:
        """The same by whole vectors, which touch nothing before the first number or behind the last."""
        n, kind, last, found, lane = self.lanes, self.type(True), (self.lanes - 1) * stride, "poison", 0
        while lane < n:
            start = min(lane * stride, last - n + 1)
            p = self.new(f"getelementptr {self.real}, ptr {pointer}, i64 {start}", False).text
            x = self.new(f"load {kind}, ptr {p}, align {self.dtype.itemsize}", True).text
            behind = next((i for i in range(lane, n) if i * stride >= start + n), n)
            found = self._picked(found, x, [i if i < lane else n + i * stride - start for i in range(behind)])
            lane = behind
        return Register(found, True)

    def side_by_side(self, xs: Sequence[Register]) -> list[Register]:
        """Vectors that have, one after the other, the numbers of the first lane of all of these, of the second, ..."""
        n, count, made = self.lanes, len(xs), []
        for k in range(count):
            found = "poison"
            for j, x in enumerate(xs):
                # What comes of vectors before stays where it is.
                at = [divmod(k * n + i, count) for i in range(n)]
                mask = [i if of < j else n + lane if of == j else None for i, (lane, of) in enumerate(at)]
                found = self._picked(found, self.wide(x).text, mask)
            made.append(Register(found, True))
        return made

    def _picked(self, x: str, y: str, at: Sequence[int | None]) -> str:
        """Numbers of two vectors, those of the second counted on, in the first lanes; None where any number will do."""
        mask = ", ".join("i32 poison" if i is None else f"i32 {i}" for i in (*at, *[None] * (self.lanes - len(at))))
        kind = self.type(True)
        return self.new(f"shufflevector {kind} {x}, {kind} {y}, <{self.lanes} x i32> <{mask}>", True).text

    def declare(self, name: str, result: str, *arguments: str) -> str:
        """Have a function of another module known; returns how it is named."""
        self.declared[name] = f"declare {result} @{name}({', '.join(arguments)}) nounwind willreturn memory(none)"
        return f"@{name}"

    def call(self, name: str, *xs: Register) -> Register:
        """A function of numbers, by NumPy's name."""
        xs, wide = self.alike(*xs)
        kind = self.type(wide)
        if name in _INTRINSICS:
            suffix = f"v{self.lanes}" if wide else ""
            intrinsic = f"llvm.{_INTRINSICS[name]}.{suffix}f{8 * self.dtype.itemsize}"
            return self._called(self.declare(intrinsic, kind, *[kind] * len(xs)), xs, wide)
        plain = IN_C[name] + ("" if self.real == "double" else "f")
        if not wide:
            return self._called(self.declare(plain, kind, *[kind] * len(xs)), xs, wide)
        if name in vector_functions.NAMES and vector.is_wanted():
            return self._called(self._own(name), xs, wide)
        # Where exponents may be whole, powers are taken lane by lane; see `rules.powers`.
        function = vector.function_of(plain, self.real, power=True)
        if function is None:
            return self._each(self.declare(plain, self.real, *[self.real] * len(xs)), xs)
        if function.lanes == self.lanes:
            return self._called(self.declare(function.vector, kind, *[kind] * len(xs)), xs, wide)
        return self._in_parts(function, xs)

    def _own(self, name: str) -> str:
        """Have a function for vectors defined; returns how it is named."""
        own, text, fused = vector_functions.definition(name, 8 * self.dtype.itemsize, self.lanes)
        self.declared["fmuladd"], self.declared[own] = fused, text
        return f"@{own}"

    def _called(self, function: str, xs: tuple[Register, ...], wide: bool) -> Register:
        kind = self.type(wide)
        return self.new(f"call {kind} {function}({', '.join(f'{kind} {x.text}' for x in xs)})", wide)

    def lane_by_lane(self, name: str, *xs: Register) -> Register:
        """As `call`, by the function for one number."""
        plain = IN_C[name] + ("" if self.real == "double" else "f")
        return self._each(self.declare(plain, self.real, *[self.real] * len(xs)), self.alike(*xs)[0])

    def foreign(self, function: Any, *xs: Register) -> Register:
        """A function that is called by its address; see `tapegrad.ops.special.calls`."""
        name, declared = calling(function, self.real)
        self.declared |= declared
        xs, wide = self.alike(*xs)
        return self._each(f"@{name}", xs) if wide else self._called(f"@{name}", xs, False)

    def _each(self, function: str, xs: tuple[Register, ...]) -> Register:
        whole, result = self.type(True), "poison"
        for i in range(self.lanes):
            each = [self.new(f"extractelement {whole} {x.text}, i32 {i}", False) for x in xs]
            found = self._called(function, tuple(each), False)
            result = self.new(f"insertelement {whole} {result}, {self.real} {found.text}, i32 {i}", True).text
        return Register(result, True)

    def _in_parts(self, function: vector.Function, xs: tuple[Register, ...]) -> Register:
        # The library's vectors are shorter than these: one call for each part.
        n, whole = function.lanes, self.type(True)
        part = f"<{n} x {self.real}>"
        name = self.declare(function.vector, part, *[part] * len(xs))
        parts = []
        for start in range(0, self.lanes, n):
            mask = ", ".join(f"i32 {i}" for i in range(start, start + n))
            each = [
                self.new(f"shufflevector {whole} {x.text}, {whole} poison, <{n} x i32> <{mask}>", True) for x in xs
            ]
            arguments = ", ".join(f"{part} {x.text}" for x in each)
            parts.append(self.new(f"call {part} {name}({arguments})", True))
        count = n
        while len(parts) > 1:
            mask = ", ".join(f"i32 {i}" for i in range(2 * count))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            kind = f"<{count} x {self.real}>"
            parts = [
                self.new(f"shufflevector {kind} {a.text}, {kind} {b.text}, <{2 * count} x i32> <{mask}>", True)
                for a, b in pairs
            ]
            count *= 2
        return parts[0]

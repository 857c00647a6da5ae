"""Elementary functions of vectors in LLVM's language, to be written into loops.

A function of libmvec is a call for each vector: everything in registers is stored before it, and one call waits for the
other. Written into a loop, the functions of several vectors go at the same time, there is no call, and a processor or
system for which there is no libmvec has them too. They have no branches: what is special is chosen at the end.

Each reduces its argument to a short interval in which a polynomial, or a quotient of two, serves. The coefficients are
fits of our own, with 60 digits in mpmath. Polynomials: Remez' exchange, of (e^r - 1 - r) / r^2 where |r| <= ln(2) / 2,
and of (2 artanh(s) - 2 s) / s^3 by s^2 where (1 + s) / (1 - s) is between the roots of 1/2 and 2. The quotient, tanh(x)
/ x by x^2: least squares of P - Q tanh(x) / x, divided by the Q of the fit before and weighted by the errors that there
were (Lawson's way), until the largest error is as small as it gets. All coefficients of P and Q are positive, so
nothing cancels. `bench.accuracy` measures what comes out; docs/accuracy.md has the table.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class _Kind(NamedTuple):
    """What is particular to a kind of numbers: names, bits, and coefficients from the constant on.

    Attributes:
        high, low: ln(2) in two parts, the first of which has zeros at the end: products with exponents are exact.
        most, least: beyond these e^x is infinite, or zero.
        expm1_least: below it e^x - 1 is -1; likewise `tanh_most`.
        subnormal: numbers below it are multiplied by 2^`raised` before their exponent is read.
    """

    real: str
    bits: int
    mantissa: int
    high: float
    low: float
    most: float
    least: float
    expm1_least: float
    tanh_most: float
    subnormal: float
    raised: int
    exp: tuple[float, ...]
    log: tuple[float, ...]
    above: tuple[float, ...]
    below: tuple[float, ...]


_KINDS = {
    64: _Kind(
        "double", 64, 52, 0.6931471803691238, 1.9082149292705877e-10, 710.5, -746.0, -40.0, 19.0625, 2.0**-1022, 54,
        exp=(
            0.5000000000000001, 0.16666666666666674, 0.04166666666662412, 0.008333333333322207, 0.0013888888917217457,
            0.00019841269886591, 2.4801521290973345e-05, 2.7557242336680357e-06, 2.7620090518499427e-07,
            2.5110049895858716e-08,
        ),
        log=(
            0.666666666666667, 0.3999999999989789, 0.2857142862665141, 0.22222211031749325, 0.18182896207631685,
            0.15331497764506818, 0.1461909699201228,
        ),
        above=(
            1.0, 0.15180294290702562, 0.005974351330269803, 9.35892607646475e-05, 6.828410950623519e-07,
            2.439105907224841e-09, 4.166736989948933e-12, 3.0585739250393156e-15, 7.394974887169348e-19,
            2.492370467903993e-23,
        ),
        below=(
            1.0, 0.48513627624035804, 0.03435311007705769, 0.0008280430893217469, 8.75175645970624e-06,
            4.4613444498592603e-08, 1.1102898350305336e-10, 1.2687429266374848e-13, 5.61997414269831e-17,
            6.20431204117332e-21,
        ),
    ),
    32: _Kind(
        "float", 32, 23, 0.693145751953125, 1.42860682030941723e-06, 89.5, -105.0, -20.0, 9.1, 2.0**-126, 25,
        exp=(0.5, 0.16666576266288757, 0.04166637361049652, 0.008363183587789536, 0.001394112128764391),
        log=(0.6666668653488159, 0.39988696575164795, 0.2958308756351471),
        above=(1.0, 0.1337449550628662, 0.003487834008410573, 2.0481535102589987e-05, 1.3177952062903842e-08),
        below=(1.0, 0.4670780897140503, 0.025847477838397026, 0.0003272956528235227, 7.704232984906412e-07),
    ),
}  # fmt: skip


class _Body:
    """The body of a function of vectors, line by line. Values are the names of registers, or floats."""

    def __init__(self, kind: _Kind, lanes: int) -> None:
        self.kind, self.lanes = kind, lanes
        self.reals, self.words = f"<{lanes} x {kind.real}>", f"<{lanes} x i{kind.bits}>"
        self.truths = f"<{lanes} x i1>"
        self.lines: list[str] = []

    def _new(self, text: str) -> str:
        name = f"%r{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def _x(self, x: str | float) -> str:
        if isinstance(x, str):
            return x
        rounded = float(x if self.kind.bits == 64 else np.float32(x))
        one = f"{self.kind.real} 0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
        return f"<{', '.join([one] * self.lanes)}>"

    def _i(self, x: str | int) -> str:
        return x if isinstance(x, str) else f"<{', '.join([f'i{self.kind.bits} {x}'] * self.lanes)}>"

    def op(self, operation: str, x: str | float, y: str | float) -> str:
        """`fadd`, `fmul` and the like."""
        return self._new(f"{operation} {self.reals} {self._x(x)}, {self._x(y)}")

    def word(self, operation: str, x: str | int, y: str | int) -> str:
        """`add`, `shl` and the like of whole numbers."""
        return self._new(f"{operation} {self.words} {self._i(x)}, {self._i(y)}")

    def fma(self, x: str | float, y: str | float, z: str | float) -> str:
        """x y + z, rounded once where the processor can do that."""
        arguments = ", ".join(f"{self.reals} {self._x(v)}" for v in (x, y, z))
        return self._new(f"call {self.reals} @{self.fused}({arguments})")

    @property
    def fused(self) -> str:
        """The name of the function for that."""
        return f"llvm.fmuladd.v{self.lanes}f{self.kind.bits}"

    def choose(self, relation: str, x: str | float, y: str | float, yes: str | float, no: str | float) -> str:
        """`yes` where a relation holds between x and y, else `no`."""
        return self.select(self.compare(relation, x, y), yes, no)

    def compare(self, relation: str, x: str | float, y: str | float) -> str:
        """Whether a relation holds."""
        return self._new(f"fcmp {relation} {self.reals} {self._x(x)}, {self._x(y)}")

    def select(self, holds: str, yes: str | float, no: str | float) -> str:
        """One of two, by truth values."""
        return self._new(f"select {self.truths} {holds}, {self.reals} {self._x(yes)}, {self.reals} {self._x(no)}")

    def least(self, x: str, bound: float) -> str:
        """The smaller of two; what is no number stays."""
        return self.choose("olt", bound, x, bound, x)

    def most(self, x: str, bound: float) -> str:
        """The larger of two; likewise."""
        return self.choose("ogt", bound, x, bound, x)

    def size(self, x: str) -> str:
        """|x|."""
        return self.reals_of(self.word("and", self.words_of(x), (1 << (self.kind.bits - 1)) - 1))

    def with_sign_of(self, x: str, y: str) -> str:
        """x, which has no sign, with that of y."""
        sign = self.word("and", self.words_of(y), -1 << (self.kind.bits - 1))
        return self.reals_of(self.word("or", self.words_of(x), sign))

    def words_of(self, x: str) -> str:
        """The bits of numbers."""
        return self._new(f"bitcast {self.reals} {x} to {self.words}")

    def reals_of(self, x: str) -> str:
        """The numbers with these bits."""
        return self._new(f"bitcast {self.words} {x} to {self.reals}")

    def polynomial(self, x: str, square: str, coefficients: Sequence[float]) -> str:
        """By its even and its odd part, which do not wait for each other."""
        even, odd = (self._horner(square, coefficients[start::2]) for start in (0, 1))
        return self.fma(x, odd, even)

    def _horner(self, x: str, coefficients: Sequence[float]) -> str | float:
        found: str | float = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            found = self.fma(x, found, c)
        return found

    # Adding this makes a whole number of any that is not too large, and it stands in the last bits.
    @property
    def shift(self) -> float:
        return 1.5 * 2.0**self.kind.mantissa

    def reduced(self, x: str) -> tuple[str, str, str]:
        """n + shift, n as a number, and r with x = n ln(2) + r."""
        shifted = self.fma(x, 1.0 / math.log(2.0), self.shift)
        n = self.op("fsub", shifted, self.shift)
        return shifted, n, self.fma(n, -self.kind.low, self.fma(n, -self.kind.high, x))

    def reduced_exactly(self, x: str) -> tuple[str, str]:
        """n + shift, and e^r - 1, where x = n ln(2) + r, with what rounding loses of r."""
        shifted = self.fma(x, 1.0 / math.log(2.0), self.shift)
        n = self.op("fsub", shifted, self.shift)
        high = self.fma(n, -self.kind.high, x)
        r = self.fma(n, -self.kind.low, high)
        lost = self.fma(n, -self.kind.low, self.op("fsub", high, r))
        square = self.op("fmul", r, r)
        rest = self.fma(square, self.polynomial(r, square, self.kind.exp), lost)
        return shifted, self.op("fadd", r, rest)

    def grown(self, r: str) -> str:
        """e^r - 1 where |r| is at most ln(2) / 2."""
        square = self.op("fmul", r, r)
        return self.fma(square, self.polynomial(r, square, self.kind.exp), r)

    def power_of_two(self, word: str) -> str:
        """2^n of whole numbers whose last bits are those of n."""
        return self.reals_of(self.word("add", self.word("shl", word, self.kind.mantissa), self._word_of(1.0)))

    def _word_of(self, x: float) -> int:
        """The bits of a number that is known."""
        return int(np.float64(x).view(np.int64) if self.kind.bits == 64 else np.float32(x).view(np.int32))

    def log_of(self, u: str, lost: str | None = None, k: str | None = None) -> str:
        """ln(u + lost) + k ln(2) for normal numbers u; what is lost is small beside them."""
        kind = self.kind
        word = self.words_of(u)
        # How far the exponent is from that of a number between the roots of 1/2 and 2.
        beyond = self.word("sub", word, self._word_of(math.sqrt(0.5)))
        step = self.word("and", beyond, -1 << kind.mantissa)
        f = self.op("fsub", self.reals_of(self.word("sub", word, step)), 1.0)
        if lost is not None:
            # Beside large numbers nothing matters that is lost, and there may be no such power of 2.
            scale = self.reals_of(self.word("sub", self._word_of(1.0), step))
            f = self.fma(lost, self.choose("olt", u, 2.0 ** (2 * kind.mantissa), scale, 0.0), f)
        moved = self.word("add", self.word("ashr", beyond, kind.mantissa), self._word_of(self.shift))
        n = self.op("fsub", self.reals_of(moved), self.shift)
        if k is not None:
            n = self.op("fadd", n, k)
        s = self.op("fdiv", f, self.op("fadd", f, 2.0))
        z = self.op("fmul", s, s)
        fourth = self.op("fmul", z, z)
        half = self.op("fmul", self.op("fmul", f, 0.5), f)
        rest = self.fma(z, self.polynomial(z, fourth, kind.log), half)
        low = self.fma(s, rest, self.op("fmul", n, kind.low))
        return self.fma(n, kind.high, self.op("fsub", f, self.op("fsub", half, low)))


def _exp(b: _Body, x: str) -> str:
    # A product with two powers of 2, as one of them alone may be infinite, or zero, where the product is not.
    shifted, n, r = b.reduced(b.most(b.least(x, b.kind.most), b.kind.least))
    half = b.words_of(b.fma(n, 0.5, b.shift))
    other = b.word("sub", b.words_of(shifted), half)
    grown = b.op("fadd", b.grown(r), 1.0)
    return b.op("fmul", b.op("fmul", grown, b.power_of_two(half)), b.power_of_two(other))


def _expm1(b: _Body, x: str) -> str:
    # 2^n (e^r - 1) + (2^n - 1), at half its size, as long as it may be too large.
    shifted, grown = b.reduced_exactly(b.most(b.least(x, b.kind.most), b.kind.expm1_least))
    half = b.power_of_two(b.word("sub", b.words_of(shifted), 1))
    found = b.fma(half, grown, b.op("fsub", half, 0.5))
    # What is so small is its own result, and zero keeps its sign.
    return b.choose("olt", b.size(x), 2.0 ** -(b.kind.mantissa + 2), x, b.op("fadd", found, found))


def _tanh(b: _Body, x: str) -> str:
    # With y = e^2|x| it is (y - 1) / (y + 1), and where y is large rather 1 - 2 / (y + 1).
    size = b.least(b.size(x), b.kind.tanh_most)
    shifted, grown = b.reduced_exactly(b.op("fadd", size, size))
    power = b.power_of_two(b.words_of(shifted))
    above = b.fma(power, grown, b.op("fsub", power, 1.0))
    below = b.fma(power, grown, b.op("fadd", power, 1.0))
    large = b.compare("ogt", size, 0.5)
    found = b.op("fdiv", b.select(large, -2.0, above), below)
    return b.with_sign_of(b.op("fadd", found, b.select(large, 1.0, 0.0)), x)


def _log(b: _Body, x: str) -> str:
    kind = b.kind
    small = b.choose("olt", x, kind.subnormal, b.op("fmul", x, 2.0**kind.raised), x)
    k = b.choose("olt", x, kind.subnormal, -float(kind.raised), 0.0)
    return _at_ends(b, x, 0.0, b.log_of(small, k=k))


def _log1p(b: _Body, x: str) -> str:
    # What rounding loses of 1 + x, as Knuth finds that.
    u = b.op("fadd", x, 1.0)
    part = b.op("fsub", u, x)
    lost = b.op("fadd", b.op("fsub", x, b.op("fsub", u, part)), b.op("fsub", 1.0, part))
    found = _at_ends(b, x, -1.0, b.log_of(u, lost))
    return b.choose("olt", b.size(x), 2.0 ** -(b.kind.mantissa + 2), x, found)


def _at_ends(b: _Body, x: str, end: float, found: str) -> str:
    """A logarithm that is minus infinity at `end`, nothing below it, and infinite where x is."""
    outside = b.choose("oeq", x, end, -math.inf, math.nan)
    return b.choose("oeq", x, math.inf, math.inf, b.choose("ogt", x, end, found, outside))


_FUNCTIONS: dict[str, Callable[[_Body, str], str]] = {
    "exp": _exp, "expm1": _expm1, "tanh": _tanh, "log": _log, "log1p": _log1p,
}  # fmt: skip
NAMES = frozenset(_FUNCTIONS)
_INLINE = "alwaysinline"
# Where there are more calls than this in a program, functions are called: written out, they would take long to compile.
_MOST_CALLS = 64


@functools.cache
def definition(name: str, bits: int, lanes: int) -> tuple[str, str, str]:
    """The name of a function for vectors, in LLVM's language, the text of it, and what must be declared for it."""
    b = _Body(_KINDS[bits], lanes)
    result = _FUNCTIONS[name](b, "%x")
    own = f"tapegrad_{name}_{lanes}_{bits}"
    head = f'define internal {b.reals} @{own}({b.reals} %x) {_INLINE} memory(none) "prefer-vector-width"="512" {{'
    text = "\n".join([head, *b.lines, f"ret {b.reals} {result}", "}"])
    return own, text, f"declare {b.reals} @{b.fused}({b.reals}, {b.reals}, {b.reals})"


def settled(text: str) -> str:
    """The text of a module in which these functions are called often, with calls instead of their bodies."""
    return text if text.count("@tapegrad_") <= _MOST_CALLS else text.replace(f" {_INLINE} ", " noinline ")

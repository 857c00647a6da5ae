"""Functions of arrays from libmvec, the vector math of the GNU C library, in place of one call for each number.

A call in LLVM's language may say which function does the same for vectors. Then a loop with such calls is vectorised.
(LLVM knows `exp` and some others itself, and vectorises loops over them without that, but it takes the vectors apart
again.) Numba writes no such remarks, so they are put into the text of what it has compiled, and that is optimised once
more. Where the library is not there (macOS, Windows, musl), or lacks a function, the code stays as it is.

A loop ends with numbers that do not fill a vector. They go through the same function, in a vector that has only them,
so that a result does not depend on where in an array a number stands.

The functions of libmvec are right to 4 units in the last place, libm's mostly to 1. With TAPEGRAD_MATH=libm in the
environment they are not used.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from tapegrad.compiled import machine
from tapegrad.errors import OperationError

# Functions of one number, and of two.
_OF_ONE = ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
           "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "cbrt")  # fmt: skip
_OF_TWO = ("atan2", "hypot")
# Powers with whole exponents are to be exact to the last bit or two, as users expect, so this serves only where it is
# known that an exponent is none.
_POWER = "pow"
# How libmvec names the registers of AVX-512, AVX2 and SSE, their bits, and what a processor with them is known by.
_REGISTERS = (("e", 512, "avx512f"), ("d", 256, "avx2"), ("b", 128, "sse2"))
_KINDS = {"float": 32, "double": 64}
# Calls of a function for one number: (what stands before, how it is called, the kind of number), and for vectors.
_CALL = re.compile(r"(call (?:[a-z]+ )*)(float|double) @(?:llvm\.(\w+)\.f(?:32|64)|(\w+))(\([^()]*\))(?: #\d+)?")
_VECTOR_CALL = re.compile(r"@llvm\.(\w+)\.v(\d+)f(32|64)\(")


class Function(NamedTuple):
    """A function of C's library for numbers of one kind, and what does the same for vectors.

    Attributes:
        name: in C; `vector` in libmvec, for so many `lanes`, numbers at a time.
        operands: how many it takes.
    """

    name: str
    kind: str
    operands: int
    lanes: int
    vector: str

    def declarations(self) -> str:
        """Both, declared. A result that is not needed does no harm, so calls under a condition are vectorised too."""
        harmless = "nounwind willreturn memory(none) speculatable"
        whole = f"<{self.lanes} x {self.kind}>"
        return (
            f"declare {self.kind} @{self.name}({', '.join([self.kind] * self.operands)}) {harmless}\n"
            f"declare {whole} @{self.vector}({', '.join([whole] * self.operands)}) {harmless}"
        )

    def few(self, narrow: int) -> str:
        """A function for one number, or for a narrower vector, by the function for wide ones."""
        whole = f"<{self.lanes} x {self.kind}>"
        part = self.kind if narrow == 1 else f"<{narrow} x {self.kind}>"
        names = "xy"[: self.operands]
        given = ", ".join(f"{part} %{x}" for x in names)
        lines = [f"define internal {part} @{self.by(narrow)}({given}) alwaysinline {{"]
        for x in names:
            if narrow == 1:
                everywhere = f"<{self.lanes} x i32> zeroinitializer"
                lines.append(f"%{x}1 = insertelement {whole} poison, {part} %{x}, i32 0")
                lines.append(f"%{x}v = shufflevector {whole} %{x}1, {whole} poison, {everywhere}")
            else:
                places = ", ".join(f"i32 {i % narrow}" for i in range(self.lanes))
                lines.append(f"%{x}v = shufflevector {part} %{x}, {part} poison, <{self.lanes} x i32> <{places}>")
        lines.append(f"%z = call {whole} @{self.vector}({', '.join(f'{whole} %{x}v' for x in names)})")
        if narrow == 1:
            lines.append(f"%r = extractelement {whole} %z, i32 0")
        else:
            first = ", ".join(f"i32 {i}" for i in range(narrow))
            lines.append(f"%r = shufflevector {whole} %z, {whole} poison, <{narrow} x i32> <{first}>")
        return "\n".join([*lines, f"ret {part} %r", "}"])

    def by(self, narrow: int) -> str:
        """The name of that."""
        return self.vector if narrow == self.lanes else f"tapegrad_{self.name}_{narrow}"


@functools.cache
def is_wanted() -> bool:
    """Whether functions of vectors are wanted, of this library or others, in place of libm's.

    Raises OperationError where the environment says what it cannot.
    """
    wanted = os.environ.get("TAPEGRAD_MATH", "") or "vector"
    if wanted not in ("vector", "libm"):
        raise OperationError(f"TAPEGRAD_MATH must be 'vector' or 'libm', not {wanted!r}")
    return wanted == "vector"


@functools.cache
def library() -> Any:
    """libmvec; None where it is not there, or not wanted.

    Raises OperationError where the environment says what it cannot.
    """
    try:
        return ctypes.CDLL("libmvec.so.1", ctypes.RTLD_GLOBAL) if is_wanted() else None
    except OSError:
        return None


@functools.cache
def _registers() -> tuple[str, int]:
    """How libmvec names the widest registers of this processor, and their bits."""
    features = machine.features()
    return next(((letter, bits) for letter, bits, feature in _REGISTERS if features.get(feature)), ("b", 128))


def register_bits() -> int:
    """The bits of the widest registers for vectors that this processor has and libmvec knows."""
    return _registers()[1]


def settings() -> str:
    """What machine code depends on because of all this."""
    return f"libmvec {library() is not None}"


def function_of(name: str, kind: str, power: bool = False) -> Function | None:
    """What libmvec has for a function, by its name in LLVM or C; None where it has none. `power` says that powers are
    functions as others, since exponents are not whole."""
    suffix = "f" if kind == "float" else ""
    of_two = (*_OF_TWO, _POWER) if power else _OF_TWO
    # In C functions of floats end in f; in LLVM they do not, and `erf` does anyway.
    name = name[:-1] if suffix and name not in (*_OF_ONE, *of_two) else name
    operands = 1 if name in _OF_ONE else 2 if name in of_two else 0
    letter, bits = _registers()
    count = bits // _KINDS[kind]
    vector = f"_ZGV{letter}N{count}{'v' * operands}_{name}{suffix}"
    return Function(name + suffix, kind, operands, count, vector) if operands and hasattr(library(), vector) else None


def with_vector_math(module: Any, target: Any) -> tuple[Any, bytes | None]:
    """A compiled module with calls of libmvec in it, and its machine code; where there are none to put in, as it was,
    and None. `target` is the target machine that makes the code."""
    if library() is None:
        return module, None
    found: dict[str, Function] = {}
    text = _marked(str(module), found)
    if not found:
        return module, None
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.loop_interleaving = True
    made = llvm.parse_assembly(text)
    passes = llvm.create_pass_builder(target, options)
    passes.getModulePassManager().run(made, passes)
    made = llvm.parse_assembly(_replaced(str(made), found))
    made.verify()
    return made, target.emit_object(made)


def _marked(text: str, found: dict[str, Function]) -> str:
    """The text of a module whose calls say what does the same for vectors. The functions go to `found`, by name."""

    def mark(match: re.Match[str]) -> str:
        call, kind, intrinsic, plain, arguments = match.groups()
        function = function_of(intrinsic or plain, kind)
        if function is None:
            return match[0]
        found[function.name] = function
        mapping = f"_ZGV_LLVM_N{function.lanes}{'v' * function.operands}_{function.name}({function.vector})"
        return f'{call}{kind} @{function.name}{arguments} "vector-function-abi-variant"="{mapping}"'

    marked = _CALL.sub(mark, text)
    for name, count, bits in _VECTOR_CALL.findall(text):
        function = function_of(name, "float" if bits == "32" else "double")
        if function is not None and int(count) <= function.lanes:
            found[function.name] = function
    for name in found:
        marked = re.sub(rf"^declare [^@\n]*@{name}\(.*$", "", marked, flags=re.M)
    # The optimiser must not drop what nothing calls yet.
    used = ", ".join(f"ptr @{function.vector}" for function in found.values())
    marked = marked.replace("@llvm.compiler.used", "@tapegrad.used.before")
    return "\n".join([
        marked, *(function.declarations() for function in found.values()),
        f'@llvm.compiler.used = appending global [{len(found)} x ptr] [{used}], section "llvm.metadata"',
    ])  # fmt: skip


def _replaced(text: str, found: dict[str, Function]) -> str:
    """The text in which every call, whether of one number or of a vector that LLVM would take apart, is one of the
    function for vectors."""
    added = []
    for function in found.values():
        bits, name = _KINDS[function.kind], function.name[: -1 if function.kind == "float" else None]
        counts = {1, *(int(n) for f, n, b in _VECTOR_CALL.findall(text) if (f, b) == (name, str(bits)))}
        for narrow in sorted(n for n in counts if n <= function.lanes):
            inner = rf"llvm\.{name}\.f{bits}|{function.name}" if narrow == 1 else rf"llvm\.{name}\.v{narrow}f{bits}"
            text, times = re.subn(rf"(call [^@\n]*)@(?:{inner})\(", rf"\1@{function.by(narrow)}(", text)
            if times and narrow != function.lanes:
                added.append(function.few(narrow))
    return "\n".join([text, *added])

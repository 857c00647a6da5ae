"""`compiled`: a function of arrays and whole numbers that runs as machine code, and the frames it is called with."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import os
import struct
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.compiled import build, machine, store
from tapegrad.compiled.frames import float_bits, stand_in
from tapegrad.compiled.source import Module, fingerprint, function_tree, interpreted

__all__ = ["Compiled", "Frame", "Kind", "compiled", "interpreted", "load"]

_DTYPES = {name: np.dtype(name) for name in ("float64", "float32", "int64", "int32", "uint32", "uint8")}
_REAL = (_DTYPES["float64"], _DTYPES["float32"])
_BYTE = ctypes.c_char
# How Numba's functions are called: with pointers to where the result and an error are put, then the arguments; here
# the only argument is the address of the frame's words.
_CALL = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


INTERPRETED = interpreted()

# The bits of the control word of x86 with which subnormal results are zero, and subnormal operands count as zero.
FLUSH = 0x8040


def flushes(real: np.dtype) -> bool:
    """Whether compiled code takes subnormal numbers for zero: in float32, and where `TAPEGRAD_FLUSH` is 1 in float64.

    Arithmetic on numbers below 1.2e-38 takes a hundred times as long, and networks whose weights die are full of them.
    """
    return not INTERPRETED and (real == np.float32 or os.environ.get("TAPEGRAD_FLUSH") == "1")


class Kind:
    """What a parameter is: an array of some dtype and number of axes, or a number.

    Written `int64[:, :]`, `int64` or `float64`; `real` stands for float64 or float32, the same for all parameters.
    """

    def __init__(self, text: str) -> None:
        name, _, axes = text.partition("[")
        self.text, self.element = text, name
        self.ndim = axes.count(":")
        if (name != "real" and name not in _DTYPES) or self.ndim > 2:
            raise TypeError(f"a parameter of compiled code is a number, or an array of one or two axes, not {text!r}")

    def dtype(self, real: np.dtype) -> np.dtype:
        """Its dtype, where real numbers are of the dtype given."""
        return real if self.element == "real" else _DTYPES[self.element]

    def words(self) -> int:
        """How many words of a frame it takes: an address and the lengths of all axes, or one number."""
        return 1 + self.ndim

    def read(self, at: int, real: np.dtype) -> str:
        """The text that reads it from the words of a frame."""
        if not self.ndim:
            return f"float_of_bits(w[{at}])" if self.element == "float64" else f"w[{at}]"
        lengths = ", ".join(f"w[{at + 1 + i}]" for i in range(self.ndim))
        return f"{('array_of', 'matrix_of')[self.ndim - 1]}(pointer_{self.dtype(real).name}(w[{at}]), {lengths})"


def load(
    name: str, text: Callable[[], str], function: str, signature: Callable[[Any], Any], loops: bool = False
) -> int:
    """The address of a function of a generated module: from the disk, or compiled now and kept. See `build.build`.

    `name` is unique to the function and to everything that it was made from. If the code on disk is damaged, or refers
    to names that cannot be found, the function is compiled anew.
    """
    made = store.find(name)
    if made is not None and machine.missing(made.needs):
        build.load_numba()
        if machine.missing(made.needs):
            made = None
    if made is None:
        made = build.build(name, text, function, signature, loops)
        # Where it cannot be kept, the next process compiles it again.
        with contextlib.suppress(OSError):
            store.save(name, made)
    return machine.load(made.code, made.symbol)


class Frame:
    """The arguments of one function, laid out in memory once, so that each call only hands over addresses.

    The arrays must stay where they are. Between calls, their contents and the numbers in `words` may be changed.
    """

    __slots__ = ("arguments", "arrays", "pieces", "words")

    def __init__(self, words: array[int], arrays: Any) -> None:
        self.words = words
        # Compiled code has only the addresses of the arrays, so they are kept alive here.
        self.arrays = arrays
        # Where a long sweep is cut into several calls; see `sweeps.pieces`.
        self.pieces: list[int] | None = None
        address = words.buffer_info()[0]
        self.arguments = tuple(map(ctypes.c_void_p, (address, address + 8, address + 16)))


class Compiled:
    """A function that is compiled when it is first called, once for each dtype of its real numbers.

    `frame(*args)` lays out arguments, and `run(frame)` calls the function with them; calling this object does both. The
    function returns a whole number or nothing; where it returns nothing, a call gives 0.
    """

    __frame__ = True

    def __init__(
        self, function: Callable[..., Any], kinds: list[Kind], module: Any = None, flush: bool = False
    ) -> None:
        self.function = function
        # Whether subnormal numbers are zero for it in float64 too; see `flushes`.
        self._flush = flush
        self.kinds = kinds
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self._wanted = [
            (kind.ndim, None if kind.element == "real" else _DTYPES[kind.element], kind.element == "float64")
            for kind in kinds
        ]
        self._first_real = next((i for i, kind in enumerate(kinds) if kind.element == "real"), None)
        self._calls: dict[np.dtype, Any] = {}
        self._addresses: dict[np.dtype, int] = {}
        self._module = module

    def call_address(self, frame: Frame, real: np.dtype) -> int:
        """The address with which `frames.call_frame` calls this function; where nothing is compiled, a number that
        stands for the function and this frame."""
        if INTERPRETED:
            return stand_in(id(frame), lambda: self._interpret(frame))
        return self.address(real)

    def prepare(self, real: np.dtype) -> Any:
        """Have the machine code for a dtype ready; returns a ctypes function, which takes `Frame.arguments`."""
        call = self._calls.get(real)
        if call is None:
            call = self._calls[real] = _CALL(self.address(real))
        return call

    def address(self, real: np.dtype) -> int:
        """The address of the machine code. It takes the addresses of the result, of an error and of the words."""
        known = self._addresses.get(real)
        if known is None:
            known = self._addresses[real] = self._load(real)
        return known

    def _load(self, real: np.dtype) -> int:
        lines = [kind.text for kind in self.kinds]
        if self._module is None:
            name = store.digest(fingerprint([self.function]), *lines, real.name)
        else:
            name = self._module.name(self, real)
        kind = real.name + ("_flushed" if self._flushes(real) else "")
        return load(
            f"{self.__name__}_{kind}_{name}", lambda: self.text(real), "entry",
            lambda types: types.int64(types.CPointer(types.int64)),
        )  # fmt: skip

    def _flushes(self, real: np.dtype) -> bool:
        return flushes(real) or (self._flush and not INTERPRETED)

    def text(self, real: np.dtype) -> str:
        """The text of the generated module with this function, and with `entry`, which reads its arguments from words.
        """
        module = self._module.gather(real) if self._module is not None else Module(real)
        called = module.function(self.function)
        arguments, at = [], 0
        for kind in self.kinds:
            arguments.append(kind.read(at, real))
            at += kind.words()
        names = {f"pointer_{kind.dtype(real).name}" for kind in self.kinds if kind.ndim}
        names |= {"array_of", "float_of_bits", "matrix_of"}
        module.imports.add(f"from tapegrad.compiled.pointers import {', '.join(sorted(names))}")
        call = f"{called}({', '.join(arguments)})"
        lines = [f"found = {call}"] if _returns(self.function) else [call, "found = 0"]
        if self._flushes(real):
            module.imports.add("from tapegrad.compiled.pointers import control_word, set_control_word")
            first = ["before = control_word()", f"set_control_word(before | {FLUSH})"]
            lines = [*first, *lines, "set_control_word(before)"]
        module.add_kernel("entry", "w", [*lines, "return found"])
        return module.text()

    def frame(self, *args: Any) -> Frame:
        """Lay arguments out. Raises TypeError for an array of another dtype, or one that is not contiguous."""
        words, real = [0, 0], None
        for (ndim, wanted, is_float), x in zip(self._wanted, args, strict=True):
            if ndim:
                dtype = x.dtype
                if wanted is None:
                    # A real number: float64 or float32, whichever comes first.
                    real = real or (dtype if dtype in _REAL else _REAL[0])
                    wanted = real
                if dtype != wanted or x.ndim != ndim or not x.flags.c_contiguous:
                    kind = self.kinds[[y is x for y in args].index(True)]
                    raise TypeError(
                        f"{self.__name__} takes a contiguous array {kind.text}, not {x.dtype} of shape {x.shape}"
                    )
                words.append(address_of(x))
                words += x.shape
            else:
                words.append(float_bits(x) if is_float else int(x))
        return Frame(array("q", words), args)

    def run(self, frame: Frame, real: np.dtype) -> int:
        """Call it with a frame's arguments."""
        if INTERPRETED:
            return self._interpret(frame)
        call = self._calls.get(real) or self.prepare(real)
        if call(*frame.arguments):
            raise RuntimeError(f"{self.__name__} failed in compiled code")
        return frame.words[0]

    def _interpret(self, frame: Frame) -> int:
        arguments, at = [], 2
        for kind, x in zip(self.kinds, frame.arrays, strict=True):
            number = frame.words[at]
            if kind.ndim:
                arguments.append(x)
            else:
                arguments.append(float_of_bits(number) if kind.element == "float64" else number)
            at += kind.words()
        frame.words[0] = int(self._python(arguments)(*arguments) or 0)
        return frame.words[0]

    def _python(self, arguments: list[Any]) -> Any:
        """The Python function that runs where nothing is compiled: as it was written, or as its module has it."""
        if self._module is None:
            return self.function
        real = self.real(arguments)
        if real not in self._calls:
            space: dict[str, Any] = {}
            exec(self.text(real), space)
            self._calls[real] = space[self.__name__]
        return self._calls[real]

    def __call__(self, *args: Any) -> int:
        return self.run(self.frame(*args), self.real(args))

    def real(self, args: Any) -> np.dtype:
        """The dtype of the real numbers among arguments; float64 where there are none."""
        return _REAL[0] if self._first_real is None else args[self._first_real].dtype


def address_of(x: Any) -> int:
    """Where an array's numbers stand."""
    try:
        # A quarter of the time of asking the array.
        return ctypes.addressof(_BYTE.from_buffer(x))
    except (TypeError, ValueError):
        # Read-only, or empty.
        return int(x.__array_interface__["data"][0])


def _returns(function: Callable[..., Any]) -> bool:
    """Whether a function returns something."""
    found = ast.walk(function_tree(function))
    return any(isinstance(node, ast.Return) and node.value is not None for node in found)


def float_of_bits(bits: int) -> float:
    """The float64 whose bits are those of a whole number."""
    return float(struct.unpack("d", struct.pack("q", bits))[0])


def compiled(**parameters: str) -> Callable[[Callable[..., Any]], Compiled]:
    """Decorator: have a function run as machine code.

    Each parameter is said to be an array (`int64[:]`, `real[:, :]`) or a number (`int64`, `float64`). The function is
    read as source, with all that it names; it returns a whole number or nothing.

    >>> import numpy as np
    >>> @compiled(x="real[:]", n="int64")
    ... def first(x, n):
    ...     x[:n] = 1.0
    >>> first.kinds[0].text
    'real[:]'
    """

    def decorate(function: Callable[..., Any]) -> Compiled:
        return Compiled(function, [Kind(text) for text in parameters.values()])

    return decorate

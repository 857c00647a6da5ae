"""Functions of `scipy.special` for rules: called with numbers, and by their addresses from compiled code.

SciPy has the functions behind its ufuncs in `scipy.special.cython_special`, with their addresses and signatures. Each
is made known under a name that says how it is called, so that code that is kept on disk holds names and never
addresses, and is not used with a version of SciPy in which the function is called otherwise.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import cython_special

from tapegrad.compiled.machine import add_symbol

_SIGNATURE = re.compile(r"(double|void) \((.*)\)")
# Arguments as SciPy states them, by a letter. The last one says that a function was not called from Python.
_KINDS = {"double": "d", "Py_ssize_t": "l", "long": "l", "double *": "p", "int __pyx_skip_dispatch": "s"}
_CHARACTERS: Any = ctypes.pythonapi.PyCapsule_GetName
_CHARACTERS.restype, _CHARACTERS.argtypes = ctypes.c_char_p, [ctypes.py_object]
_POINTER: Any = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype, _POINTER.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


class Foreign(NamedTuple):
    """A function that is called by its address.

    Attributes:
        symbol: under which its address is known.
        kinds: of its arguments, a letter each: "d" a float64, "l" an int64, "p" where it puts a float64, "s" a C int,
            0.
        output: which of those that it puts somewhere is its result; None where it returns it.
    """

    symbol: str
    kinds: str
    output: int | None

    @property
    def name(self) -> str:
        """A name for the function with this result."""
        return self.symbol if self.output is None else f"{self.symbol}_{self.output}"


def _found(name: str) -> tuple[str, Any]:
    """The kinds of arguments of a function, and the capsule with its address: the one that takes real numbers."""
    known = {}
    for own, capsule in cython_special.__pyx_capi__.items():
        if re.sub(r"^(__pyx_fuse(_\d+)+)", "", own) != name:
            continue
        match = _SIGNATURE.fullmatch(_CHARACTERS(capsule).decode())
        parts = match[2].split(", ") if match else []
        if match and all(part in _KINDS for part in parts):
            known["".join(_KINDS[part] for part in parts)] = capsule
    if not known:
        raise ImportError(f"scipy.special.cython_special has no function {name} of real numbers")
    # Whole numbers only where there is no other way: that of real numbers takes these too.
    kinds = min(known, key=lambda kinds: kinds.count("l"))
    return kinds, known[kinds]


# The functions that have been asked for, by their own names.
FUNCTIONS: dict[str, Any] = {}


def number(ufunc: np.ufunc, output: int | None = None) -> Callable[..., Any]:
    """The function behind a ufunc of SciPy, for rules. Of a ufunc with several results, `output` says which.

    Raises ImportError where SciPy does not say where it is.
    """
    name = ufunc.__name__
    own = f"special_{name}" if output is None else f"special_{name}_{output}"
    if own in FUNCTIONS:
        return FUNCTIONS[own]
    kinds, capsule = _found(name)
    symbol = f"tapegrad_scipy_{name}_{kinds}"
    add_symbol(symbol, _POINTER(capsule, _CHARACTERS(capsule)))
    letters = "xywu"[: ufunc.nin]
    names = ", ".join(letters)
    given = [f"int({x})" if kind == "l" else x for x, kind in zip(letters, kinds.replace("p", ""), strict=False)]
    result = f"ufunc({', '.join(given)})" + ("" if output is None else f"[{output}]")
    space: dict[str, Any] = {"ufunc": ufunc, "__name__": __name__}
    exec(f"def {own}({names}):\n    return {result}\n", space)
    function = FUNCTIONS[own] = space[own]
    function.__compiled_in__ = "tapegrad.sweeps.special_calls"
    function.__foreign__ = Foreign(symbol, kinds, output)
    return function


def __getattr__(name: str) -> Any:
    # Generated text imports these functions by name where nothing is compiled.
    try:
        return FUNCTIONS[name]
    except KeyError:
        raise AttributeError(name) from None

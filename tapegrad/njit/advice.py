"""What to say where Numba cannot compile a function for recorded numbers: the line, what it does, and advice."""

from __future__ import annotations

import linecache
import re
from typing import Any

from tapegrad.errors import UnsupportedError

_FILE = re.compile(r'File "([^"]+)", line (\d+)')
_TYPING = re.compile(r"During: typing of .* at (.+) \((\d+)\)")
_LOOP = re.compile(r"checkpointed_loop: ([^\n]+)")
_SIGNATURE = re.compile(r">>> (.+)")
_RECORDED = re.compile(r"recorded\((?:partials|operations)\)")

_INSTEAD = {
    "setitem": "it stores a differentiated number into an array of another type: make the array by np.zeros_like(x) or "
    "np.empty_like(x), x being an array that is differentiated, or by np.zeros(n) of float64",
    "getitem": "a differentiated number cannot be an index: write int(x), through which no derivative flows",
    "unify": "a name is bound to a differentiated number in one place and to something else in another: give these two "
    "names, or start with 0.0 * x, or np.zeros_like(x) for an array",
    "return": "it returns different types in different places: return a number, an array or a tuple in all of them",
    "range": "range takes integers: write range(int(x)), through which no derivative flows",
}


def refused(dispatcher: Any, error: Any, besides: str = "") -> UnsupportedError:
    """The error to raise in place of Numba's, which it has as an attribute: that is long, and shows our own code."""
    found = UnsupportedError(advice(dispatcher, error) + besides)
    found.numba = error
    return found


def advice(dispatcher: Any, error: Any) -> str:
    """The message of the error that is raised in place of Numba's."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    # Of a loop the call that fails is one in its step.
    signatures = [x for x in _SIGNATURE.findall(text) if not x.startswith(("checkpointed_loop(", "steps_by_python("))]
    call = _readable(signatures[0]) if signatures else ""
    name = call.partition("(")[0].split(".")[-1]
    if "Cannot unify" in text:
        what = "unify"
    elif "Can't unify return type" in text:
        what = "return"
    else:
        what = name
    instead = _INSTEAD.get(what, "")
    if not instead and call:
        instead = (
            f"`{call}` has no derivative here; supported are arithmetic, elementary functions of math and np (exp, "
            "sin, hypot, ...), np.where, sum, prod, mean, max, min, products and np.linalg.solve, and what "
            "docs/styles.md lists besides: write it with these, as a loop, or "
            "compute it from arguments that are not differentiated"
        )
    of_loop = _LOOP.search(text)
    if of_loop:
        instead = f"checkpointed_loop: {_readable(of_loop[1])}"
    unknown = re.search(r"Unknown attribute '([^']+)' of type (.+)", text)
    if "bytes of differentiated numbers" in text:
        instead = "the bytes of differentiated numbers are not those of floats: leave .view, .ctypes and .data out"
    if unknown and not instead:
        instead = (
            f"`.{unknown[1]}` of {_readable(unknown[2])} has no derivative here: write it as a loop over the elements"
        )
    if not instead:
        instead = f"it does something that cannot be recorded: {_readable(_reason(text))}"
    return (
        f"{dispatcher.__qualname__} cannot be differentiated: at {_place(dispatcher, text)}, {instead} "
        "(what Numba raised is this error's attribute `numba`)"
    )


def _reason(text: str) -> str:
    """The line in which Numba says what is wrong; those around it say where it was found."""
    lines = (line.strip() for line in text.splitlines())
    said = [line for line in lines if line and not line.startswith(("Failed in", "During", "File ", "<source"))]
    return said[0][:200] if said else "Numba does not say what"


def _readable(text: str) -> str:
    return _RECORDED.sub("differentiated number", text)


def _place(dispatcher: Any, text: str) -> str:
    """The first line that Numba names in a file that is not ours or its own, with what stands there."""
    for pattern in (_TYPING, _FILE):
        for name, line in pattern.findall(text):
            if "tapegrad/njit" in name or "numba/" in name or name.startswith("<") or not int(line):
                continue
            code = dispatcher.py_func.__code__
            short = name.rsplit("/", 1)[-1]
            written = linecache.getline(name if name.startswith("/") else code.co_filename, int(line)).strip()
            same = name.startswith("/") or short == code.co_filename.rsplit("/", 1)[-1]
            return f"{short}:{line}" + (f" (`{written}`)" if written and same else "")
    code = dispatcher.py_func.__code__
    return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}"

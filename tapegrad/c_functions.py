"""Recordings and derivatives as functions of C, for libraries that call back: no Python runs in a call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.adjoint.evaluation import checked
from tapegrad.arguments import argument_numbers
from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.njit import is_numba
from tapegrad.recording import Recording


class _Kind(NamedTuple):
    """A signature: the parameters by name and Numba's type, what it returns, and what that is where f raises.

    `x`, of which there are `n` numbers where C says so, holds the arguments; `data` the last of them. `value` and
    `gradient` are where results go. `status` is what is returned where f does not raise; None for its value.
    """

    parameters: dict[str, str]
    returns: str
    failed: str
    status: int | None = None


_DOUBLES = "CPointer(float64)"
_KINDS = {
    "double (double)": _Kind({"x0": "float64"}, "float64", "np.nan"),
    "double (double, void *)": _Kind({"x0": "float64", "data": _DOUBLES}, "float64", "np.nan"),
    "double (int, double *)": _Kind({"n": "intc", "x": _DOUBLES}, "float64", "np.nan"),
    "double (int, double *, void *)": _Kind({"n": "intc", "x": _DOUBLES, "data": _DOUBLES}, "float64", "np.nan"),
    "double (double *, double *)": _Kind({"x": _DOUBLES, "gradient": _DOUBLES}, "float64", "np.nan"),
    "int (double *, double *, double *)": _Kind(
        {"x": _DOUBLES, "value": _DOUBLES, "gradient": _DOUBLES}, "intc", "1", 0
    ),
    "int (double *, npy_intp, double *, void *)": _Kind(
        {"x": _DOUBLES, "n": "intp", "value": _DOUBLES, "data": _DOUBLES}, "intc", "0", 1
    ),
}  # fmt: skip


class CFunction:
    """A function of C, as `cfunc` makes it. Keep it for as long as somebody has its address.

    Attributes:
        signature: its parameters and result, in C.
        address: where it is, as a whole number.
        ctypes: the same as a function of ctypes, which keeps it.
    """

    def __init__(self, made: Any, signature: str, name: str) -> None:
        self._made, self.signature, self.name = made, signature, name
        self.address: int = made.address
        self.ctypes: Any = made.ctypes
        self.ctypes.made_from = self

    def __repr__(self) -> str:
        return f"<CFunction of {self.name}: {self.signature}>"

    def low_level_callable(self, user_data: Any = None) -> Any:
        """It as a `scipy.LowLevelCallable`, which integrators and filters of SciPy call without Python.

        `user_data` is an array of float64 with the numbers of the last argument, where the signature has `void *` for
        it. It is read at each call, so its numbers may change in between. Raises ShapeError for another array.

        >>> import numpy as np
        >>> import scipy.integrate
        >>> from tapegrad import record
        >>> r = record(lambda x, p: p[0] * np.exp(-p[1] * x), 0.0, np.ones(2))
        >>> f = cfunc(r, "double (double, void *)").low_level_callable(np.array([3.0, 2.0]))
        >>> round(scipy.integrate.quad(f, 0.0, np.inf)[0], 9)
        1.5
        """
        import scipy

        data = None
        if user_data is not None:
            array = np.asarray(user_data)
            if array.dtype != np.float64 or not array.flags.c_contiguous:
                raise ShapeError(f"user_data is a contiguous array of float64, not one of {array.dtype}")
            # What SciPy keeps has the array.
            data = array.ctypes.data_as(ctypes.c_void_p)
        return scipy.LowLevelCallable(self.ctypes, data, self.signature)


def cfunc(f: Any, signature: str, *examples: Any) -> CFunction:
    """A function of C that computes f, for libraries that take the address of one: it calls no Python.

    Args:
        f: a recording, a gradient of one, `tg.value_and_grad(r, argnums)`, or a function of Numba's or its gradient.
            Arguments are float64 numbers and arrays, or tuples of these.
        signature: one of

            - `double (double)`: f(x) of one number
            - `double (double, void *)`: f(x, p); p is what the second argument points to
            - `double (int n, double *x)`: f, with all its arguments one after the other in x, n numbers in all
            - `double (int n, double *x, void *p)`: the same, but for the last argument, which p points to
            - `double (const double *x, double *gradient)`: value and gradient, f being a recording, for the gradient
              by its first argument, or `tg.value_and_grad(...)`
            - `int (const double *x, double *value, double *gradient)`: the same; returns 0, or 1 where f raises
            - `int (double *x, npy_intp n, double *value, void *p)`: f, as `scipy.ndimage` calls it; p may be left out
              if f has one argument. Returns 1, or 0 where f raises

        examples: arguments of a function of Numba's, which say of what shapes they are. A recording knows.

    What f raises cannot come out of a function of C: where nothing else is said, it returns NaN then, and so are the
    elements of the gradient; also where n is another number than f has.

    Raises OperationError for another signature, UnsupportedError where f does not fit it or cannot be called without
    Python, CompileError.

    >>> import numpy as np
    >>> from tapegrad import record
    >>> f = cfunc(record(lambda x: np.sum(x**2), np.ones(3)), "double (const double *x, double *gradient)")
    >>> x, gradient = np.array([1.0, 2.0, 3.0]), np.empty(3)
    >>> pointers = [a.ctypes.data_as(f.ctypes.argtypes[0]) for a in (x, gradient)]
    >>> f.ctypes(*pointers), gradient
    (14.0, array([2., 4., 6.]))
    """
    import numba
    from numba.core.errors import NumbaError

    kind, text = _kind(signature)
    name = getattr(f, "__qualname__", getattr(f, "name", repr(f)))
    arguments = _arguments(f, examples, name)
    wrapper = _written(f, kind, arguments, name)
    parameters = [eval(of, {"CPointer": numba.types.CPointer, **vars(numba.types)}) for of in kind.parameters.values()]
    try:
        made = numba.cfunc(getattr(numba.types, kind.returns)(*parameters))(wrapper)
    except NumbaError as error:
        what = "(value, gradient)" if "gradient" in kind.parameters else "one number"
        raise UnsupportedError(f"{name} does not return {what}, or not for such arguments: {error}") from error
    return CFunction(made, text, name)


def _kind(signature: str) -> tuple[_Kind, str]:
    if not isinstance(signature, str):
        raise OperationError(f"the signature is a text, one of {', '.join(_KINDS)}; not {signature!r}")
    returns, _, inner = signature.strip().partition("(")
    types = []
    for parameter in inner.removesuffix(")").split(","):
        words = parameter.replace("*", " * ").replace("const", " ").split()
        types.append(f"{words[0]} *" if "*" in words else words[0] if words else "")
    found = f"{returns.strip()} ({', '.join(types)})".replace("intptr_t", "npy_intp").replace("(unsigned", "(int")
    if found not in _KINDS or not inner.endswith(")"):
        raise OperationError(f"the signature is one of {', '.join(_KINDS)}; not {signature!r}")
    return _KINDS[found], found


def _arguments(f: Any, examples: Sequence[Any], name: str) -> tuple[Any, ...]:
    """What f takes, as `Leaf` and `Nest`."""
    from tapegrad.njit.forms import Leaf, leaves

    of = getattr(f, "made", (None, f))[1]
    if is_numba(of):
        if not examples:
            raise UnsupportedError(f"{name} is a function of Numba's: pass example arguments, which say their shapes")
        arguments = tuple(map(_example, examples))
    else:
        # Whoever cannot be called raises here.
        arguments = f._numba_type_.form.arguments if hasattr(type(f), "_numba_type_") else ()
        if not arguments:
            raise UnsupportedError(f"{name} is neither a recording, nor a gradient of one, nor a function of Numba's")
    for n, node in enumerate(arguments):
        for leaf, _ in leaves(node, ""):
            if not isinstance(leaf, Leaf) or leaf.dtype != "float64" or leaf.static is not None:
                raise UnsupportedError(f"argument {n} of {name} is not of float64, which a function of C here takes")
    return arguments


def _example(x: Any) -> Any:
    from tapegrad.njit.forms import Leaf, Nest

    if isinstance(x, tuple):
        return Nest(tuple(map(_example, x)), type(x) if hasattr(x, "_fields") else None)
    if isinstance(x, np.ndarray):
        return Leaf(x.shape, x.dtype.name)
    return Leaf(None, "float64" if isinstance(x, float) else type(x).__name__)


def _written(f: Any, kind: _Kind, arguments: Sequence[Any], name: str) -> Any:
    """The function of Python that Numba compiles."""
    from tapegrad.compiled.pointers import array_of

    given = list(kind.parameters)
    last = "data" in given and (kind.status is None or len(arguments) > 1)
    if "x0" in given and (len(arguments) != 1 + last or _size(arguments[:1]) != 1):
        if last and len(arguments) == 1 and _size(arguments) == 1:
            raise UnsupportedError(f"{name} takes one number, and void * is for another argument: give double (double)")
        takes = "1 argument" if len(arguments) == 1 else f"{len(arguments)} arguments"
        raise UnsupportedError(f"{name} takes {takes}: give a signature with double * for them")
    if last and len(arguments) < 2:
        raise UnsupportedError(f"{name} takes one argument, and void * is for another one")
    texts, classes, at = [], dict[str, type](), 0
    for n, node in enumerate(arguments):
        source = "data" if last and n == len(arguments) - 1 else "x"
        at = 0 if source == "data" else at
        text, at = _read(node, source, at, classes)
        texts.append("x0" if "x0" in given and n == 0 else text)
    total = _size(arguments[: len(arguments) - last])
    lines = ["try:"]
    if "n" in given:
        lines += [f"    if n != {total}:", f"        raise ShapeError('n is not {total}')"]
    if "gradient" in given:
        lines += [f"    y, slope = {_both(f, name)}({', '.join(texts)})", "    y = float(y)"]
        slopes, size = _put(_slopes(f, arguments))
        lines += [f"    {line}" for line in slopes]
        failing = [f"    for i in range({size}):", "        gradient[i] = np.nan"]
    else:
        lines.append(f"    y = float(f({', '.join(texts)}))")
        failing = []
    lines += ["except Exception:", *failing]
    if "value" in given:
        lines.append("    value[0] = np.nan")
    lines.append(f"    return {kind.failed}")
    if "value" in given:
        lines.append("value[0] = y")
    lines.append("return y" if kind.status is None else f"return {kind.status}")
    text = f"def wrapper({', '.join(given)}):\n" + "\n".join(f"    {line}" for line in lines)
    space: dict[str, Any] = {"f": f, "np": np, "array_of": array_of, "ShapeError": ShapeError, **classes}
    exec(compile(text, "<function of C of tapegrad>", "exec"), space)
    return space["wrapper"]


def _size(arguments: Sequence[Any]) -> int:
    from tapegrad.njit.forms import leaves

    return sum(leaf.size for node in arguments for leaf, _ in leaves(node, ""))


def _read(node: Any, source: str, at: int, classes: dict[str, type]) -> tuple[str, int]:
    """Text that reads an argument from a position on, and the position behind it."""
    from tapegrad.njit.forms import Nest

    if isinstance(node, Nest):
        parts = []
        for part in node.parts:
            text, at = _read(part, source, at, classes)
            parts.append(text)
        if node.named is None:
            return f"({', '.join(parts)},)", at
        classes[node.named.__name__] = node.named
        return f"{node.named.__name__}({', '.join(parts)})", at
    if node.shape is None:
        return f"{source}[{at}]", at + 1
    return f"array_of({source}, {at + node.size})[{at}:].reshape({node.shape})", at + node.size


def _both(f: Any, name: str) -> str:
    """How value and gradient are called."""
    if isinstance(f, Recording):
        return "f.value_and_grad"
    made: Any = getattr(f, "made", None)
    transform = None if made is None else getattr(made[0], "func", made[0])
    if getattr(transform, "__name__", "") != "value_and_grad" or made[3]:
        raise UnsupportedError(f"{name} is no recording and no tg.value_and_grad(...), which give value and gradient")
    return "f"


def _slopes(f: Any, arguments: Sequence[Any]) -> list[tuple[Any, str]]:
    """What the gradient consists of, and how each part is written."""
    from tapegrad.njit.forms import leaves

    argnums: Any = 0 if isinstance(f, Recording) else f.made[2]
    numbers = checked(argument_numbers(argnums), len(arguments))
    if isinstance(argnums, int):
        return list(leaves(arguments[numbers[0]], "slope"))
    return [pair for i, n in enumerate(numbers) for pair in leaves(arguments[n], f"slope[{i}]")]


def _put(slopes: Sequence[tuple[Any, str]]) -> tuple[list[str], int]:
    """Lines that put a gradient where its caller wants it, and how many numbers it has."""
    lines, at = [], 0
    for leaf, path in slopes:
        if leaf.shape is None:
            lines.append(f"gradient[{at}] = {path}")
        else:
            lines += [f"part = {path}.reshape({leaf.size})", f"for i in range({leaf.size}):"]
            lines.append(f"    gradient[{at} + i] = part[i]")
        at += leaf.size
    return lines, at

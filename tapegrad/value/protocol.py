"""What NumPy calls, and what would silently lose a gradient.

NumPy's own functions work on Values through `__array_ufunc__` and `__array_function__`. What would turn a Value into a
plain number raises, and names what to write instead.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self, cast

import numpy as np

from tapegrad.errors import CutGradientError, OperationError, UnsupportedError
from tapegrad.ops import BY_NAME, BY_UFUNC, Elementwise, Operation
from tapegrad.tape import LEAF
from tapegrad.value.advice import to_write
from tapegrad.value.apply import NUMBERS, Recorder
from tapegrad.value.handle import Handle
from tapegrad.value.numbers import masked

# For each NumPy function, or (ufunc, method), the function that implements it on Values; see `functions.registry`.
IMPLEMENTATIONS: dict[Any, Callable[..., Any]] = {}
# Called with a ufunc that is not known, to have it known: what belongs to a library is not looked at before.
LATER: list[Callable[[np.ufunc], None]] = []
# For each that has none: what to write in its place.
REFUSALS: dict[Any, str] = {}

_PLAIN = (Handle, *NUMBERS)
_ADVICE = "compute it of v.data, which has no gradient, or declare the operation with tapegrad.ops"
# What to write where a function is called with an argument that Values do not take.
_KEYWORDS = {
    "out": "Values do not change in place, so use the result",
    "where": "choose afterwards, by np.where(condition, result, other)",
    "dtype": "a tape has one dtype, so leave it out",
}


class Protocol(Recorder):
    """The part of Value that answers NumPy."""

    __slots__ = ()

    @classmethod
    def _apply_operation(cls, operation: Operation, args: tuple[Any, ...]) -> Any:
        if not isinstance(operation, Elementwise):
            raise OperationError(f"{operation.name} cannot be called")
        return cls._apply(operation, args)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not kwargs and method == "__call__":
            row = BY_UFUNC.get(ufunc)
            # A single operand is the Value that NumPy found this method on.
            if row is not None and (len(inputs) == 1 or all([isinstance(x, _PLAIN) for x in inputs])):
                return self._apply(row, inputs)
        out = tuple(o for o in kwargs.pop("out", None) or () if o is not None)
        if any(isinstance(o, np.ndarray) and o.dtype != object for o in out):
            raise CutGradientError(
                f"np.{ufunc.__name__}: storing a Value into a float array would silently cut the gradient: write "
                "a = a + v instead of a += v, or use an object array"
            )
        if out:
            kwargs["out"] = out
        if ufunc not in BY_UFUNC and ufunc not in IMPLEMENTATIONS:
            for look in LATER:
                look(ufunc)
        if any(isinstance(x, np.ndarray) and x.dtype == object for x in (*inputs, *out)):
            return getattr(ufunc, method)(*(_as_objects(x) for x in inputs), **kwargs)
        if method == "__call__" and ufunc in IMPLEMENTATIONS:
            return _handled(IMPLEMENTATIONS[ufunc], f"np.{ufunc.__name__}", inputs, kwargs)
        if method == "__call__" and ufunc in BY_UFUNC and not kwargs:
            return self._apply(BY_UFUNC[ufunc], inputs)
        if (ufunc, method) in IMPLEMENTATIONS:
            return _handled(IMPLEMENTATIONS[ufunc, method], f"np.{ufunc.__name__}.{method}", inputs, kwargs)
        if method == "__call__" and out:
            raise UnsupportedError(_refused_keywords(f"np.{ufunc.__name__}", kwargs))
        if (None, method) in IMPLEMENTATIONS:
            return _handled(IMPLEMENTATIONS[None, method], f"np.{ufunc.__name__}.{method}", (ufunc, *inputs), kwargs)
        name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        if method == "__call__" and ufunc in BY_UFUNC:
            raise UnsupportedError(_refused_keywords(name, kwargs))
        raise UnsupportedError(f"{name} is not supported on a Value: {REFUSALS.get(ufunc) or _ADVICE}")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        handler = IMPLEMENTATIONS.get(func)
        if handler is None:
            # It is what np.full and np.full_like call.
            advice = (to_write() if func is np.copyto else "") + (REFUSALS.get(func) or _ADVICE)
            raise UnsupportedError(f"{_name(func)} is not supported on a Value: {advice}")
        # NumPy does not look at these arguments for one that calculates, so they say how: an axis, a count.
        args, kwargs = tuple(map(_decided, args)), {key: _decided(x) for key, x in kwargs.items()}
        return _handled(handler, _name(func), args, kwargs)

    # What would lose the gradient

    def _cut(self, what: str, advice: str = "") -> NoReturn:
        raise CutGradientError(
            f"{what} would silently cut the gradient: {advice}write v.item() or v.data for the numbers, v.detach() for "
            "a Value without gradient, or use an array of dtype=object (tg.stack makes one Value of many)"
        )

    def __float__(self) -> float:
        self._cut(
            "float(v)",
            to_write()
            or "a function of math that was imported by its name takes its argument for a plain number, so write "
            "np.sqrt(v), or math.sqrt(v) in a recorded function, for sqrt(v); else ",
        )

    def __index__(self) -> int:
        if self._layout is None and self._tape.kinds and self._tape.kind(self._slot) == "i":
            return int(self._item("integer"))
        raise CutGradientError("a Value cannot be an index or a count: write int(v)")

    # Whole numbers are piecewise constant, so no gradient is lost. In a recording, a guard checks that a replay finds
    # the same ones.

    def __int__(self) -> int:
        return self._whole("trunc")

    def __trunc__(self) -> int:
        return self._whole("trunc")

    def __floor__(self) -> int:
        return self._whole("floor")

    def __ceil__(self) -> int:
        return self._whole("ceil")

    def _whole(self, name: str) -> int:
        return int(self._apply(BY_NAME[name], (self,))._item("whole number"))

    def __complex__(self) -> complex:
        self._cut("complex(v)")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) == object:
            array = np.empty(self.shape, object)
            for index in np.ndindex(self.shape):
                array[index] = cast(Any, self)[index]
            return array
        kind = self._tape.kind(self._slot) if self.size else ""
        if kind and self._tape.recording:
            # Truth values and integers have no gradient to lose. Guards hold replays to those that are found.
            return np.array(self._read("array").astype(bool if kind == "b" else np.int64), dtype)
        if _is_sparse_operator(sys._getframe(1)):
            return _as_object(self)
        if sys._getframe(1).f_globals.get("__name__", "").startswith("numpy.ma"):
            # An array with a mask stands on the left: its own operators come first.
            raise masked("an operation with a Value")
        self._cut("turning a Value into an array (np.asarray(v), or storing it in a float array)", to_write())

    @property
    def _numba_type_(self) -> Any:
        # Numba asks for it where a function that it compiles is called with a Value, or names one.
        raise UnsupportedError(
            "a function compiled by Numba cannot be called with a Value: write @tg.njit_op above its @numba.njit, "
            "which makes each call one operation of the tape, or differentiate the function itself"
        )

    # A copy that is kept, of the best weights so far, must not follow what becomes of the original.

    def __copy__(self) -> Self:
        copied = self._apply(BY_NAME["copy"], (self,))
        if not self._tape.recording:
            # Now, while the numbers are what they are.
            self._tape.evaluate()
        return copied

    def __deepcopy__(self, memo: Any) -> Self:
        if self._tape.recording or not self._is_leaf():
            return self.__copy__()
        made = self._leaf(self._tape, np.array(self.data, self.dtype), self.requires_grad)
        made.label = self.label
        return made

    def _is_leaf(self) -> bool:
        """Whether its numbers were given, not computed, and it is all of them."""
        tape = self._tape
        tape.flush()
        if not self.size:
            return True
        row = tape.code[tape.row_of(tape.locate(self._slot))]
        return bool(row[0] == LEAF and row[3] == self.size)

    def __reduce__(self) -> Any:
        raise CutGradientError("a Value cannot be pickled: its tape stays here. Pickle v.data")


def _handled(handler: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    try:
        return handler(*args, **kwargs)
    except TypeError as error:
        called, _, keyword = str(error).partition("() got an unexpected keyword argument ")
        if keyword and called == handler.__qualname__:
            keyword = keyword.split("'")[1]
            raise UnsupportedError(_refused_keywords(name, [keyword])) from None
        raise


def _refused_keywords(name: str, keywords: Iterable[str]) -> str:
    keywords = sorted(keywords)
    advice = "; ".join(_KEYWORDS[key] for key in keywords if key in _KEYWORDS)
    return f"{name} with {', '.join(keywords)}= is not supported on a Value" + (f": {advice}" if advice else "")


def _decided(x: Any) -> Any:
    return operator.index(cast(Any, x)) if isinstance(x, Handle) and x._is_integer else x


def _name(function: Any) -> str:
    return f"{(function.__module__ or 'numpy').replace('numpy', 'np', 1)}.{function.__name__}"


def _is_sparse_operator(frame: Any) -> bool:
    """Whether an operator of a sparse matrix of SciPy's makes an array of its other operand.

    Where that is an object, it returns NotImplemented, and the other operand is asked.
    """
    found = False
    if "NotImplemented" in frame.f_code.co_names:
        while frame is not None and frame.f_globals.get("__name__", "").startswith("scipy.sparse."):
            found |= frame.f_code.co_name.startswith("__")
            frame = frame.f_back
    return found


def _as_object(x: Any) -> np.ndarray:
    made = np.empty((), object)
    made[()] = x
    return made


def _as_objects(x: Any) -> Any:
    return cast("Any", x).__array__(object) if isinstance(x, Handle) else x

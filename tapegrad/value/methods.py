"""The methods and attributes that NumPy's arrays have.

Each is one of the class's own: with a `__getattr__` Python would take twice as long for every operation. Those that
change an array in place, or are about its memory, raise and say what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import numpy as np

from tapegrad.errors import DTypeError, InPlaceError, UnsupportedAttributeError, UnsupportedError
from tapegrad.ops import BY_NAME
from tapegrad.tape.ambient import made_float64
from tapegrad.value.protocol import IMPLEMENTATIONS, Protocol

# For each attribute of NumPy's arrays that Values do not have, what to write in its place.
REFUSED_ATTRIBUTES = {
    "base": "views of a tape share its memory; nothing says which Value another one is a view of",
    "ctypes": "v.numpy().ctypes has the numbers, in memory that they share with nobody",
    "flags": "a Value cannot be written to, and how it lies in memory is not its own",
    "strides": "views are written by indexing, reshape, transpose or np.lib.stride_tricks.sliding_window_view",
}
# For each method, what to write in its place; those of arrays that change in place come first.
REFUSED_IN_PLACE = {
    "fill": "np.full(v.shape, number), or np.broadcast_to(w, v.shape) for a Value w",
    "partition": "v = np.partition(v, kth)",
    "put": "np.where(condition, new, v), or tg.stack and np.concatenate",
    "resize": "v = np.resize(v, shape)",
    "setfield": "a new Value",
    "sort": "v = np.sort(v)",
}
REFUSED_METHODS = {
    "byteswap": "v.numpy().byteswap() for bytes",
    "dump": "pickle.dump(v.numpy(), file)",
    "dumps": "pickle.dumps(v.numpy())",
    "getfield": "v.numpy().getfield(dtype)",
    "setflags": "v.numpy(), an array of its own",
    "tobytes": "v.numpy().tobytes()",
    "tofile": "v.numpy().tofile(file)",
    "view": "v.numpy().view(dtype) for the bits; Values are real numbers of one dtype",
}


def _method(name: str) -> Callable[..., Any]:
    """A method that NumPy arrays have, answered by NumPy's function of that name."""
    function = getattr(np, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return IMPLEMENTATIONS[function](self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"np.{name} of this Value."
    return method


def _changing(name: str, advice: str) -> Callable[..., NoReturn]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise InPlaceError(f"v.{name}(): a Value cannot be changed in place; write {advice}")

    method.__name__, method.__doc__ = name, f"Refused: Values do not change in place. Write {advice}."
    return method


def _refused(name: str, advice: str) -> Callable[..., NoReturn]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise UnsupportedError(f"v.{name}() is not supported on a Value; write {advice}")

    method.__name__, method.__doc__ = name, f"Refused: write {advice}."
    return method


def _missing(name: str, advice: str) -> Any:
    def attribute(self: Any) -> NoReturn:
        raise UnsupportedAttributeError(f"v.{name} is not supported on a Value: {advice}")

    attribute.__name__, attribute.__doc__ = name, f"Refused: {advice}."
    return property(attribute)


class Methods(Protocol):
    """The part of Value that has the methods and attributes of arrays."""

    __slots__ = ()

    all, any, argmax, argmin = map(_method, ("all", "any", "argmax", "argmin"))
    argpartition, argsort, searchsorted = map(_method, ("argpartition", "argsort", "searchsorted"))
    choose, dot, nonzero = map(_method, ("choose", "dot", "nonzero"))
    if TYPE_CHECKING:
        # Those that always give a Value. Arguments are NumPy's; here are the names of those that are most used.
        def clip(self, min: Any = None, max: Any = None, **options: Any) -> Self: ...
        def cumprod(self, axis: Any = None, *more: Any, **options: Any) -> Self: ...
        def cumsum(self, axis: Any = None, *more: Any, **options: Any) -> Self: ...
        def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Self: ...
        def max(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def mean(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def min(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def prod(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def ravel(self, order: str = "C") -> Self: ...
        def repeat(self, repeats: Any, axis: int | None = None) -> Self: ...
        def round(self, decimals: int = 0, **options: Any) -> Self: ...
        def squeeze(self, axis: Any = None) -> Self: ...
        def std(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def sum(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
        def swapaxes(self, axis1: int, axis2: int) -> Self: ...
        def take(self, indices: Any, axis: int | None = None, *more: Any, **options: Any) -> Self: ...
        def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1, **options: Any) -> Self: ...
        def var(self, axis: Any = None, *more: Any, keepdims: bool = False, **options: Any) -> Self: ...
    else:
        clip, round = map(_method, ("clip", "round"))
        cumsum, cumprod, sum, prod = map(_method, ("cumsum", "cumprod", "sum", "prod"))
        max, min, mean, std, var = map(_method, ("max", "min", "mean", "std", "var"))
        diagonal, trace = map(_method, ("diagonal", "trace"))
        ravel, repeat, squeeze, swapaxes, take = map(_method, ("ravel", "repeat", "squeeze", "swapaxes", "take"))

    def compress(self, condition: Any, axis: Any = None, out: Any = None) -> Any:
        """np.compress of this Value."""
        return IMPLEMENTATIONS[np.compress](condition, self, axis, out)

    def astype(self, dtype: Any, order: Any = None, casting: Any = None, subok: bool = True, copy: bool = True) -> Any:
        """Itself, for its own dtype; truth values, for bool; the whole numbers towards 0, as plain ones, for integers.

        Whole numbers have no gradient to lose; in a recorded function guards hold replays to those that are found.
        A recording of float32 in which something is made float64 is made again, all of it in float64. Raises DTypeError
        for another dtype: a tape has one.
        """
        wanted = np.dtype(dtype)
        if wanted.kind == "b":
            return self if self._is_truths() else self._apply(BY_NAME["not_equal"], (self, 0.0))
        if wanted.kind in "iu":
            # Truth values and integers are guarded as what they are.
            known = self.size > 0 and self._tape.kind(self._slot)
            whole = self if known else self._apply(BY_NAME["trunc"], (self,))
            if self._layout is None:
                return wanted.type(whole._item("whole number"))
            return np.array(whole._read("whole number")).astype(wanted)
        if wanted != self.dtype and not (wanted == np.float64 and made_float64(self._tape)):
            raise DTypeError(f"a Value of {self.dtype} cannot become {wanted}: a tape has one dtype")
        return self._apply(BY_NAME["where"], (self, 1.0, 0.0)) if self._is_truths() else self

    def _is_truths(self) -> bool:
        return bool(self.size) and self._tape.kind(self._slot) == "b"

    def conj(self) -> Self:
        """Itself: it is real."""
        return self

    conjugate = conj

    @property
    def real(self) -> Self:
        """Itself: it is real."""
        return self

    @property
    def imag(self) -> Any:
        """Zeros: it is real."""
        return np.zeros(self.shape, self.dtype)[()]

    @property
    def mT(self) -> Self:
        """The last two axes exchanged."""
        return cast(Self, IMPLEMENTATIONS[np.matrix_transpose](self))

    @property
    def flat(self) -> Self:
        """All elements along one axis: a view where the layout allows."""
        return cast(Self, IMPLEMENTATIONS[np.reshape](self, -1))

    @property
    def itemsize(self) -> int:
        """The bytes that one number takes."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The bytes that its numbers take."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> str:
        """Where its numbers are: "cpu"."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: Any = None) -> Self:
        """Itself. Raises UnsupportedError for another device than "cpu"."""
        if device != "cpu" or stream is not None:
            raise UnsupportedError(f"a Value is on the device 'cpu', and not on {device!r}")
        return self


for _name, _advice in REFUSED_ATTRIBUTES.items():
    setattr(Methods, _name, _missing(_name, _advice))
for _name, _advice in REFUSED_IN_PLACE.items():
    setattr(Methods, _name, _changing(_name, _advice))
for _name, _advice in REFUSED_METHODS.items():
    setattr(Methods, _name, _refused(_name, _advice))

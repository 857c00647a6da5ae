"""`Value`: a handle to numbers on a tape, scalar or array, that behaves like a NumPy array and records what is done to it.

A handle is a tape, a slot and, for arrays, a layout. Everything that does arithmetic ends in `apply`; NumPy's own
functions arrive through `__array_ufunc__` and `__array_function__`. What would turn a Value into a plain number, and
so lose its gradient without a word, raises instead.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any, NoReturn

import numpy as np

from tapegrad.errors import (
    CutGradientError,
    DTypeError,
    InPlaceError,
    IntegerInputError,
    NonScalarError,
    OperationError,
    ShapeError,
    TapeMismatchError,
    UnsupportedError,
)
from tapegrad.layout import Layout, broadcast_shapes, broadcast_strides, dense, merge_axes, normalize_axis, reshaped
from tapegrad.ops import BY_NAME, BY_UFUNC, Elementwise, Operation
from tapegrad.ops.activation import relu as relu_op
from tapegrad.ops.record import DENSE, ELEMENTWISE, STRIDED, UNIFORM
from tapegrad.tape import EXPECT, Tape, current_tape

# NumPy function -> what answers to it here; filled by `functions`.
HANDLERS: dict[Any, Callable[..., Any]] = {}

_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Numbers(np.ndarray):
    """A copy of numbers from the tape, read-only, whose in-place operators make new arrays.

    So `p.data -= step` assigns a new array to `p.data`, while `p.data[0] = 1.0`, which could not reach the tape, raises.
    """

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        plain = array.view(np.ndarray)
        return plain[()] if return_scalar else plain

    def __iadd__(self, other: Any) -> Any:
        return self.view(np.ndarray) + other

    def __isub__(self, other: Any) -> Any:
        return self.view(np.ndarray) - other

    def __imul__(self, other: Any) -> Any:
        return self.view(np.ndarray) * other

    def __itruediv__(self, other: Any) -> Any:
        return self.view(np.ndarray) / other

    def __ipow__(self, other: Any) -> Any:
        return self.view(np.ndarray) ** other


def numbers(array: np.ndarray) -> Numbers:
    """A read-only copy of an array."""
    copy = np.array(array).view(Numbers)
    copy.flags.writeable = False
    return copy


def handle(tape: Tape, slot: int, layout: Layout | None) -> Value:
    """A Value on `tape`, made without going through its constructor."""
    value = _new(Value)
    value._tape = tape
    value._page = tape.page
    value._slot = slot
    value._layout = layout
    return value


def view(of: Value, slot: int, layout: Layout | None) -> Value:
    """Another handle to the same numbers; nothing is recorded."""
    value = _new(Value)
    value._tape = of._tape
    value._page = of._page
    value._slot = slot
    value._layout = layout
    return value


_new = object.__new__


class Value:
    """A number, or an array of numbers, that remembers how it was computed.

    Args:
        data: a number or an array of floats. Integer arrays are taken only with `requires_grad=False`.
        label: a name for pictures, listings and messages.
        requires_grad: whether `backward` is to reach it.
        dtype: float64 or float32; by default that of `data`, float64 for plain numbers.

    Raises DTypeError, IntegerInputError.

    >>> a, b = Value(2.0, label="a"), Value(-3.0, label="b")
    >>> c = a * b + a
    >>> c.backward()
    >>> c.data, a.grad, b.grad
    (-4.0, -2.0, 2.0)
    >>> x = Value([1.0, 2.0, 3.0])
    >>> (x * x).sum().backward()
    >>> x.grad.tolist()
    [2.0, 4.0, 6.0]
    """

    __slots__ = ("__weakref__", "_layout", "_page", "_slot", "_tape")

    _tape: Tape
    _page: Any
    _slot: int
    _layout: Layout | None

    def __init__(self, data: Any, label: str = "", requires_grad: bool = True, *, dtype: Any = None) -> None:
        if isinstance(data, Value):
            raise CutGradientError("Value(v) of a Value would cut its gradient: use v itself, or Value(v.data)")
        array, dtype = _given(data, dtype)
        if requires_grad and array.dtype.kind in "iub" and array.ndim:
            raise IntegerInputError(
                f"an array of {array.dtype} has no gradient: write Value(x.astype(float)) or requires_grad=False"
            )
        tape = current_tape(dtype)
        layout = dense(array.shape) if array.ndim else None
        data = np.array(array, dtype) if array.ndim else float(array)
        self._slot = tape.leaf(data, array.size, bool(requires_grad))
        self._tape = tape
        self._page = tape.page
        self._layout = layout
        if label:
            self.label = label

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; () for a scalar."""
        return () if self._layout is None else self._layout.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return 0 if self._layout is None else len(self._layout.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return 1 if self._layout is None else self._layout.size

    @property
    def dtype(self) -> np.dtype:
        """float64 or float32."""
        return self._tape.dtype

    @property
    def tape(self) -> Tape:
        """The tape it stands on."""
        return self._tape

    @property
    def label(self) -> str:
        """A name for pictures, listings and messages."""
        return self._tape.labels.get(self._slot, "")

    @label.setter
    def label(self, label: str) -> None:
        self._tape.labels[self._slot] = str(label)

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can flow to it."""
        return self._tape.wants_grad(self._slot) if self.size else False

    def _layout_or_scalar(self) -> Layout:
        return self._layout or Layout((), ())

    def _window(self, arena: np.ndarray) -> np.ndarray:
        place = self._tape.locate(self._slot) if self.size else 0
        layout = self._layout_or_scalar()
        strides = tuple(s * arena.itemsize for s in layout.strides)
        return np.lib.stride_tricks.as_strided(arena[place:], layout.shape, strides)

    @property
    def data(self) -> Any:
        """Its number, or a read-only array of its numbers. Assigning gives a leaf new numbers.

        Raises InPlaceError when assigned to a result, or inside a recording; ShapeError for another shape.
        """
        self._tape.evaluate()
        self._freeze()
        if self._layout is None:
            return float(self._tape.values[self._tape.locate(self._slot)])
        return numbers(self._window(self._tape.values))

    @data.setter
    def data(self, data: Any) -> None:
        array = self._accept(data, "data")
        if self.size:
            self._tape.evaluate()
            low, high = self._layout_or_scalar().reach()
            place = self._tape.locate(self._slot)
            if self._layout is not None and not self._layout.dense:
                places: Any = self._places()
            else:
                places = slice(place + low, place + high)
            self._tape.edit(self._slot + low, places, array.reshape(-1), high - low)

    def _accept(self, data: Any, what: str) -> np.ndarray:
        if isinstance(data, Value):
            raise CutGradientError(f"assigning a Value to `{what}` would cut its gradient: assign v.data")
        array = np.asarray(data)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"`{what}` must be real numbers, not {array.dtype}")
        if array.shape != self.shape:
            if array.ndim:
                raise ShapeError(f"`{what}` of shape {array.shape} was assigned to a Value of shape {self.shape}")
            array = np.broadcast_to(array, self.shape)
        return array

    def _places(self) -> np.ndarray:
        layout = self._layout_or_scalar()
        offsets = np.zeros(layout.shape, np.int64)
        for axis, (n, s) in enumerate(zip(layout.shape, layout.strides, strict=True)):
            offsets += (np.arange(n) * s).reshape([-1 if i == axis else 1 for i in range(len(layout.shape))])
        return (self._tape.locate(self._slot) + offsets).reshape(-1)

    @property
    def grad(self) -> Any:
        """The gradient accumulated by `backward`, 0 before it; None where no gradient is wanted. Can be assigned."""
        self._tape.flush()
        if self.size == 0:
            return numbers(np.zeros(self.shape, self.dtype))
        place = self._tape.locate(self._slot)
        if not self._tape.wants_grad(self._slot):
            return None
        grads = self._tape.grads_grown()
        if self._layout is None:
            return float(grads[place])
        return numbers(self._window(grads))

    @grad.setter
    def grad(self, grad: Any) -> None:
        array = self._accept(0.0 if grad is None else grad, "grad")
        self._tape.flush()
        self._tape.grads_grown()[self._places()] = array.reshape(-1)

    def zero_grad(self) -> None:
        """Set the accumulated gradient to zero."""
        self.grad = 0.0

    def item(self) -> float:
        """The number of a Value of one element. Raises ShapeError for more."""
        if self.size != 1:
            raise ShapeError(f"item() of a Value of shape {self.shape}: it has {self.size} elements, not one")
        return float(np.asarray(self.data).reshape(-1)[0])

    def numpy(self) -> np.ndarray:
        """Its numbers as a plain array of its own."""
        return np.array(self.data, self.dtype)

    def tolist(self) -> Any:
        """Its numbers as nested lists."""
        return self.numpy().tolist()

    def detach(self) -> Value:
        """The same numbers, through which no gradient flows."""
        return apply(BY_NAME["detach"], (self,))

    def backward(self, seed: Any = None) -> None:
        """Add to the `grad` of every value the derivative of this one with respect to it.

        Args:
            seed: the adjoint to start from, of this value's shape; 1 for a single element. With a seed, what is added
                is the gradient of sum(seed * self).

        Raises NonScalarError for an array without a seed, ShapeError for a seed of another shape.

        >>> a = Value(3.0)
        >>> b = a + a
        >>> b.backward()
        >>> a.grad
        2.0
        """
        if seed is None:
            if self.size != 1:
                raise NonScalarError(
                    f"backward() of a Value of shape {self.shape} needs a seed of that shape, or a scalar to start from"
                )
            seed = np.ones(self.shape)
        seed = self._accept(seed, "seed")
        if self._tape.recording:
            raise UnsupportedError("backward() inside a recorded function: use tg.grad(f) on the function instead")
        if self.size:
            self._tape.evaluate()
            self._tape.backward(self._places(), seed.reshape(-1).astype(self.dtype))

    # What would lose the gradient

    def _freeze(self) -> None:
        # A number read while recording is good for this replay only: a guard holds it to that.
        if self._tape.recording and not self._tape.finished:
            for slot in self._slots():
                expected = self._tape.constant(float(self._tape.values[self._tape.locate(slot)]))
                self._tape.scalar(EXPECT, slot, expected)
            self._tape.flush()

    def _slots(self) -> Iterator[int]:
        layout = self._layout_or_scalar()
        for index in np.ndindex(layout.shape):
            yield self._slot + sum(i * s for i, s in zip(index, layout.strides, strict=True))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(f"the truth of a Value of shape {self.shape} is ambiguous: use np.where, or v.data")
        if not self._tape.recording:
            return self.item() != 0.0
        condition = self if self._tape.is_flag(self._slot) else self != 0.0
        return bool(condition.item())

    def _cut(self, what: str) -> NoReturn:
        raise CutGradientError(
            f"{what} would silently cut the gradient: write v.item() or v.data for the numbers, v.detach() for a Value "
            "without gradient, or use an array of dtype=object (tg.stack makes one Value of many)"
        )

    def __float__(self) -> float:
        self._cut("float(v)")

    def __int__(self) -> int:
        self._cut("int(v)")

    def __index__(self) -> int:
        raise CutGradientError("a Value cannot be an index or a count: write int(v.item())")

    def __complex__(self) -> complex:
        self._cut("complex(v)")

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) == object:
            array = np.empty(self.shape, object)
            for index in np.ndindex(self.shape):
                array[index] = self[index]
            return array
        self._cut("turning a Value into an array (np.asarray(v), or storing it in a float array)")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise InPlaceError(
            "a Value cannot be changed in place: use np.where or np.concatenate, assign to `data` of a leaf, or work with "
            "an object array of scalar Values"
        )

    # How it looks

    def __repr__(self) -> str:
        label = f", label={self.label!r}" if self.label else ""
        self._tape.evaluate()
        if self._layout is None:
            number = float(self._tape.values[self._tape.locate(self._slot)])
            return f"Value({number!r}{label})"
        text = np.array2string(np.array(self._window(self._tape.values)), separator=", ", prefix="Value(")
        kind = "" if self.dtype == np.float64 else f", dtype={self.dtype}"
        return f"Value({text}{kind}{label})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Value:
        return self

    def __deepcopy__(self, memo: Any) -> Value:
        return self

    def __reduce__(self) -> Any:
        raise CutGradientError("a Value cannot be pickled: its tape stays here. Pickle v.data")

    # As a sequence

    def __len__(self) -> int:
        if self._layout is None:
            raise TypeError("len() of a scalar Value")
        return self._layout.shape[0]

    def __iter__(self) -> Iterator[Value]:
        if self._layout is None:
            raise TypeError("iteration over a scalar Value")
        return (self[i] for i in range(self._layout.shape[0]))

    def __getitem__(self, index: Any) -> Value:
        return _index(self, index)

    @property
    def T(self) -> Value:
        """The axes in reverse order."""
        return self.transpose()

    def transpose(self, *axes: Any) -> Value:
        """The axes in another order, reversed by default. A view."""
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
            axes = tuple(axes[0] or ())
        layout = self._layout_or_scalar()
        ndim = len(layout.shape)
        order = tuple(normalize_axis(a, ndim, "transpose") for a in axes) if axes else tuple(reversed(range(ndim)))
        if sorted(order) != list(range(ndim)):
            raise ShapeError(f"transpose: axes {axes} are no order of the {ndim} axes of shape {layout.shape}")
        if self._layout is None:
            return self
        return view(self, self._slot, Layout(
            tuple(layout.shape[a] for a in order), tuple(layout.strides[a] for a in order)))

    def reshape(self, *shape: Any) -> Value:
        """Another shape of the same size; one length may be -1. A view where the layout allows, else a copy."""
        if len(shape) == 1 and isinstance(shape[0], Sequence):
            shape = tuple(shape[0])
        wanted = [operator.index(n) for n in shape]
        if wanted.count(-1) == 1:
            rest = math.prod(n for n in wanted if n != -1)
            if rest and self.size % rest == 0:
                wanted[wanted.index(-1)] = self.size // rest
        if any(n < 0 for n in wanted) or math.prod(wanted) != self.size:
            raise ShapeError(f"reshape: shape {self.shape} of {self.size} elements cannot become {tuple(shape)}")
        if not wanted:
            return view(self, self._slot, None)
        layout = reshaped(self._layout_or_scalar(), tuple(wanted))
        if layout is None:
            return view(copied := contiguous(self), copied._slot, dense(tuple(wanted)))
        return view(self, self._slot, layout)

    # Operations by name: a method for every elementwise operation, and NumPy's own methods

    @classmethod
    def _apply_operation(cls, operation: Operation, args: tuple[Any, ...]) -> Any:
        if not isinstance(operation, Elementwise):
            raise OperationError(f"{operation.name} is not elementwise: call it through its function")
        return apply(operation, args)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        kwargs = {k: v for k, v in kwargs.items() if not (k == "out" and v == (None,))}
        if kwargs.get("out") is not None:
            out = kwargs["out"]
            if any(isinstance(o, np.ndarray) and o.dtype != object for o in out):
                raise CutGradientError(
                    f"np.{ufunc.__name__}: storing a Value into a float array would silently cut the gradient: write "
                    "a = a + v instead of a += v, or use an object array"
                )
        if any(isinstance(x, np.ndarray) and x.dtype == object for x in (*inputs, *(kwargs.get("out") or ()))):
            return getattr(ufunc, method)(*(_as_objects(x) for x in inputs), **kwargs)
        if method == "__call__" and ufunc in HANDLERS:
            return HANDLERS[ufunc](*inputs, **kwargs)
        if method == "__call__" and ufunc in BY_UFUNC and not kwargs:
            return apply(BY_UFUNC[ufunc], inputs)
        if (ufunc, method) in HANDLERS:
            return HANDLERS[ufunc, method](*inputs, **kwargs)
        name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        if method == "__call__" and ufunc in BY_UFUNC:
            raise UnsupportedError(f"{name} with {', '.join(sorted(kwargs))}= is not supported on a Value")
        raise UnsupportedError(
            f"{name} is not supported on a Value; use v.data for numbers without a gradient, or declare the operation "
            "with tapegrad.ops"
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        handler = HANDLERS.get(func)
        if handler is None:
            raise UnsupportedError(
                f"np.{func.__name__} is not supported on a Value; use v.data for numbers without a gradient"
            )
        try:
            return handler(*args, **kwargs)
        except TypeError as error:
            if "unexpected keyword argument" in str(error):
                raise UnsupportedError(f"np.{func.__name__} on a Value: {str(error).split('() ')[-1]}") from None
            raise

    def __pow__(self, other: Any) -> Value:
        return _power(self, other)

    def __rpow__(self, other: Any) -> Value:
        return apply(BY_NAME["power"], (other, self))

    def __matmul__(self, other: Any) -> Value:
        return HANDLERS[np.matmul](self, other)

    def __rmatmul__(self, other: Any) -> Value:
        return HANDLERS[np.matmul](other, self)

    def __floordiv__(self, other: Any) -> Value:
        return apply(BY_NAME["floor"], (self / other,))

    def __rfloordiv__(self, other: Any) -> Value:
        return apply(BY_NAME["floor"], (other / self,))

    def __pos__(self) -> Value:
        return self

    def __round__(self, ndigits: int | None = None) -> Value:
        return HANDLERS[np.round](self, ndigits or 0)

    def __getattr__(self, name: str) -> Any:
        # Methods that NumPy arrays have, answered by the function of that name.
        function = _METHODS.get(name)
        if function is None:
            raise AttributeError(f"a Value has no attribute {name!r}")
        handler = HANDLERS[function]
        return lambda *args, **kwargs: handler(self, *args, **kwargs)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_METHODS})

    def astype(self, dtype: Any, copy: bool = True) -> Value:
        """Itself, for its own dtype. Raises DTypeError for another: a tape has one dtype."""
        if np.dtype(dtype) != self.dtype:
            raise DTypeError(f"a Value of {self.dtype} cannot become {np.dtype(dtype)}: a tape has one dtype")
        return self

    def copy(self) -> Value:
        """A copy, recorded as an operation."""
        return apply(BY_NAME["copy"], (self,))

    def leaky_relu(self, slope: float = 0.01) -> Value:
        """x where x > 0, else slope * x."""
        return apply(BY_NAME["leaky_relu"], (self, slope))


_METHODS: dict[str, Any] = {
    name: getattr(np, name)
    for name in (
        "sum mean prod max min var std cumsum argmax argmin argsort any all squeeze ravel repeat clip dot swapaxes "
        "trace diagonal take round"
    ).split()
}


def _given(data: Any, dtype: Any) -> tuple[np.ndarray, np.dtype]:
    if isinstance(data, list | tuple) and _holds_value(data):
        raise CutGradientError("Value([...]) of Values would cut their gradients: use tg.stack([...])")
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"a Value holds real numbers, not {array.dtype if array.dtype != object else type(data).__name__}")
    if dtype is None:
        dtype = np.float32 if array.dtype in (np.float32, np.float16) else np.float64
    dtype = np.dtype(dtype)
    if dtype not in (np.float64, np.float32):
        raise DTypeError(f"a Value is float64 or float32, not {dtype}")
    return array, dtype


def _holds_value(data: Any) -> bool:
    return isinstance(data, Value) or (isinstance(data, list | tuple) and any(map(_holds_value, data)))


def _as_objects(x: Any) -> Any:
    return x.__array__(object) if isinstance(x, Value) else x


def as_value(x: Any, tape: Tape, what: str) -> Value:
    """A number or array as a constant of `tape`; a Value of that tape as it is.

    Raises TapeMismatchError, DTypeError, UnsupportedError.
    """
    if isinstance(x, Value):
        if x._tape is not tape:
            raise _mismatch(x._tape, tape, what)
        return x
    if isinstance(x, _NUMBERS):
        return handle(tape, tape.constant(x), None)
    array = np.asarray(x)
    if array.dtype == object:
        return HANDLERS["stack_objects"](array, tape)
    if array.dtype.kind not in "fiub":
        raise UnsupportedError(f"{what}: an operand of type {type(x).__name__} ({array.dtype}) cannot be used with a Value")
    if array.dtype.kind == "f" and array.ndim and array.dtype != tape.dtype:
        raise DTypeError(
            f"{what}: an array of {array.dtype} meets a Value of {tape.dtype}; convert it with .astype(np.{tape.dtype})"
        )
    if array.ndim == 0:
        return handle(tape, tape.constant(float(array)), None)
    return handle(tape, tape.leaf(np.array(array, tape.dtype), array.size, False), dense(array.shape))


def _mismatch(a: Tape, b: Tape, what: str) -> Exception:
    if a.dtype != b.dtype:
        return DTypeError(f"{what}: a Value of {a.dtype} meets a Value of {b.dtype}; a tape has one dtype")
    if a.finished or b.finished:
        where = "one was recorded inside a function whose recording is finished"
    elif a.recording or b.recording:
        where = "one comes from outside the function that is being recorded; pass it to the function as an argument"
    elif a.owner != b.owner:
        where = "they belong to two threads"
    else:
        where = "each must be recorded on the same tape"
    return TapeMismatchError(f"{what}: Values of two tapes meet: {where}")


def tape_of(args: Sequence[Any]) -> Tape:
    """The tape of the first Value among the arguments."""
    for arg in args:
        if isinstance(arg, Value):
            return arg._tape
    return current_tape()


def apply(operation: Elementwise, args: Sequence[Any]) -> Value:
    """Record an elementwise operation on Values and plain numbers or arrays, broadcast by NumPy's rules.

    Raises ShapeError, DTypeError, TapeMismatchError.
    """
    if len(args) != operation.arity:
        raise OperationError(f"{operation.name} takes {operation.arity} operands, {len(args)} were given")
    tape = tape_of(args)
    values = [as_value(x, tape, operation.name) for x in args]
    layouts = [v._layout for v in values]
    if all(layout is None for layout in layouts):
        if operation.arity < 3:
            slot = tape.scalar(operation.opcode, values[0]._slot, values[-1]._slot)
            return handle(tape, slot, None)
        shape: tuple[int, ...] = ()
    else:
        shape = broadcast_shapes([v.shape for v in values], operation.name)
    slot = _record_run(tape, operation.opcode, shape, values)
    return handle(tape, slot, dense(shape) if shape else None)


def _record_run(tape: Tape, opcode: int, shape: tuple[int, ...], values: list[Value]) -> int:
    operands = []
    n = math.prod(shape)
    for v in values:
        low, high = v._layout_or_scalar().reach()
        operands.append((v._slot, low, high) if n else (0, 0, 0))
    strides = [broadcast_strides(v._layout, shape) for v in values]
    axes, merged = merge_axes(shape, strides)
    params = [len(axes), *axes]
    for s in merged:
        if len(axes) == 1 and s[0] == 1 or n == 1:
            mode = DENSE
        elif not any(s):
            mode = UNIFORM
        else:
            mode = STRIDED
        params += [mode, *s]
    return tape.run(opcode, ELEMENTWISE, n, operands, params)


def contiguous(value: Value) -> Value:
    """The value itself if its elements stand in row-major order without gaps, else a copy that does."""
    layout = value._layout
    return value if layout is None or layout.dense else apply(BY_NAME["copy"], (value,))


def _power(base: Any, exponent: Any) -> Value:
    if isinstance(exponent, _NUMBERS):
        special = {2: "square", 0.5: "sqrt", -1: "reciprocal"}.get(exponent)
        if exponent == 1:
            return +base
        if special:
            return apply(BY_NAME[special], (base,))
        return apply(BY_NAME["power_constant"], (base, exponent))
    if isinstance(exponent, np.ndarray) and exponent.dtype != object:
        return apply(BY_NAME["power_constant"], (base, exponent))
    return apply(BY_NAME["power"], (base, exponent))


def _index(value: Value, index: Any) -> Value:
    """Basic indexing, a view; index arrays go to `take_along`."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(p, list | np.ndarray | Value) for p in parts):
        return HANDLERS["advanced_index"](value, parts)
    layout = value._layout_or_scalar()
    given = sum(p is not None and p is not Ellipsis for p in parts)
    if given > len(layout.shape):
        raise ShapeError(f"{given} indices for a Value of {len(layout.shape)} dimensions (shape {layout.shape})")
    slot, shape, strides = value._slot, [], []
    axis = 0
    for part in _without_ellipsis(parts, len(layout.shape) - given):
        if part is None:
            shape.append(1)
            strides.append(0)
            continue
        n, stride = layout.shape[axis], layout.strides[axis]
        if isinstance(part, slice):
            start, stop, step = part.indices(n)
            length = len(range(start, stop, step))
            if length:
                slot += start * stride
            shape.append(length)
            strides.append(step * stride)
        else:
            try:
                i = operator.index(part)
            except TypeError:
                raise UnsupportedError(f"a Value cannot be indexed by {type(part).__name__}") from None
            if isinstance(part, bool | np.bool_):
                raise UnsupportedError("a Value cannot be indexed by a single boolean")
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of range for axis {axis} of size {n}")
            slot += (i % n) * stride
        axis += 1
    return view(value, slot, Layout(tuple(shape), tuple(strides)) if shape else None)


def _without_ellipsis(parts: tuple[Any, ...], missing: int) -> list[Any]:
    whole = [slice(None)] * missing
    if any(p is Ellipsis for p in parts):
        if sum(p is Ellipsis for p in parts) > 1:
            raise IndexError("an index can have only one ellipsis")
        i = next(i for i, p in enumerate(parts) if p is Ellipsis)
        return [*parts[:i], *whole, *parts[i + 1 :]]
    return [*parts, *whole]


def _binary_operator(name: str, reflected: bool) -> Callable[[Value, Any], Value]:
    operation = BY_NAME[name]
    opcode = operation.opcode
    assert isinstance(operation, Elementwise)

    def method(self: Value, other: Any) -> Value:
        # Two scalars, or a scalar and a number met before, are the fast path: nothing but the append.
        tape = self._tape
        if tape.top >= tape.limit or tape.owner != get_ident():
            tape.turn_page()
        kind = other.__class__
        if kind is Value:
            if other._tape is not tape or other._layout is not None or self._layout is not None:
                return apply(operation, (other, self) if reflected else (self, other))
            b = other._slot
        elif kind is float or kind is int:
            b = tape.constants.get(other)
            if b is None or self._layout is not None:
                return apply(operation, (other, self) if reflected else (self, other))
        elif isinstance(other, np.ndarray | np.generic | list | tuple | bool):
            if isinstance(other, np.ndarray) and other.dtype == object:
                return NotImplemented
            return apply(operation, (other, self) if reflected else (self, other))
        else:
            return NotImplemented
        tape.push_op(opcode)
        if reflected:
            tape.push_a(b)
            tape.push_b(self._slot)
        else:
            tape.push_a(self._slot)
            tape.push_b(b)
        value = _new(Value)
        value._tape = tape
        value._page = tape.page
        value._slot = slot = tape.top
        value._layout = None
        tape.top = slot + 1
        return value

    method.__name__ = name
    method.__doc__ = operation.formula
    return method


def _unary_method(operation: Elementwise) -> Callable[[Value], Value]:
    opcode = operation.opcode

    def method(self: Value) -> Value:
        tape = self._tape
        if tape.top >= tape.limit or tape.owner != get_ident():
            tape.turn_page()
        if self._layout is not None:
            return apply(operation, (self,))
        slot = self._slot
        tape.push_op(opcode)
        tape.push_a(slot)
        tape.push_b(slot)
        value = _new(Value)
        value._tape = tape
        value._page = tape.page
        value._slot = slot = tape.top
        value._layout = None
        tape.top = slot + 1
        return value

    method.__name__ = operation.name
    method.__doc__ = operation.formula
    return method


def add_method(operation: Operation) -> None:
    """Give Values a method for a unary operation."""
    if isinstance(operation, Elementwise) and operation.arity == 1 and not hasattr(Value, operation.name):
        setattr(Value, operation.name, _unary_method(operation))


for _operator, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "mod": "remainder",
}.items():
    setattr(Value, f"__{_operator}__", _binary_operator(_name, False))
    setattr(Value, f"__r{_operator}__", _binary_operator(_name, True))
for _operator, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
    "and": "logical_and", "or": "logical_or", "xor": "logical_xor",
}.items():
    setattr(Value, f"__{_operator}__", _binary_operator(_name, False))
Value.__neg__ = _unary_method(BY_NAME["negative"])  # type: ignore[attr-defined,arg-type]
Value.__abs__ = _unary_method(BY_NAME["absolute"])  # type: ignore[attr-defined,arg-type]
Value.__invert__ = lambda self: self == 0.0  # type: ignore[attr-defined]
for _row in list(BY_NAME.values()):
    add_method(_row)

"""`check_op`: the rules of an operation against differences, each other, and what is compiled of them."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.checking.differences import Slope, slope
from tapegrad.checking.report import Ledger, Report
from tapegrad.checking.structures import check_structured
from tapegrad.errors import CheckError, OperationError
from tapegrad.ops import Elementwise, Operation, Structured
from tapegrad.ops.rules import plain
from tapegrad.recording import record
from tapegrad.transforms import jvp, vjp
from tapegrad.value import Value

_NAMES = "xyw"
# How exact the compiled rules are, relative to the largest number at any sample; they are compared with the rules
# themselves, run in double precision.
_EXACT: dict[np.dtype, float] = {np.dtype(np.float64): 1e-11, np.dtype(np.float32): 5e-5}

Arrays = Sequence[np.ndarray]


def check_op(
    operation: Operation,
    *examples: Any,
    samples: int = 24,
    constant: Sequence[int] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
    **options: Any,
) -> Report:
    """Check an operation that was declared with `tapegrad.ops`.

    Args:
        operation: a row made by `unary`, `binary`, `ternary` or `structured`.
        examples: operands. An elementwise operation needs none, they are drawn from the row's `samples`; else one
            number or array each, of one length. For a structured operation arrays, integers where it wants indices.
        samples: how many operands are drawn.
        constant: operands of an elementwise operation that it holds constant on purpose: their partial is 0. By default
            those that the row declares as `held`.
        rtol, atol: |found - differences| <= atol + rtol max(|found|, |differences|), plus the estimated error of the
            differences themselves.
        seed: of all random numbers.
        options: what a structured operation is called with besides its operands, `params=...` for one.

    Of an elementwise operation it checks that the value agrees with the ufunc, and the partials with differences; that
    the compiled rules agree with the rules run on plain numbers, for numbers, arrays, broadcast arrays and views, in
    float64 and float32, and in replays at another point than recorded; that derivatives written as instructions agree
    with the rules, and the derivatives of these, forward and reverse, with differences of the partials; and that NumPy
    calls the operation.

    Of a structured operation it checks that the tangent and the reverse kernel agree with differences of the forward
    kernel and with each other, <J v, w> = <v, J'w>; that the reverse kernel adds to adjoints and does not overwrite
    them; that the kernels work in lanes and in float32; that `pullback` and `pushforward` agree with the kernels, and
    their derivatives with differences of the kernels; and that the Jacobian is zero wherever `depends` says so.

    Raises CheckError, which is an AssertionError and names the rule, the sample and both numbers; OperationError for an
    operation that cannot be called, or without examples.

    >>> from tapegrad.ops import BY_NAME
    >>> check_op(BY_NAME["tanh"]).worst < 1e-6
    True
    >>> check_op(BY_NAME["sum"], np.ones((2, 3, 1)), params=[2, 3, 1, 3, 1, 1, 1]).skipped
    ()
    """
    ledger = Ledger(getattr(operation, "name", repr(operation)))
    if isinstance(operation, Structured):
        check_structured(operation, examples, options, ledger, rtol=rtol, atol=atol, seed=seed)
        return ledger.report()
    if not isinstance(operation, Elementwise):
        raise OperationError(f"check_op takes an operation declared with tapegrad.ops, not {operation!r}")
    if options:
        raise OperationError(f"{operation.name} is elementwise: it takes no option {', '.join(sorted(options))}")
    if examples and len(examples) != operation.arity:
        raise OperationError(f"{operation.name} takes {operation.arity} operands, {len(examples)} were given")
    rng = np.random.default_rng([zlib.crc32(operation.name.encode()), seed])
    if examples:
        here = [np.array(x, float).reshape(-1) for x in np.broadcast_arrays(*examples)]
        there = [np.roll(x, 1) for x in here]
    else:
        here, there = ([rng.uniform(low, high, samples) for low, high in operation.samples] for _ in range(2))
    held = operation.held if constant is None else tuple(constant)
    _Row(operation, here, there, held, ledger, rtol, atol, rng).check()
    return ledger.report()


class _Row:
    """The checks of one elementwise operation, at the samples `here`. Recordings are made at the samples `there`, so
    that they are replayed at other points."""

    def __init__(
        self, row: Elementwise, here: Arrays, there: Arrays, constant: tuple[int, ...], ledger: Ledger,
        rtol: float, atol: float, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.row, self.here, self.there, self.constant, self.rng = row, list(here), list(there), constant, rng
        self.compare = ledger.compare
        self.subject = ledger.subject
        self.tolerance: dict[str, Any] = {"rtol": rtol, "atol": atol}
        self.n = len(self.here[0])
        self.operands = range(row.arity)

    def check(self) -> None:
        """All of it. Raises CheckError."""
        with np.errstate(all="ignore"):
            self.check_value()
            self.check_partials()
            for dtype in _EXACT:
                self.check_compiled(dtype)
            self.check_instructions()
            self.check_second()
            self.check_dispatch()

    # The rules on plain numbers

    def each(self, rule: Callable[..., Any], arrays: Arrays, count: int) -> np.ndarray:
        """A rule at every sample, (count, n); NaN where it raises."""
        found = np.full((count, len(arrays[0])), np.nan)
        for i, numbers in enumerate(zip(*arrays, strict=True)):
            try:
                result = rule(*numbers)
            except (ArithmeticError, ValueError):
                continue
            result = result if isinstance(result, tuple) else (result,)
            found[:, i] = [float(x) for x in result]
        return found

    def value(self, arrays: Arrays) -> np.ndarray:
        """The value by NumPy, or by the rule where NumPy has no such function."""
        if self.row.ufunc is not None:
            return np.asarray(self.row.ufunc(*arrays), float)
        return self.each(plain(self.row.value), arrays, 1)[0]

    def partials(self, arrays: Arrays) -> np.ndarray:
        """The partials by the rule, (operands, n)."""
        return self.each(plain(self.row.partials), [*arrays, self.value(arrays)], self.row.arity)

    def sample(self, i: tuple[int, ...]) -> str:
        """A sample, in words."""
        numbers = ", ".join(f"{name} = {x[i[0]]:.6g}" for name, x in zip(_NAMES, self.here, strict=False))
        return f" at sample {i[0]} ({numbers})"

    def slope(self, f: Callable[[Arrays], np.ndarray], j: int) -> tuple[Slope, np.ndarray]:
        """Differences along operand j at every sample, and at which samples these are accurate enough to compare with.
        """
        low, high = self.row.samples[j]
        size = np.maximum(np.abs(self.here[j]), 0.1 * (high - low))
        shape = f(self.here).shape
        found = slope(lambda t: f([x + t * size * (i == j) for i, x in enumerate(self.here)]).reshape(-1))
        found = Slope(*(part.reshape(shape) for part in found))
        smooth = np.isfinite(found.value) & ~found.kink & (found.error <= 1e-3 * (1e-3 + np.abs(found.value)))
        return found._replace(value=found.value / size, error=found.error / size), smooth

    def against(self, what: str, found: np.ndarray, by: Slope, smooth: np.ndarray, side: str) -> None:
        """Compare with differences at the samples where these are accurate."""
        if 2 * smooth.sum() < smooth.size:
            raise CheckError(
                f"{self.subject}: {what}: at {smooth.size - smooth.sum()} of {smooth.size} samples differences do not "
                "settle, or those from the left and the right differ: choose `samples` away from kinks and poles"
            )
        expected = np.where(smooth, by.value, found)
        error = np.where(smooth, by.error, 0.0)
        sides = (side, "differences")
        self.compare(what, found, expected, error=error, place=self.sample, sides=sides, **self.tolerance)

    def check_value(self) -> None:
        by_rule = self.each(plain(self.row.value), self.here, 1)[0]
        for i in np.flatnonzero(~np.isfinite(by_rule))[:1]:
            raise CheckError(f"{self.subject}: value{self.sample((i,))}: {by_rule[i]}: choose `samples` in its domain")
        if self.row.ufunc is not None:
            self.compare("value", by_rule, self.value(self.here), rtol=1e-12, atol=1e-12, place=self.sample,
                         sides=("rule", f"np.{self.row.ufunc.__name__}"))  # fmt: skip

    def check_partials(self) -> None:
        found = self.partials(self.here)
        for j in self.operands:
            what = f"partials: dz/d{_NAMES[j]}"
            for i in np.flatnonzero(~np.isfinite(found[j]))[:1]:
                raise CheckError(f"{self.subject}: {what}{self.sample((i,))}: {found[j, i]}")
            if j in self.constant:
                self.compare(f"{what}, held constant", found[j], 0.0 * found[j], rtol=0.0, atol=0.0, place=self.sample)
                continue
            by, smooth = self.slope(self.value, j)
            if not found[j].any():
                what += f" (an operand held constant on purpose is declared by held=({j},))"
            self.against(what, found[j], by, smooth, "rule")

    # What is compiled, against the rules

    def check_compiled(self, dtype: np.dtype) -> None:
        shapes = [(3, 1), (4,), ()] if self.row.arity > 1 else [(3, 4)]
        sizes = [int(np.prod(shape)) for shape in shapes]
        cases: dict[str, Callable[[Arrays], Any]] = {
            f"number {i}": functools.partial(lambda i, arrays: [x[i] for x in arrays], i) for i in range(min(3, self.n))
        }
        cases["an array"] = cases["views"] = lambda arrays: arrays
        cases["broadcast arrays"] = lambda arrays: [
            np.resize(x, n).reshape(shape) for x, n, shape in zip(arrays, sizes, shapes, strict=False)
        ]
        for case, shaped in cases.items():
            seen: Callable[[Any], Any] = (lambda x: x[::-2]) if case == "views" else (lambda x: x)
            here, there = ([np.asarray(x, dtype)[()] for x in shaped(a)] for a in (self.here, self.there))
            self.check_case(f"on {case}, {dtype}", here, there, dtype, seen)

    def check_case(
        self, case: str, here: list[Any], there: list[Any], dtype: np.dtype, seen: Callable[[Any], Any]
    ) -> None:
        """Value, adjoints and tangents of one call, recorded in one place and replayed in another."""

        def f(*xs: Any) -> Any:
            return self.row(*map(seen, xs))

        # Where in each operand the numbers of each result come from.
        at = [np.arange(np.size(x)).reshape(np.shape(x)) for x in here]
        at = list(np.broadcast_arrays(*map(seen, at)))
        exact = [np.reshape(x, -1)[i].reshape(-1).astype(float) for x, i in zip(here, at, strict=True)]
        shape = at[0].shape
        value, partials = self.value(exact).reshape(shape), self.partials(exact).reshape(-1, *shape)
        w = np.asarray(self.rng.normal(size=shape), dtype)[()]
        v = [np.asarray(self.rng.normal(size=np.shape(x)), dtype)[()] for x in here]
        adjoints = []
        for x, i, p in zip(here, at, partials, strict=True):
            total = np.zeros(np.size(x))
            np.add.at(total, i.reshape(-1), np.where(w == 0.0, 0.0, w * p).reshape(-1))
            adjoints.append(total.reshape(np.shape(x)))
        tangent = sum(p * np.reshape(d, -1)[i] for p, d, i in zip(partials, v, at, strict=True))

        def same(what: str, found: Any, expected: Any, size: Any) -> None:
            scale = max(float(np.max(np.abs(expected), initial=0.0)), float(size))
            self.compare(f"{what} {case}", found, expected, rtol=_EXACT[dtype], atol=1e-300, scale=scale,
                         sides=("compiled", "rule"), single=dtype == np.float32)  # fmt: skip

        size, sizes = np.max(np.abs(self.value(self.here))), np.max(np.abs(self.partials(self.here)), 1)
        values = [Value(x) for x in here]
        out = f(*values)
        same("value", out.data, value, size)
        out.backward(w)
        for j, x in enumerate(values):
            grad = x.grad if out.requires_grad else 0.0 * adjoints[j]
            same(f"reverse sweep: adjoint of {_NAMES[j]}", grad, adjoints[j], sizes[j])
        recording = record(f, *there, compile=False)
        same("value replayed", recording(*here), value, size)
        for j, g in enumerate(recording.vjp(*here)[1](w)):
            same(f"reverse sweep replayed: adjoint of {_NAMES[j]}", g, adjoints[j], sizes[j])
        same("tangent sweep replayed", recording.jvp(here, v)[1], tangent, np.max(sizes))
        if shape and np.size(value) <= 12:
            every = tuple(self.operands)
            for name, blocks in (("forward", recording.jacfwd(*here, argnums=every)),
                                 ("reverse", recording.jacrev(*here, argnums=every))):  # fmt: skip
                for j, block in enumerate(blocks):
                    k = np.ndim(here[j])
                    along = np.tensordot(block, v[j], k) if k else block * v[j]
                    same(f"{name} lanes, by {_NAMES[j]}", along, partials[j] * np.reshape(v[j], -1)[at[j]], sizes[j])

    # Derivatives as instructions

    def recorded(self) -> tuple[Any, Any, np.ndarray, list[np.ndarray]]:
        w, v = self.rng.normal(size=self.n), [self.rng.normal(size=self.n) for _ in self.operands]
        pulled = record(lambda *xs: vjp(self.row, *xs)[1](w), *self.there)
        pushed = record(lambda *xs: jvp(self.row, xs, v)[1], *self.there)
        return pulled, pushed, w, v

    def check_instructions(self) -> None:
        pulled, pushed, w, v = self.recorded()
        partials = self.partials(self.here)
        sides = ("instructions", "rule")
        options: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12, "place": self.sample, "sides": sides}
        for j, g in enumerate(pulled(*self.here)):
            self.compare(f"partials as instructions: adjoint of {_NAMES[j]}", g, w * partials[j], **options)
        tangent = sum(p * d for p, d in zip(partials, v, strict=True))
        self.compare("partials as instructions: tangent", pushed(*self.here), tangent, **options)

    def check_second(self) -> None:
        """Derivatives of the partials: forward and reverse, of adjoints and of tangents."""
        pulled, pushed, w, v = self.recorded()
        u = self.rng.normal(size=(self.row.arity, self.n))
        name = "partials differentiated: "
        by_pulled = pulled.vjp(*self.here)[1](tuple(u))
        by_pushed = pushed.vjp(*self.here)[1](w)
        # What an operation does with an operand that it holds constant need not have a derivative by it either.
        for k in [k for k in self.operands if k not in self.row.held]:
            by, smooth = self.slope(self.partials, k)
            unit = [np.ones(self.n) if i == k else None for i in self.operands]
            along = pulled.jvp(self.here, unit)[1]
            for j in self.operands:
                one = Slope(*(part[j] for part in by))
                found = np.where(w == 0.0, 0.0, along[j] / w)
                self.against(f"{name}d2z/d{_NAMES[j]}d{_NAMES[k]} (fwd of rev)", found, one, smooth[j], "instructions")
            whole = np.asarray(smooth.all(0))
            for how, found, weights in (
                ("rev of rev", by_pulled[k], u * w),
                ("fwd of fwd", pushed.jvp(self.here, unit)[1], np.array(v)),
                ("rev of fwd", by_pushed[k], np.array(v) * w),
            ):
                total = by._replace(value=np.sum(weights * by.value, 0), error=np.sum(np.abs(weights) * by.error, 0))
                self.against(f"{name}by {_NAMES[k]} ({how})", found, total, whole, "instructions")

    # NumPy

    def check_dispatch(self) -> None:
        expected = self.value(self.here)
        call: Any = self.row.ufunc or self.row
        name = f"np.{call.__name__}" if self.row.ufunc else self.row.name
        options: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-12, "place": self.sample, "sides": ("found", "expected")}
        self.compare(f"{name} of numbers", np.asarray(call(*self.here), float), expected, **options)
        for wanted in [*({j} for j in self.operands), set(self.operands)]:
            given = [Value(x) if j in wanted else x for j, x in enumerate(self.here)]
            found = call(*given)
            which = ", ".join("Value" if j in wanted else "array" for j in self.operands)
            if not isinstance(found, Value):
                raise CheckError(f"{self.subject}: {name}({which}) returned {type(found).__name__}, not a Value")
            self.compare(f"{name}({which})", found.data, expected, **options)

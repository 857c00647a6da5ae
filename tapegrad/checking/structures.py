"""What `check_op` does with an operation over whole arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapegrad.checking.differences import Slope, slope
from tapegrad.checking.levels import flat, size_of
from tapegrad.checking.report import Ledger, element
from tapegrad.errors import CheckError, OperationError
from tapegrad.ops import Structured
from tapegrad.recording import record
from tapegrad.transforms import jvp, vjp
from tapegrad.value import Value

# An operand or result of up to this many elements is checked at each of them; of a larger one this many are drawn.
_ELEMENTS = 64


def check_structured(
    operation: Structured, examples: Sequence[Any], options: dict[str, Any], ledger: Ledger, *,
    rtol: float, atol: float, seed: int,
) -> None:  # fmt: skip
    """Check a structured operation at example operands; see `check_op`."""
    if not examples:
        raise OperationError(f"{operation.name} works on whole arrays: check_op needs example operands")
    with np.errstate(all="ignore"):
        _Structure(operation, examples, options, ledger, rtol, atol, np.random.default_rng(seed)).check()


class _Structure:
    """The checks of one structured operation at one point."""

    def __init__(
        self, operation: Structured, examples: Sequence[Any], options: dict[str, Any], ledger: Ledger,
        rtol: float, atol: float, rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.operation, self.options, self.ledger, self.rng = operation, options, ledger, rng
        self.tolerance: dict[str, Any] = {"rtol": rtol, "atol": atol}
        # Operands that are floats; the others are indices or labels.
        arrays = [np.asarray(x) for x in examples]
        self.operands = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]
        self.examples: list[Any] = [x.astype(float)[()] if x.dtype.kind == "f" else x for x in arrays]
        self.here = [self.examples[i] for i in self.operands]
        if not self.here:
            raise OperationError(f"{operation.name}: none of the examples holds floats")
        self.sizes = [size_of(x) for x in self.here]
        self.there = [x + 0.01 * size * self.drawn(np.shape(x)) for x, size in zip(self.here, self.sizes, strict=True)]

    def drawn(self, shape: tuple[int, ...]) -> Any:
        """Random numbers in a shape; for the shape (), a plain number."""
        return np.asarray(self.rng.normal(size=shape))[()]

    def f(self, *xs: Any) -> Any:
        """The operation, as a function of the operands that are floats."""
        given = list(self.examples)
        for i, x in zip(self.operands, xs, strict=True):
            given[i] = x
        return self.operation(*given, **self.options)

    def check(self) -> None:
        """All of it. Raises CheckError."""
        self.recording = record(self.f, *self.there, compile=False)
        self.value = np.asarray(self.recording(*self.here))
        if not np.all(np.isfinite(self.value)):
            raise CheckError(f"{self.ledger.subject}: forward kernel: a result is not finite at the examples")
        direct = self.f(*map(Value, self.here)).data
        self.same("forward kernel, recorded here and replayed", direct, self.value, "recorded", "replayed")
        narrow = record(self.f, *[np.asarray(x, np.float32)[()] for x in self.there], compile=False)
        here32 = [np.asarray(x, np.float32)[()] for x in self.here]
        self.same("forward kernel in float32", narrow(*here32), self.value, "float32", "float64", single=True)
        self.w = self.drawn(self.value.shape)
        self.v = [self.drawn(np.shape(x)) for x in self.here]
        if self.operation.passive:
            self.check_passive()
            return
        self.check_tangent()
        self.check_reverse()
        self.check_transposed()
        w32, v32 = np.asarray(self.w, np.float32)[()], [np.asarray(x, np.float32)[()] for x in self.v]
        self.same("tangent kernel in float32", narrow.jvp(here32, v32)[1], self.recording.jvp(self.here, self.v)[1],
                  "float32", "float64", single=True)  # fmt: skip
        for name, a, b in zip(self.names, narrow.vjp(*here32)[1](w32), self.adjoints(self.here, self.w), strict=True):
            self.same(f"reverse kernel in float32, {name}", a, b, "float32", "float64", single=True)
        self.check_lanes()
        self.check_accumulation()
        self.check_instructions()
        self.check_pattern()

    @property
    def names(self) -> list[str]:
        """The operands that are floats."""
        return [f"operand {i}" for i in self.operands]

    def same(self, what: str, found: Any, expected: Any, *sides: str, single: bool = False) -> None:
        """Compare numbers that should be equal but for rounding, which is relative to the largest of them."""
        scale = float(np.max(np.abs(expected), initial=0.0))
        rtol = 5e-4 if single else 1e-10
        options: dict[str, Any] = {"scale": scale, "sides": sides, "single": single}
        self.ledger.compare(what, found, expected, rtol=rtol, atol=1e-300, **options)

    def against(self, what: str, found: Any, by: Slope, place: Callable[[tuple[int, ...]], str], side: str) -> None:
        """Compare with differences, except at kinks."""
        found = np.asarray(found, float)
        smooth = ~by.kink.reshape(found.shape)
        if 2 * smooth.sum() < smooth.size:
            raise CheckError(f"{self.ledger.subject}: {what}: the examples are at a kink: choose others")
        expected = np.where(smooth, by.value.reshape(found.shape), found)
        error = np.where(smooth, by.error.reshape(found.shape), 0.0)
        scale = 1e-3 * float(np.max(np.abs(expected), initial=0.0))
        sides = (side, "differences")
        self.ledger.compare(what, found, expected, error=error, scale=scale, place=place, sides=sides, **self.tolerance)

    def adjoints(self, point: Sequence[Any], w: Any) -> list[np.ndarray]:
        """w'J by the reverse kernel."""
        return [np.asarray(g) for g in self.recording.vjp(*point)[1](w)]

    def moved(self, point: Sequence[Any], d: Sequence[Any], t: float) -> list[Any]:
        """A point moved by t d."""
        return [x + t * y for x, y in zip(point, d, strict=True)]

    def some(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Elements of an array of a shape, not too many."""
        n = int(np.prod(shape))
        chosen = range(n) if n <= _ELEMENTS else np.sort(self.rng.choice(n, _ELEMENTS, replace=False)).tolist()
        return [tuple(int(j) for j in np.unravel_index(i, shape)) for i in chosen]

    def units(self) -> Iterator[tuple[int, tuple[int, ...], list[Any]]]:
        """Directions along single elements of the operands, each as long as the operand's numbers are large."""
        for k, x in enumerate(self.here):
            for i in self.some(np.shape(x)):
                d = [np.zeros(np.shape(y)) for y in self.here]
                d[k][i] = self.sizes[k]
                yield k, i, [y[()] for y in d]

    # Kernels

    def check_passive(self) -> None:
        pushed, what = self.recording.jvp(self.here, self.v)[1], "kernel of a passive operation"
        self.same(f"tangent {what}", pushed, np.zeros(self.value.shape), "found", "expected")
        for name, g in zip(self.names, self.adjoints(self.here, self.w), strict=True):
            self.same(f"reverse {what}, {name}", g, 0.0 * g, "found", "expected")

    def check_tangent(self) -> None:
        """The tangent kernel against differences, for each element. They are kept to check the reverse kernel."""
        self.columns: list[tuple[int, tuple[int, ...], Slope]] = []
        for k, i, d in self.units():
            by = slope(lambda t, d=d: np.reshape(self.recording(*self.moved(self.here, d, t)), -1))  # type: ignore[misc]
            self.columns.append((k, i, by))
            place = lambda o, k=k, i=i: f": {element('result', o)} by {element(self.names[k], i)}"
            self.against("tangent kernel", self.recording.jvp(self.here, d)[1], by, place, "kernel")

    def check_reverse(self) -> None:
        for o in self.some(self.value.shape):
            w = np.zeros(self.value.shape)
            w[o] = 1.0
            row = int(np.ravel_multi_index(o, self.value.shape)) if o else 0
            found = self.adjoints(self.here, w[()])
            for k, name in enumerate(self.names):
                own = [(i, by) for j, i, by in self.columns if j == k]
                by = Slope(*(np.array([getattr(b, part)[row] for _, b in own]) for part in Slope._fields))
                place = lambda n, o=o, own=own, name=name: f": {element('result', o)} by {element(name, own[n[0]][0])}"
                numbers = [found[k][i] * self.sizes[k] for i, _ in own]
                self.against("reverse kernel", numbers, by, place, "kernel")

    def check_transposed(self) -> None:
        terms = [np.sum(g * d) for g, d in zip(self.adjoints(self.here, self.w), self.v, strict=True)]
        pushed = self.recording.jvp(self.here, self.v)[1]
        scale = float(np.sum(np.abs(pushed * self.w)) + np.sum(np.abs(terms)))
        self.ledger.compare("tangent and reverse kernels are not transposes", np.sum(pushed * self.w), np.sum(terms),
                            rtol=1e-10, atol=1e-300, scale=scale, sides=("<J v, w>", "<v, J'w>"))  # fmt: skip

    def check_lanes(self) -> None:
        """Several directions at once, forward and back."""
        every = tuple(range(len(self.here)))
        for name, blocks in (
            ("tangent", self.recording.jacfwd(*self.here, argnums=every)),
            ("reverse", self.recording.jacrev(*self.here, argnums=every)),
        ):
            for k, block in enumerate(blocks):
                one = [d if j == k else None for j, d in enumerate(self.v)]
                along = np.tensordot(block, self.v[k], np.ndim(self.v[k])) if np.ndim(self.v[k]) else block * self.v[k]
                self.same(f"{name} kernel in lanes, by {self.names[k]}", along, self.recording.jvp(self.here, one)[1],
                          "lanes", "tangent kernel")  # fmt: skip

    def check_accumulation(self) -> None:
        """A reverse kernel adds to adjoints, and also works where only one operand wants an adjoint."""
        expected = self.adjoints(self.here, self.w)

        def twice(*xs: Any) -> Any:
            total = np.sum(self.f(*xs) * self.w)
            return sum((np.sum(x * d) for x, d in zip(xs, self.v, strict=True)), total)

        for k, g in enumerate(record(twice, *self.there).vjp(*self.here)[1](1.0)):
            what = f"reverse kernel adds to the adjoint of {self.names[k]}"
            self.same(what, g - self.v[k], expected[k], "found", "expected")
        for k in range(len(self.here) if len(self.here) > 1 else 0):
            alone = lambda x, k=k: self.f(*[x if j == k else y for j, y in enumerate(self.here)])
            (g,) = record(alone, self.there[k]).vjp(self.here[k])[1](self.w)
            self.same(f"reverse kernel with {self.names[k]} alone active", g, expected[k], "found", "expected")

    # The other rules

    @contextmanager
    def rule(self, name: str) -> Iterator[None]:
        """Turn an exception that a rule raises into a CheckError that names the rule."""
        try:
            yield
        except CheckError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise CheckError(f"{self.ledger.subject}: {name}: it cannot be used at the examples: {what}") from error

    def check_instructions(self) -> None:
        """The rules that write derivatives as instructions, and the derivatives of what they write."""
        n = len(self.here)
        u = [self.drawn(np.shape(x)) for x in self.here]
        if self.operation.pullback is None:
            self.ledger.skipped.append("second derivatives in reverse (there is no rule pullback)")
        else:
            with self.rule("pullback"):
                call = lambda *xs: vjp(self.f, *xs[:n])[1](xs[n])
                pulled = record(call, *self.there, self.w)
                adjoints = self.adjoints(self.here, self.w)
                for name, g, e in zip(self.names, pulled(*self.here, self.w), adjoints, strict=True):
                    self.same(f"pullback: adjoint of {name}", g, e, "rule", "reverse kernel")
                kernel = lambda xs: flat(self.adjoints(xs[:n], xs[n]))
                results = [f"the adjoint of {name}" for name in self.names]
                names = [*self.names, "the adjoint of the result"]
                self.second("pullback", pulled, kernel, [*self.here, self.w], tuple(u), names, results)
        if self.operation.pushforward is None:
            self.ledger.skipped.append("second derivatives forward (there is no rule pushforward)")
            return
        with self.rule("pushforward"):
            for k in range(n):
                one = [d if j == k else None for j, d in enumerate(self.v)]
                found = record(lambda *xs, one=one: jvp(self.f, xs, one)[1], *self.there)(*self.here)
                expected = self.recording.jvp(self.here, one)[1]
                self.same(f"pushforward: tangent of {self.names[k]} alone", found, expected, "rule", "tangent kernel")
            pushed = record(lambda *xs: jvp(self.f, xs[:n], xs[n:])[1], *self.there, *self.v)
            expected = self.recording.jvp(self.here, self.v)[1]
            self.same("pushforward", pushed(*self.here, *self.v), expected, "rule", "tangent kernel")
            kernel = lambda xs: np.reshape(self.recording.jvp(xs[:n], xs[n:])[1], -1)
            names = [*self.names, *(f"the tangent of {name}" for name in self.names)]
            results = ["the tangent of the result"]
            self.second("pushforward", pushed, kernel, [*self.here, *self.v], self.w, names, results)

    def second(
        self, rule: str, written: Any, kernel: Callable[[Any], np.ndarray], point: list[Any], u: Any, names: list[str],
        results: list[str],
    ) -> None:  # fmt: skip
        """Derivatives of what a rule writes, along each of its arguments, against differences of the kernel."""
        back = written.vjp(*point)[1](u)
        several = u if isinstance(u, tuple) else (u,)
        weights = flat(several)
        places = [element(name, i) for name, x in zip(results, several, strict=True) for i in np.ndindex(np.shape(x))]
        for k, name in enumerate(names):
            d = [size_of(x) * self.drawn(np.shape(x)) if j == k else 0.0 * x for j, x in enumerate(point)]
            by = slope(lambda t, d=d: kernel(self.moved(point, d, t)))  # type: ignore[misc]
            forward = written.jvp(tuple(point), tuple(d))[1]
            along = flat(forward if isinstance(forward, tuple) else (forward,))
            self.against(f"{rule} differentiated (fwd) by {name}", along, by, lambda i: f": {places[i[0]]}", "rule")
            if by.kink.any():
                continue
            total = by._replace(
                value=np.sum(weights * by.value), error=np.sum(np.abs(weights) * by.error), kink=np.zeros((), bool)
            )
            self.against(f"{rule} differentiated (rev) by {name}", np.sum(back[k] * d[k]), total, lambda i: "", "rule")

    def check_pattern(self) -> None:
        """The derivative must be zero wherever `depends` says that a result does not depend on an operand."""
        if self.operation.depends is None:
            self.ledger.skipped.append("sparsity (there is no rule depends)")
            return
        with self.rule("depends"):
            every = tuple(range(len(self.here)))
            for point in (self.here, self.there):
                pattern = self.recording.sparsity(*point, argnums=every).pattern.toarray()
                start = 0
                for k, x in enumerate(point):
                    n = int(np.size(x))
                    block = np.reshape(self.recording.jacfwd(*point, argnums=k), (-1, n))
                    self.ledger.checks += 1
                    for o, i in np.argwhere((block != 0.0) & ~pattern[:, start : start + n])[:1]:
                        result = element("result", list(np.ndindex(self.value.shape))[o])
                        operand = element(self.names[k], list(np.ndindex(np.shape(x)))[i])
                        raise CheckError(
                            f"{self.ledger.subject}: depends: {result} depends on {operand}, which the rule denies: "
                            f"the derivative is {block[o, i]:.6g}"
                        )
                    start += n

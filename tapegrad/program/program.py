"""One recorded path through a function.

Inputs come first in the arena, contiguous, so that one compiled call copies them in, computes values, and leaves the
gradient at the same places of the adjoint arena. A comparison that the function branched on is a guard on the tape.
"""

from __future__ import annotations

import copy
import threading
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import matching, simplified
from tapegrad.arguments import Input, Spec
from tapegrad.errors import NonScalarError, StructureError
from tapegrad.ops import RUN, passive_rows
from tapegrad.sweeps import FORWARD, REVERSE, SCRATCH, TANGENT, callbacks, sweeps_for
from tapegrad.sweeps.analysis import activate, group, reach
from tapegrad.tape import EXPECT, LEAF, Tape
from tapegrad.tape.collect import needed_for
from tapegrad.value import Value

_EMPTY = {np.dtype(t): np.zeros(0, t) for t in (np.float64, np.float32)}
# Elements an instruction, on average, from which on a sweep a lane beats a sweep over lanes.
_WIDE = 16
# Numbers that a pass over several directions may take up at once.
_LANES_AT_ONCE = 1 << 23


class Output(NamedTuple):
    """A result: where it stands in the arena, or a number that does not depend on the inputs."""

    places: np.ndarray | None
    shape: tuple[int, ...]
    constant: Any


class Part(NamedTuple):
    """Instructions and a side array for them, to be swept."""

    code: np.ndarray
    side: np.ndarray


class Program:
    """One recorded path through a function: code without leaves, arenas, and where inputs and outputs stand."""

    def __init__(self, tape: Tape, outputs: list[Any], structure: Any, spec: Spec) -> None:
        inputs = [leaf for leaf in spec.leaves if isinstance(leaf, Input)]
        n_inputs = len(inputs)
        values = [x for x in outputs if isinstance(x, Value)]
        tape.evaluate()
        for x in values:
            if x._tape is not tape:
                raise StructureError("the function returned a Value that it did not compute from its arguments")
        # The numbers that each guard found, and a digest of all that was recorded before it.
        self.prefixes = _prefixes(tape, n_inputs)
        standing: list[Any] = [x._places() if x.size else None for x in values]
        if tape.derived:
            to = simplified(tape, n_inputs)
            standing = [None if places is None else to[places] for places in standing]
        mark = np.zeros(len(tape.values), np.uint8)
        for places in standing:
            if places is not None:
                mark[places] = 1
        rows = needed_for(tape, mark)
        # The inputs were recorded first; they stay whether they are used or not.
        rows = np.append(np.arange(n_inputs), rows[rows >= n_inputs])
        moved = tape.keep(rows)
        tape.activate()
        tape.finish()
        self.tape = tape
        # Sweeps write to the arenas: whoever replays holds this until the results are read.
        self.lock = threading.Lock()
        self.holder = 0
        self.structure = structure
        self.code = np.ascontiguousarray(tape.code[: tape.length][tape.code[: tape.length, 0] != LEAF])
        # No longer than need be: every gradient clears the adjoints.
        self.side = tape.side[: tape.side_length].copy() if tape.side_length else tape.side[:1].copy()
        group(self.code, self.side)
        self.values = tape.values[: tape.slots + SCRATCH].copy()
        tape.values = self.values
        self.adjoints = np.zeros_like(self.values)
        where = iter(standing)
        self.outputs = []
        for x in outputs:
            places = next(where) if isinstance(x, Value) else None
            at = None if places is None else moved[places]
            self.outputs.append(Output(at, np.shape(x), x if at is None else None))
        # A guard's operands: the number it watches, and the constant that it must equal.
        self.guards = np.flatnonzero(self.code[:, 0] == EXPECT)
        self.signature = self.values[self.code[self.guards, 3]].tobytes()
        self._sweeps = sweeps_for(tape.dtype)
        self._sweeps.require(tape.needs, FORWARD)
        self.sweep = self._sweeps.sweep
        # All that a sweep takes but the seed and what it is to do. The side array says which operands want a gradient,
        # so there is one for each choice of arguments.
        self.arguments = (self.code, self.side, self.values, self.adjoints, _EMPTY[tape.dtype])
        self._sides: dict[tuple[int, ...], Any] = {}
        # Whether most of its work is in instructions over many elements.
        elements = np.where(self.code[:, 0] >= RUN, self.code[:, 3], 1)
        self.wide = bool(elements.sum() > _WIDE * len(elements))
        self._swept: tuple[bool, Any]
        self._lanes, self._swept = np.zeros((0, 0), tape.dtype), (False, None)
        self.seed: int | None = None
        # Windows on the arenas: inputs to be filled, and their gradients.
        self.feeds: list[tuple[np.ndarray, int]] = []
        self.gradients: list[np.ndarray] = []
        self.spans: list[tuple[int, int]] = []
        at = 0
        for i, leaf in enumerate(spec.leaves):
            if isinstance(leaf, Input):
                n = int(np.prod(leaf.shape, dtype=int))
                self.feeds.append((self.values[at : at + n].reshape(leaf.shape), i))
                self.gradients.append(self.adjoints[at : at + n].reshape(leaf.shape))
                self.spans.append((at, n))
                at += n
        # The inputs that are floats, by the numbers of their windows.
        self.floats = tuple(w for w, leaf in enumerate(inputs) if leaf.dtype.kind == "f")
        only = self.outputs[0] if len(outputs) == 1 and structure is pytree.LEAF else None
        self.scalar = int(only.places[0]) if only and only.places is not None and not only.shape else None

    def clone(self) -> Program:
        """The same program with arenas of its own."""
        twin = copy.copy(self)
        twin.lock = threading.Lock()
        twin.values, twin.adjoints = self.values.copy(), np.zeros_like(self.adjoints)
        twin.arguments = (self.code, self.side, twin.values, twin.adjoints, self.arguments[4])
        twin._sides = {}
        twin._lanes, twin._swept = np.zeros((0, 0), self.values.dtype), (False, None)
        windows = list(zip(self.spans, self.gradients, self.feeds, strict=True))
        twin.feeds = [(twin.values[at : at + n].reshape(g.shape), feed[1]) for (at, n), g, feed in windows]
        twin.gradients = [twin.adjoints[at : at + n].reshape(g.shape) for (at, n), g, _ in windows]
        return twin

    # Values

    def fill(self, leaves: Sequence[Any]) -> None:
        """Put new numbers in the place of the inputs."""
        for window, i in self.feeds:
            window[...] = leaves[i]

    def result(self) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [self.read(x) for x in self.outputs])

    def check_numbers(self) -> None:
        """Raise StructureError unless the function returned numbers, and some."""
        matching.check_numbers([o.constant if o.places is None else 0.0 for o in self.outputs])

    def read(self, output: Output) -> Any:
        """The number or array of an output, after a sweep."""
        if output.places is None:
            if isinstance(output.constant, Value):
                return np.zeros(output.shape, self.values.dtype)
            # A copy: whoever changes what one call returned must not change what the next one returns.
            return output.constant.copy() if isinstance(output.constant, np.ndarray) else output.constant
        if not output.shape:
            return float(self.values[output.places[0]])
        return self.values[output.places].reshape(output.shape)

    # Gradients

    def prepare(self, kind: int = REVERSE) -> None:
        """Have the kernels of a sweep at hand."""
        self._sweeps.require(self.tape.needs, kind)

    def scalar_output(self, has_aux: bool) -> int:
        """Where the number stands whose gradient is wanted. Raises NonScalarError, StructureError without one."""
        matching.check_one_result(self.structure, has_aux)
        output = self.outputs[0]
        if output.places is None:
            if isinstance(output.constant, int | float | np.number) or (
                isinstance(output.constant, np.ndarray) and output.constant.size == 1
            ):
                # A result that no input reaches: its gradient is zero. The scratch slot past the end takes the seed.
                return len(self.adjoints) - 1
            raise NonScalarError(f"the function returned {type(output.constant).__name__}, not a scalar Value")
        if len(output.places) != 1:
            raise NonScalarError(
                f"a gradient needs a scalar result, the function returned shape {output.shape}: sum it first"
            )
        return int(output.places[0])

    def arguments_for(self, windows: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """What a sweep takes to compute the gradient with respect to these inputs alone."""
        known = self._sides.get(windows)
        if known is None:
            _, side = self.flow(self.code, self.places_of(windows), passive_rows())
            known = self._sides[windows] = (self.code, side, *self.arguments[2:])
        return known

    def flow(self, code: np.ndarray, sources: np.ndarray, passive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where something that stands at some places can reach, through all but the passive operations.

        Returns a mark for each place of the arena, and a side array that flags the operands on the way.
        """
        side, active = self.side.copy(), np.zeros(len(self.values), np.uint8)
        active[sources] = 1
        activate(code, side, active, passive, 0, len(code))
        return active, side

    # Products with the Jacobian. `values` may be a copy of the arena, kept from an earlier replay.

    def pull(
        self, values: np.ndarray, seeds: Sequence[np.ndarray | None], windows: tuple[int, ...]
    ) -> list[np.ndarray]:
        """The derivative of sum(seeds * outputs) with respect to inputs."""
        self.prepare(REVERSE)
        code, side, *_ = self.arguments_for(windows)
        adjoints = np.zeros_like(values)
        for output, seed in zip(self.outputs, seeds, strict=True):
            if output.places is not None and seed is not None:
                np.add.at(adjoints, output.places, seed.reshape(-1))
        self.sweep(code, side, values, adjoints, _EMPTY[values.dtype], -1, 2)
        callbacks.check()
        shapes = [self.gradients[w].shape for w in windows]
        spans = [self.spans[w] for w in windows]
        return [adjoints[i : i + n].reshape(shape).copy() for (i, n), shape in zip(spans, shapes, strict=True)]

    def push(self, values: np.ndarray, tangents: dict[int, np.ndarray]) -> list[np.ndarray | None]:
        """The derivative of the outputs along tangents of inputs, given by the numbers of their windows."""
        self.prepare(TANGENT)
        t = np.zeros_like(values)
        for window, tangent in tangents.items():
            start, n = self.spans[window]
            t[start : start + n] = np.reshape(tangent, -1)
        code, side, *_ = self.arguments_for(tuple(sorted(tangents)))
        self._sweeps.tangent(code, side, values, t, 0, len(code))
        callbacks.check()
        return [None if o.places is None else t[o.places].reshape(o.shape) for o in self.outputs]

    def places_of(self, windows: Sequence[int]) -> np.ndarray:
        """The places of inputs, one after the other."""
        found = [np.arange(start, start + n) for start, n in (self.spans[w] for w in windows)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def jacobian(self, outputs: np.ndarray, windows: tuple[int, ...], back: bool) -> np.ndarray:
        """The derivative of what stands at some places with respect to inputs, (places, inputs), after a sweep."""
        inputs = self.places_of(windows)
        source, target = (outputs, inputs) if back else (inputs, outputs)
        result = np.empty((len(source), len(target)), self.values.dtype)
        step = max(1, min(32, _LANES_AT_ONCE // len(self.values)))
        for start in range(0, len(source), step):
            chosen = source[start : start + step]
            d = self.lanes(chosen, np.arange(len(chosen)), len(chosen), windows, back)
            result[start : start + step] = d[target].T
        return result if back else result.T

    def part(self, sources: np.ndarray, rows: np.ndarray, seeds: np.ndarray, back: bool) -> Part:
        """Of some instructions those that one lane takes: which lead from its seeds forward, or to sources back."""
        code = self.code[rows]
        active, side = self.flow(code, sources if back else seeds, passive_rows())
        if back:
            mark, found = np.zeros(len(self.values), np.uint8), np.empty(len(code), np.int64)
            mark[seeds] = 1
            found = found[reach(code, side, mark, active, len(code), found) :]
        else:
            found = np.flatnonzero(active[code[:, 1]])
        code = np.ascontiguousarray(code[found])
        group(code, side)
        return Part(code, side)

    def lanes(
        self, places: np.ndarray, lane: np.ndarray, count: int, windows: tuple[int, ...], back: bool,
        parts: Sequence[Part] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Adjoints or tangents, (slots, count), from a one at each of some places, each in a lane.

        A wide program takes a sweep for each lane, which is faster there, and can be told the part for each; another
        takes one pass over all, and one part. The array is a view of one that the next call fills anew: whoever calls
        holds the lock. It is contiguous, or for a wide program its transpose is.
        """
        shape = (count, len(self.values)) if self.wide else (len(self.values), count)
        # Tangents are written, not accumulated: the next time, only those of inputs are left. But another part does
        # not write all that this one may have left.
        if self._lanes.shape != shape or self._swept[0] != back or self._swept[1] is not parts:
            self._lanes, self._swept = np.zeros(shape, self.values.dtype), (back, parts)
        d = self._lanes.T if self.wide else self._lanes
        end = len(self.values) if back else sum(n for _, n in self.spans)
        d[:end] = 0.0
        d[places, lane] = 1.0
        # Lanes take the partial derivatives from the reverse kernels in either direction.
        self.prepare(REVERSE)
        if not back:
            self.prepare(TANGENT)
        swept = parts or [Part(*self.arguments_for(windows)[:2])] * (count if self.wide else 1)
        for i, (code, side) in enumerate(swept):
            if not self.wide:
                self._sweeps.lanes(code, side, self.values, d, back=back)
            elif back:
                self.sweep(code, side, self.values, self._lanes[i], _EMPTY[d.dtype], -1, 2)
            else:
                self._sweeps.tangent(code, side, self.values, self._lanes[i], 0, len(code))
        callbacks.check()
        return d


def _prefixes(tape: Tape, n_inputs: int) -> list[int]:
    """For each guard a digest of what was recorded before it, its own constant left out."""
    code = tape.code[: tape.length]
    digests, done, digest = [], n_inputs, 0
    for row in np.flatnonzero(code[:, 0] == EXPECT).tolist():
        before = code[row - 1]
        end = row - 1 if before[0] == LEAF and before[1] == code[row, 3] else row
        part = code[done:end]
        digest = zlib.crc32(part.tobytes(), digest)
        for out, n in part[part[:, 0] == LEAF][:, [1, 3]].tolist():
            digest = zlib.crc32(tape.values[out : out + n].tobytes(), digest)
        digests.append(digest)
        done = end
    return digests

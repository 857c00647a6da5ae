"""One recorded path through a function, ready to be replayed: its code, what follows from it, and workspaces.

Inputs come first in the arena, one after the other. One compiled call computes the values, and leaves the gradient at
the same places of the arena of adjoints. A number or comparison that the function read is a guard among the
instructions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import matching
from tapegrad.arguments import Input, Spec
from tapegrad.ops import RUN, has_kernel, passive_rows
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program.code import Code, with_calls
from tapegrad.program.expand import expanded
from tapegrad.program.flow import flags_of, flow_from
from tapegrad.program.form import Swept
from tapegrad.program.indexing import decided, indexing
from tapegrad.program.lean import FROM, Lean, lean
from tapegrad.program.outputs import scalar_place
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import ADJOINTS, BLOCK, REVERSE, TANGENT, VALUES, callbacks, sweeps_for
from tapegrad.sweeps.analysis import EACH, GROUP, group, reach
from tapegrad.sweeps.pieces import is_short, pieces
from tapegrad.tape.lines import Line, Lines

# With more elements than this an instruction, on average, one sweep for each lane is faster than one pass over all
# lanes.
_WIDE = 16
# The most numbers in the lanes of one pass over several directions.
_LANES_AT_ONCE = 1 << 23


class Part(NamedTuple):
    """Instructions with the flags for them, to be swept."""

    code: np.ndarray
    flags: np.ndarray


class Program(Swept):
    """One recorded path through a function of arguments that fit a spec.

    It does not change, so that any number of threads may replay it at the same time, each with a workspace of its own.

    Args:
        code: what is computed.
        structure: how the outputs are nested.
        spec: what the arguments are; see `arguments`.
        prefixes: for each guard a digest of what was recorded before it.
        calls: Python functions that instructions call, by number, to be kept alive.
    """

    def __init__(
        self, code: Code, structure: Any, spec: Spec, prefixes: Sequence[int] = (), calls: dict[int, Any] | None = None
    ) -> None:
        leaves = [i for i, leaf in enumerate(spec.leaves) if isinstance(leaf, Input)]
        only = code.outputs[0] if len(code.outputs) == 1 and pytree.is_leaf(structure) else None
        whole = {at: i for (at, _), i in zip(code.spans, leaves, strict=True) if spec.leaves[i].is_integer}
        arena = code.arena()
        # What is swept: the steps of the code, short runs expanded. Integers among the arguments that guards hold to a
        # number can be compared before a sweep.
        super().__init__(
            code, expanded(code), structure, [spec.leaves[i].shape for i in leaves], leaves,
            only.place if only and not only.shape and not only.whole else None, dict(calls or {}),
            decided(code, whole, arena), sweeps_for(code.dtype),
        )  # fmt: skip
        self.spec = spec
        # The numbers that each guard found, and a digest of all that was recorded before it.
        self.signature = arena[code.steps[code.guards, B]].tobytes()
        self.prefixes = list(prefixes)
        # For each guard, where in the user's files a number was read, and what was read; None where that is not known.
        self.reads: list[tuple[str, int, str] | None] = []
        # The line that recorded each row of the code; None where lines were not noted.
        self.lines: Lines | None = code.lines
        # Whether it calls any function of a user's, of which nothing is known.
        self.foreign = not all(call.exact for call in self.calls.values())
        # The inputs that are floats.
        self.floats = tuple(w for w, i in enumerate(self.leaves) if spec.leaves[i].dtype.kind == "f")
        self._whole = [spec.leaves[i].is_integer for i in self.leaves]
        opcodes = np.unique(np.concatenate([code.steps[:, OPCODE], self.steps[:, OPCODE]]))
        self._needs = np.unique(opcodes[has_kernel(opcodes, code.dtype)] % RUN).tolist()
        if (opcodes >= RUN).any():
            self._needs.append(RUN)
        self._groups = np.zeros(len(code.side), np.uint8)
        if code.counts.max(initial=0) > BLOCK:
            group(self.steps, code.side, self._groups, GROUP)
        self._flags: dict[tuple[int, ...], np.ndarray] = {}
        # Whether a sweep is made in pieces, between which signals are seen.
        self.long = pieces(self.steps, code.side, self._groups, code.size) is not None
        self._work = len(self.steps) + 4 * int(code.counts.sum())
        # Whether most of its work is in instructions over many elements.
        self.wide = bool(code.counts.sum() > _WIDE * len(code.counts))
        self._seed: int | None = None
        self._lean: dict[bool, Lean | None] = {}
        # The program as machine code, or why it is none; the seconds that interpreted replays have taken, and how many
        # instructions code would be made for, about. See `tapegrad.native`.
        self.native: Any = None
        self.not_native: str | None = None
        self.spent = 0.0
        self.written: int | None = None
        # In how many replays it computes what sweeps of another program do, and how long these take in seconds; where
        # it is not to be compared with itself.
        self.rival: tuple[int, Callable[[], float]] | None = None
        self.give(Workspace(code, self.shapes, self.leaves, arena))
        # Arguments that take this way, as leaves, once they are known; empty where it has no guards or they are long.
        self.taken_at: list[Any] | None = None
        # Whether it was replayed lately, and what forgets it: for `memory`.
        self.used = True
        self.owner: weakref.ref[Any] | None = None

    # Memory

    @property
    def nbytes(self) -> int:
        """What it takes in memory, with the workspaces that are not in use."""
        own = self.steps.nbytes + self._groups.nbytes + sum(flags.nbytes for flags in list(self._flags.values()))
        own += sum(x.nbytes for x in self.taken_at or () if isinstance(x, np.ndarray))
        return self.code.nbytes + own + sum(of.nbytes for of in self.smaller_forms()) + self.idle_bytes

    @property
    def idle_bytes(self) -> int:
        """The bytes of the workspaces that have been swept and are not in use, those of smaller arenas too. The system
        provides memory for others when they are written to."""
        lists = [self.workspaces, *(of.workspaces for of in self.smaller_forms())]
        return sum(workspace.nbytes for workspaces in lists for workspace in list(workspaces) if workspace.used)

    def drop_workspaces(self) -> None:
        """Give back the workspaces that are not in use."""
        self.workspaces.clear()
        for of in self.smaller_forms():
            of.workspaces.clear()

    def smaller_forms(self) -> list[Any]:
        """All that is replayed in its place: in smaller arenas, and as machine code."""
        return [of for of in (*list(self._lean.values()), self.native) if of is not None]

    @property
    def whole(self) -> Program:
        """Itself; for a program in a smaller arena, the one in its own."""
        return self

    def forget(self) -> None:
        """Have whoever keeps this program forget it, if it can be recorded again."""
        owner = None if self.owner is None else self.owner()
        if owner is not None:
            owner.forget(self)

    def __reduce__(self) -> Any:
        return _unpickled, (self.code, self.structure, self.spec, self.prefixes, self.calls)

    def line_of(self, place: int) -> Line | None:
        """The line that recorded what stands at a place; None where that is not known."""
        if self.lines is None:
            return None
        return self.lines.of(int(np.searchsorted(self.code.rows[:, OUT], place, "right")) - 1)

    # Workspaces

    def latest(self) -> Workspace:
        """The workspace of a replay that is over, for those who only look. If there was none, that of a replay at the
        inputs of the recording; if all are in use, a fresh one."""
        recorded = bool(self.workspaces)
        workspace = self.take()
        try:
            if recorded and not workspace.used:
                self.sweep(workspace, VALUES, -1, None)
                if self.calls:
                    callbacks.check(workspace.scratch)
        finally:
            self.give(workspace)
        return workspace

    @property
    def _is_used(self) -> bool:
        return any(workspace.used for workspace in self.workspaces)

    def for_results(self) -> Program | Lean:
        """What to replay for results alone. Where there is a workspace in which gradients are computed too, that is
        used: there is no need of another."""
        gradients = self._lean.get(True)
        if gradients is not None and any(w.used for w in gradients.workspaces):
            return gradients
        return self if self.code.size < FROM or self._is_used else self.smaller(back=False) or self

    def for_gradients(self) -> Program | Lean:
        """What to replay for results and gradients."""
        return self if self.code.size < FROM or self._is_used else self.smaller(back=True) or self

    def smaller(self, back: bool) -> Lean | None:
        """This program in a smaller arena, made when it is first wanted; None where that would save little."""
        if self.code.size < FROM:
            return None
        if back not in self._lean:
            self._lean[back] = lean(self, back)
        return self._lean[back]

    def check_numbers(self) -> None:
        """Raise StructureError unless the function returned numbers, and some."""
        matching.check_numbers([o.constant if o.place is None else 0.0 for o in self.code.outputs])

    # Gradients

    def prepare(self, kind: int = REVERSE) -> None:
        """Compile or load the kernels that one kind of sweep needs."""
        self.sweeps.require(self._needs, kind)

    def seed(self, has_aux: bool) -> int:
        """As `Form.seed`."""
        if self._seed is None:
            self.prepare()
            self._seed = scalar_place(self.code, self.structure, has_aux)
        return self._seed

    def flags(self, wrt: tuple[int, ...]) -> np.ndarray:
        """As `Swept.flags`."""
        known = self._flags.get(wrt)
        if known is None:
            known = self._flags[wrt] = flags_of(self.code, self._groups, wrt)
        return known

    def flow(self, code: np.ndarray, sources: np.ndarray, passive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What depends on the numbers at the places `sources`, other than through passive operations.

        Returns a mark for each place of the arena, and flags for the operands that depend on them.
        """
        return flow_from(self.code, code, self._groups, sources, passive)

    @cached_property
    def indexing(self) -> tuple[int, ...]:
        """The inputs that are no floats, but for whole numbers that can reach no index: what a pattern may hang on."""
        return indexing(self, self._whole)

    # Products with the Jacobian. `values` may be a copy of the arena, kept from an earlier replay.

    def pull(
        self, values: np.ndarray, seeds: Sequence[np.ndarray | None], wrt: tuple[int, ...]
    ) -> list[np.ndarray]:
        """The derivative of sum(seeds * outputs) with respect to inputs."""
        self.prepare(REVERSE)
        adjoints = np.zeros(len(values), values.dtype)
        for output, seed in zip(self.code.outputs, seeds, strict=True):
            if output.place is None or seed is None:
                continue
            if output.layout.dense:
                window = output.window(adjoints)
                window += seed
            else:
                # A view may show one number several times.
                np.add.at(adjoints, output.place + output.layout.offsets(), seed.reshape(-1))
        workspace = self.take()
        try:
            self._reverse(Part(self.steps, self.flags(wrt)), values, adjoints, workspace)
        finally:
            self.give(workspace)
        callbacks.check(workspace.scratch)
        found = [(self.code.spans[w], self.shapes[w]) for w in wrt]
        return [adjoints[i : i + n].reshape(shape).copy() for (i, n), shape in found]

    def _reverse(self, part: Part, values: np.ndarray, adjoints: np.ndarray, workspace: Workspace) -> None:
        side, room = self.code.side, workspace.scratch
        given = part.code, side, part.flags, values, adjoints, room, -1, ADJOINTS
        self.sweeps.run(self.sweeps.frame(*given, is_short=not self.long))

    def push(self, values: np.ndarray, tangents: dict[int, np.ndarray]) -> list[np.ndarray | None]:
        """The derivative of the outputs along tangents of inputs, by their numbers."""
        workspace = self.take()
        try:
            return self.push_in(workspace, values, tangents)
        finally:
            self.give(workspace)

    def push_in(
        self, workspace: Workspace, values: np.ndarray, tangents: dict[int, np.ndarray]
    ) -> list[np.ndarray | None]:
        """As `push`, in a workspace that the caller has taken."""
        self.prepare(TANGENT)
        t, flags = workspace.put_tangents(tangents), self.flags(tuple(sorted(tangents)))
        self.sweeps.tangent(self.steps, self.code.side, flags, values, t, workspace.scratch, not self.long)
        callbacks.check(workspace.scratch)
        return self.code.derivatives_in(t)

    def places_of(self, wrt: Sequence[int]) -> np.ndarray:
        """The places of inputs, one after the other."""
        found = [np.arange(start, start + n) for start, n in (self.code.spans[w] for w in wrt)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def jacobian(self, workspace: Workspace, outputs: np.ndarray, wrt: tuple[int, ...], back: bool) -> np.ndarray:
        """The derivative of the numbers at places `outputs` with respect to inputs, (places, inputs), after a sweep."""
        inputs = self.places_of(wrt)
        source, target = (outputs, inputs) if back else (inputs, outputs)
        result = np.empty((len(source), len(target)), self.code.dtype)
        step = max(1, min(32, _LANES_AT_ONCE // len(workspace.values)))
        for start in range(0, len(source), step):
            chosen = source[start : start + step]
            d = self.lanes(workspace, chosen, np.arange(len(chosen)), len(chosen), wrt, back)
            result[start : start + step] = d[target].T
        return result if back else result.T

    def part(self, sources: np.ndarray, rows: np.ndarray, seeds: np.ndarray, back: bool) -> Part:
        """Of the steps in `rows`, those that one lane needs: forward, those that depend on its seeds; back, those on
        the way from its seeds to sources."""
        code = self.code.steps[rows]
        active, flags = self.flow(code, sources if back else seeds, passive_rows())
        if back:
            mark, found = np.zeros(len(active), np.uint8), np.empty(len(code), np.int64)
            mark[seeds] = 1
            found = found[reach(code, self.code.side, *EACH, mark, active, len(code), found) :]
        else:
            found = np.flatnonzero(active[code[:, 1]])
        code = np.ascontiguousarray(code[found])
        group(code, self.code.side, flags, GROUP)
        return Part(code, flags)

    def lanes(
        self, workspace: Workspace, places: np.ndarray, lane: np.ndarray, count: int, wrt: tuple[int, ...],
        back: bool, parts: Sequence[Part] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Adjoints or tangents in lanes, (places of the arena, count). Call this after a sweep.

        They start from ones: at places[i] in lane[i]. For a wide program, each lane is a sweep of its own, which is
        faster there, and `parts` may have one part for each lane; for any other, there is one pass over all lanes, and
        one part. The result is a view of an array that the next call overwrites. It is contiguous, or for a wide
        program its transpose is.
        """
        store = workspace.lanes(count, self.wide, back, parts, sum(n for _, n in self.code.spans))
        d = store.T if self.wide else store
        d[places, lane] = 1.0
        # Lanes take the partial derivatives from the reverse kernels in either direction.
        self.prepare(REVERSE)
        if not back:
            self.prepare(TANGENT)
        values, side = workspace.values, self.code.side
        swept = parts or [Part(self.steps, self.flags(wrt))] * (count if self.wide else 1)
        for i, part in enumerate(swept):
            if not self.wide:
                given = part.code, side, part.flags, values, d, workspace.scratch
                self.sweeps.lanes(*given, back=back, is_short=not self.long and is_short(self._work * count))
            elif back:
                self._reverse(part, values, store[i], workspace)
            else:
                self.sweeps.tangent(part.code, side, part.flags, values, store[i], workspace.scratch, not self.long)
        callbacks.check(workspace.scratch)
        return d


def _unpickled(code: Code, structure: Any, spec: Spec, prefixes: list[int], calls: dict[int, Any]) -> Program:
    own, numbered = with_calls(code, calls)
    return Program(own, structure, spec, prefixes, numbered)

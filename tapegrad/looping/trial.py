"""Loops recorded as one instruction: a step is called once or twice, and what it records becomes a program.

The step is called on the tape where the loop is to be, so that it may use Values from around it, differentiate, and
whatever else it may do step by step. What it has recorded is cut off the tape again. The carry is numbers of the tape
from the beginning, also where the first one is plain: what follows is to hold for all steps.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.errors import OperationError, RecordingWarning, warn
from tapegrad.layout import dense, flags
from tapegrad.looping.body import Body, Part, Signature, shape_of
from tapegrad.looping.effects import Around
from tapegrad.looping.instruction import Loop, recorded
from tapegrad.looping.leaves import BOOL, FLOATS, INT, INTEGERS, TRUTHS, fits, integer, kind_of, one, plain, truth
from tapegrad.looping.slices import Given, NotALoopError, Slice, Step, outside_on, taken_from
from tapegrad.names import replaced
from tapegrad.ops import BY_NAME
from tapegrad.tape import Tape, recording_on, recording_tape
from tapegrad.tape.ambient import ambient
from tapegrad.tape.collect import Mark, cut_back, mark
from tapegrad.value import Integer, Value, apply, as_value, contiguous, handle, integer_at, leaf
from tapegrad.value.exact import limit
from tapegrad.value.integer import guards_forgotten
from tapegrad.value.reading import guard

# Loops of fewer steps are recorded step by step without a trial; and those whose steps have no more instructions and
# numbers than these together, since steps are then compiled together: the gradient of 256 steps of a map of one number
# takes 6 us so and 250 as an instruction. With 4,000 instructions a loop takes about twice as long, and is recorded in
# a tenth of the time.
LEAST, INSTRUCTIONS, NUMBERS = 16, 4_000, 1 << 22
# How often the kind of a carry may turn out to be another than that of the first.
_ATTEMPTS = 4
# A whole number that is carried may grow by so much in a step: then it is known to stay exact.
_GROWTH = 1 << 10

# The most numbers of which elements may be taken in all steps together by an index that is found in the step.
_MOST_GATHERED = 1 << 31


class _Trial(NamedTuple):
    """What came of calling a step once."""

    slice: Slice
    # How the ys are nested; for each leaf of the carry what it is when it comes out, and for each y its shape, what it
    # is, and itself if it is plain.
    structure: Any
    kinds: list[str]
    returned: list[tuple[tuple[int, ...], str, Any]]


def looped(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], init: Any, xs: Any, count: int, *, start: int | None = None,
    memory_limit: int | None = None, called: str = "a loop with a memory_limit",
) -> tuple[Any, Any] | None:  # fmt: skip
    """A loop as one instruction: carry, y = step(carry, x, i) for `count` steps. Returns the last carry and the ys
    stacked; None where the loop is to be recorded step by step.

    Args:
        step: it is called with Values; `i` is a whole number, or None without `start`.
        xs: arrays or Values with a leading axis of `count`, nested.
        start: the first i.
        memory_limit: how many bytes the states may take that are kept for the gradient.
        called: what a warning calls the loop, where there is a memory limit.

    Raises OperationError where not even two states fit in the memory limit.
    """
    if ambient.unrolling or count < (LEAST if memory_limit is None else 1):
        return None
    leaves, structure = pytree.flatten(init)
    if not leaves:
        answered = looped(
            lambda c, x, i: (c, step(init, x, i)[1]), (0.0,), xs, count, start=start, memory_limit=memory_limit,
            called=called,
        )
        return None if answered is None else (init, answered[1])
    given, nested = pytree.flatten(xs)
    values = [x for x in (*leaves, *given) if isinstance(x, Value)]
    tape = recording_tape() or (values[0]._tape if values else None)
    if tape is None or tape.sweeping or any(x._tape is not tape for x in values):
        return None
    recorder = _Recorder(tape, step, leaves, structure, given, nested, count, start)
    recorder.is_free = memory_limit is None
    if not values and (not recorder.can_be or not recorder.meets_values()):
        return None
    try:
        trial = recorder.settled()
    except NotALoopError:
        if memory_limit is not None:
            warn(
                f"the steps of {called} are no program of their own (they read numbers, call "
                "functions of Python, or change something around them), so all of them are kept", RecordingWarning,
            )  # fmt: skip
        return None
    return recorder.write(trial, memory_limit)


class _Recorder:
    def __init__(
        self, tape: Tape, step: Any, leaves: list[Any], structure: Any, xs: list[Any], nested: Any, count: int,
        start: int | None,
    ) -> None:  # fmt: skip
        self.tape, self.step, self.structure, self.nested = tape, step, structure, nested
        self.count, self.start = count, start
        self.leaves = [one(x, tape) for x in leaves]
        self.xs = [one(x, tape) for x in xs]
        self.kinds = [kind_of(x) for x in self.leaves]
        self.shapes = [np.shape(x) for x in self.leaves]
        fitting = all(fits(x, tape) for x in (*self.leaves, *self.xs))
        most = limit(tape.dtype)
        self.bound = max(abs(start or 0), abs((start or 0) + count))
        # Whether it may be recorded step by step because that is faster.
        self.is_free = True
        self.can_be = None not in self.kinds and fitting and (start is None or self.bound <= most)

    # Calling the step

    @guards_forgotten()
    def meets_values(self) -> bool:
        """Whether a step of plain numbers returns Values, which it must have from around it."""
        found, around, begun = False, Around(self.step), mark(self.tape)
        try:
            x = pytree.unflatten(self.nested, [x[0] for x in self.xs])
            answer = self.step(pytree.unflatten(self.structure, self.leaves), x, self.start)
            found = any(isinstance(y, Value) for y in pytree.flatten(answer)[0])
        except Exception:
            # It is raised again when the loop is recorded step by step.
            found = False
        finally:
            cut_back(self.tape, begun)
            around.restore()
        return found

    def settled(self) -> _Trial:
        """What steps are, when the carry goes in as what it comes out as. Raises NotALoopError.

        Where the step changes something each time that it is called, that is undone.
        """
        if not self.can_be:
            raise NotALoopError
        before = Around(self.step)
        try:
            found = self._settled()
            instructions, numbers = _size(found.slice.program)
            if self.is_free and self.count * instructions <= INSTRUCTIONS and self.count * numbers <= NUMBERS:
                raise NotALoopError
            # Each step back goes over the whole of an array that it takes elements of.
            if self.count * found.slice.gathered > _MOST_GATHERED:
                raise NotALoopError
            return found
        except NotALoopError:
            before.restore()
            raise

    def _settled(self) -> _Trial:
        first = self._trial()
        for _ in range(_ATTEMPTS):
            between = Around(self.step)
            changed = [FLOATS if before != after else before
                       for before, after in zip(self.kinds, first.kinds, strict=True)]  # fmt: skip
            same = changed == self.kinds
            self.kinds = changed
            second = self._trial()
            # A first call may fill what is kept for later ones; a second that changes something is no pure function.
            pure = first.slice.alike(second.slice) and _alike(first.returned, second.returned) and not between.changed()
            if same and pure:
                return second
            if same:
                break
            first = second
        raise NotALoopError

    @guards_forgotten()
    def _trial(self) -> _Trial:
        tape, begun = self.tape, mark(self.tape)
        before = tape.recording, tape.derived
        try:
            # What is recorded from here on has pages of its own, by which it shows whether a Value is kept somewhere.
            tape._open_page()
            first = len(tape.pages) - 1
            tape.recording, tape.derived = True, False
            found = self._call(begun)
        except NotALoopError:
            raise
        except Exception:
            raise NotALoopError from None
        finally:
            tape.recording, tape.derived = before
            tape._open_page()
            pages = [page for _, _, page in tape.pages[first:-1]]
            cut_back(tape, begun)
        if any(page() is not None for page in pages):
            gc.collect()
            if any(page() is not None for page in pages):
                raise NotALoopError
        return found

    def _call(self, begun: Mark) -> _Trial:
        tape = self.tape
        with recording_on(tape), replaced():
            index, before, taken = None, [], []
            if self.start is not None:
                index = integer(tape, self.start, self.bound)
                numbers = functools.partial(np.arange, self.start, self.start + self.count, dtype=tape.dtype)
                before.append(Given(index._slot, 1, False, numbers))
            for x in self.xs:
                part, known = self._part_of(x)
                taken.append(part)
                before.append(Given(part._slot, part.size, kind_of(part) == FLOATS, known))
            carry = [self._promoted(x, kind) for x, kind in zip(self.leaves, self.kinds, strict=True)]
            slots = [Given(c._slot, c.size, k == FLOATS) for c, k in zip(carry, self.kinds, strict=True)]
            ready = mark(tape)
            before = [g._replace(place=tape.locate(g.place)) for g in before]
            slots = [g._replace(place=tape.locate(g.place)) for g in slots]
            x = pytree.unflatten(self.nested, taken)
            answer = self.step(pytree.unflatten(self.structure, carry), x, index)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise NotALoopError
            out = [one(c, tape) for c in pytree.leaves_as(self.structure, answer[0])]
            ys, structure = pytree.flatten(answer[1])
            ys = [one(y, tape) for y in ys]
            if [np.shape(c) for c in out] != self.shapes or not all(fits(y, tape) for y in (*out, *ys)):
                raise NotALoopError
            kinds = [self._kind_after(*of) for of in zip(self.leaves, carry, out, self.kinds, strict=True)]
            returned = [(np.shape(y), kind_of(y), None if isinstance(y, Value) else y) for y in ys]
            outputs = [contiguous(plain(y)) if isinstance(y, Value) else y for y in (*out, *ys)]
            if any(isinstance(y, Value) and y._tape is not tape for y in outputs):
                raise NotALoopError
            found = Step(tape, begun, ready, before, slots, outputs).slice()
        return _Trial(found, structure, kinds, returned)

    def _part_of(self, x: Any) -> tuple[Value, Any]:
        """What the first step has of one of the xs, and the numbers of all steps where these are known."""
        tape = self.tape
        if isinstance(x, Value):
            part = apply(BY_NAME["copy"], (x[0],))
            kind = tape.kind(x._slot)
            if kind:
                tape.kinds[part._slot] = kind
            return part, None
        kind = x.dtype.kind
        if x.ndim > 1 or kind == "f":
            return leaf(tape, np.asarray(x[0])), None
        if kind == "b":
            return truth(tape, x[0]), None
        known = x.astype(tape.dtype)
        most = int(np.abs(known).max())
        if most > limit(tape.dtype):
            raise NotALoopError
        return integer(tape, int(x[0]), most), lambda: known

    def _promoted(self, x: Any, kind: str) -> Value:
        """A leaf of the carry as numbers of the tape that are no other's."""
        tape = self.tape
        if kind == INT:
            number = x._number if isinstance(x, Integer) else int(x)
            return integer(tape, number, limit(tape.dtype) // 4)
        if kind == BOOL:
            return truth(tape, x)
        if not isinstance(x, Value):
            return leaf(tape, np.asarray(x, None if kind else tape.dtype))
        made = apply(BY_NAME["copy"], (plain(x),))
        if kind:
            tape.kinds[made._slot] = kind
            if kind == TRUTHS and made._layout is not None:
                return handle(tape, made._slot, flags(made._layout))
        return made

    def _kind_after(self, first: Any, before: Any, after: Any, kind: str) -> str:
        """What a leaf of the carry is after a step, so far as it can be what it was before."""
        found = kind_of(after)
        if kind == INT:
            if isinstance(first, Integer) and abs(first._number) > limit(self.tape.dtype) // 8:
                raise NotALoopError
            if isinstance(after, Integer):
                most = limit(self.tape.dtype) // 4
                # An argument may be another number in a replay, to which a guard will hold it.
                start = most // 2 if isinstance(first, Integer) else abs(int(first))
                grown = after._bound - before._bound
                if grown > _GROWTH or start + self.count * max(grown, 0) > most:
                    raise NotALoopError
            return kind if found == INT else FLOATS
        if kind == BOOL:
            return kind if found in (BOOL, TRUTHS) else FLOATS
        return kind if found == kind or not kind else FLOATS

    # Writing the instruction

    def write(self, trial: _Trial, memory_limit: int | None) -> tuple[Any, Any]:
        """Put the loop on the tape; returns the last carry, and the ys."""
        tape, found = self.tape, trial.slice
        # Places hold until the next instruction is recorded.
        outside = [outside_on(tape, place, shape_of(n)) for place, n in found.outside]
        wholes = [outside_on(tape, t.place, dense(t.shape)) for t in found.taken]
        held = [(outside_on(tape, place, None), number) for place, number in found.held.items() if tape.recording]
        for x, number in held:
            guard(tape, x._slot, number, "number in the step of a loop")
        for x, kind in zip(self.leaves, self.kinds, strict=True):
            if kind == INT and isinstance(x, Integer):
                x._is_within(limit(tape.dtype) // 8)
        xs = [contiguous(as_value(plain(x), tape, "scan")) for x in self.xs]
        inputs = [None, *xs] if self.start is not None else xs
        indices = [inputs[t.which] if isinstance(t.which, int) else t.which for t in found.taken]
        taken = [taken_from(whole, index) for whole, index in zip(wholes, indices, strict=True)]
        carry = [contiguous(as_value(plain(x), tape, "scan")) for x in self.leaves]
        parts = [Part(x.size // self.count, not k) for x, k in zip(xs, map(kind_of, self.xs), strict=True)]
        signature = Signature(
            tuple(Part(n, True) for _, n in found.outside), self.start is not None,
            (*parts, *(Part(t.size // self.count, True) for t in taken)),
            tuple(Part(c.size, k == FLOATS) for c, k in zip(carry, self.kinds, strict=True)),
            tuple(Part(int(np.prod(shape)), True) for shape, _, _ in trial.returned),
        )  # fmt: skip
        states = _states(signature.state * tape.dtype.itemsize, self.count, memory_limit)
        loop = Loop(Body(found.program, signature), self.count, self.start or 0, states, ambient.forced)
        flat = recorded(loop, tape, [*outside, *xs, *taken, *carry])
        at, last = flat._slot, []
        for shape, kind in zip(self.shapes, self.kinds, strict=True):
            last.append(self._shown(at, shape, kind))
            at += int(np.prod(shape))
        ys = []
        for shape, kind, number in trial.returned:
            ys.append(np.stack([number] * self.count) if number is not None
                      else self._shown(at, (self.count, *shape), {INT: INTEGERS, BOOL: TRUTHS}.get(kind, kind)))
            at += self.count * int(np.prod(shape))
        return pytree.unflatten(self.structure, last), pytree.unflatten(trial.structure, ys)

    def _shown(self, slot: int, shape: tuple[int, ...], kind: str) -> Any:
        """A part of the result, as what it is."""
        tape = self.tape
        value = handle(tape, slot, dense(shape) if shape else None)
        if not kind:
            return value
        # Integers and truth values are known by the instruction that makes them.
        value = apply(BY_NAME["copy"], (value,))
        tape.kinds[value._slot] = TRUTHS if kind in (TRUTHS, BOOL) else INTEGERS
        if kind == INT:
            tape.evaluate()
            number = int(tape.values[tape.locate(value._slot)])
            return integer_at(tape, value._slot, number) if tape.recording else number
        return handle(tape, value._slot, flags(value._layout)) if kind == TRUTHS and shape else value


def _size(program: Any) -> tuple[int, int]:
    """How many instructions and numbers a program has, those of all steps of loops in it among them."""
    instructions, numbers = len(program.code.steps), int(program.code.counts.sum())
    for call in program.calls.values():
        own = _size(call.body.program)
        instructions, numbers = instructions + call.count * own[0], numbers + call.count * own[1]
    return instructions, numbers


def _states(size: int, count: int, memory_limit: int | None) -> int | None:
    """How many states of so many bytes may be kept; None for all. Raises OperationError."""
    if memory_limit is None or size == 0:
        return None
    states = memory_limit // size
    if states < 2 and count > 1:
        raise OperationError(
            f"memory_limit must have room for two states of {size:,} bytes each, it is {memory_limit:,} bytes"
        )
    return None if states > count else states


def _alike(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two steps have returned ys alike, and the same where they are plain."""
    return len(a) == len(b) and all(
        x[:2] == y[:2] and (x[2] is None) == (y[2] is None)
        and (x[2] is None or np.array_equal(x[2], y[2], equal_nan=True))
        for x, y in zip(a, b, strict=True)
    )  # fmt: skip

"""Recordings: a function's tape, with named inputs and outputs, to be replayed at other inputs.

Inputs come first in the arena, contiguous, so that one compiled call copies them in, computes values, and leaves the
gradient at the same places of the adjoint arena. A comparison that the function branched on is a guard on the tape;
a replay that would branch otherwise stops there, and the function is recorded anew at the new inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input, Spec, argument_numbers, difference, dtype_of, owners, plain_key, spec_of
from tapegrad.errors import (
    GuardError,
    IntegerInputError,
    NonScalarError,
    ShapeError,
    StructureError,
)
from tapegrad.ops import passive_rows
from tapegrad.sweeps import FORWARD, REVERSE, SCRATCH, sweeps_for
from tapegrad.sweeps.analysis import activate
from tapegrad.tape import EXPECT, LEAF, Tape, operand_error, recording_on
from tapegrad.tape.collect import needed_for
from tapegrad.value import Value, as_value
from tapegrad.value import leaf as put_leaf

_EMPTY = {np.dtype(t): np.zeros(0, t) for t in (np.float64, np.float32)}


class _Output(NamedTuple):
    """A result: where it stands in the arena, or a number that does not depend on the inputs."""

    places: np.ndarray | None
    shape: tuple[int, ...]
    constant: Any


class _Plan(NamedTuple):
    """How a gradient is taken: of which arguments, whether that is one array, and of which inputs if not of all."""

    numbers: tuple[int, ...]
    several: bool
    single: int | None
    windows: tuple[int, ...] | None


class Program:
    """One recorded path through a function: code without leaves, arenas, and where inputs and outputs stand."""

    def __init__(self, tape: Tape, outputs: list[Any], structure: Any, spec: Spec) -> None:
        inputs = [leaf for leaf in spec.leaves if isinstance(leaf, Input)]
        n_inputs = len(inputs)
        values = [x for x in outputs if isinstance(x, Value)]
        tape.evaluate()
        mark = np.zeros(len(tape.values), np.uint8)
        for x in values:
            if x._tape is not tape:
                raise StructureError("the function returned a Value that it did not compute from its arguments")
            if x.size:
                mark[x._places()] = 1
        rows = needed_for(tape, mark)
        # The inputs were recorded first; they stay whether they are used or not.
        rows = np.append(np.arange(n_inputs), rows[rows >= n_inputs])
        tape.keep(rows)
        tape.activate()
        tape.finish()
        self.tape = tape
        # Sweeps write to the arenas: whoever replays holds this until the results are read.
        self.lock = threading.Lock()
        self.structure = structure
        self.code = np.ascontiguousarray(tape.code[: tape.length][tape.code[: tape.length, 0] != LEAF])
        # No longer than need be: every gradient clears the adjoints.
        self.side = tape.side[: tape.side_length].copy() if tape.side_length else tape.side[:1].copy()
        self.values = tape.values[: tape.slots + SCRATCH].copy()
        tape.values = self.values
        self.adjoints = np.zeros_like(self.values)
        self.outputs = [
            _Output(x._places(), x.shape, None) if isinstance(x, Value) and x.size else _Output(None, np.shape(x), x)
            for x in outputs
        ]
        self._sweeps = sweeps_for(tape.dtype)
        self._sweeps.require(tape.needs, FORWARD)
        self.sweep = self._sweeps.sweep
        # All that a sweep takes but the seed and what it is to do. The side array says which operands want a gradient,
        # so there is one for each choice of arguments.
        self.arguments = (self.code, self.side, self.values, self.adjoints, _EMPTY[tape.dtype])
        self._sides: dict[tuple[int, ...], Any] = {}
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
        only = self.outputs[0] if len(outputs) == 1 and structure is pytree.LEAF else None
        self.scalar = int(only.places[0]) if only and only.places is not None and not only.shape else None

    def prepare_gradient(self, seed: int) -> None:
        """Have the reverse kernels at hand, and know where the adjoint starts."""
        self._sweeps.require(self.tape.needs, REVERSE)
        self.seed = seed

    def arguments_for(self, windows: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """What a sweep takes to compute the gradient with respect to these inputs alone."""
        known = self._sides.get(windows)
        if known is None:
            side, active = self.side.copy(), np.zeros(len(self.values), np.uint8)
            for window in windows:
                start, n = self.spans[window]
                active[start : start + n] = 1
            activate(self.code, side, active, passive_rows(), 0, len(self.code))
            known = self._sides[windows] = (self.code, side, *self.arguments[2:])
        return known

    def result(self) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [self.read(x) for x in self.outputs])

    def read(self, output: _Output) -> Any:
        """The number or array of an output, after a sweep."""
        if output.places is None:
            if isinstance(output.constant, Value):
                return np.zeros(output.shape, self.values.dtype)
            # A copy: whoever changes what one call returned must not change what the next one returns.
            return output.constant.copy() if isinstance(output.constant, np.ndarray) else output.constant
        if not output.shape:
            return float(self.values[output.places[0]])
        return self.values[output.places].reshape(output.shape)


class Recording:
    """A function recorded once, to be replayed at other inputs of the same structure, shapes and dtypes.

    Made by `record`. Call it for the value; `grad` and `value_and_grad` give derivatives with respect to the arguments
    numbered by `argnums`. Where the function branched on a number, a replay that would branch otherwise records anew,
    so results are always those of the function itself. Calls from several threads take turns.
    """

    def __init__(self, f: Callable[..., Any], spec: Spec, leaves: Sequence[Any], argnums: Sequence[int] | None) -> None:
        self.f = f
        self.spec = spec
        self._dtype = dtype_of(spec)
        owner = owners(spec.structure)
        self._wanted = [
            isinstance(leaf, Input) and leaf.dtype.kind == "f" and (argnums is None or owner[i] in argnums)
            for i, leaf in enumerate(spec.leaves)
        ]
        self._owner = owner
        self._inputs = [i for i, leaf in enumerate(spec.leaves) if isinstance(leaf, Input)]
        self._plain = plain_key(leaves) if len(leaves) == len(spec.structure.parts) else None
        self._plans: dict[int, _Plan] = {}
        self.program = self._record(leaves)

    def __repr__(self) -> str:
        name = getattr(self.f, "__qualname__", repr(self.f))
        return f"<Recording of {name}: {len(self.program.code)} instructions, {self._dtype}>"

    def __len__(self) -> int:
        return len(self.program.code)

    @property
    def tape(self) -> Tape:
        """The tape of the branch recorded last; `print(recording.tape)` lists it."""
        return self.program.tape

    def _record(self, leaves: Sequence[Any]) -> Program:
        tape = Tape(self._dtype, recording=True)
        with recording_on(tape):
            arguments = []
            for x, leaf, wanted in zip(leaves, self.spec.leaves, self._wanted, strict=True):
                if not isinstance(leaf, Input):
                    arguments.append(x)
                    continue
                arguments.append(put_leaf(tape, np.asarray(x), wanted))
            result = self.f(*pytree.unflatten(self.spec.structure, arguments))
            outputs, structure = pytree.flatten(result)
            outputs = [_stacked(x, tape) for x in outputs]
            return Program(tape, outputs, structure, self.spec)

    def _replay(self, leaves: Sequence[Any], steps: int, windows: tuple[int, ...] | None, read: Any, *how: Any) -> Any:
        # A guard that fails means another branch: record it at these inputs, where it must hold. The function is not
        # called under a lock: it may wait for another recording, whose function waits for this one.
        program = self.program
        for attempt in (0, 1):
            with program.lock:
                failed = self._sweep(program, leaves, steps, windows)
                if failed < 0:
                    return read(program, *how)
                row = program.code[failed]
                if row[0] != EXPECT:
                    raise operand_error(row, program.side, program.values)
            if attempt == 0:
                self.program = program = self._record(leaves)
        raise GuardError(
            f"{getattr(self.f, '__qualname__', self.f)} took another branch when it was recorded again at the same "
            "inputs: it depends on something besides its arguments"
        )

    def _sweep(self, program: Program, leaves: Sequence[Any], steps: int, windows: tuple[int, ...] | None) -> int:
        """One compiled call. Returns the instruction that failed, or -1."""
        for window, i in program.feeds:
            window[...] = leaves[i]
        if steps & 2 and program.seed is None:
            program.prepare_gradient(self._seed(program, steps & 4 != 0))
        arguments = program.arguments if windows is None else program.arguments_for(windows)
        return program.sweep(*arguments, program.seed if steps & 2 else -1, steps)

    def _seed(self, program: Program, has_aux: bool = False) -> int:
        structure = program.structure
        if has_aux:
            pair = structure is not pytree.LEAF and structure.kind is tuple and len(structure.parts) == 2
            if not pair or structure.parts[0] is not pytree.LEAF:
                raise StructureError("with has_aux the function must return a tuple of one number and something else")
        elif structure is not pytree.LEAF:
            kind = structure.kind.__name__
            raise NonScalarError(f"a gradient needs one scalar result, the function returned a {kind}")
        output = program.outputs[0] if program.outputs else None
        if output is None:
            raise NonScalarError("the function returned nothing to differentiate")
        if output.places is None:
            if isinstance(output.constant, int | float | np.number) or (
                isinstance(output.constant, np.ndarray) and output.constant.size == 1
            ):
                # A result that no input reaches: its gradient is zero. The scratch slot past the end takes the seed.
                return len(program.adjoints) - 1
            raise NonScalarError(f"the function returned {type(output.constant).__name__}, not a scalar Value")
        if len(output.places) != 1:
            raise NonScalarError(
                f"a gradient needs a scalar result, the function returned shape {output.shape}: sum it first"
            )
        return int(output.places[0])

    def check(self, args: Sequence[Any]) -> Sequence[Any]:
        """The leaves of arguments. Raises ShapeError if they are not what was recorded."""
        if self._plain is not None and plain_key(args) == self._plain:
            return args
        spec, leaves = spec_of(args)
        if spec != self.spec:
            raise ShapeError(difference(self.spec, spec))
        return leaves

    def __call__(self, *args: Any) -> Any:
        """The function's value at new arguments, by replay.

        Raises ShapeError for arguments of another structure, shape or dtype than recorded; LabelError or
        IndexRangeError for labels or indices out of range.
        """
        leaves = self.check(args)
        return self._replay(leaves, 1, None, Program.result)

    def value_and_grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> tuple[Any, Any]:
        """The value, and its gradient with respect to the arguments numbered by `argnums`: one sweep each way.

        The gradient has the structure of the argument; for several arguments it is a tuple. Raises NonScalarError
        unless the result is one number, IntegerInputError for an argument that holds integers.
        """
        return self.evaluate(self.check(args), argnums, has_aux=False)

    def grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """The gradient alone; see `value_and_grad`."""
        return self.value_and_grad(*args, argnums=argnums)[1]

    def evaluate(self, leaves: Sequence[Any], argnums: int | Sequence[int], has_aux: bool) -> tuple[Any, Any]:
        """`value_and_grad` of leaves that are known to fit. With `has_aux` the value is the whole (value, aux)."""
        plan = self._plans.get(argnums) if isinstance(argnums, int) else None
        if plan is None:
            plan = self._plan(argnums)
        return self._replay(leaves, 7 if has_aux else 3, plan.windows, self._value_and_gradient, plan, has_aux)

    def _value_and_gradient(self, program: Program, plan: _Plan, has_aux: bool) -> tuple[Any, Any]:
        if program.scalar is not None and not has_aux:
            value: Any = float(program.values[program.scalar])
        else:
            value = program.result()
        if plan.single is not None:
            return value, program.gradients[plan.single].copy()
        grads = tuple(self._gradient(program, n) for n in plan.numbers)
        return value, grads if plan.several else grads[0]

    def _plan(self, argnums: int | Sequence[int]) -> _Plan:
        numbers = argument_numbers(argnums)
        nodes = self.spec.structure.parts
        for n in numbers:
            if not -len(nodes) <= n < len(nodes):
                raise IndexError(f"argnums names argument {n}, the function has {len(nodes)}")
        numbers = tuple(n % len(nodes) for n in numbers)
        self._check_floats(numbers)
        wanted = tuple(w for w, i in enumerate(self._inputs) if self._owner[i] in numbers)
        # As recorded, or a choice among the arguments that could be differentiated.
        everything = tuple(w for w, i in enumerate(self._inputs) if self._wanted[i])
        single = None
        if isinstance(argnums, int) and nodes[numbers[0]] is pytree.LEAF:
            leaf = self._owner.index(numbers[0])
            single = None if self.spec.leaves[leaf].scalar else self._inputs.index(leaf)
        plan = _Plan(numbers, not isinstance(argnums, int), single, None if wanted == everything else wanted)
        if isinstance(argnums, int):
            self._plans[argnums] = plan
        return plan

    def _check_floats(self, numbers: Sequence[int]) -> None:
        for i, leaf in enumerate(self.spec.leaves):
            if self._owner[i] in numbers and not self._wanted[i]:
                what = f"an array of {leaf.dtype}" if isinstance(leaf, Input) else repr(leaf.value)
                raise IntegerInputError(
                    f"argument {self._owner[i]} holds {what}: only floats can be differentiated; convert it with "
                    "float(...) or .astype(float), or leave it out of argnums"
                )

    def _gradient(self, program: Program, number: int) -> Any:
        leaves = []
        for window, i in enumerate(self._inputs):
            if self._owner[i] == number:
                leaf = self.spec.leaves[i]
                g = program.gradients[window]
                leaves.append(float(g) if leaf.scalar else g.copy())
        return pytree.unflatten(self.spec.structure.parts[number], leaves)


def _stacked(x: Any, tape: Tape) -> Any:
    """An output that holds scalar Values in an object array or such, as one Value."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        return as_value(x, tape, "result")
    return x


def record(f: Callable[..., Any], *examples: Any) -> Recording:
    """Record a function at example arguments.

    Args:
        f: a function of numbers, arrays, or nested tuples, lists, dicts and dataclasses of them, written in NumPy or
            with Python operators. Arrays that it takes from around it become constants of the recording.
        examples: arguments to record at. Floats and arrays may change between replays; integers, booleans, strings and
            other objects are part of the recording.

    Raises DTypeError, StructureError.

    >>> import numpy as np
    >>> r = record(lambda x: np.sum(np.sin(x) * x), np.ones(3))
    >>> r.value_and_grad(np.zeros(3))
    (0.0, array([0., 0., 0.]))
    """
    spec, leaves = spec_of(examples)
    return Recording(f, spec, leaves, None)

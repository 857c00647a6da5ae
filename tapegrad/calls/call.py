"""One call of a Python function as one instruction.

The function and its rules take nested arguments. Here they are made into kernels on flat arrays, which the sweeps call,
and into rules on Values, which are run when a derivative is written as instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation, matching
from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions import stack
from tapegrad.layout import dense
from tapegrad.ops.external import external
from tapegrad.ops.record import STRUCTURED
from tapegrad.pickling import to_pickle
from tapegrad.sweeps import callbacks
from tapegrad.tape import current_tape, on_fresh_tapes
from tapegrad.value import Value, as_value, contiguous, handle, number_of, operand, view


class Rules:
    """How a function is evaluated and differentiated. Arguments are a tuple, nested as the user gave them.

    `pull` and `push` are called with plain numbers in a sweep, and with Values when a derivative is written.
    """

    name = "a function"
    # Functions that are called with Values where a derivative is written, and so become part of a recording. All others
    # are called at every sweep.
    recorded_functions: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        what = f"a function that {self.name} is made of"
        own = {name: to_pickle(x, what) for name, x in vars(self).items()}
        return own | {"recorded_functions": tuple([to_pickle(f, what) for f in self.recorded_functions])}

    def value(self, args: tuple[Any, ...]) -> Any:
        """The function, on plain numbers."""
        raise NotImplementedError

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """For each argument the derivative of <cotangent, result>, nested as the argument is; None for zero."""
        raise NotImplementedError

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        """The derivative of the result along tangents. This default takes one `pull` for each element of the result."""
        return _push_by_pulls(self, args, result, tangents)

    def certificate(self, args: tuple[Any, ...]) -> Any:
        """The certificate of the function, where it can be looked into; None where it cannot."""
        return None


class PythonCall:
    """A function, with the structure of its arguments and result: what an instruction `external` stands for."""

    exact = False

    def __init__(self, rules: Rules, structure: Any, leaves: list[Any], at: list[int], kinds: list[str]) -> None:
        self.rules = rules
        self.structure = structure
        # The leaves at the positions `at` are operands of the instruction; all others stay as they are. The operands
        # themselves are not kept: each Value would keep the tape that it was recorded on.
        self.leaves = list(leaves)
        self.at = at
        self.kinds = kinds
        self.shapes = [np.shape(leaves[i]) for i in at]
        for i in at:
            self.leaves[i] = None
        self.result_structure: Any = None
        self.result_shapes: list[tuple[int, ...]] | None = None
        self._last: tuple[bytes, np.ndarray] | None = None

    # On plain numbers

    def _arguments(self, operands: Sequence[Any]) -> tuple[Any, ...]:
        leaves = list(self.leaves)
        for i, kind, shape, x in zip(self.at, self.kinds, self.shapes, operands, strict=True):
            if not isinstance(x, Value):
                x = np.reshape(x, shape)
                x = x.astype(bool if kind == "b" else np.int64) if kind else x
                x = float(x) if not shape and not kind else x
            leaves[i] = x
        return tuple(pytree.unflatten(self.structure, leaves))

    def forward(self, operands: list[np.ndarray]) -> np.ndarray:
        """The result, flat. Raises ShapeError where it has another shape than when it was recorded."""
        key = b"".join(x.tobytes() for x in operands)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        # Nothing that the function does is recorded, even while something is being recorded: each replay calls it.
        with on_fresh_tapes():
            result = self.rules.value(self._arguments(operands))
        leaves, structure = pytree.flatten(result)
        arrays = [np.asarray(x) for x in leaves]
        if not arrays:
            raise UnsupportedError(f"{self.rules.name} returned nothing")
        for x in arrays:
            if x.dtype.kind not in "fiub":
                raise UnsupportedError(f"{self.rules.name} returned {x.dtype}, not real numbers")
        shapes = [x.shape for x in arrays]
        if self.result_shapes is None:
            self.result_structure, self.result_shapes = structure, shapes
        elif (structure, shapes) != (self.result_structure, self.result_shapes):
            raise ShapeError(
                f"{self.rules.name} returned shapes {shapes}, but when it was recorded {self.result_shapes}"
            )
        flat = np.concatenate([np.zeros(0), *[x.reshape(-1).astype(float) for x in arrays]])
        self._last = key, flat
        return flat

    def _nested(self, flat: Any) -> Any:
        """A flat result, adjoint or tangent, nested and shaped as the function's result is."""
        parts: list[Any] = []
        start = 0
        for shape in self.result_shapes or []:
            n = int(np.prod(shape))
            part = flat[start : start + n]
            if isinstance(part, Value):
                parts.append(part.reshape(shape) if shape else view(part, part._slot, None))
            else:
                parts.append(part.reshape(shape) if shape else float(part[0]))
            start += n
        return pytree.unflatten(self.result_structure, parts)

    def reverse(
        self, operands: list[np.ndarray], result: np.ndarray, adjoint: np.ndarray, wanted: Sequence[bool]
    ) -> list[Any]:
        """For each operand its adjoint, by the rule."""
        args = self._arguments(operands)
        with on_fresh_tapes():
            return self._own(self.rules.pull(args, self._nested(result), self._nested(adjoint)), "a gradient")

    def _own(self, per_argument: Any, what: str) -> list[Any]:
        nodes = pytree.children(self.structure)
        if not isinstance(per_argument, tuple | list) or len(per_argument) != len(nodes):
            have = f"{len(per_argument)}" if isinstance(per_argument, tuple | list) else type(per_argument).__name__
            raise ShapeError(
                f"the rule of {self.rules.name} must return {what} for each of {len(nodes)} arguments, not {have}"
            )
        shapes = [np.shape(x) for x in self.leaves]
        for i, shape in zip(self.at, self.shapes, strict=True):
            shapes[i] = shape
        of = f"gradient by {self.rules.name}"
        found = matching.matching(tuple(per_argument), self.structure, shapes, of, "argument")
        return [found[i] for i in self.at]

    def tangent(self, operands: list[np.ndarray], result: np.ndarray, tangents: list[np.ndarray]) -> np.ndarray:
        """The tangent of the result, by the rule."""
        with on_fresh_tapes():
            pushed = self.rules.push(self._arguments(operands), self._nested(result), self._tangents(tangents))
        return np.concatenate([np.zeros(0), *[np.reshape(t, -1) for t in self._result_leaves(pushed)]])

    def _result_leaves(self, pushed: Any) -> list[Any]:
        """A tangent of the result, leaf by leaf, with zeros in place of None."""
        shapes = self.result_shapes or []
        leaves = matching.matching(
            pushed, self.result_structure, shapes, f"tangent by {self.rules.name}", "result"
        )
        return [np.zeros(s) if t is None else t for t, s in zip(leaves, shapes, strict=True)]

    def _tangents(self, tangents: Sequence[Any]) -> tuple[Any, ...]:
        leaves: list[Any] = [None] * len(self.leaves)
        for i, kind, shape, t in zip(self.at, self.kinds, self.shapes, tangents, strict=True):
            if isinstance(t, Value):
                leaves[i] = None if kind else t
            elif not kind and t is not None:
                leaves[i] = np.reshape(t, shape) if shape else float(np.reshape(t, -1)[0])
        return tuple(pytree.unflatten(self.structure, leaves))

    def certificate(self, operands: list[np.ndarray]) -> Any:
        """The certificate of the function at its operands; None where it has none."""
        with on_fresh_tapes():
            return self.rules.certificate(self._arguments(operands))

    # On Values

    def _shaped(self, operands: Sequence[Any]) -> list[Any]:
        return [
            None if x is None else x.reshape(shape) if shape else view(x, x._slot, None)
            for x, shape in zip(operands, self.shapes, strict=True)
        ]

    def pullback(self, instruction: Any, adjoint: Value) -> list[Any]:
        """The adjoints of the operands as Values, each of one axis."""
        args = self._arguments(self._shaped([x.value for x in instruction.operands]))
        found = self._own(self.rules.pull(args, self._nested(instruction.result), self._nested(adjoint)), "a gradient")
        tape = adjoint._tape
        return [None if g is None else as_value(g, tape, "a gradient").reshape(-1) for g in found]

    def pushforward(self, instruction: Any, tangents: list[Any]) -> Any:
        """The tangent of the result as a Value of one axis."""
        args = self._arguments(self._shaped([x.value for x in instruction.operands]))
        along = self._tangents(self._shaped(tangents))
        pushed = self.rules.push(args, self._nested(instruction.result), along)
        tape = instruction.result._tape
        parts = [as_value(t, tape, "a tangent").reshape(-1) for t in self._result_leaves(pushed)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def call(rules: Rules, args: Sequence[Any]) -> Any:
    """The function of nested arguments: evaluated where they are plain numbers, else recorded as one instruction."""
    leaves, structure = pytree.flatten(tuple(args))
    # A whole number may decide the shape of the result, which the instruction must know: so it is part of the call.
    if any(isinstance(x, Value) and x._is_integer for x in leaves):
        leaves = [number_of(x) for x in leaves]
        args = pytree.unflatten(structure, leaves)
    if not evaluation.holds_values(leaves):
        return rules.value(tuple(args))
    tape = next((x._tape for x in leaves if isinstance(x, Value)), None) or current_tape()
    at, kinds, values = [], [], []
    for i, x in enumerate(leaves):
        if isinstance(x, np.ndarray) and x.dtype == object:
            x = leaves[i] = as_value(x, tape, rules.name)
        if isinstance(x, Value):
            at.append(i)
            kinds.append(tape.kind(x._slot) if x.size else "")
            values.append(contiguous(as_value(x, tape, rules.name)))
    made = PythonCall(rules, structure, leaves, at, kinds)
    tape.evaluate()
    # Call the function once, to learn how large its result is. `forward` remembers the result, so that the forward
    # sweep, which comes next with the same operands, does not call the function again.
    n = len(made.forward([np.asarray(v._window(tape.values)).reshape(-1).copy() for v in values]))
    number = callbacks.register(made)
    tape.calls[number] = made
    params = [number, n, *[v.size for v in values]]
    slot = tape.run(external.opcode, STRUCTURED, n, [operand(v) for v in values], params)
    # Once more: the tape may have tidied up before it took the instruction.
    tape.calls[number] = made
    return made._nested(handle(tape, slot, dense((n,))))


def _push_by_pulls(rules: Rules, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
    leaves, structure = pytree.flatten(result)
    along = _aligned(tangents, args, "tangent")
    pushed = []
    for i, y in enumerate(leaves):
        rows = []
        for e in range(int(np.size(y))):
            seed: Any = np.zeros(np.shape(y), getattr(y, "dtype", float))
            seed.reshape(-1)[e] = 1.0
            cotangent: list[Any] = [np.zeros(np.shape(x), getattr(x, "dtype", float))[()] for x in leaves]
            cotangent[i] = seed if seed.shape else float(seed)
            grads = rules.pull(args, result, pytree.unflatten(structure, cotangent))
            total: Any = 0.0
            for g, t in zip(_aligned(grads, args, "gradient"), along, strict=True):
                if g is not None and t is not None:
                    total = total + np.sum(g * t)
            rows.append(total)
        pushed.append(_joined(rows).reshape(np.shape(y)) if np.shape(y) else rows[0])
    return pytree.unflatten(structure, pushed)


def _joined(rows: list[Any]) -> Any:
    return stack(rows) if evaluation.holds_values(rows) else np.stack(rows)


def _aligned(given: Any, args: tuple[Any, ...], what: str) -> list[Any]:
    leaves, structure = pytree.flatten(args)
    return matching.matching(tuple(given), structure, [np.shape(x) for x in leaves], what, "argument")

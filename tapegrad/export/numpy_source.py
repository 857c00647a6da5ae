"""A recording as readable Python, that runs with nothing but NumPy imported: what the tape says, line by line."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.layout import Layout, dense_strides
from tapegrad.ops import Elementwise
from tapegrad.ops.parts import assemble_parts
from tapegrad.ops.record import OPCODE, A, B
from tapegrad.program import Code, Program
from tapegrad.storage.names import parameters_of
from tapegrad.sweeps.owners import owners
from tapegrad.tape import EXPECT, LEAF, Instruction, instruction

# Elementwise operations that NumPy has no function for, of operands x, y and w.
_ELEMENTWISE = {
    "add": "{x} + {y}", "subtract": "{x} - {y}", "multiply": "{x} * {y}", "divide": "{x} / {y}", "negative": "-{x}",
    "power": "{x} ** {y}", "power_constant": "{x} ** {y}", "square": "{x} ** 2", "copy": "1.0 * {x}",
    "detach": "1.0 * {x}", "less": "1.0 * ({x} < {y})", "less_equal": "1.0 * ({x} <= {y})",
    "greater": "1.0 * ({x} > {y})", "greater_equal": "1.0 * ({x} >= {y})", "equal": "1.0 * ({x} == {y})",
    "not_equal": "1.0 * ({x} != {y})", "logical_and": "1.0 * np.logical_and({x}, {y})",
    "logical_or": "1.0 * np.logical_or({x}, {y})", "logical_xor": "1.0 * np.logical_xor({x}, {y})",
    "where": "np.where({x} != 0.0, {y}, {w})", "clip": "np.minimum(np.maximum({x}, {y}), {w})",
    "sigmoid": "np.exp(-np.logaddexp(0.0, -{x}))", "softplus": "np.logaddexp(0.0, {x})",
    "relu": "np.maximum({x}, 0.0)", "leaky_relu": "np.where({x} > 0.0, {x}, {y} * {x})",
    "chain": "np.where(({x} == 0.0) | ({y} == 0.0), 0.0, {x} * {y})",
    "shield": "np.where(({x} == 0.0) & ~np.isfinite({y}), 0.0, {y})",
}  # fmt: skip
# What each row of x has at its label. NumPy raises IndexError for a label that is no class: none counts from the end.
_AT_LABELS = "{x}[np.arange(len({x})), np.where(({y} >= 0) & ({y} % 1 == 0), {y}, {x}.shape[1]).astype(int)]"
# Operations over whole arrays, of operands in the shapes that their views state.
_STRUCTURED = {
    "sum": "np.sum({x}, 1)", "prod": "np.prod({x}, 1)", "max": "np.{max}({x}, 1)",
    "argmax": "1.0 * np.arg{max}({x}, 1)",
    "logsumexp": "np.logaddexp.reduce({x}, 1)", "norm": "np.sqrt(np.sum({x} ** 2, 1))", "cumsum": "np.cumsum({x}, 1)",
    "argsort": '1.0 * np.argsort({x}, 1, kind="stable")', "gather": "{x}[:, {y}.astype(int)]", "matmul": "{x} @ {y}",
    "affine": "{x} @ {y} + {w}", "concatenate": "np.concatenate([{all}], 1)",
    "cross_entropy": "np.logaddexp.reduce({x}, 1) - " + _AT_LABELS, "at_labels": _AT_LABELS,
    "lstm_gates": (
        "(lambda s, g: (lambda c: np.stack([s[:, 3] * np.tanh(c), c, s[:, 0], s[:, 1], g, s[:, 3], np.tanh(c)]))"
        "(s[:, 1] * {w} + s[:, 0] * g))(np.exp(-np.logaddexp(0.0, -({x} + {y}))), np.tanh(({x} + {y})[:, 2]))"
    ),
}  # fmt: skip


def to_numpy_source(recording: Any, name: str | None) -> str:
    """See `Recording.to_numpy_source`."""
    # A function within another one is called by the last part of its name.
    last = recording.name.rsplit(".", 1)[-1]
    own = name or (last if last.isidentifier() else "recorded")
    if not own.isidentifier() or keyword.iskeyword(own):
        raise OperationError(f"to_numpy_source: {own!r} is no name of a function")
    parameters = _parameters(recording)
    programs = recording.programs
    try:
        parts = [_Function(program, recording.spec, parameters).text(
            own if len(programs) == 1 else f"{own}_{number}") for number, program in enumerate(programs)
        ]  # fmt: skip
    except UnsupportedError as error:
        raise UnsupportedError(f"{recording.name} cannot be written in NumPy: {error}") from None
    if any("OtherBranch" in part for part in parts):
        parts.insert(0, 'class OtherBranch(Exception):\n    """The arguments take a branch that was not recorded."""\n')
    if any("view(" in part for part in parts):
        parts.insert(0, (
            "def view(x, start, shape, strides):\n"
            '    """The numbers of x from one on, so far apart along each axis."""\n'
            "    x = np.ascontiguousarray(x).reshape(-1)[start:]\n"
            "    return np.lib.stride_tricks.as_strided(x, shape, [x.itemsize * s for s in strides], writeable=False)\n"
        ))  # fmt: skip
    if len(programs) > 1:
        given, branches = ", ".join(parameters), ", ".join(f"{own}_{i}" for i in range(len(programs)))
        parts.append("\n".join([
            f"def {own}({given}):", f"    for branch in ({branches}):", "        try:",
            f"            return branch({given})", "        except OtherBranch:", "            pass",
            "    raise OtherBranch", "",
        ]))  # fmt: skip
    return "\n\n".join(["import numpy as np\n", *parts])


def _parameters(recording: Any) -> list[str]:
    count = len(pytree.children(recording.spec.structure))
    said = parameters_of(recording.f)
    # What the text uses itself is no name for an argument.
    own = {n: name for n, name in enumerate(said) if not re.fullmatch(r"np|view|OtherBranch|v\d+", name)}
    return [own.get(n, f"argument{n}") for n in range(count)]


class _Function:
    """Writes one program as a function of Python."""

    def __init__(self, program: Program, spec: Any, parameters: Sequence[str]) -> None:
        self.program, self.spec, self.parameters = program, spec, parameters
        self.code: Code = program.code
        rows = self.code.rows
        self.owners = owners(rows[:, 1])
        self.names = [f"v{i}" for i in range(len(rows))]
        # The shape of what each name stands for.
        self.shapes: list[tuple[int, ...]] = [()] * len(rows)
        self.lines: list[str] = []

    def text(self, name: str) -> str:
        """The function."""
        self._leaves()
        for i in range(len(self.code.rows)):
            one = instruction(self.code.rows, self.code.side, i)
            if not one.is_leaf:
                self._instruction(i, one)
        results = [self._output(o) for o in self.code.outputs]
        found = _nested(self.program.structure, iter(results))
        body = [*self.lines, f"return {found}"]
        return "\n".join([f"def {name}({', '.join(self.parameters)}):", *(f"    {line}" for line in body), ""])

    def _leaves(self) -> None:
        code, spec = self.code, self.spec
        nodes = zip(pytree.children(spec.structure), self.parameters, strict=True)
        paths = [path for node, name in nodes for path in pytree.paths(node, name)]
        inputs = [(path, leaf) for path, leaf in zip(paths, spec.leaves, strict=True) if isinstance(leaf, Input)]
        for i, (path, leaf) in enumerate(inputs):
            self.shapes[i] = leaf.shape
            if path.isidentifier() and not leaf.shape:
                self.names[i] = path
            else:
                self.lines.append(f"{self.names[i]} = np.asarray({path}, {self._dtype})")
        at = 0
        for i in range(code.inputs, len(code.rows)):
            if code.rows[i, OPCODE] != LEAF:
                break
            n = int(code.rows[i, B])
            numbers = code.constants[at : at + n]
            at += n
            if n == 1:
                x = float(numbers[0])
                self.names[i] = f"({x!r})" if x < 0 else repr(x) if np.isfinite(x) else f"np.float64('{x}')"
            else:
                self.shapes[i] = (n,)
                self.lines.append(f"{self.names[i]} = np.array({numbers.tolist()!r}, {self._dtype})"
                                  .replace("nan", "np.nan").replace("inf", "np.inf"))  # fmt: skip

    @property
    def _dtype(self) -> str:
        return f"np.{self.code.dtype.name}"

    def _instruction(self, i: int, one: Instruction) -> None:
        operation = one.operation
        if one.operation.opcode == EXPECT:
            x, y = (self._at(int(p)) for p in self.code.rows[i, A : B + 1])
            self.lines.append(f"if {x} != {y}:")
            self.lines.append("    raise OtherBranch")
            return
        operands = [self._operand(x.place, x.layout) for x in one.operands]
        if isinstance(operation, Elementwise):
            short = [self._broadcast(x.place, x.layout) for x in one.operands]
            # NumPy broadcasts, where any operand has the shape of the result.
            if None in short or not one.shape:
                operands = [y or x for x, y in zip(operands, short, strict=True)]
        given = dict(zip("xyw", operands, strict=False))
        self.shapes[i] = one.shape
        if isinstance(operation, Elementwise):
            form = _ELEMENTWISE.get(operation.name)
            called = operation.ufunc.__name__ if operation.ufunc else ""
            if form is None and called and getattr(np, called, None) is operation.ufunc:
                form = f"np.{called}({', '.join('{' + n + '}' for n in 'xyw'[: operation.arity])})"
        else:
            form = _STRUCTURED.get(operation.name)
            given |= {"all": ", ".join(operands), "max": "max" if one.params[-1] != -1 else "min"}
        if form is None:
            form = self._written_out(i, one, operands)
            if form is None:
                raise UnsupportedError(f"the operation {one.title} has no form in NumPy here")
            return
        self.lines.append(f"{self.names[i]} = {form.format(**given)}")

    def _written_out(self, i: int, one: Instruction, operands: Sequence[str]) -> str | None:
        """Operations that take more than one line."""
        name, kind = self.names[i], one.operation.name
        if kind == "scatter":
            self.lines += [
                f"{name} = np.zeros({one.shape}, {self._dtype})",
                f"np.add.at({name}, (slice(None), {operands[1]}.astype(int)), {operands[0]})",
            ]
            return name
        if kind == "assemble":
            self.lines.append(f"{name} = np.zeros({one.shape}, {self._dtype})")
            for x, (offset, shape, _, to) in zip(operands, assemble_parts(list(one.params)), strict=True):
                size = int(np.prod(one.shape))
                self.lines.append(f"np.add.at({name}, view(np.arange({size}), {offset}, {shape}, {to}), {x})")
            return name
        return None

    def _at(self, place: int) -> str:
        return self._operand(place, Layout((), ()))

    def _operand(self, place: int, layout: Layout) -> str:
        """What the numbers of an operand are called, in its shape."""
        if not layout.size:
            return f"np.zeros({layout.shape}, {self._dtype})"
        low = place + layout.reach[0]
        i = int(self.owners.of(np.array([low]))[0])
        name, shape, start = self.names[i], self.shapes[i], place - int(self.owners.starts[i])
        size = int(np.prod(shape))
        if layout.dense and layout.size == size and start == 0:
            if layout.shape == shape:
                return name
            return f"np.reshape({name}, {layout.shape})" if layout.shape else f"{name}.item()"
        flat = name if len(shape) == 1 else f"np.ravel({name})"
        if not layout.shape:
            return f"{flat}[{start}]"
        if len(layout.shape) == 1 and layout.strides[0] > 0:
            (n,), (s,) = layout.shape, layout.strides
            return f"{flat}[{start}:{start + (n - 1) * s + 1}{f':{s}' if s > 1 else ''}]"
        turned = layout.shape[::-1], layout.strides[::-1]
        if len(shape) == 2 and start == 0 and turned == (shape, dense_strides(shape)):
            return f"{name}.T"
        if not any(layout.strides):
            return f"np.broadcast_to({flat}[{start}], {layout.shape})"
        return self._view(name, start, layout)

    def _broadcast(self, place: int, layout: Layout) -> str | None:
        """What NumPy would broadcast to an operand; None for an operand that is not to be broadcast."""
        if not layout.size or layout.size == 1:
            return None
        if not any(layout.strides):
            return self._at(place)
        long = [(n, s) for n, s in zip(layout.shape, layout.strides, strict=True) if n != 1]
        if len(long) != 2 or len(layout.shape) != 2 or 0 not in layout.strides:
            return None
        rows = layout.strides[0] != 0
        n, s = long[0 if rows else 1]
        return self._operand(place, Layout((n,), (s,))) + ("[:, None]" if rows else "")

    def _view(self, name: str, start: int, layout: Layout) -> str:
        low = layout.reach[0]
        if not low:
            return f"view({name}, {start}, {layout.shape}, {layout.strides})"
        # Of axes that are gone through backwards, the view goes forwards and is turned round.
        turned = ", ".join("::-1" if s < 0 else ":" for s in layout.strides)
        return f"view({name}, {start + low}, {layout.shape}, {tuple(map(abs, layout.strides))})[{turned}]"

    def _output(self, output: Any) -> str:
        if output.place is None:
            x = output.constant
            if isinstance(x, bool | int | str) or x is None:
                return repr(x)
            if isinstance(x, float) and np.isfinite(x):
                return repr(x)
            array = np.zeros(output.shape) if not hasattr(x, "dtype") or x.dtype.kind not in "fiub" else np.asarray(x)
            return f"np.array({array.tolist()!r}, np.{array.dtype.name})"
        text = self._operand(output.place, output.layout)
        if output.whole:
            return f"int({text})"
        return f"np.array({text})" if output.shape else f"float({text})"


def _nested(structure: Any, leaves: Any) -> str:
    """Python's text for nested results."""
    if pytree.is_leaf(structure):
        return str(next(leaves))
    kind = pytree.kind(structure)
    if kind is type(None):
        return "None"
    parts = [_nested(part, leaves) for part in pytree.children(structure)]
    if kind is list:
        return f"[{', '.join(parts)}]"
    if issubclass(kind, dict):
        return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(pytree.names(structure), parts, strict=True)) + "}"
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"

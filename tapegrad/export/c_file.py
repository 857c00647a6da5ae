"""A recording as a C file and a header, that need nothing but `math.h`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.export import derivatives
from tapegrad.export.c_kernels import CALLS, TEXTS
from tapegrad.export.c_matrices import texts as matrix_functions
from tapegrad.export.c_program import ProgramInC, table_of
from tapegrad.export.c_rules import function_of, literal
from tapegrad.ops import Elementwise
from tapegrad.program import Code, Output, Program
from tapegrad.storage import write_whole
from tapegrad.storage.names import parameters_of

_DIFFER = """static int differ(real x, real y)
{
    /* Whether a guard fails: two NaN are alike, 0 and -0 are not. */
    return !((x == y && (x != 0 || 1 / x == 1 / y)) || (x != x && y != y));
}"""


class Target(NamedTuple):
    """Where a result goes: an array, and from which index on. Without an output, `size` zeros go there."""

    array: str
    at: int
    size: int
    output: Output | None


class Function(NamedTuple):
    """One function of the file.

    Attributes:
        name: what it is called behind the name of the recording.
        given: the arrays that it takes, in the order in which their numbers are inputs.
        made: the arrays that it makes.
        codes: for each branch its code, where the inputs come from (array, index, count), and where the results go.
        says: what it computes, for the header.
    """

    name: str
    given: tuple[str, ...]
    made: tuple[str, ...]
    codes: list[tuple[Code, list[tuple[str, int, int]], list[Target]]]
    says: str


def to_c(recording: Any, path: str | os.PathLike[str], name: str | None, sparse: bool) -> None:
    """See `Recording.to_c`."""
    to = Path(path)
    name = name or re.sub(r"\W", "_", to.stem)
    if to.suffix != ".c" or not name.isidentifier() or not name.isascii():
        raise OperationError(f"to_c needs a path that ends with .c and a name for C, not {path!s} and {name!r}")
    try:
        text, header = _File(recording, name, sparse).texts(to.with_suffix(".h").name)
    except UnsupportedError as error:
        raise UnsupportedError(f"{recording.name} cannot be exported: {error}") from None
    write_whole(to, text.encode())
    write_whole(to.with_suffix(".h"), header.encode())


class _File:
    def __init__(self, recording: Any, name: str, sparse: bool) -> None:
        self.recording, self.name = recording, name
        self.programs: list[Program] = recording.programs
        self.inputs = sum(n for _, n in recording.code.spans)
        self.outputs = _size_of_outputs(self.programs)
        self.dtype = recording.code.dtype
        self.scalar = self.outputs == 1 and all(p.code.outputs[0].place is not None for p in self.programs)
        self.pattern = recording.sparsity() if sparse else None
        self.used: set[Any] = set()
        self.kernels: set[str] = set()
        self._calls: list[Any] = []
        # What C cannot is said before any derivative is written, which may fail for other reasons.
        for program in self.programs:
            ProgramInC(program.code)
        self.functions = [self._value(), self._jvp(), self._vjp()]
        if self.scalar:
            self.functions += [self._gradient(), self._hessian_product()]
        # The room that the functions need, which is known when they are written.
        self.work = 1

    def _derived(self, found: derivatives.Derivative) -> tuple[Code, list[bool]]:
        self._calls.append(found.calls)
        return found.code, found.kept

    def _inputs_of(self, program: Program, *floats: str) -> list[tuple[str, int, int]]:
        found, at = [("x", 0, self.inputs)], [n for _, n in program.code.spans]
        starts = np.cumsum([0, *at]).tolist()
        return found + [(array, starts[w], at[w]) for array in floats for w in program.floats]

    def _values(self, program: Program, array: str = "y") -> list[Target]:
        found, at = [], 0
        for output in program.code.outputs:
            found.append(Target(array, at, _size(output), output))
            at += _size(output)
        return found

    def _by_floats(self, program: Program, array: str, code: Code, kept: Sequence[bool]) -> list[Target]:
        """The results of a derivative by the inputs that are floats; zeros for the others."""
        outputs, found = iter(code.outputs), []
        known = {w: next(outputs) if k else None for w, k in zip(program.floats, kept, strict=True)}
        for w, (at, n) in enumerate(program.code.spans):
            found.append(Target(array, at, n, known.get(w)))
        return found

    def _value(self) -> Function:
        codes = [(p.code, self._inputs_of(p), self._values(p)) for p in self.programs]
        return Function("value", ("x",), ("y",), codes, "y = f(x)")

    def _jvp(self) -> Function:
        codes = []
        for p in self.programs:
            code, kept = self._derived(derivatives.jvp(p))
            outputs, targets, tangents = iter(code.outputs), self._values(p), []
            placed = [i for i, t in enumerate(targets) if t.output is not None and t.output.place is not None]
            for i in placed:
                targets[i] = targets[i]._replace(output=next(outputs))
            flags = iter(kept[len(placed) :])
            for i, t in enumerate(targets):
                known = i in placed and next(flags)
                tangents.append(t._replace(array="dy", output=next(outputs) if known else None))
            codes.append((code, self._inputs_of(p, "dx"), targets + tangents))
        return Function("jvp", ("x", "dx"), ("y", "dy"), codes, "y = f(x), and dy its derivative along dx")

    def _vjp(self) -> Function:
        codes = []
        for p in self.programs:
            code, kept = self._derived(derivatives.vjp(p))
            seeds = [("w", t.at, t.size) for t in self._values(p) if t.output and t.output.place is not None]
            codes.append((code, self._inputs_of(p) + seeds, self._by_floats(p, "g", code, kept)))
        return Function("vjp", ("x", "w"), ("g",), codes, "g = the gradient of sum(w * f(x))")

    def _gradient(self) -> Function:
        codes = []
        for p in self.programs:
            code, (_, *kept) = self._derived(derivatives.gradient(p))
            first, *others = code.outputs
            rest = self._by_floats(p, "g", _WithOutputs(tuple(others)), kept)  # type: ignore[arg-type]
            codes.append((code, self._inputs_of(p), [Target("y", 0, 1, first), *rest]))
        return Function("gradient", ("x",), ("y", "g"), codes, "y = f(x), and g its gradient")

    def _hessian_product(self) -> Function:
        codes = []
        for p in self.programs:
            code, kept = self._derived(derivatives.hessian_product(p))
            codes.append((code, self._inputs_of(p, "dx"), self._by_floats(p, "h", code, kept)))
        return Function("hessian_product", ("x", "dx"), ("h",), codes, "h = the matrix of second derivatives times dx")

    # The text

    def texts(self, header: str) -> tuple[str, str]:
        """The C file and the header."""
        bodies, declared = [], []
        for function in self.functions:
            bodies += self._bodies(function)
            declared.append((self._signature(function), function.says))
        matrices = self._jacobian()
        declared += [(text.split("\n", 1)[0], says) for text, says in matrices]
        rows = sorted(self.used, key=lambda row: row.opcode)
        kernels = [TEXTS[row.name].strip("\n") for row in rows if row.name in CALLS and row.name in TEXTS]
        operations = [function_of(row, self.dtype) for row in rows if isinstance(row, Elementwise)]
        guards = [_DIFFER] if any("differ(" in body for body in bodies) else []
        parts = [
            f"/* {_comment(self.recording.name)}, recorded and exported by tapegrad. */",
            "#include <math.h>", f'#include "{header}"', f"typedef {self.real} real;", *guards, *operations, *kernels,
            *matrix_functions(sorted(self.kernels)), *bodies, *(text for text, _ in matrices),
        ]  # fmt: skip
        return "\n\n".join(parts) + "\n", self._header(header, declared)

    @property
    def real(self) -> str:
        """The type of numbers."""
        return "double" if self.dtype == np.float64 else "float"

    def _signature(self, function: Function, suffix: str = "", kind: str | None = None) -> str:
        kind = kind or self.real
        arrays = [f"const {kind} *{a}" for a in function.given] + [f"{kind} *{a}" for a in function.made]
        return f"int {self.name}_{function.name}{suffix}({', '.join([*arrays, f'{kind} *work'])})"

    def _bodies(self, function: Function) -> list[str]:
        found, names = [], []
        for number, (code, given, targets) in enumerate(function.codes):
            suffix = "" if len(function.codes) == 1 else f"_{number}"
            names.append(f"{self.name}_{function.name}{suffix}")
            found.append(self._body(function, suffix, code, given, targets))
        if len(names) > 1:
            arguments = ", ".join([*function.given, *function.made, "work"])
            tried = [f"    if ((status = {name}({arguments})) != 1) return status;" for name in names]
            found.append("\n".join([self._signature(function), "{", "    int status;", *tried, "    return 1;", "}"]))
        return found

    def _body(
        self, function: Function, suffix: str, code: Code, given: list[tuple[str, int, int]], targets: list[Target]
    ) -> str:  # fmt: skip
        written = ProgramInC(code, f"{self.name}_{function.name}{suffix}")
        self.used |= written.used
        self.kernels |= written.kernels
        self.work = max(self.work, 1 + written.room)
        lines: list[str] = []
        at = 0
        for array, start, count in given:
            lines.append(_copied(f"v[{at} + i]", f"{array}[{start} + i]", count))
            at += count
        before = []
        if len(code.constants):
            table = f"{self.name}_{function.name}{suffix}_constants"
            before = table_of(table, code.constants)
            lines.append(_copied(f"v[{at} + i]", f"{table}[i]", len(code.constants)))
        lines += written.lines
        for target in targets:
            lines += _result(target, self.dtype)
        # Of arrays without numbers no line says anything, and where there are no numbers at all, not of the arena.
        words = set(re.findall(r"\w+", "\n".join(lines)))
        if "v" in words:
            lines.insert(0, f"    {self.real} *v = work;")
            words.add("work")
        unused = [f"    (void){array};" for array in (*function.given, *function.made, "work") if array not in words]
        head = self._signature(function, suffix)
        before = [*written.before, *before]
        return "\n".join([*before, ("static " if suffix else "") + head, "{", *lines, *unused, "    return 0;", "}"])

    def _jacobian(self) -> list[tuple[str, str]]:
        """The dense matrix, and where it is asked for the sparse one: by products along directions."""
        m, n, real = self.outputs, self.inputs, self.real
        by_columns = n <= m
        count, call = (n, "jvp(x, d, y, r, rest)") if by_columns else (m, "vjp(x, d, r, rest)")
        sizes = f"{real} *d = work, *r = d + {max(m, n)}, *y = r + {max(m, n)}, *rest = y + {m};"
        target = f"j[i * {n} + k]" if by_columns else f"j[k * {n} + i]"
        unused = "" if by_columns else "\n    (void)y;"
        dense = f"""int {self.name}_jacobian(const {real} *x, {real} *j, {real} *work)
{{
    {sizes}{unused}
    for (long k = 0; k < {count}; k++) {{
        for (long i = 0; i < {count}; i++) d[i] = i == k;
        const int status = {self.name}_{call};
        if (status) return status;
        for (long i = 0; i < {m if by_columns else n}; i++) {target} = r[i];
    }}
    return 0;
}}"""
        found = [(dense, f"j = the Jacobian, {m} x {n}, row by row")]
        if self.pattern is not None:
            found.append((self._sparse(sizes), f"j = the {self.pattern.pattern.nnz} entries of the Jacobian"))
        return found

    def _sparse(self, sizes: str) -> str:
        pattern, real, name = self.pattern, self.real, self.name
        assert pattern is not None
        entries = pattern.pattern.tocoo()
        rows, columns = entries.row.tolist(), entries.col.tolist()
        forward = pattern.mode != "reverse"
        colors = pattern.colors.tolist()
        call = "jvp(x, d, y, r, rest)" if forward else "vjp(x, d, r, rest)"
        own, other = ("columns", "rows") if forward else ("rows", "columns")
        tables = [
            f"const int {name}_{what}[] = {{{', '.join(map(str, numbers)) or '0'}}};"
            for what, numbers in (("rows", rows), ("columns", columns))
        ]
        colored = f"static const int {name}_colors[] = {{{', '.join(map(str, colors)) or '0'}}};"
        unused = "" if forward else "\n    (void)y;"
        # The signature stands first: the header is made of the first line.
        return f"""int {name}_sparse_jacobian(const {real} *x, {real} *j, {real} *work);

{chr(10).join([*tables, colored])}

int {name}_sparse_jacobian(const {real} *x, {real} *j, {real} *work)
{{
    {sizes}{unused}
    for (int color = 0; color < {pattern.count}; color++) {{
        for (long i = 0; i < {len(colors)}; i++) d[i] = {name}_colors[i] == color;
        const int status = {name}_{call};
        if (status) return status;
        for (long k = 0; k < {len(rows)}; k++)
            if ({name}_colors[{name}_{own}[k]] == color) j[k] = r[{name}_{other}[k]];
    }}
    return 0;
}}"""

    def _header(self, file: str, declared: list[tuple[str, str]]) -> str:
        guard, upper = re.sub(r"\W", "_", file).upper(), self.name.upper()
        work = self.work + 2 * max(self.inputs, self.outputs) + self.outputs
        lines = [
            f"/* {_comment(self.recording.name)}, recorded and exported by tapegrad.", " *",
            " * x has the numbers of all arguments, one after the other, arrays row by row:",
            *(f" *   x[{at}] to x[{at + n - 1}]: {what}" for what, at, n in self._arguments() if n), " *",
            " * Each function returns 0; 1 where the arguments take a branch that was not recorded, and nothing else",
            " * of what it says holds; 2 where an index or label is out of range; 3 where a matrix is singular, or not",
            f" * positive definite where it has to be. `work` is room for {upper}_WORK",
            " * numbers; calls at the same time need one each. Nothing is kept between calls, nothing is allocated. */",
            f"#ifndef {guard}", f"#define {guard}", "",
            f"#define {upper}_INPUTS {self.inputs}", f"#define {upper}_OUTPUTS {self.outputs}",
            f"#define {upper}_WORK {work}",
        ]  # fmt: skip
        if self.pattern is not None:
            nnz = self.pattern.pattern.nnz
            lines += [f"#define {upper}_ENTRIES {nnz}", "", "/* The row and the column of each entry. */"]
            lines += [f"extern const int {self.name}_{what}[{max(1, nnz)}];" for what in ("rows", "columns")]
        for signature, says in declared:
            lines += ["", f"/* {says}. */", signature.rstrip(";") + ";"]
        return "\n".join([*lines, "", "#endif", ""])

    def _arguments(self) -> list[tuple[str, int, int]]:
        found, spec = [], self.recording.spec
        nodes, names = enumerate(pytree.children(spec.structure)), dict(enumerate(parameters_of(self.recording.f)))
        paths = [path for n, node in nodes for path in pytree.paths(node, names.get(n, f"argument {n}"))]
        spans = iter(self.recording.code.spans)
        for path, leaf in zip(paths, spec.leaves, strict=True):
            if isinstance(leaf, Input):
                shape = f", an array of shape {leaf.shape}" if leaf.shape else ""
                found.append((_comment(path + shape), *next(spans)))
        return found


class _WithOutputs(NamedTuple):
    """Stands for a code, of whose outputs only some are meant."""

    outputs: tuple[Output, ...]


def _comment(text: str) -> str:
    """A text that stays within a comment of one line."""
    return re.sub(r"[^ -~]", "?", text).replace("*/", "* /").replace("\\", "/")


def _size(output: Output) -> int:
    return int(output.layout.size)


def _size_of_outputs(programs: Sequence[Program]) -> int:
    for p in programs:
        for o in p.code.outputs:
            # A result without numbers may be a Value, and is nothing to write.
            if o.place is None and _size(o) and np.asarray(o.constant).dtype.kind not in "fiub":
                raise UnsupportedError(f"a result is a {type(o.constant).__name__}, which is no number")
    sizes = {sum(map(_size, p.code.outputs)) for p in programs}
    if len(sizes) > 1:
        raise UnsupportedError(f"its branches return different numbers of results: {sorted(sizes)}")
    if sizes == {0}:
        raise UnsupportedError("what it returns has no numbers, so there is nothing to compute")
    return sizes.pop()


def _copied(to: str, of: str, count: int) -> str:
    return f"    for (long i = 0; i < {count}; i++) {to} = {of};" if count else ""


def _result(target: Target, dtype: np.dtype) -> list[str]:
    array, at, count, output = target
    if output is None:
        return [_copied(f"{array}[{at} + i]", "0", count)] if count else []
    if not count:
        return []
    if output.place is None:
        numbers = np.asarray(output.constant, dtype).reshape(-1).tolist()
        return [f"    {array}[{at + i}] = {literal(x, dtype)};" for i, x in enumerate(numbers)]
    shape, strides = output.layout.shape, output.layout.strides
    if output.layout.dense:
        return [_copied(f"{array}[{at} + i]", f"v[{output.place} + i]", count)]
    loops = [f"for (long i{d} = 0; i{d} < {n}; i{d}++)" for d, n in enumerate(shape)]
    steps = np.cumprod([1, *reversed(shape[1:])])[::-1].tolist()
    to, of = (
        " + ".join([str(base), *(f"{s} * i{d}" for d, s in enumerate(by))])
        for base, by in ((at, steps), (output.place, strides))
    )
    return [f"    {' '.join(loops)} {array}[{to}] = v[{of}];"]



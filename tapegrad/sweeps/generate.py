"""The sweeps of one dtype, as the text of a module: handwritten loops, with the switch filled in from the table."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.ops import RUN, TABLE, Elementwise, Operation, Structured, is_inlined, record
from tapegrad.sweeps import marks
from tapegrad.sweeps.source import Module

ENTRIES = ("sweep", "tangent", "reverse_lanes", "tangent_lanes")
_TEMPLATES = ("operands", "forward", "reverse", "tangent", "entry", "lanes")
_OPERANDS = "xyw"
_CALL = re.compile(r"\w\(")
# Pasted into the entry point: called, LLVM would optimise them once alone and once more inside it.
_PASTED = ("forward", "reverse")


def is_own(row: Operation) -> bool:
    """Whether an operation's rules stand in this package, where they name nothing outside it."""
    here = Path(__file__).parents[1] / "ops"
    kinds = ("value", "partials", "forward", "reverse", "tangent")
    rules = [rule for rule in (getattr(row, kind, None) for kind in kinds) if rule is not None]
    return all(Path(getattr(rule, "py_func", rule).__code__.co_filename).parent == here for rule in rules)


def sweeps_source(dtype: np.dtype) -> str:
    """The text of the module that sweeps tapes of `dtype`, with the kernels of this package's operations."""
    module = Module(dtype)
    constants = {name: n for m in (record, marks) for name, n in vars(m).items() if isinstance(n, int)} | {"RUN": RUN}
    fill = _Fill(module, constants)
    bodies: dict[str, ast.FunctionDef] = {}
    for name in _TEMPLATES:
        for tree in ast.parse((Path(__file__).parent / f"{name}.py").read_text()).body:
            if isinstance(tree, ast.FunctionDef) and tree.name in _PASTED:
                bodies[tree.name] = fill.visit(tree)
            elif isinstance(tree, ast.FunctionDef):
                module.add(_Paste(bodies).visit(fill.visit(tree)))
    module.imports.add("from tapegrad.sweeps.kernels import as_array, call_run, call_structured")
    for row in TABLE:
        if is_own(row):
            _add_kernels(module, row)
    return module.text(ENTRIES)


def kernels_source(dtype: np.dtype, row: Operation) -> str:
    """The text of a module with the kernels of one operation, declared outside this package."""
    module = Module(dtype)
    module.imports.add("from tapegrad.sweeps.kernels import as_array")
    _add_kernels(module, row)
    return module.text(ENTRIES)


class _Fill(ast.NodeTransformer):
    """Puts numbers in place of a template's constants, and the table's branches in place of its switch."""

    def __init__(self, module: Module, constants: dict[str, int]) -> None:
        self.module, self.constants = module, constants

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.constants[node.id]) if node.id in self.constants else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.parse(f"T({node.value!r})", mode="eval").body if type(node.value) is float else node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        self.generic_visit(node)
        test = node.test
        if not (isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "SWITCH"):
            return node
        assert isinstance(test.args[0], ast.Constant)
        chain = node.orelse
        for opcode, body in reversed(list(self.branches(str(test.args[0].value)))):
            branch = ast.parse(f"if op == {opcode}:\n" + "\n".join(f"    {line}" for line in body)).body[0]
            assert isinstance(branch, ast.If)
            branch.orelse = chain
            chain = [branch]
        return chain

    def branches(self, sweep: str) -> list[tuple[int, list[str]]]:
        rows = [row for row in TABLE if isinstance(row, Elementwise) and is_inlined(row, self.module.dtype)]
        return [(row.opcode, _SCALAR[sweep](self.module, row)) for row in rows]


class _Paste(ast.NodeTransformer):
    """Puts the body of a function in place of a statement that calls it, `f(...)` or `name = f(...)`.

    Parameters become variables of their own names; the body may return only at its end.
    """

    def __init__(self, bodies: dict[str, ast.FunctionDef]) -> None:
        self.bodies = bodies

    def paste(self, node: Any, call: ast.expr, target: str | None) -> Any:
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in self.bodies):
            return node
        function = self.bodies[call.func.id]
        body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
        given = zip((a.arg for a in function.args.args), map(ast.unparse, call.args), strict=True)
        lines = [f"{name} = {argument}" for name, argument in given if name != argument]
        if isinstance(body[-1], ast.Return):
            assert body[-1].value is not None
            lines_after = [f"{target} = {ast.unparse(body.pop().value)}"]  # type: ignore[attr-defined]
        else:
            lines_after = []
        return [*ast.parse("\n".join(lines)).body, *body, *ast.parse("\n".join(lines_after)).body]

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self.paste(node, node.value, ast.unparse(node.targets[0]))

    def visit_Expr(self, node: ast.Expr) -> Any:
        return self.paste(node, node.value, None)


def _add_kernels(module: Module, row: Operation) -> None:
    """One function for each sweep, to be compiled when a tape needs it; see `kernels`."""
    if isinstance(row, Elementwise):
        for kind, emit in _RUN.items():
            lines = ["for j in range(n):", *(f"    {line}" for line in emit(module, row))]
            module.add_kernel(f"{kind}_{row.name}", "n, z, x, y, w, dz, dx, dy, dw", lines)
    elif isinstance(row, Structured):
        for kind in _RUN:
            call = f"{module.function(getattr(row, kind))}(as_array(side, (n_side,)), k, as_array(v, (n,))"
            lines = [f"{call}, as_array(d, (n,)))", "return True"]
            if kind == "forward":
                lines = [f"return {call})"]
            module.add_kernel(f"{kind}_{row.name}", "side, n_side, k, v, d, n", lines)


def _is_zero(partial: str) -> bool:
    return partial in ("0.0", "T(0.0)")


def _times(row: Elementwise, partial: str, factor: str) -> str:
    if row.selects:
        return f"({factor} * ({partial}) if ({partial}) != T(0.0) else T(0.0))"
    if partial in ("1.0", "T(1.0)"):
        return factor
    if partial in ("-1.0", "-T(1.0)"):
        return f"-{factor}"
    return f"{factor} * ({partial})"


# In a scalar branch the slots of out and operands stand in o, a and b.
_SLOTS = ("a", "b")


def _partials(module: Module, row: Elementwise, operands: Iterable[str], result: str) -> list[str]:
    return module.rule(row.partials, [*operands, result])


def _scalar_forward(module: Module, row: Elementwise) -> list[str]:
    (value,) = module.rule_value(row, [f"v[{s}]" for s in _SLOTS[: row.arity]])
    return [f"v[o] = {value}"]


def _scalar_partials(module: Module, row: Elementwise) -> list[tuple[str, str]]:
    partials = _partials(module, row, [f"v[{s}]" for s in _SLOTS[: row.arity]], "v[o]")
    return [(s, p) for s, p in zip(_SLOTS, partials, strict=False) if not _is_zero(p)]


def _scalar_reverse(module: Module, row: Elementwise) -> list[str]:
    return [f"g[{s}] += {_times(row, p, 'gz')}" for s, p in _scalar_partials(module, row)] or ["pass"]


def _scalar_both_partials(module: Module, row: Elementwise) -> list[str]:
    names = {"a": "px", "b": "py"}
    return [f"{names[s]} = {p if p != '1.0' else 'T(1.0)'}" for s, p in _scalar_partials(module, row)] or ["pass"]


def _scalar_tangent(module: Module, row: Elementwise) -> list[str]:
    terms = [f"({_times(row, p, f't[{s}]')} if t[{s}] != T(0.0) else T(0.0))" for s, p in _scalar_partials(module, row)]
    return [f"t[o] = {' + '.join(terms) or 'T(0.0)'}"]


# In a block everything is loaded before anything is stored: behind a store that may touch the same memory, LLVM would
# load again, and give up vectorising (measured: 1.3 ns an element for the adjoints of a product, 0.3 so).


def _loads(row: Elementwise, adjoint: bool) -> list[str]:
    return [f"{n}j = {n}[j]" for n in (*_OPERANDS[: row.arity], *("z" if adjoint else ""))]


def _block_partials(module: Module, row: Elementwise) -> list[tuple[str, str]]:
    partials = _partials(module, row, [f"{n}j" for n in _OPERANDS[: row.arity]], "zj")
    return [(n, p) for n, p in zip(_OPERANDS, partials, strict=False) if not _is_zero(p)]


def _masked(product: str, factor: str, partial: str) -> list[str]:
    """Lines that set c to a product, or to zero where the factor is zero."""
    if not any(f"{name}j" in partial for name in "xywz"):
        return [f"c = {product}"]
    if _CALL.search(partial.replace("T(", "(")):
        # Worth skipping, and not vectorised anyway.
        return [f"c = {product} if {factor} != T(0.0) else T(0.0)"]
    return [f"c = {product}", f"c = c if {factor} != T(0.0) else T(0.0)"]


def _run_forward(module: Module, row: Elementwise) -> list[str]:
    (value,) = module.rule_value(row, [f"{n}[j]" for n in _OPERANDS[: row.arity]])
    return [f"z[j] = {value}"]


def _run_reverse(module: Module, row: Elementwise) -> list[str]:
    lines, stores = [*_loads(row, True), "dj = dz[j]"], []
    for n, partial in _block_partials(module, row):
        lines += [*_masked(_times(row, partial, "dj"), "dj", partial), f"c{n} = c"]
        stores.append(f"d{n}[j] += c{n}")
    return [*lines, *stores]


def _run_tangent(module: Module, row: Elementwise) -> list[str]:
    lines = [*_loads(row, True), "tj = T(0.0)"]
    for n, partial in _block_partials(module, row):
        lines += [f"d{n}j = d{n}[j]", *_masked(_times(row, partial, f"d{n}j"), f"d{n}j", partial), "tj += c"]
    return [*lines, "dz[j] = tj"]


_Emit = Callable[[Module, Elementwise], list[str]]
_SCALAR: dict[str, _Emit] = {
    "forward": _scalar_forward,
    "reverse": _scalar_reverse,
    "tangent": _scalar_tangent,
    "partials": _scalar_both_partials,
}
_RUN: dict[str, _Emit] = {"forward": _run_forward, "reverse": _run_reverse, "tangent": _run_tangent}

"""The sweeps of one dtype, as the text of a module: handwritten loops, with the switch filled in from the table."""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tapegrad.compiled.source import Module, function_tree
from tapegrad.ops import TABLE, Elementwise, Operation, Structured, is_inlined
from tapegrad.sweeps.forward import forward
from tapegrad.sweeps.kernels import as_array
from tapegrad.sweeps.marks import SWITCH
from tapegrad.sweeps.reverse import reverse

_OPERANDS = "xyw"
_CALL = re.compile(r"\w\(")
# The bodies of these functions are put in place of their calls. As functions, LLVM would optimise them twice: alone,
# and where it inlines them.
_PASTED = (forward, reverse)


def rules_of(row: Operation) -> list[Callable[..., Any]]:
    """The functions that an operation's machine code is made from."""
    kinds = ("value", "partials", "forward", "reverse", "tangent")
    return [rule for rule in (getattr(row, kind, None) for kind in kinds) if rule is not None]


def kernels_source(dtype: np.dtype, row: Operation) -> str:
    """The text of a module with the kernels of one operation."""
    module = SweepModule(dtype)
    _add_kernels(module, row)
    return module.text()


def function_source(dtype: np.dtype, function: Callable[..., Any]) -> str:
    """The text of a module with one function, and all that it names."""
    module = SweepModule(dtype)
    module.function(function)
    return module.text()


class SweepModule(Module):
    """A module of sweeps or kernels: knows operations by name, and fills in the switch."""

    def known(self, found: Any) -> ast.expr | None:
        """Where a rule names an elementwise operation, the name of the function that computes the operation."""
        return ast.Name(self.value(found), ast.Load()) if isinstance(found, Elementwise) else None

    def rule(self, function: Callable[..., Any], arguments: list[str]) -> list[str]:
        """The expressions that a lambda rule returns, with its parameters replaced by `arguments` (source text)."""
        function = getattr(function, "py_func", function)
        tree = copy.deepcopy(function_tree(function))
        if isinstance(tree, ast.FunctionDef):
            call = f"{self.function(function)}({', '.join(arguments)})"
            count = len(arguments) - 1
            return [f"{call}[{i}]" for i in range(count)] if count > 1 else [call]
        expressions = [ast.parse(a, mode="eval").body for a in arguments]
        body = self.expression(function, expressions, is_rule=True)
        return [ast.unparse(e) for e in (body.elts if isinstance(body, ast.Tuple) else [body])]

    def value(self, row: Elementwise) -> str:
        """A function of the module that computes an operation, for rules that name it."""
        if row not in self.names:
            self.names[row] = name = f"value_{row.name}"
            arguments = [f"x{i}" for i in range(row.arity)]
            (text,) = self.rule_value(row, arguments)
            self.add(ast.parse(f"def {name}({', '.join(arguments)}):\n    return {text}").body[0])  # type: ignore[arg-type]
        return self.names[row]

    def rule_value(self, row: Elementwise, arguments: list[str]) -> list[str]:
        """The expression of an operation's value."""
        rule = getattr(row.value, "py_func", row.value)
        if rule.__name__ == "<lambda>":
            return self.rule(rule, arguments)
        return [f"{self.function(rule)}({', '.join(arguments)})"]

    def resolved(self, tree: Any, function: Callable[..., Any], is_rule: bool = False) -> Any:
        """As in any module; besides, the switch is filled in, and calls of sweeps are replaced by their bodies."""
        if not is_rule and SWITCH in inspect.getclosurevars(function).globals.values():
            tree = _Switch(self).visit(tree)
        tree = super().resolved(tree, function, is_rule)
        called = {f.__name__: f for f in _PASTED if f in inspect.getclosurevars(function).globals.values()}
        if called and not is_rule and isinstance(tree, ast.FunctionDef):
            bodies = {name: self.resolved(copy.deepcopy(function_tree(f)), f) for name, f in called.items()}
            tree = _Paste({self.names[f]: bodies[name] for name, f in called.items()}).visit(tree)
        return tree


class _Switch(ast.NodeTransformer):
    """Puts the table's branches in place of a loop's switch."""

    def __init__(self, module: SweepModule) -> None:
        self.module = module

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


def _add_kernels(module: SweepModule, row: Operation) -> None:
    """One function for each sweep, to be compiled when a tape needs it; see `kernels`."""
    if isinstance(row, Elementwise):
        for kind, emit in _RUN.items():
            lines = ["for j in range(n):", *(f"    {line}" for line in emit(module, row))]
            module.add_kernel(f"{kind}_{row.name}", "n, z, x, y, w, dz, dx, dy, dw", lines)
    elif isinstance(row, Structured):
        module.function(as_array)
        for kind in _RUN:
            rule = getattr(row, kind)
            count = len(inspect.signature(getattr(rule, "py_func", rule)).parameters)
            given = ["as_array(side, n_side)", "k", "as_array(flags, n_side)", "as_array(v, n)"]
            given += ["as_array(d, n)"] if kind != "forward" else []
            if count < len(given):
                del given[2]
            call = f"{module.function(rule)}({', '.join(given)})"
            lines = [f"return 1 if {call} else 0"] if kind == "forward" else [call, "return 1"]
            module.add_kernel(f"{kind}_{row.name}", "side, n_side, k, flags, v, d, n", lines)


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


# In a scalar branch o, a, b and c are the places of the result and of the operands.
_SLOTS = ("a", "b", "c")


def _partials(module: SweepModule, row: Elementwise, operands: Iterable[str], result: str) -> list[str]:
    return module.rule(row.partials, [*operands, result])


def _scalar_forward(module: SweepModule, row: Elementwise) -> list[str]:
    (value,) = module.rule_value(row, [f"v[{s}]" for s in _SLOTS[: row.arity]])
    return [f"v[o] = {value}"]


def _scalar_partials(module: SweepModule, row: Elementwise) -> list[tuple[str, str]]:
    partials = _partials(module, row, [f"v[{s}]" for s in _SLOTS[: row.arity]], "v[o]")
    return [(s, p) for s, p in zip(_SLOTS, partials, strict=False) if not _is_zero(p)]


def _scalar_reverse(module: SweepModule, row: Elementwise) -> list[str]:
    return [f"g[{s}] += {_times(row, p, 'gz')}" for s, p in _scalar_partials(module, row)] or ["pass"]


def _scalar_both_partials(module: SweepModule, row: Elementwise) -> list[str]:
    names = {"a": "px", "b": "py", "c": "pw"}
    return [f"{names[s]} = {p if p != '1.0' else 'T(1.0)'}" for s, p in _scalar_partials(module, row)] or ["pass"]


def _scalar_tangent(module: SweepModule, row: Elementwise) -> list[str]:
    terms = []
    for s, p in _scalar_partials(module, row):
        # On the way forward a tangent may have become infinite before it meets a partial derivative of zero, which the
        # way back meets first. So zero times anything is zero here, as in derivative programs.
        both = f"t[{s}] != T(0.0) and ({p}) != T(0.0)" if "v[" in p else f"t[{s}] != T(0.0)"
        terms.append(f"({_times(row, p, f't[{s}]')} if {both} else T(0.0))")
    return [f"t[o] = {' + '.join(terms) or 'T(0.0)'}"]


# For each element of a block, everything is loaded before anything is stored. After a store that may have changed the
# same memory, LLVM would load again, and give up vectorising (measured for the adjoints of a product: 1.3 ns an element
# instead of 0.3).


def _loads(row: Elementwise, adjoint: bool) -> list[str]:
    return [f"{n}j = {n}[j]" for n in (*_OPERANDS[: row.arity], *("z" if adjoint else ""))]


def _block_partials(module: SweepModule, row: Elementwise) -> list[tuple[str, str]]:
    partials = _partials(module, row, [f"{n}j" for n in _OPERANDS[: row.arity]], "zj")
    return [(n, p) for n, p in zip(_OPERANDS, partials, strict=False) if not _is_zero(p)]


def _masked(product: str, factor: str, partial: str) -> list[str]:
    """Lines that set c to a product, or to zero where the factor is zero."""
    if not any(f"{name}j" in partial for name in "xywz"):
        return [f"c = {product}"]
    if _CALL.search(partial.replace("T(", "(")):
        # The partial calls a function. That is worth skipping, and such a loop is not vectorised anyway.
        return [f"c = {product} if {factor} != T(0.0) else T(0.0)"]
    return [f"c = {product}", f"c = c if {factor} != T(0.0) else T(0.0)"]


def _masked_both(row: Elementwise, partial: str, tangent: str) -> list[str]:
    """Lines that set c to the product of a tangent and a partial derivative, or to zero where either is zero."""
    if not any(f"{name}j" in partial for name in "xywz"):
        return [f"c = {_times(row, partial, tangent)}"]
    # What calls a function is worth skipping, and not vectorised anyway.
    calls = _CALL.search(partial.replace("T(", "("))
    return [
        f"p = {partial}" + (f" if {tangent} != T(0.0) else T(0.0)" if calls else ""),
        f"c = {tangent} * p",
        f"c = c if {tangent} != T(0.0) and p != T(0.0) else T(0.0)",
    ]


def _run_forward(module: SweepModule, row: Elementwise) -> list[str]:
    (value,) = module.rule_value(row, [f"{n}[j]" for n in _OPERANDS[: row.arity]])
    return [f"z[j] = {value}"]


def _run_reverse(module: SweepModule, row: Elementwise) -> list[str]:
    lines, stores = [*_loads(row, True), "dj = dz[j]"], []
    for n, partial in _block_partials(module, row):
        lines += [*_masked(_times(row, partial, "dj"), "dj", partial), f"c{n} = c"]
        stores.append(f"d{n}[j] += c{n}")
    return [*lines, *stores]


def _run_tangent(module: SweepModule, row: Elementwise) -> list[str]:
    lines = [*_loads(row, True), "tj = T(0.0)"]
    for n, partial in _block_partials(module, row):
        lines += [f"d{n}j = d{n}[j]", *_masked_both(row, partial, f"d{n}j"), "tj += c"]
    return [*lines, "dz[j] = tj"]


_Emit = Callable[[SweepModule, Elementwise], list[str]]
_SCALAR: dict[str, _Emit] = {
    "forward": _scalar_forward,
    "reverse": _scalar_reverse,
    "tangent": _scalar_tangent,
    "partials": _scalar_both_partials,
}
_RUN: dict[str, _Emit] = {"forward": _run_forward, "reverse": _run_reverse, "tangent": _run_tangent}

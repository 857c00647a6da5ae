"""Reading rules and kernels as source, and gathering them with all they name into one self-contained module.

Numba compiles a sweep fastest when the rules stand in it as text (measured on 40 operations, forward and reverse:
1.7 s, against 4.4 s as calls), and it can only cache on disk what stands in a file. So rules are read, not called.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import inspect
import linecache
import math
import textwrap
import types
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import config
from numba.extending import intrinsic

from tapegrad.errors import OperationError
from tapegrad.ops.spec import Elementwise

# The same function on numbers under another name, which Numba compiles in a fraction of the time. (Uncompiled, `math`
# raises where NumPy returns NaN or infinity.)
_SAME = ("cos", "cosh", "exp", "expm1", "hypot", "log", "log10", "log1p", "sin", "sinh", "sqrt", "tan", "tanh")
_ARC = ("cos", "cosh", "sin", "sinh", "tan", "tan2", "tanh")
_IN_MATH = {name: name for name in _SAME} | {f"arc{name}": f"a{name}" for name in _ARC}

_Intrinsic = type(intrinsic(lambda typingctx: None))


@functools.cache
def _parse(filename: str, length: int) -> ast.Module:
    return ast.parse("".join(linecache.getlines(filename)))


def function_tree(function: Callable[..., Any]) -> ast.Lambda | ast.FunctionDef:
    """The syntax tree of a lambda or function, found by its position in its file."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    if not lines:
        raise OperationError(
            f"the source of rule {function.__qualname__!r} cannot be read ({code.co_filename}): rules are compiled "
            "from source, so define them in a file or a notebook cell"
        )
    found: list[ast.Lambda | ast.FunctionDef] = []
    if function.__name__ != "<lambda>":
        text = textwrap.dedent(inspect.getsource(function))
        return next(n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
    parameters = list(inspect.signature(function).parameters)
    # Where each bytecode stands in the source; entering the function stands nowhere, which shows as no width.
    spans = [(r0, r1, c0, c1) for r0, r1, c0, c1 in code.co_positions() if r0 and r1 and c1 and c0 != c1]
    try:
        module = _parse(code.co_filename, len(lines))
    except SyntaxError:
        raise OperationError(
            f"rule {function.__qualname__!r} does not stand in a Python file ({code.co_filename}): rules are compiled "
            "from source, so define them in a file or a notebook cell"
        ) from None
    for node in ast.walk(module):
        if not isinstance(node, ast.Lambda) or [a.arg for a in node.args.args] != parameters:
            continue
        body = node.body
        start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
        # A tuple's own parentheses may or may not count as part of it, hence one column of slack.
        if all((r0, (c0 or 0) + 1) >= start and (r1, c1 - 1) <= end for r0, r1, c0, c1 in spans):
            found.append(node)
    if len(found) != 1:
        raise OperationError(
            f"cannot tell the lambdas at {code.co_filename}:{code.co_firstlineno} apart: put each on a line of its own"
        )
    return found[0]


class Module:
    """Functions, gathered with all that they name, as the text of one module of one dtype."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.names: dict[Any, str] = {}
        self.definitions: list[ast.FunctionDef] = []
        self.imports: set[str] = set()
        self.kernels: list[ast.stmt] = []

    def function(self, function: Callable[..., Any]) -> str:
        """Take in a function and whatever it names; returns its name in the module."""
        function = getattr(function, "py_func", function)
        if function in self.names:
            return self.names[function]
        base = function.__name__ if function.__name__ != "<lambda>" else "rule"
        name = base
        while name in self.names.values():
            name = f"{base}_{len(self.names)}"
        self.names[function] = name
        tree = copy.deepcopy(function_tree(function))
        if isinstance(tree, ast.Lambda):
            tree = ast.FunctionDef(name, tree.args, [ast.Return(tree.body)], [], lineno=0)
        tree.name, tree.decorator_list, tree.returns = name, [], None
        self.add(self._resolve(tree, function, is_rule=False))
        return name

    def add(self, tree: ast.FunctionDef) -> None:
        for argument in tree.args.args:
            argument.annotation = None
        if ast.get_docstring(tree) is not None:
            tree.body = tree.body[1:]
        self.definitions.append(ast.fix_missing_locations(tree))

    def add_kernel(self, name: str, arguments: str, lines: list[str]) -> None:
        """A function that is compiled only when it is asked for."""
        text = "\n".join(f"    {line}" for line in lines)
        self.kernels += ast.parse(f"def {name}({arguments}):\n{text}").body

    def rule(self, function: Callable[..., Any], arguments: list[str]) -> list[str]:
        """The expressions that a lambda rule returns, with its parameters replaced by `arguments` (source text)."""
        function = getattr(function, "py_func", function)
        tree = copy.deepcopy(function_tree(function))
        parameters = [a.arg for a in tree.args.args]
        if isinstance(tree, ast.FunctionDef):
            call = f"{self.function(function)}({', '.join(arguments)})"
            count = len(arguments) - 1
            return [f"{call}[{i}]" for i in range(count)] if count > 1 else [call]
        body = self._resolve(tree, function, is_rule=True).body
        replace = {p: ast.parse(a, mode="eval").body for p, a in zip(parameters, arguments, strict=True)}
        body = _Replace(replace).visit(body)
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
        rule = getattr(row.value, "py_func", row.value)
        if rule.__name__ == "<lambda>":
            return self.rule(rule, arguments)
        return [f"{self.function(rule)}({', '.join(arguments)})"]

    def _resolve(self, tree: Any, function: Callable[..., Any], is_rule: bool) -> Any:
        scope = inspect.getclosurevars(function)
        known = {**scope.builtins, **scope.globals, **scope.nonlocals}
        local = {a.arg for a in tree.args.args}
        local |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return _Resolve(self, function, known, local, is_rule).visit(tree)

    def text(self, entries: tuple[str, ...]) -> str:
        """The module's source. Functions named in `entries` are cached on disk."""
        options = 'nogil=True, error_model="numpy"'
        kind = self.dtype.name
        parts = [
            f'"""Sweeps for {kind}, generated from the operation table. Do not edit: edit the rules."""',
            "import math\n\nimport numpy as np\nfrom numba import njit",
            *sorted(self.imports),
            f"T = np.{kind}",
        ]
        for tree in self.definitions:
            cache = ", cache=True" if tree.name in entries else ""
            parts.append(f"@njit({options}{cache})\n{ast.unparse(tree)}")
        parts += [ast.unparse(tree) for tree in self.kernels]
        return "\n\n\n".join(parts) + "\n"


class _Replace(ast.NodeTransformer):
    def __init__(self, names: dict[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.names.get(node.id, node))


class _Resolve(ast.NodeTransformer):
    """Replaces the names that a function takes from around it, and types its float constants."""

    def __init__(self, module: Module, function: Any, known: dict[str, Any], local: set[str], is_rule: bool) -> None:
        self.module, self.function, self.known, self.local, self.is_rule = module, function, known, local, is_rule

    def constant(self, value: float) -> ast.expr:
        # In float32 an untyped constant would lift the arithmetic around it to float64.
        text = repr(float(value)) if self.module.dtype == np.float64 else f"T({float(value)!r})"
        return ast.parse(text, mode="eval").body

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if type(node.value) is float or (self.is_rule and type(node.value) is int):
            return self.constant(node.value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        tree = self.generic_visit(node)
        if ast.unparse(node.value) == "np" and node.attr in _IN_MATH and not config.DISABLE_JIT:
            return ast.parse(f"math.{_IN_MATH[node.attr]}", mode="eval").body
        return cast(ast.expr, tree)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load) or node.id in self.local:
            return node
        known = self.known.get(node.id, getattr(builtins, node.id, None))
        if isinstance(known, types.BuiltinFunctionType | type) or known in (np, math):
            return ast.Name(known.__name__.replace("numpy", "np"), ast.Load())
        if isinstance(known, bool | int | np.integer):
            return ast.Constant(int(known))
        if isinstance(known, float | np.floating):
            return self.constant(float(known))
        if isinstance(known, Elementwise):
            return ast.Name(self.module.value(known), ast.Load())
        if isinstance(known, _Intrinsic):
            name = known._name
            self.module.imports.add(f"from {known._defn.__module__} import {name}")
            return ast.Name(name, ast.Load())
        if callable(known) and isinstance(getattr(known, "py_func", known), types.FunctionType):
            return ast.Name(self.module.function(known), ast.Load())
        raise OperationError(
            f"rule {self.function.__qualname__!r} at {self.function.__code__.co_filename}:"
            f"{self.function.__code__.co_firstlineno} names {node.id!r}, which is {type(known).__name__}: a rule may "
            "name numbers, functions, other elementwise operations, `np` and `math`"
        )


"""Reading functions as source, and gathering them with all they name into one self-contained module.

Numba compiles a loop fastest when what it calls stands in it as text (measured on 40 operations, forward and reverse:
1.7 s, against 4.4 s as calls). So functions are read, not called.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import inspect
import linecache
import math
import os
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.names import originals

# NumPy's functions in place of which compiled code calls those of `math`: on numbers they are the same, and Numba
# compiles them in a fraction of the time. (Where nothing is compiled they are not replaced, because there `math` raises
# where NumPy returns NaN or infinity.)
_SAME = ("cos", "cosh", "exp", "expm1", "hypot", "log", "log10", "log1p", "sin", "sinh", "sqrt", "tan", "tanh")
_ARC = ("cos", "cosh", "sin", "sinh", "tan", "tan2", "tanh")
_IN_MATH = {name: name for name in _SAME} | {f"arc{name}": f"a{name}" for name in _ARC}


def interpreted() -> bool:
    """Whether nothing is to be compiled, by Numba's own switch."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


@functools.cache
def _lambdas(filename: str, length: int) -> list[ast.Lambda]:
    """All lambdas in a file of `length` lines; the length is a parameter so that an edited file is read again."""
    tree = ast.parse("".join(linecache.getlines(filename)))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]


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
    # The position of each bytecode in the source. That of entering the function has no width, and is left out.
    spans = [(r0, r1, c0, c1) for r0, r1, c0, c1 in code.co_positions() if r0 and r1 and c1 and c0 != c1]
    try:
        lambdas = _lambdas(code.co_filename, len(lines))
    except SyntaxError:
        raise OperationError(
            f"rule {function.__qualname__!r} does not stand in a Python file ({code.co_filename}): rules are compiled "
            "from source, so define them in a file or a notebook cell"
        ) from None
    for node in lambdas:
        if [a.arg for a in node.args.args] != parameters:
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

    def __init__(self, dtype: Any = np.float64) -> None:
        self.dtype = np.dtype(dtype)
        self.names: dict[Any, str] = {}
        self.definitions: list[ast.FunctionDef] = []
        self.imports: set[str] = set()
        self.kernels: list[ast.stmt] = []

    def function(self, function: Callable[..., Any]) -> str:
        """Take in a function and whatever it names; returns its name in the module."""
        function = getattr(function, "py_func", function)
        if function in self.names:
            return self.names[function]
        home = getattr(function, "__compiled_in__", None)
        if home is not None:
            home = function.__module__ if interpreted() else home
            self.names[function] = function.__name__
            self.imports.add(f"from {home} import {function.__name__}")
            return function.__name__
        base = function.__name__ if function.__name__ != "<lambda>" else "rule"
        name = base
        while name in self.names.values():
            name = f"{base}_{len(self.names)}"
        self.names[function] = name
        tree = copy.deepcopy(function_tree(function))
        if isinstance(tree, ast.Lambda):
            tree = ast.FunctionDef(name, tree.args, [ast.Return(tree.body)], [], lineno=0)
        tree.name, tree.decorator_list, tree.returns = name, [], None
        self.add(self.resolved(tree, function))
        return name

    def add(self, tree: ast.FunctionDef) -> None:
        """Take in a function whose names are resolved already."""
        for argument in tree.args.args:
            argument.annotation = None
        if ast.get_docstring(tree) is not None:
            tree.body = tree.body[1:]
        self.definitions.append(ast.fix_missing_locations(tree))

    def add_kernel(self, name: str, arguments: str, lines: list[str]) -> None:
        """Add a function to the text of the module that is not compiled together with the others, but by itself."""
        text = "\n".join(f"    {line}" for line in lines)
        self.kernels += ast.parse(f"def {name}({arguments}):\n{text}").body

    def resolved(self, tree: Any, function: Callable[..., Any], is_rule: bool = False) -> Any:
        """The tree of a function, with the names that it takes from around it replaced by names of this module."""
        local = {a.arg for a in tree.args.args}
        local |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return _Resolve(self, function, names_around(function), local, is_rule).visit(tree)

    def expression(self, function: Callable[..., Any], arguments: list[ast.expr], is_rule: bool = False) -> Any:
        """What a function of one expression returns, with its parameters replaced by expressions."""
        tree = copy.deepcopy(function_tree(function))
        parameters = [a.arg for a in tree.args.args]
        if isinstance(tree, ast.FunctionDef):
            tree.decorator_list, tree.returns = [], None
        body = self.resolved(tree, function, is_rule).body
        result = body if isinstance(tree, ast.Lambda) else body[-1].value
        return Replace(dict(zip(parameters, arguments, strict=True))).visit(result)

    def known(self, found: Any) -> ast.expr | None:
        """The expression for an object that a function names, if a subclass knows what to write for it; else None."""
        return None

    def text(self) -> str:
        """The module's source."""
        parts = [
            '"""Generated by tapegrad to be compiled. Do not edit: edit what it is made from."""',
            "import math\n\nimport numpy as np\nfrom numba import njit",
            *sorted(self.imports),
            f"T = np.{self.dtype.name}",
            # Only compiled code calls these functions, so Numba is not asked for wrappers with which Python could.
            'options = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}',
        ]
        named = _NameNumbers()
        for tree in (*self.definitions, *self.kernels):
            named.visit(tree)
        parts.append("\n".join(f"I{n} = np.int64({n})" for n in sorted(named.numbers)))
        for tree in self.definitions:
            parts.append(f"@njit(**options)\n{ast.unparse(tree)}")
        parts += [ast.unparse(tree) for tree in self.kernels]
        return "\n\n\n".join(parts) + "\n"


def names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """The objects that a function refers to by names from around it: builtins, globals and closure variables."""
    with originals():
        scope = inspect.getclosurevars(function)
    return {**scope.builtins, **scope.globals, **scope.nonlocals}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def fingerprint(functions: Any) -> str:
    """A text that changes when the functions, or what they name, would compile to other code. Reads no file."""
    seen: set[int] = set()
    parts: list[str] = []

    def visit(found: Any) -> None:
        found = getattr(found, "function", found) if hasattr(found, "__frame__") else getattr(found, "py_func", found)
        if isinstance(found, types.FunctionType):
            if id(found) in seen:
                return
            seen.add(id(found))
            for code in _codes(found.__code__):
                plain = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
                parts.append(f"{code.co_name} {code.co_code.hex()} {plain!r} {code.co_names} {code.co_varnames}")
            around = names_around(found)
            for name in sorted(around):
                parts.append(name)
                visit(around[name])
        elif isinstance(found, bool | int | float | np.number | str):
            parts.append(repr(found))
        elif getattr(found, "__rules__", None) is not None and id(found) not in seen:
            seen.add(id(found))
            for rule in found.__rules__():
                visit(rule)

    for function in functions:
        visit(function)
    return "\n".join(parts)


class Replace(ast.NodeTransformer):
    """Puts expressions in the place of names."""

    def __init__(self, names: dict[str, ast.expr]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.names.get(node.id, node))


class _NameNumbers(ast.NodeTransformer):
    """Puts names in place of whole numbers in arithmetic and comparisons.

    Numba gives each written number a type of its own, and looks for every operation on it anew: a third of the time
    that a sweep takes to compile.
    """

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def named(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value >= 0:
            self.numbers.add(node.value)
            return ast.Name(f"I{node.value}", ast.Load())
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        node.left, node.right = self.named(node.left), self.named(node.right)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        node.left, node.comparators = self.named(node.left), [self.named(x) for x in node.comparators]
        return node


class _Resolve(ast.NodeTransformer):
    """Replaces the names that a function takes from around it, and types its float constants."""

    def __init__(self, module: Module, function: Any, known: dict[str, Any], local: set[str], is_rule: bool) -> None:
        self.module, self.function, self.known, self.local, self.is_rule = module, function, known, local, is_rule

    def constant(self, value: float) -> ast.expr:
        # In float32 an untyped constant would lift the arithmetic around it to float64.
        text = repr(float(value)) if self.module.dtype == np.float64 else f"T({float(value)!r})"
        if not math.isfinite(value):
            text = f"T(np.{'nan' if value != value else 'inf' if value > 0 else '-inf'})".replace("np.-", "-np.")
        return ast.parse(text, mode="eval").body

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if type(node.value) is float or (self.is_rule and type(node.value) is int):
            return self.constant(node.value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        tree = self.generic_visit(node)
        if ast.unparse(node.value) == "np" and node.attr in _IN_MATH and not interpreted():
            return ast.parse(f"math.{_IN_MATH[node.attr]}", mode="eval").body
        return cast(ast.expr, tree)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Name) and node.func.id == "T":
            return node  # A constant that has its type already.
        if isinstance(node.func, ast.Name) and node.func.id not in self.local:
            known: Any = self.known.get(node.func.id)
            if getattr(known, "__inlined__", False):
                found: ast.expr = self.module.expression(known, [self.visit(a) for a in node.args])
                return found
        return cast(ast.expr, self.generic_visit(node))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if not isinstance(node.ctx, ast.Load) or node.id in self.local:
            return node
        if node.id not in self.known and (node.id in ("np", "math") or node.id in self.module.names.values()):
            return node  # A name of the module already.
        known = self.known.get(node.id, getattr(builtins, node.id, None))
        if isinstance(known, types.BuiltinFunctionType | type) or known in (np, math):
            return ast.Name(known.__name__.replace("numpy", "np"), ast.Load())
        if isinstance(known, bool | int | np.integer):
            return ast.Constant(int(known))
        if isinstance(known, float | np.floating):
            return self.constant(float(known))
        known = getattr(known, "function", known) if hasattr(known, "__frame__") else known
        found = self.module.known(known)
        if found is not None:
            return found
        if callable(known) and isinstance(getattr(known, "py_func", known), types.FunctionType):
            return ast.Name(self.module.function(known), ast.Load())
        raise OperationError(
            f"rule {self.function.__qualname__!r} at {self.function.__code__.co_filename}:"
            f"{self.function.__code__.co_firstlineno} names {node.id!r}, which is {type(known).__name__}: a rule may "
            "name numbers, functions, other elementwise operations, `np` and `math`"
        )

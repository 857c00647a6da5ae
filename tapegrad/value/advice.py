"""What to write in place of a line that would turn Values into plain numbers.

NumPy asks nobody when it makes an array of a list (`np.array([a, b])`, but also `np.sum([a, b])`, `np.full(3, v)` or
`np.r_[a, b]`): it takes what `__array__` returns. All that can be done there is to say what to write, so the expression
that is being evaluated is read, and written anew.
"""

from __future__ import annotations

import ast
import linecache
import sys
import types
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.value.handle import Handle

# Code that is not the user's.
_PACKAGES = tuple(str(Path(file).parent) + "/" for file in (Path(__file__).parent, np.__file__))
_MAKING = {
    "array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "asarray_chkfinite", "require",
}  # fmt: skip
# What is written in place of a call of NumPy's function of that name, given the source of its arguments.
_INSTEAD: dict[str, str] = {
    "full": "{np}.broadcast_to({1}, {0})",
    "full_like": "{np}.broadcast_to({1}, {np}.shape({0}))",
    "fromiter": "{np}.stack(list({0}))",
    "arange": "{0} + {np}.arange(n), with a number n of elements",
    "as_strided": "{np}.lib.stride_tricks.sliding_window_view({0}, ...), or an index array",
    "asmatrix": "{0}, and @ for products",
    "matrix": "{0}, and @ for products",
    "bmat": "{np}.block({0})",
}
# Parts of SciPy that functions with derivatives stand in for.
_OF_SCIPY = {"integrate", "interpolate", "linalg", "signal", "sparse", "special", "stats"}
# What is said of a function of NumPy's that calls the user's, or of an object that is made with one.
_OF_FRAMES = {
    "vectorize": "call the function on the Value as it is, or write np.stack([f(number) for number in v])",
    "AxisConcatenator": "write np.concatenate([a, b]), np.hstack([a, b]) or np.column_stack([a, b])",
    "poly1d": "write np.polyval(coefficients, x)",
}


def to_write() -> str:
    """What to write in place of the line that makes an array of a Value now, as the first part of a message, or ""."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        owner = type(frame.f_locals.get("self")).__mro__ if "self" in frame.f_locals else ()
        for kind in owner:
            if kind.__name__ in _OF_FRAMES and kind.__module__.startswith("numpy"):
                special = _expression(frame.f_back)
                found = _rewritten(special, frame.f_back) if special is not None else ""
                return f"write {found}; " if found else _OF_FRAMES[kind.__name__] + "; "
        frame = frame.f_back
    if (module := str(frame.f_globals.get("__name__"))).startswith("scipy."):
        return _of_scipy(module, frame.f_code.co_name)
    node = _expression(frame)
    found = "" if node is None else _rewritten(node, frame)
    return f"write {found}; " if found else ""


def _of_scipy(module: str, function: str) -> str:
    """What to write where SciPy has asked for an array."""
    part = module.split(".")[1]
    if part == "sparse" and function == "dot":
        return "write A @ v for the product of a sparse matrix A with it; "
    instead = f"tapegrad.scipy.{part}"
    return f"write {instead} in place of scipy.{part}, if it has the function; " if part in _OF_SCIPY else ""


def _expression(frame: Any) -> ast.expr | None:
    """The expression that a frame is evaluating, from its source."""
    line, end, start_column, end_column = next(
        islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4
    )
    if line is None or end is None or start_column is None or end_column is None:
        return None
    lines = [linecache.getline(frame.f_code.co_filename, n, frame.f_globals).encode() for n in range(line, end + 1)]
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][start_column:]
    try:
        return ast.parse(b"(" + b"".join(lines) + b")", mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _rewritten(node: ast.expr, frame: Any) -> str:
    """The source that does with Values what an expression of plain numbers does, or ""."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr in ("r_", "c_"):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if any(isinstance(part, ast.Slice | ast.Constant) and not _is_number(part) for part in parts):
            return ""
        joined = "hstack" if node.value.attr == "r_" else "column_stack"
        return f"{ast.unparse(node.value.value)}.{joined}([{', '.join(map(ast.unparse, parts))}])"
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute) or not node.args:
        return ""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    module, given = "np", [ast.unparse(x) for x in node.args]
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        if isinstance(owner, ast.Name) and isinstance(_local(owner.id, frame), types.ModuleType):
            module = owner.id
        elif hasattr(np.ndarray, name) and hasattr(np, name):
            # A method of a plain array asks nobody; the function of that name does.
            return f"np.{name}({', '.join([ast.unparse(owner), *given])})"
    if name in _MAKING:
        if isinstance(node.args[0], ast.Name) and isinstance(_local(node.args[0].id, frame), Handle):
            return f"{given[0]} itself, which is an array already, or a number"
        return _stacked(node.args[0], frame, module)
    if name in _INSTEAD:
        return _INSTEAD[name].format(*given, "", np=module) if len(given) > _INSTEAD[name].count("{1}") else ""
    lists = [_is_list(x, frame) for x in node.args]
    if any(lists) and _asks(_named(node.func, frame)):
        written = [_stacked(x, frame, module) if a else s for x, a, s in zip(node.args, lists, given)]
        written += [f"{key.arg}={ast.unparse(key.value)}" for key in node.keywords if key.arg]
        return f"{ast.unparse(node.func)}({', '.join(written)})"
    return ""


def _named(node: ast.expr, frame: Any) -> Any:
    """What a name says, or one in a module; None for all else, which would have to be evaluated."""
    if isinstance(node, ast.Name):
        return _local(node.id, frame)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _named(node.value, frame)
    return getattr(owner, node.attr, None) if isinstance(owner, types.ModuleType | np.ufunc) else None


def _asks(function: Any) -> bool:
    """Whether a function of NumPy's asks its arguments for an implementation of their own."""
    of_ufunc = isinstance(getattr(function, "__self__", function), np.ufunc)
    return of_ufunc or hasattr(function, "_implementation")


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _local(name: str, frame: Any) -> Any:
    return frame.f_locals.get(name, frame.f_globals.get(name))


def _is_list(node: ast.expr, frame: Any) -> bool:
    if isinstance(node, ast.Name):
        found = _local(node.id, frame)
        return isinstance(found, list | tuple) and any(isinstance(x, Handle | list | tuple) for x in found)
    if isinstance(node, ast.Tuple):
        # More often than not a tuple is a shape.
        return any(isinstance(x, ast.Name) and isinstance(_local(x.id, frame), Handle) for x in node.elts)
    if isinstance(node, ast.List):
        return any(not _is_number(x) for x in node.elts)
    return isinstance(node, ast.ListComp)


def _stacked(node: ast.expr, frame: Any, module: str) -> str:
    """A list as an array: `np.stack`, or `tg.stack`, which takes lists in lists."""
    source, first = ast.unparse(node), None
    if isinstance(node, ast.Name) and isinstance(found := _local(node.id, frame), list | tuple) and found:
        first = found[0]
    elif isinstance(node, ast.List | ast.Tuple) and node.elts:
        first = [] if isinstance(node.elts[0], ast.List | ast.Tuple | ast.ListComp) else None
    elif isinstance(node, ast.ListComp) and isinstance(node.elt, ast.List | ast.Tuple | ast.ListComp):
        first = []
    return f"tg.stack({source})" if isinstance(first, list | tuple) else f"{module}.stack({source})"

"""What becomes of each public name of NumPy when it meets a Value: `python -m tapegrad.functions` writes it out.

What is supported or refused is read from the registry that NumPy's calls go through. Here stand the names that NumPy
answers without asking anybody, and those that are not about numbers.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import BY_UFUNC
from tapegrad.value import IMPLEMENTATIONS, REFUSALS, Value
from tapegrad.value.methods import REFUSED_ATTRIBUTES, REFUSED_IN_PLACE, REFUSED_METHODS

SUPPORTED, REFUSED, OTHER = "supported", "refused", "not about numbers"

# NumPy makes an array of what these are given, and asks nobody: the error comes from `Value.__array__` or the like.
UNASKED = {
    "arange": "v + np.arange(n)",
    "array": "np.stack([...]) of a list, or v itself",
    "asanyarray": "np.stack([...]) of a list, or v itself",
    "asarray": "np.stack([...]) of a list, or v itself",
    "asarray_chkfinite": "np.stack([...]) of a list, or v itself",
    "ascontiguousarray": "np.stack([...]) of a list, or v itself",
    "asfortranarray": "np.stack([...]) of a list, or v itself",
    "asmatrix": "v itself, and @ for products",
    "bmat": "np.block([[...]])",
    "c_": "np.column_stack([a, b])",
    "frompyfunc": "the function of the Value as it is, or np.stack([f(number) for number in v])",
    "fromiter": "np.stack(list(values))",
    "full": "np.broadcast_to(v, shape)",
    "kaiser": "np.i0(beta * np.sqrt(1.0 - t * t)) / np.i0(beta), with t = np.linspace(-1.0, 1.0, n)",
    "lib.stride_tricks.as_strided": "np.lib.stride_tricks.sliding_window_view, or an index array",
    "matrix": "v itself, and @ for products",
    "mgrid": "np.meshgrid of np.linspace",
    "ogrid": "np.meshgrid(..., sparse=True) of np.linspace",
    "poly1d": "np.polyval(coefficients, x)",
    "r_": "np.concatenate([a, b]) or np.hstack([a, b])",
    "require": "v itself",
    "vectorize": "the function of the Value as it is, or np.stack([f(number) for number in v])",
}
# These are written in Python by NumPy, and call functions that ask.
PASSING = {"row_stack", "fromfunction"}
# For each kind of name that is not about numbers: what to write where one is given a Value, and the names.
OTHERS: dict[str, tuple[str, str]] = {
    "arrays made of shapes and plain numbers": ("", """
        bartlett blackman broadcast_shapes diag_indices empty eye hamming hanning identity index_exp indices
        mask_indices ndindex ones s_ tri tril_indices triu_indices zeros"""),
    "files and bytes": ("write v.numpy()", """
        from_dlpack frombuffer fromfile fromregex fromstring genfromtxt load loadtxt memmap save savetxt savez
        savez_compressed"""),
    "text": ("write str(v), or np.array2string(v.numpy())", """
        array2string array_repr array_str base_repr binary_repr format_float_positional format_float_scientific
        get_printoptions printoptions set_printoptions typename"""),
    "dtypes": ("ask v.dtype", """
        can_cast finfo iinfo isdtype isfortran issubdtype min_scalar_type mintypecode promote_types sctypeDict
        typecodes dtype ScalarType"""),
    "memory, and loops over it": ("go through it as `for x in v`, or by np.ndindex(v.shape)", """
        broadcast flatiter getbufsize lib.array_utils.byte_bounds may_share_memory ndarray ndenumerate nditer
        nested_iters setbufsize shares_memory ufunc"""),
    "dates": ("a Value holds real numbers, and no dates", """
        busday_count busday_offset busdaycalendar datetime_as_string datetime_data is_busday"""),
    "settings and information": ("", """
        errstate get_include geterr geterrcall info seterr seterrcall show_config show_runtime test"""),
    "objects and records": ("a Value holds real numbers", "object_ recarray record void"),
    "questions about objects and axes": ("", """
        isscalar iterable lib.array_utils.normalize_axis_index lib.array_utils.normalize_axis_tuple"""),
}  # fmt: skip
_KIND_OF = {name: kind for kind, (_, names) in OTHERS.items() for name in names.split()}
# These are there, or not, as the processor has them.
_OF_PLATFORMS = {"float96", "float128", "complex192", "complex256"}
_MODULES = ("lib.stride_tricks", "lib.array_utils", "emath")

for _kind, (_advice, _names) in OTHERS.items():
    for _name in _names.split():
        _function = np.lib if _name.startswith("lib.") else getattr(np, _name, None)
        # Others ask nobody whether they take a Value, or take none.
        if _advice and hasattr(_function, "_implementation"):
            REFUSALS[_function] = _advice
for _name in ("arccos", "arcsin", "arctanh", "log", "log2", "log10", "power", "sqrt"):
    REFUSALS[getattr(np.emath, _name)] = f"its results may be complex; write np.{_name}, whose results are real"
REFUSALS[np.emath.logn] = "its results may be complex; write np.log(x) / np.log(n)"


class Entry(NamedTuple):
    """What becomes of a name of NumPy's.

    Attributes:
        name: as it is written after `np.`; a method or attribute of arrays begins with `ndarray.`.
        status: "supported", "refused" or "not about numbers".
        note: of what is refused, what to write; of what is not about numbers, what it is about.
    """

    name: str
    status: str
    note: str = ""


def supported() -> list[Entry]:
    """What becomes of each public name of NumPy when it meets a Value.

    >>> found = {entry.name: entry.status for entry in supported()}
    >>> found["median"], found["histogram"], found["save"]
    ('supported', 'refused', 'not about numbers')
    """
    names = [name for name in dir(np) if not name.startswith("_") and name not in _OF_PLATFORMS]
    names += [f"{m}.{name}" for m in _MODULES for name in _public(m)]
    entries = [_entry(name) for name in names]
    entries += [_attribute(name) for name in dir(np.ndarray) if not name.startswith("_")]
    return sorted(entries + [_ufunc_method(name) for name in ("accumulate", "at", "outer", "reduce", "reduceat")])


def _public(module: str) -> list[str]:
    found = _of(module)
    return [name for name in dir(found) if not name.startswith("_")]


def _of(name: str) -> Any:
    found: Any = np
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _entry(name: str) -> Entry:
    function = _of(name)
    if name in UNASKED:
        return Entry(name, REFUSED, f"write {UNASKED[name]}")
    if name in _KIND_OF:
        return Entry(name, OTHER, _KIND_OF[name])
    if isinstance(function, types.ModuleType):
        return Entry(name, OTHER, "a module")
    if isinstance(function, type) and issubclass(function, np.generic):
        return Entry(name, OTHER, "dtypes")
    if not callable(function):
        return Entry(name, OTHER, "a constant")
    if function in IMPLEMENTATIONS or function in BY_UFUNC or name in PASSING:
        return Entry(name, SUPPORTED)
    return Entry(name, REFUSED if function in REFUSALS else "", REFUSALS.get(function, ""))


def _attribute(name: str) -> Entry:
    refused = {**REFUSED_ATTRIBUTES, **{key: f"write {x}" for key, x in (REFUSED_IN_PLACE | REFUSED_METHODS).items()}}
    if name in refused:
        return Entry(f"ndarray.{name}", REFUSED, refused[name])
    return Entry(f"ndarray.{name}", SUPPORTED if hasattr(Value, name) else "")


def _ufunc_method(name: str) -> Entry:
    if name == "at":
        return Entry("ufunc.at", REFUSED, "write a + np.bincount(indices, weights=v, minlength=len(a)), or np.where")
    return Entry(f"ufunc.{name}", SUPPORTED if (None, name) in IMPLEMENTATIONS else "")


def as_markdown() -> str:
    """The table as a page of the documentation."""
    entries = supported()
    lines = [
        "# NumPy on Values",
        "",
        f"Written by `python -m tapegrad.functions`, for NumPy {'.'.join(np.__version__.split('.')[:2])}. "
        "The modules of NumPy are not listed, but for those with names of arrays: `np.lib.stride_tricks`, "
        "`np.lib.array_utils`, `np.emath`.",
        "",
    ]
    for status in (SUPPORTED, REFUSED, OTHER):
        lines.append(f"- {status}: {sum(entry.status == status for entry in entries)}")
    lines += [f"- all names: {len(entries)}", "", "## Supported", ""]
    lines += [*_wrapped(entry.name for entry in entries if entry.status == SUPPORTED), ""]
    lines += ["## Refused", "", "| name | what the error says |", "|---|---|"]
    lines += [f"| `{entry.name}` | {entry.note} |" for entry in entries if entry.status == REFUSED]
    lines += ["", "## Not about numbers", ""]
    kinds = sorted({entry.note for entry in entries if entry.status == OTHER})
    for kind in kinds:
        names = [entry.name for entry in entries if (entry.status, entry.note) == (OTHER, kind)]
        lines += [f"{kind[0].upper()}{kind[1:]}:", *_wrapped(names), ""]
    return "\n".join(lines[:-1]) + "\n"


def _wrapped(names: Iterable[str]) -> list[str]:
    return textwrap.wrap(", ".join(f"`{name}`" for name in names), 120, break_long_words=False, break_on_hyphens=False)

"""Having Numba compile the text of a module. Numba is imported only when this is needed."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from tapegrad.cache import wanted_folder
from tapegrad.compiled import store
from tapegrad.compiled.machine import lock
from tapegrad.compiled.store import ObjectCode
from tapegrad.compiled.vector import with_vector_math
from tapegrad.interrupts import interrupts_wait
from tapegrad.names import originals

# The names that each module defines, for the modules generated in this process.
_spaces: dict[str, dict[str, Any]] = {}
_announced = False


def announce() -> None:
    """Say once, where somebody sits at a terminal, why the first call takes so long."""
    global _announced
    if not _announced and sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"tapegrad: compiling for this machine, some seconds, once; kept in {wanted_folder()}\n")
    _announced = True


def namespace(name: str, text: Callable[[], str]) -> dict[str, Any]:
    """The names that a generated module defines. Its text is kept beside the object code, for people to look at."""
    known = _spaces.get(name)
    if known is None:
        source = text()
        store.keep(f"{name}.py", source.encode())
        space = {"__name__": f"tapegrad_{name}"}
        exec(compile(source, f"{wanted_folder()}/{name}.py", "exec"), space)
        known = _spaces[name] = space
    return known


def build(
    name: str, text: Callable[[], str], function: str, signature: Callable[[Any], Any], loops: bool
) -> ObjectCode:
    """Compile one function of a generated module; `signature` is called with `numba.types` and returns its type.

    `loops` says whether it is one loop over many numbers, whose functions are to be those for vectors.

    Raises what Numba raises; nothing is kept then.
    """
    with lock, originals():
        announce()
        _load_compiler()
        import numba
        from numba import types

        started = time.perf_counter()
        python = namespace(name, text)[function]
        options = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        made = numba.njit(signature(types), **options)(getattr(python, "py_func", python))
        (overload,) = made.overloads.values()
        module, code = overload.library._final_module, None
        if loops:
            module, code = with_vector_math(module, overload.library._codegen._tm)
        declared = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
        declared += [g.name for g in module.global_variables if g.is_declaration]
        code = code or overload.library._get_compiled_object()
        SECONDS[f"{name}.{function}"] = time.perf_counter() - started
        return ObjectCode(overload.fndesc.llvm_func_name, tuple(declared), code)


@functools.cache
def _load_compiler() -> None:
    """Import Numba and have it compile something, while an interrupt waits.

    Numba imports much of itself at its first compilation, and fills its registries. If Ctrl-C cut that short, they
    would stay half filled, and everything that is compiled later in this process would fail.
    """
    with interrupts_wait():
        import numba

        numba.njit(numba.float64(numba.float64[::1]))(_tiny)


def _tiny(x: Any) -> Any:
    return x[0] + len(x)


# How long each function took to compile in this process.
SECONDS: dict[str, float] = {}


def load_numba() -> None:
    """Make the functions of Numba's runtime known by name: compiled code that allocates memory calls them."""
    with lock, originals():
        from numba.core.registry import cpu_target
        from numba.core.runtime import rtsys

        rtsys.initialize(cpu_target.target_context)

"""How functions are compiled that only compiled code calls: twins, operators, loops over arrays. Imports Numba.

Numba makes machine code of every function that it compiles, and wrappers through which Python and C can call it. These
functions are parts of a driver, which is optimised and turned into machine code as a whole: until then their code is
only kept for linking. That halves the time that a derivative takes to compile.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary, RuntimeLinker
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.environment import lookup_environment
from numba.core.typed_passes import NativeLowering, NopythonRewrites
from numba.extending import overload as numbas_overload

import tapegrad.njit


class Part(JITCodeLibrary):
    """Code that is there to be linked into other code."""

    def _recursive(self) -> bool:
        # Functions that call themselves do so through addresses, which they have only as machine code.
        return any(g.name.startswith(RuntimeLinker.PREFIX) for g in self._final_module.global_variables)

    def _optimize_final_module(self) -> None:
        if self._recursive():
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        if self._recursive():
            super()._finalize_final_module()
        else:
            self._finalize_dynamic_globals()
            self._finalized = True


@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _not_called(*_: Any) -> None:
    """Stands where Numba wants a wrapper."""


_ADDRESS = ctypes.cast(_not_called, ctypes.c_void_p).value


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(NativeLowering):
    """Numba's own, into a `Part`, without machine code."""

    _name = "tapegrad_lowering"

    def run_pass(self, state: Any) -> bool:
        codegen, flags = state.targetctx.codegen(), state.flags
        state.library = Part(codegen, state.func_id.func_qualname)
        state.library.enable_object_caching()
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        super().run_pass(state)
        made = state["cr"]
        # Numba knows compiled functions by what Python calls them through.
        known = _dynfunc.make_function(tapegrad.njit, "part", "", _ADDRESS, made.env, (state.library,))
        state.targetctx.insert_user_function(known, made.fndesc, [state.library])
        state.reload_init.extend(state.library._reload_init)
        state["cr"] = made._replace(cfunc=known)
        return True


def passes(state: Any, name: str) -> Any:
    """Numba's passes, without the fusing of expressions of arrays, which is for floats."""
    found = DefaultPassBuilder.define_nopython_pipeline(state, name)
    found.passes = [
        (Lowering, why) if p is NativeLowering else (p, why) for p, why in found.passes if p is not NopythonRewrites
    ]
    return found


class Parts(CompilerBase):
    """Compiles a part."""

    def define_pipelines(self) -> list[Any]:
        found = passes(self.state, "tapegrad_parts")
        found.finalize()
        return [found]


ENVIRONMENT = "_ZN08NumbaEnv"


def environments(library: Any) -> dict[str, Any]:
    """The objects of Python that the functions in a driver's code name, for each function."""
    names = [g.name for g in library._final_module.global_variables if g.name.startswith(ENVIRONMENT)]
    return {name: found for name in names if (found := lookup_environment(name)) is not None}


def connect(library: Any) -> None:
    """Tell the machine code of a driver where these objects are; Numba does so for functions with code of their own."""
    for name, environment in environments(library).items():
        library.codegen.set_env(name, environment)


_HOW = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": Parts}


def jit(**options: Any) -> Any:
    """`numba.njit` for a part."""
    return numba.njit(**{**_HOW, **options})


def overload(function: Any) -> Any:
    """`numba.extending.overload`; what it compiles is a part."""
    return numbas_overload(function, jit_options=_HOW)

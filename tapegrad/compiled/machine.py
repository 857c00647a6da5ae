"""Object code in memory: loaded by llvmlite, found by name, called through its address."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from tapegrad.interrupts import interrupts_wait

# An engine of LLVM owns the memory of the code that it has loaded, and the target machine that it was made with, which
# is one for all of them. Engines are kept for ever, those too that have failed to load something: the code may be
# called as long as the process lives, and without the target machine the next engine would end the process.
_engines: list[Any] = []

# Numba compiles one function at a time anyway, and LLVM loads one at a time.
lock = threading.RLock()
# A process that is forked off has only one thread: what another was compiling would never be finished there, nor would
# its locks be given back. So forking waits for it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _nothing_to_free(_: int) -> None:
    # Numba's code releases the memory of each array that it has made, and calls this function of its runtime for that.
    # Arrays made from an address have no memory of their own, so there is nothing to free.
    pass


@functools.cache
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if llvm.address_of_symbol("NRT_MemInfo_call_dtor") is None:
        llvm.add_symbol("NRT_MemInfo_call_dtor", ctypes.cast(_nothing_to_free, ctypes.c_void_p).value)
    return llvm.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")


@functools.cache
def features() -> Any:
    """What this processor can do, by LLVM's names; where LLVM does not know, nothing but what all of its kind can."""
    try:
        return llvm.get_host_cpu_features()
    except RuntimeError:
        return llvm.FeatureMap()


@functools.cache
def target_of_host() -> Any:
    """What makes machine code with all that this processor can do."""
    _target()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features().flatten(), opt=2, jit=True, codemodel="jitdefault"
    )


@functools.cache
def processor() -> str:
    """Name and features of the processor that code is compiled for."""
    return f"{llvm.get_host_cpu_name()} {features().flatten()}"


def add_symbol(name: str, address: int) -> None:
    """Let code that is loaded from now on find an address by name."""
    llvm.add_symbol(name, address)


def missing(names: Sequence[str]) -> list[str]:
    """Which of the names that object code refers to cannot be found in this process."""
    _target()
    return [name for name in names if llvm.address_of_symbol(name) is None and not _in_process(name)]


@functools.cache
def _in_process(name: str) -> bool:
    # Functions of C's library, which LLVM looks for by itself only when it loads code.
    try:
        function = getattr(_libraries(), name)
    except (AttributeError, OSError, TypeError):
        return False
    llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return True


@functools.cache
def _libraries() -> Any:
    return ctypes.CDLL(None)


def engine(code: bytes) -> Any:
    """An engine of LLVM that has loaded object code, and nothing else. None of the names that the code refers to may be
    `missing`, because LLVM ends the process at a name that it does not find."""
    with lock, interrupts_wait():
        made = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
        _engines.append(made)
        made.add_object_file(llvm.ObjectFileRef.from_data(code))
        made.finalize_object()
        return made


def load(code: bytes, name: str) -> int:
    """The address of a function in object code."""
    return int(engine(code).get_function_address(name))

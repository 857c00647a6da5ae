"""From LLVM's language to machine code that is kept on disk and loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import llvmlite.binding as llvm

from tapegrad.compiled import machine, store
from tapegrad.compiled.store import ObjectCode

_MAIN = "tapegrad_program"
# Functions that this process has loaded, which it keeps as long as it lives: programs that differ in numbers alone, as
# those of functions that are made anew again and again, share them.
_loaded: dict[str, int] = {}


def address_of(text: str, slp: bool) -> int:
    """The address of the function `tapegrad_program` of a module of LLVM: from the disk, or compiled now and kept.

    `slp` says that single numbers are to be put together in vectors: that takes as long as all else, and pays in loops.
    """
    name = "native_" + store.digest(text, str(slp))
    if name not in _loaded:
        made = store.find(name)
        if made is None or machine.missing(made.needs):
            made = _beside(lambda: _compiled_and_kept(name, text, slp))
        _loaded[name] = machine.load(made.code, made.symbol)
    return _loaded[name]


def _beside(make: Callable[[], ObjectCode]) -> ObjectCode:
    """What a function returns that calls LLVM. It runs in another thread, as Python sees signals in this one alone, and
    not while LLVM is at work. That cannot be stopped, so what was interrupted is compiled and kept all the same."""
    if threading.current_thread() is not threading.main_thread():
        return make()
    found: list[ObjectCode] = []
    failed: list[BaseException] = []
    running = threading.Lock()
    running.acquire()

    def work() -> None:
        try:
            found.append(make())
        except BaseException as error:
            failed.append(error)
        finally:
            running.release()

    try:
        threading.Thread(target=work, name="tapegrad compiler").start()
    except RuntimeError:
        # There can be no more threads.
        return make()
    running.acquire()
    if failed:
        raise failed[0]
    return found[0]


def _compiled_and_kept(name: str, text: str, slp: bool) -> ObjectCode:
    made = _compiled(text, slp)
    with contextlib.suppress(OSError):
        store.save(name, made)
    return made


def _compiled(text: str, slp: bool) -> ObjectCode:
    with machine.lock:
        target = machine.target_of_host()
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = llvm.get_default_triple(), str(target.target_data)
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.slp_vectorization = slp
        passes = llvm.create_pass_builder(target, options)
        passes.getModulePassManager().run(module, passes)
        declared = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
        return ObjectCode(_MAIN, tuple(declared), target.emit_object(module))

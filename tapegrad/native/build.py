"""From LLVM's language to machine code that is kept on disk and loaded."""

from __future__ import annotations

import contextlib

import llvmlite.binding as llvm

from tapegrad.compiled import machine, store
from tapegrad.compiled.store import ObjectCode

_MAIN = "tapegrad_program"


def address_of(text: str, slp: bool) -> int:
    """The address of the function `tapegrad_program` of a module of LLVM: from the disk, or compiled now and kept.

    `slp` says that single numbers are to be put together in vectors: that takes as long as all else, and pays in loops.
    """
    name = "native_" + store.digest(text, str(slp))
    made = store.find(name)
    if made is None or machine.missing(made.needs):
        made = _compiled(text, slp)
        with contextlib.suppress(OSError):
            store.save(name, made)
    return machine.load(made.code, made.symbol)


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

"""Compiled drivers on disk: found by all that they were made from, loaded without compiling anything. Imports Numba.

The machine code of a driver holds its twin and everything that this calls. It is kept with the wrapper through which
Python calls it, and with the objects of Python that the code names (its environments). Each is loaded by an engine of
its own, so that names of functions in it, which Numba numbers anew in each process, meet no others.
"""

from __future__ import annotations

import contextlib
import ctypes
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from numba import _dynfunc, typeof
from numba.core import serialize
from numba.core.codegen import RuntimeLinker
from numba.core.environment import Environment

import tapegrad.njit
from tapegrad.compiled import build, machine, store
from tapegrad.njit import keys, linked

_HEADER = b"tapegrad numba code 1\n"


def name_of(
    dispatcher: Any, partials: bool, texts: Sequence[Any], classes: Sequence[type], leaves: Sequence[Any]
) -> str | None:
    """The name under which the driver of a function is kept, for arguments like these; None where it cannot be."""
    try:
        made_of = [keys.surroundings(), keys.key(dispatcher)]
        made_of += map(keys.key_of_class, classes)
    except keys.Unknown:
        return None
    # Texts have the classes of named tuples with their identity, which another process does not know.
    for i, cls in enumerate(classes):
        texts = [str(text).replace(f"_{id(cls)}", f"_{i}") for text in texts]
    own = repr((partials, list(map(str, texts)), [str(typeof(x)) for x in leaves]))
    return store.digest("driver", own, keys.table() if not partials else b"", *made_of)


def save(name: str, overload: Any, relaxed: bool) -> None:
    """Keep a compiled driver, if its code holds no addresses of this process."""
    library, described = overload.library, overload.fndesc
    if library.has_dynamic_globals or overload.lifted or overload.objectmode or library._reload_init:
        return
    module = library._final_module
    needs = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    needs += [g.name for g in module.global_variables if g.is_declaration]
    if any(name.startswith(RuntimeLinker.PREFIX) for name in needs):
        # A function that calls itself does so through an address.
        return
    surrounding = {label: list(found.consts) for label, found in linked.environments(library).items()}
    body = {
        "name": name, "relaxed": relaxed, "needs": needs, "code": library._get_compiled_object(),
        "wrapper": described.llvm_cpython_wrapper_name, "own": described.env_name, "environments": surrounding,
    }  # fmt: skip
    try:
        data = serialize.dumps(body)
    except (pickle.PicklingError, TypeError, AttributeError):
        # The code names an object of Python that cannot be written down.
        return
    with contextlib.suppress(OSError):
        store.keep_checked(f"{name}.driver", _HEADER, data)


def find(name: str) -> tuple[bool, Callable[..., Any]] | None:
    """The driver that is kept under a name, and whether the function made arrays of recorded numbers by np.zeros; None
    if nothing is kept, or what is kept is damaged or needs what this process does not have."""
    body = store.checked(f"{name}.driver", _HEADER)
    if body is None:
        return None
    try:
        said = serialize.loads(body)
    except Exception:
        # It names what this process does not have.
        return None
    # A file that was copied to another name is whole, and yet another function.
    if said["name"] != name:
        return None
    build.load_numba()
    if machine.missing(said["needs"]):
        return None
    engine = machine.engine(said["code"])
    own = None
    for label, constants in said["environments"].items():
        environment = Environment(vars(tapegrad.njit))
        environment.consts[:] = constants
        environment.env_name = label
        _environments.append(environment)
        ctypes.c_void_p.from_address(engine.get_global_value_address(label)).value = id(environment)
        own = environment if label == said["own"] else own
    if own is None:
        own = Environment(vars(tapegrad.njit))
    address = engine.get_function_address(said["wrapper"])
    # Whoever calls this function keeps the engine alive.
    return said["relaxed"], _dynfunc.make_function(tapegrad.njit, "driver", "", address, own, (engine,))


# Code has only the addresses of these.
_environments: list[Any] = []

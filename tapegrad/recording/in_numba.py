"""What recordings and derivatives are to Numba code that names them or is handed one.

Numba asks an object for its type by `_numba_type_`. That of a derivative of a function of Numba's says how to write it;
see `tapegrad.njit.inside`. That of a recording says what goes in and comes out, and the object has the address of words
that lead to its compiled programs; see `tapegrad.njit.replays`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.errors import CompileError, TapegradError, UnsupportedError
from tapegrad.native import choice
from tapegrad.native.image import Image, constant_of
from tapegrad.njit import is_numba
from tapegrad.program.outputs import scalar_place
from tapegrad.recording.compiling import leaves_of
from tapegrad.value.exact import limit

_DTYPES = ("float64", "float32", "int64", "bool")
_HOW = "record it for arguments, r = tg.record(f, x).compile(), and name r"


class InNumba:
    """What can be named in Numba code, and handed to it."""

    @property
    def _numba_type_(self) -> Any:
        return _told(self).type

    @property
    def _numba_words_(self) -> np.ndarray:
        return _told(self).words

    @property
    def _numba_address_(self) -> int:
        return int(_told(self).words.ctypes.data)


class _Told(NamedTuple):
    """What Numba is told of an object; `of` is what that follows from."""

    type: Any
    words: Any
    of: tuple[Any, ...]


class _Programs:
    """Compiled programs of one form, and the words that lead to them, which stay where they are when there are more."""

    def __init__(self, form: Any) -> None:
        self.form, self.words = form, np.zeros(3, np.int64)
        self.known: set[Any] = set()
        self._kept: list[Any] = []

    def tell(self, programs: Sequence[Any], samples: Sequence[Any]) -> None:
        """Have the words lead to these programs. Of each there is a sample of its arguments, as leaves."""
        images = [_image(p.native, leaves) for p, leaves in zip(programs, samples, strict=True)]
        records = np.array([image.address for image in images], np.int64)
        # Whoever replays in another thread meanwhile may have read where the records were.
        self._kept += [images, records]
        self.words[2], self.words[0] = records.ctypes.data, len(records)


_images: weakref.WeakKeyDictionary[Any, Image] = weakref.WeakKeyDictionary()
# For each recording its programs, by what they compute: None for the value, (argnums, has_aux) for a gradient.
_of_recordings: weakref.WeakKeyDictionary[Any, dict[Any, _Programs]] = weakref.WeakKeyDictionary()
_of_objects: weakref.WeakKeyDictionary[Any, _Told] = weakref.WeakKeyDictionary()


def _image(native: Any, leaves: Any) -> Image:
    from tapegrad.njit.replays import free

    found = _images.get(native)
    if found is None:
        found = _images[native] = Image(native, leaves, free)
    return found


def _told(x: Any) -> _Told:
    made = getattr(x, "made", None)
    if made is None:
        if hasattr(x, "derived"):
            return _of_recording(x)
        name = getattr(x, "__qualname__", type(x).__name__)
        raise UnsupportedError(f"{name} cannot be called from Numba code as it is: {_HOW}")
    transform, f, *given = made
    what = (transform.func if isinstance(transform, functools.partial) else transform).__name__
    name = getattr(f, "__qualname__", getattr(f, "name", repr(f)))
    if what not in ("grad", "value_and_grad"):
        raise UnsupportedError(f"{what} of {name} cannot be called from Numba code: grad and value_and_grad can")
    argnums, has_aux = given[0] if isinstance(given[0], int) else tuple(given[0]), given[1]
    if is_numba(f):
        from tapegrad.njit.inside import Gradient

        return _Told(Gradient(f, what, argnums, bool(has_aux)), np.zeros(1, np.int64), ())
    if not hasattr(f, "derived"):
        raise UnsupportedError(
            f"{what} of {name}, a function of Python, cannot be called from Numba code: {_HOW}.grad or "
            "r.value_and_grad; or have Numba compile the function"
        )
    from tapegrad.njit.replays import Replay, prepare

    prepare()
    programs = _programs(f, (argnums, has_aux))
    told = _of_objects.get(x)
    if told is None or told.of != (programs,):
        form = programs.form if what == "value_and_grad" else _alone(programs.form, has_aux)
        told = _of_objects[x] = _Told(Replay(form), programs.words, (programs,))
    return told


def _of_recording(recording: Any) -> _Told:
    value, told = _programs(recording, None), _of_objects.get(recording)
    if told is not None and told.of[0] is value and (
        told.of[1] is None or told.of[1] is _programs(recording, (0, False))
    ):
        return told
    from tapegrad.njit.replays import RecordingType, prepare

    prepare()
    both, why = None, ""
    try:
        both = _programs(recording, (0, False))
    except (TapegradError, TypeError) as error:
        why = f"{recording.name} has no gradient that Numba code can call: {error}"
    words = np.array([value.words.ctypes.data, 0 if both is None else both.words.ctypes.data], np.int64)
    form, slope = (None, None) if both is None else (both.form, _alone(both.form, False))
    told = _of_objects[recording] = _Told(RecordingType(value.form, form, slope, why), words, (value, both))
    return told


def _alone(form: Any, has_aux: bool) -> Any:
    """What returns a gradient without the value, of what returns both; with `has_aux`, (gradient, aux)."""
    value, slope = form.returned.parts
    return form._replace(returned=form.returned._replace(parts=(slope, value.parts[1])) if has_aux else slope)


def _programs(recording: Any, key: Any) -> _Programs:
    """The compiled programs of the value of a recording, or of a gradient, for all its branches so far.

    Raises UnsupportedError where Numba code cannot call them, CompileError where they cannot be compiled, and what the
    gradient raises.
    """
    branches = recording._branches
    if branches.stale:
        raise UnsupportedError(
            f"what {recording.name} takes from around it has changed since it was recorded: record it again"
        )
    known = _of_recordings.setdefault(recording, {})
    found = known.get(key)
    name = None
    if key is not None:
        if found is None:
            # A derivative that was asked for is compiled with the recording, so none is that there is not.
            recording._plans.plan(key[0])
            scalar_place(recording.program.code, recording.program.structure, key[1])
        name = recording.derived.gradient_key(*key)
    if found is not None and found.known == _recorded(recording, name):
        return found
    why = choice.refusal(recording.derived.mode)
    if why is not None:
        raise CompileError(f"{recording.name} cannot be compiled: {why}")
    own = list(recording.programs)
    for program in own:
        if program.calls:
            called = sorted({str(call) if call.exact else "a function of Python" for call in program.calls.values()})
            raise UnsupportedError(f"{recording.name} calls {', '.join(called)}, which Numba code cannot do")
    if key is not None:
        # A gradient has branches of its own, some of which only it was replayed in.
        for program in own:
            recording.derived.program_at(name, leaves_of(recording, program))
        own = recording.derived.programs(name)
    for program in own:
        if choice.compiled(program) is None:
            raise CompileError(f"{recording.name} cannot be compiled: {program.not_native}")
    forms = [_form(recording, program, key) for program in own]
    last = forms[own.index(recording.program)] if key is None else forms[-1]
    if found is None or found.form not in forms:
        found = known[key] = _Programs(last)
    # A branch that returns something of another form is refused as one that was not recorded.
    chosen = [program for program, form in zip(own, forms, strict=True) if form == found.form]
    found.tell(chosen, [leaves_of(recording, program) for program in chosen])
    found.known = _recorded(recording, name)
    return found


def _recorded(recording: Any, name: Any) -> set[Any]:
    """All that was recorded so far of the value, and of a gradient of that name."""
    return {*recording.programs, *(() if name is None else recording.derived.programs(name))}


def _form(recording: Any, program: Any, key: Any) -> Any:
    from tapegrad.njit.forms import Form, Leaf

    spec, code, owners = recording.spec, program.code, iter(recording.spec.leaves)
    nodes = pytree.children(spec.structure)
    arguments = tuple([
        _nested(node, lambda: _argument(next(owners)), f"argument {n} is") for n, node in enumerate(nodes)
    ])
    results, numbers = [], iter(range(len(code.outputs)))
    dtype = code.dtype.name
    returned = _nested(program.structure, lambda: next(numbers), "it returns")
    dtypes = _gradient_dtypes(recording, key) if key is not None else []
    for i, output in enumerate(code.outputs):
        shape: Any = output.shape or None
        if output.place is None:
            found = constant_of(output)
            if found.dtype.name not in _DTYPES:
                raise UnsupportedError(f"{recording.name} returns {output.constant!r}, which Numba code cannot take")
            shape, name = found.shape or None, found.dtype.name
            strides = tuple(s // found.itemsize for s in found.strides)
            leaf = Leaf(shape, name, None, strides, name)
        else:
            name = dtype if shape else "int64" if output.whole else "float64"
            leaf = Leaf(shape, name, None, output.layout.strides, dtype)
        back = i - (len(code.outputs) - len(dtypes))
        if back >= 0:
            leaf = leaf._replace(dtype=dtypes[back] if shape else "float64")
        results.append(leaf)
    return Form(arguments, tuple(results), returned, dtype, int(limit(code.dtype)))


def _gradient_dtypes(recording: Any, key: Any) -> list[str]:
    """The dtypes of the leaves of a gradient, which are those of the arguments."""
    nodes, at, found = pytree.children(recording.spec.structure), 0, []
    for node in nodes:
        own = recording.spec.leaves[at : at + pytree.count(node)]
        found.append([leaf.dtype.name for leaf in own if isinstance(leaf, Input)])
        at += pytree.count(node)
    return [name for n in recording._plans.plan(key[0]).numbers for name in found[n]]


def _argument(leaf: Any) -> Any:
    from tapegrad.njit.forms import Leaf

    if isinstance(leaf, Input):
        return Leaf(None if leaf.scalar else leaf.shape, leaf.dtype.name)
    if isinstance(leaf.value, bool):
        return Leaf(None, "bool", leaf.value)
    raise UnsupportedError(f"{leaf.value!r} is a part of the recording, which Numba code cannot hand over")


def _nested(node: Any, leaf: Any, what: str) -> Any:
    """What is nested as a structure says, as a `Nest`."""
    from tapegrad.njit.forms import Nest

    if pytree.is_leaf(node):
        return leaf()
    kind = pytree.kind(node)
    named = kind if hasattr(kind, "_fields") else None
    if kind is not tuple and named is None:
        raise UnsupportedError(
            f"{what} a {kind.__name__}, which Numba code cannot hand over: only numbers, arrays and tuples of these"
        )
    return Nest(tuple([_nested(child, leaf, what) for child in pytree.children(node)]), named)

"""Compiling all of a recording now, and telling how each of its programs runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tapegrad.arguments import Input, owners
from tapegrad.errors import CompileError
from tapegrad.native import choice
from tapegrad.program import Program, can_be_written

_VIEW = "what the function returns is a view, whose numbers do not stand side by side"


@dataclass(frozen=True)
class Runs:
    """How the value or a derivative is computed now. Of several branches it is the one replayed last.

    Attributes:
        what: "value", or the name of a derivative that was asked for.
        how: "interpreted", "compiling" (in the background, and interpreted so far) or "compiled".
        why: why it is interpreted, in words; "" otherwise.
        reason: why it is compiled, in words; "" otherwise.
        seconds: what compiling took; None where it is not compiled.
        left: operations that a compiled program leaves to the interpreter, and why.
        interpreted_bytes: the numbers of one replay, if the interpreter replays the program; None for a derivative that
            it computes by sweeps over the program of the value.
        compiled_bytes: the same for the compiled program; None where there is none.
    """

    what: str
    how: str
    why: str = ""
    seconds: float | None = None
    left: dict[str, str] = field(default_factory=dict)
    interpreted_bytes: int | None = None
    compiled_bytes: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.how != "compiled":
            return f"{self.what}: {self.how}" + (f", as {self.why}" if self.why else "")
        text = f"{self.what}: compiled in {self.seconds:.2g} s, {self.compiled_bytes} bytes a replay"
        text += f" (interpreted {self.interpreted_bytes})"
        if self.reason:
            text += f", as {self.reason}"
        if self.left:
            text += "; left to the interpreter: " + ", ".join(f"{name} ({why})" for name, why in self.left.items())
        return text


def compile_now(recording: Any) -> None:
    """Compile the value and the derivatives of a recording; see `Recording.compile`."""
    derived = recording.derived
    why = choice.refusal(derived.mode)
    if why is not None:
        raise CompileError(f"{recording.name} cannot be compiled: {why}")
    for program in recording.programs:
        _compile(program, recording.name)
    if recording.program.scalar is not None and _has_gradient(recording):
        derived.gradient_for(0)
    for key in derived.asked():
        what = f"{name_of(key)} of {recording.name}"
        if not can_be_written(recording.program):
            raise CompileError(f"{what} cannot be compiled: {_VIEW}")
        if not derived.programs(key):
            try:
                derived.write(key, leaves_of(recording, recording.program))
            except Exception as error:
                raise CompileError(f"{what} cannot be compiled: {type(error).__name__}: {error}") from error
        for program in derived.programs(key):
            _compile(program, what)


def _compile(program: Program, what: str) -> None:
    # Another attempt may succeed, where a disk was full say.
    if choice.failed(program):
        program.not_native = None
    if choice.compiled(program) is None:
        raise CompileError(f"{what} cannot be compiled: {program.not_native}")


def _has_gradient(recording: Any) -> bool:
    """Whether the first argument can be differentiated, and no gradient was asked for yet."""
    if any(key[0] in ("value_and_grad", "grad") for key in recording.derived.asked()):
        return False
    leaves = [leaf for leaf, n in zip(recording.spec.leaves, owners(recording.spec.structure), strict=True) if n == 0]
    return bool(leaves) and all(isinstance(leaf, Input) and leaf.dtype.kind == "f" for leaf in leaves)


def leaves_of(recording: Any, program: Program) -> Sequence[Any]:
    """Arguments for a branch, as leaves: some that are known to take it, else those of a replay where there are any,
    else zeros, with the integers that it is held to."""
    taken = program.taken_at or None
    feeds = next((w[-1].feeds for w in (list(of.workspaces) for of in (program, *program.smaller_forms())) if w), None)
    found = [None if isinstance(leaf, Input) else leaf.value for leaf in recording.spec.leaves]
    for number, i in enumerate(program.leaves):
        leaf = recording.spec.leaves[i]
        x = np.zeros(leaf.shape) if feeds is None else feeds[number][0]
        if taken is not None:
            x = np.asarray(taken[i])
        found[i] = int(x) if leaf.is_integer else x.astype(leaf.dtype) if not leaf.scalar else leaf.dtype.type(x)
        if taken is None and feeds is None and i in program.decided:
            found[i] = program.decided[i]
    return found


def runs_of(recording: Any) -> tuple[Runs, ...]:
    """How the value and each derivative that was asked for are computed."""
    derived = recording.derived
    value = recording.program
    found = [_runs("value", derived.mode, value, value, value.spent > choice.compile_seconds(value))]
    for key in derived.asked():
        programs = derived.programs(key)
        one = _runs(name_of(key), derived.mode, value, programs[-1] if programs else None, derived.has_taken_long(key))
        found.append(replace(one, how="interpreted", why=derived.refused[key]) if key in derived.refused else one)
    return tuple(found)


def name_of(key: Any) -> str:
    """A derivative in words, by its key: the name of a method, and with respect to what where that is said."""
    if key[0] == "matrix":
        return ("sparse Hessian" if key[2] else "sparse Jacobian") + _by(key[1])
    return str(key[0]) + _by(key[1])


def _by(argnums: Any) -> str:
    return "" if argnums in (0, None) else f" by {argnums}"


def _runs(what: str, how: str, value: Program, program: Program | None, long: bool) -> Runs:
    size = None if program is None else program.code.size * program.code.dtype.itemsize
    refused = choice.refusal(how)
    if refused is not None:
        return Runs(what, "interpreted", refused, interpreted_bytes=size)
    native = None if program is None else program.native
    if native is not None:
        reason = _reason(how, program, long)
        return Runs(what, "compiled", "", native.seconds, dict(native.reasons), size, native.arena_bytes, reason)
    if program is not None and program.not_native == choice.WAITING:
        return Runs(what, "compiling", interpreted_bytes=size)
    return Runs(what, "interpreted", _why(how, value, program), interpreted_bytes=size)


def _reason(how: str, program: Any, long: bool) -> str:
    """Why a program is compiled; `long` says whether its replays have taken as long as compiling would."""
    if how != choice.ALWAYS and choice.at_once(program):
        return "it has few instructions over long arrays"
    return "its replays had taken as long as compiling would" if how != choice.ALWAYS and long else "that was asked for"


def _why(how: str, value: Program, program: Program | None) -> str:
    if program is not None and program.not_native is not None:
        return program.not_native
    if program is not value and not can_be_written(value):
        return _VIEW
    if program is None and value.foreign and how == choice.AUTO:
        return "it calls Python functions"
    if how == choice.ALWAYS:
        return "it was not replayed yet"
    if choice.mostly_products(program or value):
        return "it is mostly products of matrices"
    if not np.isfinite(choice.compile_seconds(program or value)):
        return "it has too many instructions"
    return "its replays have not taken as long yet as compiling would"

"""Instructions that call Python in the middle of a sweep.

The kernels of the operation `external` are Python functions, whose addresses this module puts in the table of kernels.
Compiled code calls them through ctypes, which takes the GIL. An exception cannot pass through compiled code: it is
kept, the results are set to NaN, and the caller of the sweep asks for the exception with `raised` or `check`.

Ctrl-C, or too deep a recursion, can also raise before the first line of a callback is reached. Nothing in the callback
can catch that: ctypes hands the exception to `sys.unraisablehook` and goes on. So each callback returns whether it came
to its end. Where it did not, the sweep takes note, and the exception is taken from the hook. The note alone is enough
to raise: the hook may be another one by now, or not have been reached either.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tapegrad.ops.external import external, naming
from tapegrad.ops.record import call_at, wants_flag
from tapegrad.sweeps.kernels import FORWARD, REVERSE, entries, install
from tapegrad.sweeps.marks import EXTERNAL, LOST


class Call(Protocol):
    """What an instruction calls. Operands, results, adjoints and tangents are flat arrays.

    Attributes:
        exact: whether its rules are right for Values at any numbers and call no function of a user's. Its operands are
            the numbers of the arena themselves, not copies, which it must not change.
    """

    exact: bool

    def forward(self, operands: list[np.ndarray]) -> np.ndarray:
        """The result."""

    def reverse(
        self, operands: list[np.ndarray], result: np.ndarray, adjoint: np.ndarray, wanted: Sequence[bool]
    ) -> Sequence[Any]:
        """For each operand its adjoint, or None; those that are not wanted need not be computed."""

    def tangent(self, operands: list[np.ndarray], result: np.ndarray, tangents: list[np.ndarray]) -> np.ndarray:
        """The tangent of the result."""


_calls: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


class _Raised(threading.local):
    error: BaseException | None = None
    # What ctypes reported of a callback that was never entered.
    unentered: BaseException | None = None


_raised = _Raised()


def register(call: Call) -> int:
    """Give a call a number, by which instructions refer to it. The call is not kept alive here: a tape or program with
    such an instruction must hold it."""
    _listen()
    number = next(_numbers)
    _calls[number] = call
    return number


def call_of(number: int) -> Any:
    """The call that has a number."""
    return _calls[number]


def _name(number: int) -> str:
    """What a call is called in listings: loops say what they are."""
    call = _calls.get(number)
    return str(call) if call is not None and call.exact else "external"


naming.append(_name)


def raised(failed: int = 0) -> Any:
    """The first exception that a call has raised in a sweep of this thread, which is then forgotten; None if none.

    `failed` is the opcode of the instruction at which the sweep stopped, if it did.
    """
    error, _raised.error = _raised.error, None
    unentered, _raised.unentered = _raised.unentered, None
    # A callback may also be interrupted after it has done its work: then nothing is lost but the interrupt.
    return error or (_lost(unentered) if failed == EXTERNAL else unentered)


def check(scratch: np.ndarray) -> None:
    """Raise what a call has raised during a sweep of this thread with this scratch space."""
    lost, scratch[LOST] = scratch[LOST], 0.0
    error = raised(EXTERNAL if lost else 0)
    if error is not None:
        raise error


def _lost(unentered: BaseException | None) -> BaseException:
    """What to raise where a callback was not entered."""
    # What ctypes meets while it makes arrays of addresses, it says in an error of its own.
    if unentered is not None and not isinstance(unentered, ctypes.ArgumentError):
        return unentered
    try:
        _deeper(_DEPTH)
    except RecursionError as error:
        return error
    return unentered or RuntimeError("a Python function that a tape calls was interrupted before its first line")


# How many calls lie between a sweep and what its callbacks call, at most; generously.
_DEPTH = 40


def _deeper(n: int) -> None:
    if n:
        _deeper(n - 1)


def _listen() -> None:
    """Have `sys.unraisablehook` keep what it hears of our callbacks, and pass the rest on to whoever listened."""
    before = sys.unraisablehook
    if getattr(before, "of_tapegrad", False):
        return

    def hook(unraisable: Any) -> None:
        # No call of Python in here: close to the limit of recursion there is hardly room for this one.
        if unraisable.object in entries:
            _raised.unentered = unraisable.exc_value
        else:
            before(unraisable)

    hook.of_tapegrad = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _carry_out(kind: int, side: np.ndarray, k: int, flags: np.ndarray, v: np.ndarray, d: np.ndarray) -> bool:
    number, out, spans = call_at(side, k)
    try:
        call = _calls[number]
        given = np.asarray if call.exact else np.copy
        operands = [given(v[at]) for at in spans]
        if kind == FORWARD:
            v[out] = call.forward(operands)
        elif kind == REVERSE:
            wanted = [bool(flags[wants_flag(k, j)]) for j in range(len(spans))]
            adjoints = call.reverse(operands, given(v[out]), given(d[out]), wanted)
            for at, adjoint, active in zip(spans, adjoints, wanted, strict=True):
                if adjoint is not None and active:
                    d[at] += adjoint.reshape(-1) if isinstance(adjoint, np.ndarray) else np.reshape(adjoint, -1)
        else:
            d[out] = call.tangent(operands, given(v[out]), [given(d[at]) for at in spans])
    except BaseException as error:
        _raised.error = _raised.error or error
        (v if kind == FORWARD else d)[out] = np.nan
        if kind == REVERSE:
            for at in spans:
                d[at] = np.nan
        return False
    return True


for _dtype in (np.dtype(np.float64), np.dtype(np.float32)):
    for _kind in range(3):
        install(_dtype, external.opcode, _kind, functools.partial(_carry_out, _kind))

"""Functions of arrays in files: named by their keys, and found again by these."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.calls.arrays import ArrayCall, function_of
from tapegrad.calls.complex_value import ComplexValue
from tapegrad.errors import DataError, StructureError, UnsupportedError
from tapegrad.storage import kind_of_call, own_container, plain


def _to_json(call: ArrayCall, writer: Any) -> dict[str, Any]:
    try:
        key = plain.encoded(call.function.key, writer.arrays)
    except StructureError:
        raise UnsupportedError(f"{call.function.name} is made for data that cannot stand in a file") from None
    return {
        "function": key, "shapes": [list(shape) for shape in call.all_shapes],
        "constants": [None if x is None else writer.arrays.put(x) for x in call.kept],
    }  # fmt: skip


def _from_json(entries: dict[str, Any], reader: Any) -> ArrayCall:
    named, shapes, constants = plain.fields(entries, "a call", "function", "shapes", "constants")
    key = plain.decoded(named, reader.arrays)
    lengths = [plain.shape_of(shape) for shape in plain.items(shapes, "shapes")]
    kept = [None if x is None else plain.decoded(x, reader.arrays) for x in plain.items(constants, "constants")]
    for shape, x in zip(lengths, kept, strict=True):
        if math.prod(n for n in shape if n) > reader.most or (x is not None and np.shape(x) != shape):
            raise DataError(f"a function of an array of shape {shape}")
        if x is not None and not (isinstance(x, np.ndarray) and x.dtype in (np.float64, np.float32)):
            raise DataError("a function of an array that is no constant of floats")
    function = function_of(key) if isinstance(key, tuple) and key and isinstance(key[0], str) else None
    if function is None:
        raise DataError(f"{key!r:.80} is no function of arrays that is known here")
    call = ArrayCall(function, lengths, kept)
    _try(call, reader)
    return call


def _try(call: ArrayCall, reader: Any) -> None:
    """Call a function, and its rules, once at simple arrays: whether it takes arrays of such shapes, with such options,
    and returns what it says, nobody knows better."""
    if any(n < 0 for shape in call.shapes for n in shape) or call.size > reader.most:
        raise DataError(f"{call.function.name} of arrays makes {call.size} numbers")
    for simple in (_identity, _any_numbers):
        try:
            with np.errstate(all="ignore"):
                _try_at(call, [simple(shape) for shape in call.own_shapes])
            return
        except np.linalg.LinAlgError as error:
            # That a matrix is singular, or has no factor, says nothing of shapes.
            if "square" in str(error) or "dimension" in str(error):
                raise


def _try_at(call: ArrayCall, given: list[np.ndarray]) -> None:
    found = np.asarray(call.forward(given))
    if found.shape != (call.size,):
        raise DataError(f"{call.function.name} makes {found.shape}, not {call.size} numbers")
    # The rules may take less than the function does.
    grads = call.reverse(given, found, np.ones(call.size), [True] * len(given))
    along = np.asarray(call.tangent(given, found, [np.ones(x.size) for x in given]))
    fits = all(g is None or np.size(g) == x.size for g, x in zip(grads, given, strict=True))
    if not fits or along.shape != found.shape:
        raise DataError(f"{call.function.name} has no derivative for arrays of such shapes")


def _identity(shape: tuple[int, ...]) -> np.ndarray:
    """Identities, where most functions of matrices are defined; other arrays are any numbers."""
    if len(shape) >= 2 and shape[-1] == shape[-2]:
        return np.broadcast_to(np.eye(shape[-1]), shape).reshape(-1)
    return _any_numbers(shape)


def _any_numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(1.0, 2.0, math.prod(shape))


kind_of_call(
    "function", ArrayCall, _to_json, _from_json,
    lambda call: (call.size, [math.prod(shape) for shape in call.own_shapes]),
)  # fmt: skip
own_container("complex", ComplexValue, ("real", "imag"), ComplexValue)

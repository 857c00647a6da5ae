"""Attention: sums of values, weighted by how well queries and keys agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.errors import DTypeError, ShapeError
from tapegrad.functions.reductions import softmax
from tapegrad.functions.registry import holds_value, is_flags
from tapegrad.value import Value, as_value, tape_of


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *, is_causal: bool = False, scale: float | None = None
) -> Any:
    """softmax(Q K' scale + mask) V, the softmax over keys.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, V).
        attn_mask: of a shape that goes with (..., L, S): truth values, true where a query may look at a key; or numbers
            that are added, -inf where it may not.
        is_causal: query i may look at keys 0 to i.
        scale: 1 / sqrt(E) unless it is given.

    Returns (..., L, V). Where a query may look at no key, the result is NaN.

    Raises ShapeError for shapes that do not fit, DTypeError for a mask of whole numbers.

    >>> q = k = Value(np.zeros((1, 2, 3)))
    >>> scaled_dot_product_attention(q, k, np.array([[[1.0], [3.0]]])).tolist()
    [[[2.0], [2.0]]]
    >>> scaled_dot_product_attention(q, k, np.array([[[1.0], [3.0]]]), is_causal=True).tolist()
    [[[1.0], [2.0]]]
    """
    q, k, v = operands(query, key, value, attn_mask)
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            "scaled_dot_product_attention takes queries (..., L, E), keys (..., S, E) and values (..., S, V), not "
            f"{q.shape}, {k.shape} and {v.shape}"
        )
    return np.matmul(attention_weights(q, k, attn_mask, is_causal, scale), v)


def operands(query: Any, key: Any, value: Any, mask: Any = None) -> list[Any]:
    """Queries, keys and values: Values where any of them or the mask is one, else arrays of floats."""
    if holds_value([query, key, value, mask]):
        tape = tape_of((query, key, value, mask))
        return [as_value(x, tape, "scaled_dot_product_attention") for x in (query, key, value)]
    return [x if x.dtype.kind == "f" else x.astype(float) for x in map(np.asarray, (query, key, value))]


def attention_weights(q: Any, k: Any, attn_mask: Any, is_causal: bool, scale: float | None) -> Any:
    """softmax(Q K' scale + mask); see `scaled_dot_product_attention`."""
    # The queries are multiplied, as they are fewer numbers than the scores mostly.
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = np.matmul(q if isinstance(factor, float) and factor == 1.0 else q * factor, np.swapaxes(k, -1, -2))
    if is_causal:
        scores = masked(scores, np.tril(np.ones(scores.shape[-2:], bool)))
    scores = scores if attn_mask is None else masked(scores, attn_mask)
    if isinstance(scores, Value):
        return softmax(scores, -1)
    with np.errstate(invalid="ignore"):
        # Where a query may look at no key, this is NaN.
        weights = np.exp(scores - np.max(scores, -1, keepdims=True))
    return weights / np.sum(weights, -1, keepdims=True)


def masked(scores: Any, mask: Any) -> Any:
    """Scores with a mask: -inf where truth values are false, or numbers added.

    Raises DTypeError for a mask of whole numbers, ShapeError for one that would make the scores larger.
    """
    kind = mask_kind(mask)
    if kind not in "bf":
        raise DTypeError("an attention mask is truth values, true where a query may look at a key, or floats to add")
    result = np.where(mask, scores, -np.inf) if kind == "b" else scores + mask
    if result.shape != scores.shape:
        raise ShapeError(f"an attention mask of shape {np.shape(mask)} does not go with scores of shape {scores.shape}")
    return result


def mask_kind(mask: Any) -> str:
    """What a mask holds: "b" for truth values, "f" for floats, "i" or another letter of NumPy's for what is neither."""
    if not isinstance(mask, Value):
        return np.asarray(mask).dtype.kind
    return "b" if is_flags(mask) else mask._tape.kind(mask._slot) or "f"

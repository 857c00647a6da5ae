"""A block of attention written with einsum, as a NumPy user writes it: the sum of squares of its result, its gradient
in the four matrices of weights. JAX is compiled; PyTorch is eager. Results are compared before anything is timed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import tools
from bench.compare import Comparison

BATCH, TOKENS, HEADS, WIDTH = 8, 64, 4, 32
INPUTS = 4


def tokens(dtype: Any) -> tuple[np.ndarray]:
    """What the block is applied to."""
    return (np.random.default_rng(0).normal(size=(BATCH, TOKENS, HEADS * WIDTH)).astype(dtype),)


def block(w: Any, functions: Any, x: Any) -> Any:
    """The sum of squares of softmax(Q K' / sqrt(width)) V, projected; w has the four matrices of weights."""
    queries, keys, values = (
        functions.einsum("btd,dhk->bthk", x, w[i].reshape(HEADS * WIDTH, HEADS, WIDTH)) for i in range(3)
    )
    scores = functions.einsum("bqhk,bshk->bhqs", queries, keys) / WIDTH**0.5
    weights = functions.exp(scores - functions.amax(scores, axis=-1, keepdims=True))
    weights = weights / functions.sum(weights, axis=-1, keepdims=True)
    heads = functions.einsum("bhqs,bshk->bqhk", weights, values)
    result = functions.einsum("bqhk,hkd->bqd", heads, w[3].reshape(HEADS, WIDTH, HEADS * WIDTH))
    return functions.sum(result * result)


def _comparison(dtype: Any, tolerance: float) -> Comparison:
    rng, size = np.random.default_rng(1), HEADS * WIDTH
    contestants = {"tapegrad": tools.tapegrad, "jax.jit": tools.jax, "torch": tools.torch}
    return Comparison(
        name=f"attention, {BATCH} x {TOKENS} tokens, {HEADS} heads of {WIDTH}, {np.dtype(dtype).name}",
        tools={
            tool: tools.settling(partial(make, block, data=partial(tokens, dtype)))
            for tool, make in contestants.items()
        },
        inputs=[(rng.normal(size=(4, size, size)) / size**0.5).astype(dtype) for _ in range(INPUTS)],
        unit="gradient",
        tolerance=tolerance,
    )


COMPARISONS = [partial(_comparison, np.float64, 1e-9), partial(_comparison, np.float32, 1e-3)]

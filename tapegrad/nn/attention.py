"""`MultiheadAttention`, with PyTorch's arguments and names of parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import DTypeError, OperationError, ShapeError
from tapegrad.functions.attention import attention_weights, mask_kind, operands
from tapegrad.functions.products import affine
from tapegrad.functions.registry import holds_value
from tapegrad.nn.calls import as_floats, called
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.init import Rng, xavier
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.value import Value


def _product(x: Any, w: Any, b: Any) -> Any:
    # x W' + b, W being stored as PyTorch does.
    if b is None:
        return x @ w.T
    return affine(x, w.T, b) if holds_value([x, w, b]) else x @ w.T + b


class _Projection(Module):
    # A linear layer whose weight is stored as PyTorch does, (outputs, inputs): it is square, so that one stored the
    # other way round would be taken without complaint.
    def __init__(self, size: int, bias: bool, rng: np.random.Generator, dtype: Any) -> None:
        self.weight = Parameter(xavier(size, size, rng, dtype))
        self.bias = Parameter(np.zeros(size, dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        return _product(x, self.weight, self.bias)

    def describe(self) -> str:
        return f"{vars(self)['weight'].shape[0]}"


class MultiheadAttention(Module):
    """Attention in several heads, each of which looks at a projection of its own: queries ask, keys answer, and values
    are summed by how well both agree; see `tapegrad.scaled_dot_product_attention`.

    Args:
        embed_dim: E, length of what stands for a token; a multiple of the number of heads.
        num_heads: heads, each of E / heads numbers.
        dropout: in training, each weight is zero with this probability; see `Dropout`, whose state is a buffer of the
            layer then. The weights that are returned are those with the zeros, as in PyTorch.
        bias: whether projections add a bias.
        batch_first: arrays are (batch, tokens, E) in place of (tokens, batch, E).
        rng: a generator for the weights, or a seed.
        dtype: float64 or float32.

    Called with query (L, B, E), key and value (S, B, E); without a batch the axis B is missing. Further arguments:

    - key_padding_mask: (B, S), true where a key is padding and is not looked at; or numbers that are added.
    - need_weights: whether the second result is the weights (B, L, S), else None.
    - attn_mask: (L, S) or (B * heads, L, S), true where a query may NOT look at a key (in
      `scaled_dot_product_attention` it is the other way round, both as in PyTorch); or numbers that are added.
    - average_attn_weights: whether the weights are averaged over heads, else they are (B, heads, L, S).
    - is_causal: query i looks at keys 0 to i only, whatever the mask.

    Returns (output, weights), the output of the shape of the query. Parameters have PyTorch's names and shapes
    (in_proj_weight is (3 E, E)), so that `load_state_dict` takes those of a module of PyTorch.

    Raises OperationError where heads do not divide E and for a dropout out of range, ShapeError, DTypeError for a
    mask of whole numbers.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017.

    >>> layer = MultiheadAttention(8, 2, batch_first=True, rng=0)
    >>> x = np.zeros((3, 5, 8))
    >>> output, weights = layer(x, x, x, is_causal=True)
    >>> output.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, *, batch_first: bool = False,
        rng: Rng = None, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise OperationError(f"embed_dim must be a multiple of num_heads, not {embed_dim} of {num_heads}")
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, batch_first
        rng = np.random.default_rng(rng)
        limit = (6.0 / (4 * embed_dim)) ** 0.5
        self.in_proj_weight: Any = Parameter(rng.uniform(-limit, limit, (3 * embed_dim, embed_dim)).astype(dtype))
        self.in_proj_bias: Any = Parameter(np.zeros(3 * embed_dim, dtype)) if bias else None
        self.out_proj = _Projection(embed_dim, bias, rng, dtype)
        self.drop = Dropout(dropout, rng=rng) if dropout else None

    def forward(
        self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
        attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> Any:  # fmt: skip
        batched = self._check(query, key, value)
        q, k, v = self._projected(as_floats(query), as_floats(key), as_floats(value))
        # Multiplied before heads are seen, while the queries lie side by side.
        q = q * (self.embed_dim // self.num_heads) ** -0.5
        if not batched:
            q, k, v = (np.expand_dims(x, 0 if self.batch_first else 1) for x in (q, k, v))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        q, k, v = operands(*map(self._heads, (q, k, v)))
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        weights: Any = attention_weights(q, k, mask, is_causal, 1.0)
        weights = weights if self.drop is None else self.drop(weights)
        # (B, heads, L, E / heads) to (B, L, E), or to (L, B, E).
        summed = np.matmul(weights, v).transpose((0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3))
        output = self.out_proj(summed.reshape(*summed.shape[:2], self.embed_dim))
        weights = np.mean(weights, 1) if average_attn_weights and need_weights else weights
        if not batched:
            output, weights = output[0] if self.batch_first else output[:, 0], weights[0]
        return output, weights if need_weights else None

    def _check(self, query: Any, key: Any, value: Any) -> bool:
        shapes = [np.shape(x) for x in (query, key, value)]
        n, at = len(shapes[0]), 0 if self.batch_first else 1
        fits = n in (2, 3) and all(len(s) == n and s[-1] == self.embed_dim for s in shapes)
        fits = fits and shapes[1] == shapes[2] and (n == 2 or shapes[0][at] == shapes[1][at])
        if not fits:
            axes = "(batch, tokens, " if self.batch_first else "(tokens, batch, "
            raise ShapeError(
                f"{called(self)} takes a query of shape {axes}{self.embed_dim}), and a key and a value of one such "
                f"shape with the same batch, not {shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        return n == 3

    def _projected(self, *given: Any) -> list[Any]:
        # Three products, also where all three are one array: then the heads are views that BLAS reads as they are,
        # where those of one product's result would be copied.
        n, w, b = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        parts = [slice(i * n, (i + 1) * n) for i in range(3)]
        return [_product(x, w[part], None if b is None else b[part]) for x, part in zip(given, parts)]

    def _heads(self, x: Any) -> Any:
        # (B, heads, tokens, E / heads)
        heads = x.reshape(*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)
        return heads.transpose((0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _mask(self, attn_mask: Any, key_padding_mask: Any, q: Any, k: Any) -> Any:
        """Both masks as one, as numbers to add: -inf where a key is not looked at."""
        (batch, heads, length, _), keys = q.shape, k.shape[2]
        total: Any = None
        if attn_mask is not None:
            shape = np.shape(attn_mask)
            if shape not in ((length, keys), (batch * heads, length, keys)):
                raise ShapeError(
                    f"{called(self)} takes an attn_mask of shape {(length, keys)} or {(batch * heads, length, keys)}, "
                    f"not {shape}"
                )
            total = self._added(attn_mask, q, "attn_mask")
            total = total if len(shape) == 2 else total.reshape(batch, heads, length, keys)
        if key_padding_mask is not None:
            shape = np.shape(key_padding_mask)
            if shape != (batch, keys):
                raise ShapeError(f"{called(self)} takes a key_padding_mask of shape {(batch, keys)}, not {shape}")
            padding = self._added(key_padding_mask, q, "key_padding_mask")[:, None, None, :]
            total = padding if total is None else total + padding
        return total

    def _added(self, mask: Any, q: Any, name: str) -> Any:
        mask = mask if isinstance(mask, Value) else np.asarray(mask)
        kind = mask_kind(mask)
        if kind == "b":
            return np.where(mask, np.asarray(-np.inf, q.dtype), np.asarray(0.0, q.dtype))
        if kind != "f":
            raise DTypeError(f"{called(self)}: {name} is truth values, true where a key is not looked at, or floats")
        return mask

    def describe(self) -> str:
        first = ", batch_first=True" if self.batch_first else ""
        return f"{self.embed_dim}, {self.num_heads}{first}"

"""`Embedding`: a row of numbers for each of so many symbols."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.calls import stop_gradient
from tapegrad.errors import IndexRangeError, IntegerInputError, OperationError
from tapegrad.functions.indexing import take
from tapegrad.nn.calls import called
from tapegrad.nn.counts import counted
from tapegrad.nn.init import Rng
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.value import Value


class Embedding(Module):
    """Looks up rows of a table of parameters: `weight` of shape (num_embeddings, embedding_dim).

    Args:
        num_embeddings: how many rows there are.
        embedding_dim: how long a row is.
        padding_idx: a row that begins as zeros and gets no gradient. Where it is negative, it counts from the end.
        rng: a generator for the rows, drawn from the normal distribution as in PyTorch, or a seed.
        dtype: float64 or float32.

    Called with whole numbers of any shape (...), from 0 to num_embeddings - 1, it gives (..., embedding_dim).

    Raises IndexRangeError for a number out of range (a negative one is, too), in replays as well; IntegerInputError for
    indices that are no whole numbers; ValueError for sizes that are not positive or a padding_idx out of range.

    >>> table = Embedding(10, 3, rng=0)
    >>> table
    Embedding(10, 3)
    >>> table(np.array([[1, 2], [9, 1]])).shape
    (2, 2, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rng: Rng = None,
        dtype: Any = np.float64,
    ) -> None:
        num_embeddings = counted(num_embeddings, "Embedding: num_embeddings")
        embedding_dim = counted(embedding_dim, "Embedding: embedding_dim")
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise OperationError(f"padding_idx must be {-num_embeddings} to {num_embeddings - 1}, not {padding_idx}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        table = np.random.default_rng(rng).standard_normal((num_embeddings, embedding_dim)).astype(dtype)
        if self.padding_idx is not None:
            table[self.padding_idx] = 0.0
        self.weight: Any = Parameter(table)

    def forward(self, index: Any) -> Any:
        index = index if isinstance(index, Value) else np.asarray(index)
        if index.dtype.kind not in "iu" and not isinstance(index, Value):
            raise IntegerInputError(f"{called(self)} looks up rows by whole numbers, not by an array of {index.dtype}")
        if isinstance(index, Value) and index.size and index._tape.kind(index._slot) != "i" and not index._is_integer:
            raise IntegerInputError(f"{called(self)} looks up rows by whole numbers, not by a Value of floats")
        # Of a Value this is a guard: a replay at other indices is recorded anew, and raises, where one is out of range.
        # To index would raise for those that are too large, and take negative ones to count from the end.
        if index.size and np.any(np.logical_or(index < 0, index >= self.num_embeddings)):
            raise self._out_of_range(np.array(index.numpy() if isinstance(index, Value) else index))
        rows = take(self.weight, index, 0) if isinstance(index, Value) else self.weight[index]
        if self.padding_idx is None or not isinstance(rows, Value):
            return rows
        # Of a single whole number `==` would be a truth value, and a branch.
        return np.where(np.expand_dims(np.equal(index, self.padding_idx), -1), stop_gradient(rows), rows)

    def _out_of_range(self, index: np.ndarray) -> Exception:
        at = np.argwhere((index < 0) | (index >= self.num_embeddings))[0]
        where = tuple(int(i) for i in at)
        place = "" if not where else f" at position {where[0] if len(where) == 1 else where}"
        return IndexRangeError(
            f"{called(self)}: index {index[where]:.16g}{place} is out of range: there are rows 0 to "
            f"{self.num_embeddings - 1}"
        )

    def describe(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

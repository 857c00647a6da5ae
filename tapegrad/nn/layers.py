"""Layers: `Linear`, and the multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.products import affine
from tapegrad.nn.activations import SUITABLE_INIT, activation
from tapegrad.nn.calls import as_floats, called
from tapegrad.nn.containers import Sequential
from tapegrad.nn.counts import counted
from tapegrad.nn.init import INITIALIZERS, Rng
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter
from tapegrad.value import Value


class Linear(Module):
    """y = x W + b.

    Args:
        n_in: length of the last axis of x.
        n_out: length of the last axis of y.
        bias: whether b is added.
        init: "kaiming" or "xavier"; see the functions of those names. b starts at 0.
        rng: a generator for W, or a seed.
        dtype: float64 or float32.

    x has shape (..., n_in), W (n_in, n_out), b (n_out,), y (..., n_out).

    Raises OperationError for an unknown init, ShapeError for x of another length.

    >>> layer = Linear(3, 2, rng=0)
    >>> layer
    Linear(3, 2)
    >>> layer(np.zeros((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        init: str = "kaiming",
        rng: Rng = None,
        dtype: Any = np.float64,
    ) -> None:
        if init not in INITIALIZERS:
            raise OperationError(f"there is no init {init!r}; there are {', '.join(sorted(INITIALIZERS))}")
        n_in, n_out = counted(n_in, "Linear: n_in", 0), counted(n_out, "Linear: n_out", 0)
        self.n_in, self.n_out = n_in, n_out
        self.weight = Parameter(INITIALIZERS[init](n_in, n_out, rng, dtype))
        self.bias = Parameter(np.zeros(n_out, dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        if np.shape(x)[-1:] != (self.n_in,):
            raise ShapeError(f"{called(self)} takes arrays of shape (..., {self.n_in}), not {np.shape(x)}")
        x = as_floats(x)
        bias = self.bias
        if bias is None or not any(isinstance(a, Value) for a in (x, self.weight, bias)):
            return x @ self.weight if bias is None else x @ self.weight + bias
        return affine(x, self.weight, bias)

    def describe(self) -> str:
        return f"{self.n_in}, {self.n_out}" + ("" if vars(self)["bias"] is not None else ", bias=False")


class MLP(Sequential):
    """A multilayer perceptron: linear layers with an activation between them, none after the last.

    Args:
        sizes: of the input, the hidden layers and the output.
        activation: a name: "relu", "tanh", "sigmoid", "gelu", "leaky_relu", "softplus" or "identity".
        init: "kaiming" or "xavier"; by default what suits the activation: "xavier" for tanh, sigmoid and identity.
        seed: of the initial weights, or a generator.
        dtype: float64 or float32.

    Raises OperationError for fewer than two sizes, one that is not positive, or an unknown name.

    >>> model = MLP([784, 128, 64, 10], dtype=np.float32)
    >>> model
    MLP(
      (0): Linear(784, 128)
      (1): ReLU()
      (2): Linear(128, 64)
      (3): ReLU()
      (4): Linear(64, 10)
      109,386 parameters, float32
    )
    >>> model(np.zeros((2, 784))).shape
    (2, 10)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        *,
        init: str | None = None,
        seed: Rng = 0,
        dtype: Any = np.float64,
    ) -> None:
        if not np.iterable(sizes) or len(sizes) < 2 or any(n < 1 for n in sizes):
            raise OperationError(f"an MLP needs a list of two or more positive sizes, input first, not {sizes!r}")
        rng = np.random.default_rng(seed)
        between = _activation(activation)
        init = init or SUITABLE_INIT[activation]
        modules: list[Module] = []
        for n_in, n_out in pairwise(sizes):
            modules += [Linear(n_in, n_out, init=init, rng=rng, dtype=dtype), between]
            between = _activation(activation)
        super().__init__(*modules[:-1])


_activation = activation

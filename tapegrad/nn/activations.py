"""Activation functions as modules, and by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.nn.calls import as_floats
from tapegrad.nn.module import Module
from tapegrad.ops import BY_NAME


class Tanh(Module):
    """tanh x.

    >>> Tanh()(np.array([0.0])).tolist()
    [0.0]
    """

    def forward(self, x: Any) -> Any:
        return np.tanh(as_floats(x))


class ReLU(Module):
    """max(x, 0), with derivative 0 at 0.

    >>> ReLU()(np.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, x: Any) -> Any:
        return BY_NAME["relu"](as_floats(x))


class Sigmoid(Module):
    """1 / (1 + e⁻ˣ).

    >>> Sigmoid()(np.array([0.0])).tolist()
    [0.5]
    """

    def forward(self, x: Any) -> Any:
        return BY_NAME["sigmoid"](as_floats(x))


class GELU(Module):
    """x Φ(x), Φ being the normal distribution function.

    Source: Hendrycks and Gimpel, "Gaussian error linear units", 2016.

    >>> GELU()(np.array([0.0])).tolist()
    [0.0]
    """

    def forward(self, x: Any) -> Any:
        return BY_NAME["gelu"](as_floats(x))


class LeakyReLU(Module):
    """x where x > 0, else slope · x.

    >>> LeakyReLU(0.1)(np.array([-1.0, 2.0])).tolist()
    [-0.1, 2.0]
    """

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = float(slope)

    def forward(self, x: Any) -> Any:
        return BY_NAME["leaky_relu"](as_floats(x), self.slope)

    def describe(self) -> str:
        return f"{self.slope:g}"


class Softplus(Module):
    """ln(1 + eˣ).

    >>> Softplus()(np.array([0.0])).round(4).tolist()
    [0.6931]
    """

    def forward(self, x: Any) -> Any:
        return BY_NAME["softplus"](as_floats(x))


class Identity(Module):
    """x itself.

    >>> Identity()(3.0)
    3.0
    """

    def forward(self, x: Any) -> Any:
        return x


ACTIVATIONS: dict[str, type[Module]] = {
    "tanh": Tanh,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "gelu": GELU,
    "leaky_relu": LeakyReLU,
    "softplus": Softplus,
    "identity": Identity,
}

# Which initial weights suit an activation depends on how it changes the variance of its input.
SUITABLE_INIT = {name: "kaiming" for name in ("relu", "gelu", "leaky_relu", "softplus")}
SUITABLE_INIT |= {name: "xavier" for name in ("tanh", "sigmoid", "identity")}


def activation(name: str) -> Module:
    """The activation module of a name. Raises OperationError naming those there are.

    >>> activation("relu")
    ReLU()
    """
    if name not in ACTIVATIONS:
        raise OperationError(f"there is no activation {name!r}; there are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]()

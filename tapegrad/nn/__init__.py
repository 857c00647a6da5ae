"""Neural networks: modules whose parameters are one vector on the tape, and training in compiled code.

`module` and `parameter` say how a model holds its numbers; `layers`, `activations` and `init` have what models are made
of; `training` runs whole epochs without Python between the steps, which `steps` records and `loops` runs.
"""

from typing import TYPE_CHECKING, Any

from tapegrad.nn.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh, activation
from tapegrad.nn.init import kaiming, xavier
from tapegrad.nn.layers import MLP, Linear, Sequential
from tapegrad.nn.module import Module
from tapegrad.nn.training import Result, Training

if TYPE_CHECKING:
    from tapegrad.value import Value

    class Parameter(Value):
        """What a module's attribute is to type checkers: reading it gives a Value."""

        def __init__(self, data: Any) -> None: ...

else:
    from tapegrad.nn.parameter import Parameter

__all__ = [
    "GELU",
    "MLP",
    "Identity",
    "LeakyReLU",
    "Linear",
    "Module",
    "Parameter",
    "ReLU",
    "Result",
    "Sequential",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "Training",
    "activation",
    "kaiming",
    "xavier",
]

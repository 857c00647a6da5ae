"""Neural networks: modules whose parameters are one vector on the tape, and training in compiled code.

`module`, `parameter` and `buffers` say how a model holds its numbers; `layers`, `normalization`, `dropout`,
`activations` and `init` have what models are made of; `training` runs whole epochs without Python between the steps,
which `steps` records and `loops` runs.
"""

from typing import TYPE_CHECKING, Any

from tapegrad.nn.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh, activation
from tapegrad.nn.attention import MultiheadAttention
from tapegrad.nn.buffers import Buffer
from tapegrad.nn.containers import Flatten, ModuleDict, ModuleList, Residual, Sequential
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.embedding import Embedding
from tapegrad.nn.init import kaiming, xavier
from tapegrad.nn.layers import MLP, Linear
from tapegrad.nn.module import Module
from tapegrad.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from tapegrad.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
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
    "GRU",
    "LSTM",
    "MLP",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "Identity",
    "LSTMCell",
    "LayerNorm",
    "RNN",
    "LeakyReLU",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Residual",
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

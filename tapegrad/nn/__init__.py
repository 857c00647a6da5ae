"""Neural networks: modules whose parameters are one vector on the tape, and training in compiled code.

`module`, `tree`, `parameter` and `buffers` say how a model holds its numbers; `layers`, `containers`, `convolution`,
`recurrent`, `attention`, `embedding`, `normalization`, `dropout`, `activations` and `init` have what models are made
of. `training` runs whole epochs without Python between the steps, which `steps` records and `loops` runs, on `samples`,
with `updates` after each batch. `fitting` goes through several epochs, with `callbacks` and `checkpoints`, and keeps
a `history`; `rates` looks for a learning rate.
"""

from typing import TYPE_CHECKING, Any

from tapegrad.nn.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh, activation
from tapegrad.nn.attention import MultiheadAttention
from tapegrad.nn.callbacks import Callback, EarlyStopping
from tapegrad.nn.checkpoints import Checkpoint
from tapegrad.nn.containers import Flatten, ModuleDict, ModuleList, Residual, Sequential
from tapegrad.nn.convolution import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.embedding import Embedding
from tapegrad.nn.history import History
from tapegrad.nn.init import kaiming, xavier
from tapegrad.nn.layers import MLP, Linear
from tapegrad.nn.module import Module
from tapegrad.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm
from tapegrad.nn.rates import Rates
from tapegrad.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from tapegrad.nn.training import Result, Training

if TYPE_CHECKING:
    from tapegrad.value import Value

    class Parameter(Value):
        """What a module's attribute is to type checkers: reading it gives a Value."""

        def __init__(self, data: Any) -> None: ...

    def Buffer(data: Any, persistent: bool = True) -> Any:
        """What a module's attribute is to type checkers: reading it gives an array or a Value."""

else:
    from tapegrad.nn.buffers import Buffer
    from tapegrad.nn.parameter import Parameter

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "Callback",
    "Checkpoint",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Flatten",
    "GELU",
    "GRU",
    "GRUCell",
    "GroupNorm",
    "History",
    "Identity",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MLP",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "RNN",
    "RNNCell",
    "Rates",
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

"""Recurrent layers with PyTorch's arguments, names of parameters and order of gates: RNN, LSTM, GRU, their cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.products import affine
from tapegrad.functions.recurrence import gru_steps, lstm_steps, rnn_steps
from tapegrad.functions.registry import holds_value
from tapegrad.nn.calls import as_floats, called
from tapegrad.nn.counts import counted
from tapegrad.nn.dropout import Dropout
from tapegrad.nn.init import Rng
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter

# For each kind: how many blocks of hidden_size rows its weights have, and how many arrays its state is.
_GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


def _uniform(rng: np.random.Generator, shape: tuple[int, ...], hidden: int, dtype: Any) -> Parameter:
    limit = 1.0 / math.sqrt(hidden)
    return Parameter(rng.uniform(-limit, limit, shape).astype(dtype))


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        counted(size, name)


def _kind(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise OperationError(f"nonlinearity must be 'tanh' or 'relu', not {nonlinearity!r}")
    return nonlinearity


def _input_part(kind: str, x: Any, w: Any, b_ih: Any, b_hh: Any, hidden: int) -> Any:
    """x W' + b for all steps at once, of shape (T, B, G H), b holding all biases that can be added here already."""
    if b_ih is None:
        return x @ w.T
    if kind == "gru":
        # The last third of b_hh is multiplied by the reset gate.
        b_hh = np.concatenate([b_hh[: 2 * hidden], np.zeros(hidden, b_hh.dtype)])
    bias = b_ih + b_hh
    return affine(x, w.T, bias) if holds_value([x, w, bias]) else x @ w.T + bias


def _shape(state: Any) -> Any:
    """The shape of a state, or what it is instead: NumPy cannot tell that of a pair of Values."""
    return f"a {type(state).__name__}" if isinstance(state, tuple | list) and holds_value(state) else np.shape(state)


def _steps(kind: str, a: Any, w: Any, b_hh: Any, state: Any) -> tuple[Any, tuple[Any, ...]]:
    """All steps from a state: the outputs (T, B, H), and the last state."""
    if kind == "lstm":
        return lstm_steps(a, w, *state)
    if kind == "gru":
        return gru_steps(a, w, None if b_hh is None else b_hh[2 * (w.shape[0] // 3) :], *state)
    return rnn_steps(a, w, state[0], kind)


class _Layers(Module):
    """What RNN, LSTM and GRU have in common."""

    _one = "an array"

    def __init__(
        self, kind: str, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool,
        dropout: float, bidirectional: bool, rng: Rng, dtype: Any,
    ) -> None:  # fmt: skip
        _positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.kind, self.input_size, self.hidden_size, self.num_layers = kind, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        rng, rows = np.random.default_rng(rng), _GATES[kind] * hidden_size
        for layer, end in self._ends():
            width = input_size if layer == 0 else hidden_size * (2 if bidirectional else 1)
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
            for name, shape in shapes.items():
                setattr(self, f"{name}_l{layer}{end}", _uniform(rng, shape, hidden_size, dtype))
        self.between = Dropout(dropout, rng=rng) if dropout else None

    def _ends(self) -> list[tuple[int, str]]:
        # The layers and directions, in the order of the states.
        return [(n, end) for n in range(self.num_layers) for end in (("", "_reverse") if self.bidirectional else ("",))]

    def forward(self, x: Any, hx: Any = None) -> Any:
        x = as_floats(x)
        shape = np.shape(x)
        if len(shape) not in (2, 3) or shape[-1] != self.input_size:
            axes = "(batch, time, " if self.batch_first else "(time, batch, "
            raise ShapeError(
                f"{called(self)} takes arrays of shape {axes}{self.input_size}) or (time, {self.input_size}), not "
                f"{shape}"
            )
        batched = len(shape) == 3
        if not batched:
            x = x[:, None]
        elif self.batch_first:
            x = np.swapaxes(x, 0, 1)
        if not x.shape[0]:
            raise ShapeError(f"{called(self)} needs at least one step, this array has shape {shape}")
        states = self._given(hx, x, batched)
        lasts: list[Any] = []
        for layer in range(self.num_layers):
            x = self.between(x) if layer and self.between is not None else x
            outputs = []
            for end in ("", "_reverse") if self.bidirectional else ("",):
                names = (f"{name}_l{layer}{end}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
                w_ih, w_hh, b_ih, b_hh = (getattr(self, name, None) for name in names)
                a = _input_part(self.kind, x[::-1] if end else x, w_ih, b_ih, b_hh, self.hidden_size)
                y, last = _steps(self.kind, a, w_hh, b_hh, tuple(s if s is None else s[len(lasts)] for s in states))
                outputs.append(y[::-1] if end else y)
                lasts.append(last)
            x = np.concatenate(outputs, -1) if len(outputs) > 1 else outputs[0]
        joined = tuple(np.stack(parts) for parts in zip(*lasts))
        if not batched:
            return self._answer(x[:, 0], tuple(s[:, 0] for s in joined))
        return self._answer(np.swapaxes(x, 0, 1) if self.batch_first else x, joined)

    def _answer(self, output: Any, states: tuple[Any, ...]) -> Any:
        return output, states[0]

    def _given(self, hx: Any, x: Any, batched: bool) -> tuple[Any, ...]:
        """The states before the first step, each of shape (layers and directions, batch, hidden)."""
        shape = (len(self._ends()), x.shape[1], self.hidden_size)
        count = 2 if self.kind == "lstm" else 1
        if hx is None:
            return (None,) * count
        given = (hx,) if count == 1 else hx
        wanted = shape if batched else (shape[0], shape[2])
        if not isinstance(given, tuple | list) or len(given) != count or any(_shape(s) != wanted for s in given):
            parts = given if isinstance(given, tuple | list) else (given,)
            found = " and ".join(str(_shape(s)) for s in parts)
            raise ShapeError(f"{called(self)} takes {self._one} of shape {wanted} as the state, not {found}")
        return tuple(given) if batched else tuple(s[:, None] for s in given)

    def describe(self) -> str:
        named: dict[str, tuple[Any, Any]] = {"num_layers": (self.num_layers, 1), "bias": (self.bias, True)}
        named |= {"batch_first": (self.batch_first, False), "bidirectional": (self.bidirectional, False)}
        named |= {"nonlinearity": (self.kind, "tanh")} if _GATES[self.kind] == 1 else {}
        rest = "".join(f", {name}={value!r}" for name, (value, default) in named.items() if value != default)
        return f"{self.input_size}, {self.hidden_size}{rest}"


class RNN(_Layers):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu in place of tanh, over all steps of a sequence.

    Args:
        input_size: I, length of x_t.
        hidden_size: H, length of h_t.
        num_layers: layers; each after the first takes the outputs of the one before.
        nonlinearity: "tanh" or "relu".
        bias: whether b_ih and b_hh are added.
        batch_first: arrays are (batch, time, ...) in place of (time, batch, ...); the states are not.
        dropout: in training, what passes from a layer to the next is zero with this probability; see `Dropout`, whose
            state is a buffer of the layer then.
        bidirectional: each layer once more from the end to the beginning; outputs have both, one after the other.
        rng: a generator for the parameters, or a seed.
        dtype: float64 or float32.

    Called with x (T, B, I) and a first state (layers and directions, B, H), by default zeros, it returns the outputs
    (T, B, H times directions) and the last state. Without a batch the axis B is missing everywhere.

    Parameters have PyTorch's names and shapes (weight_ih_l0 is (H, I)), so that `load_state_dict` takes those of a
    module of PyTorch.

    Raises OperationError for sizes that are not positive and a dropout out of range, ShapeError for x or a state of
    another shape.

    >>> layer = RNN(3, 5, num_layers=2, rng=0)
    >>> output, state = layer(np.zeros((7, 2, 3)))
    >>> output.shape, state.shape
    ((7, 2, 5), (2, 2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, rng: Rng = None,
        dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        kind = _kind(nonlinearity)
        super().__init__(
            kind, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, rng, dtype
        )  # fmt: skip


class LSTM(_Layers):
    """Long short-term memory: with (i, f, g, o) the four parts of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh and s the
    logistic function, c_t = s(f) c_(t-1) + s(i) tanh(g) and h_t = s(o) tanh(c_t).

    Arguments are those of `RNN`, but for the nonlinearity; the state is a pair (h, c). It returns the outputs and the
    last (h, c). The weights have the four parts below each other, in this order.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9, 1997.

    >>> layer = LSTM(3, 5, rng=0)
    >>> output, (h, c) = layer(np.zeros((7, 2, 3)))
    >>> output.shape, h.shape, c.shape
    ((7, 2, 5), (1, 2, 5), (1, 2, 5))
    """

    _one = "a pair of arrays"

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, rng: Rng = None, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        super().__init__(
            "lstm", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, rng, dtype
        )

    def _answer(self, output: Any, states: tuple[Any, ...]) -> Any:
        return output, states


class GRU(_Layers):
    """The gated recurrent unit: with s the logistic function, r = s(W_ir x + b_ir + W_hr h + b_hr), z likewise,
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)), and the new state is (1 - z) n + z h.

    Arguments and results are those of `RNN`, but for the nonlinearity. The weights have the parts of r, z and n below
    each other, in this order.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", EMNLP 2014; the reset gate is
    applied after the product, as in PyTorch.

    >>> layer = GRU(3, 5, batch_first=True, bidirectional=True, rng=0)
    >>> output, state = layer(np.zeros((2, 7, 3)))
    >>> output.shape, state.shape
    ((2, 7, 10), (2, 2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, *, rng: Rng = None, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        super().__init__(
            "gru", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, rng, dtype
        )


class _Cell(Module):
    """What the cells have in common: one step of a recurrent layer."""

    def __init__(self, kind: str, input_size: int, hidden_size: int, bias: bool, rng: Rng, dtype: Any) -> None:
        _positive(input_size=input_size, hidden_size=hidden_size)
        self.kind, self.input_size, self.hidden_size = kind, input_size, hidden_size
        rng, rows = np.random.default_rng(rng), _GATES[kind] * hidden_size
        self.weight_ih = _uniform(rng, (rows, input_size), hidden_size, dtype)
        self.weight_hh = _uniform(rng, (rows, hidden_size), hidden_size, dtype)
        self.bias_ih = _uniform(rng, (rows,), hidden_size, dtype) if bias else None
        self.bias_hh = _uniform(rng, (rows,), hidden_size, dtype) if bias else None

    def forward(self, x: Any, hx: Any = None) -> Any:
        x = as_floats(x)
        shape = np.shape(x)
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            raise ShapeError(
                f"{called(self)} takes arrays of shape (batch, {self.input_size}) or ({self.input_size},), not {shape}"
            )
        rows = x if len(shape) == 2 else x[None]
        count, wanted = 2 if self.kind == "lstm" else 1, (*shape[:-1], self.hidden_size)
        given: tuple[Any, ...] = (None,) * count if hx is None else (hx,) if count == 1 else tuple(hx)
        if len(given) != count or (hx is not None and any(_shape(s) != wanted for s in given)):
            found = " and ".join(str(_shape(s)) for s in given)
            raise ShapeError(f"{called(self)} takes states of shape {wanted}, not {found}")
        states = given if len(shape) == 2 or hx is None else tuple(s[None] for s in given)
        b_hh = self.bias_hh
        a = _input_part(self.kind, rows, self.weight_ih, self.bias_ih, b_hh, self.hidden_size)
        _, last = _steps(self.kind, a[None], self.weight_hh, b_hh, states)
        last = last if len(shape) == 2 else tuple(s[0] for s in last)
        return last if count == 2 else last[0]

    def describe(self) -> str:
        bias = "" if vars(self)["bias_ih"] is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}" + (", nonlinearity='relu'" if self.kind == "relu" else "")


class RNNCell(_Cell):
    """One step of an `RNN`: from x (B, I) and h (B, H), by default zeros, to the new h. The axis B may be missing.

    Parameters are weight_ih, weight_hh, bias_ih and bias_hh. Raises what `RNN` raises.

    >>> RNNCell(3, 5, rng=0)(np.zeros((2, 3))).shape
    (2, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *, rng: Rng = None,
        dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        super().__init__(_kind(nonlinearity), input_size, hidden_size, bias, rng, dtype)


class LSTMCell(_Cell):
    """One step of an `LSTM`: from x (B, I) and a pair (h, c), each (B, H), to the new pair. The axis B may be missing.

    >>> h, c = LSTMCell(3, 5, rng=0)(np.zeros((2, 3)))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, rng: Rng = None, dtype: Any = np.float64
    ) -> None:
        super().__init__("lstm", input_size, hidden_size, bias, rng, dtype)


class GRUCell(_Cell):
    """One step of a `GRU`: from x (B, I) and h (B, H), by default zeros, to the new h. The axis B may be missing.

    >>> GRUCell(3, 5, rng=0)(np.zeros((2, 3))).shape
    (2, 5)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, rng: Rng = None, dtype: Any = np.float64
    ) -> None:
        super().__init__("gru", input_size, hidden_size, bias, rng, dtype)

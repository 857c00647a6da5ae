"""The steps of recurrent layers: what they get from their input is computed for all steps before, as one product.

Values give Values, plain arrays plain arrays. Weights are (G H, H), G blocks of rows for the gates below each other, as
in PyTorch; what comes from the input is a (T, B, G H), states are (B, H), or None for zeros: then the first step needs
no product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.functions.registry import holds_value
from tapegrad.ops import BY_NAME
from tapegrad.value import as_value, contiguous, structured, tape_of


def _sigmoid(x: Any) -> Any:
    # Called with arrays, the operation would compute number by number.
    return 0.5 + 0.5 * np.tanh(0.5 * x) if isinstance(x, np.ndarray) else BY_NAME["sigmoid"](x)


def _relu(x: Any) -> Any:
    return np.maximum(x, 0.0) if isinstance(x, np.ndarray) else BY_NAME["relu"](x)


def rnn_steps(a: Any, w: Any, h: Any, nonlinearity: str) -> tuple[Any, tuple[Any, ...]]:
    """h_t = f(a_t + h_(t-1) W'), f being tanh or relu: the states of all steps, and the last state as a tuple."""
    f, outputs = np.tanh if nonlinearity == "tanh" else _relu, []
    for t in range(a.shape[0]):
        h = f(a[t] if h is None else a[t] + h @ w.T)
        outputs.append(h)
    return np.stack(outputs), (h,)


def lstm_steps(a: Any, w: Any, h: Any, c: Any) -> tuple[Any, tuple[Any, ...]]:
    """The steps of `tapegrad.nn.LSTM`: h of all steps, and the last (h, c)."""
    if not holds_value([a, w, h, c]):
        return _plain_lstm_steps(a, w, h, c)
    tape = tape_of((a, w, h, c))
    (steps, rows, _), n, outputs = a.shape, w.shape[1], list[Any]()
    c = np.zeros((rows, n), a.dtype) if c is None else c
    a, w, h, c = (x if x is None else as_value(x, tape, "LSTM") for x in (a, w, h, c))
    for t in range(steps):
        own = np.zeros((rows, 4 * n), a.dtype) if h is None else np.matmul(h, w.T)
        parts = [contiguous(as_value(x, tape, "LSTM")) for x in (a[t], own, c)]
        # The operation gives more than h and c: what the way back needs.
        h, c, *_ = structured("lstm_gates", tape, (7, rows, n), parts, [rows, n])
        outputs.append(h)
    return np.stack(outputs), (h, c)


def _plain_lstm_steps(a: Any, w: Any, h: Any, c: Any) -> tuple[Any, tuple[Any, ...]]:
    n, outputs = w.shape[1], []
    c = 0.0 if c is None else c
    for t in range(a.shape[0]):
        gates = a[t] if h is None else a[t] + h @ w.T
        i, f, g, o = (gates[:, k * n : (k + 1) * n] for k in range(4))
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs), (h, c)


def gru_steps(a: Any, w: Any, b_n: Any, h: Any) -> tuple[Any, tuple[Any, ...]]:
    """The steps of `tapegrad.nn.GRU`: h of all steps, and the last as a tuple; b_n is added within the reset gate."""
    n, outputs = w.shape[1], []
    h = np.zeros((a.shape[1], n), a.dtype) if h is None else h
    for t in range(a.shape[0]):
        own = h @ w.T
        gates = _sigmoid(a[t, :, : 2 * n] + own[:, : 2 * n])
        r, z = gates[:, :n], gates[:, n:]
        new = np.tanh(a[t, :, 2 * n :] + r * (own[:, 2 * n :] if b_n is None else own[:, 2 * n :] + b_n))
        h = new + z * (h - new)
        outputs.append(h)
    return np.stack(outputs), (h,)

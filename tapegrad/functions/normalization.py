"""Batch, layer and group normalisation, and dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.carried import RecordedGenerator
from tapegrad.errors import DTypeError, OperationError, ShapeError, UnsupportedError
from tapegrad.functions.registry import holds_value
from tapegrad.ops.random import HALF
from tapegrad.tape import Tape, current_tape, recording_tape
from tapegrad.value import Value, as_value, contiguous, structured, tape_of


def batch_norm(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """Batch normalisation: y = (x - mean) / sqrt(var + eps) weight + bias, for each channel.

    Args:
        x: (n, channels, ...).
        running_mean, running_var: (channels,), or None.
        weight, bias: (channels,); None for 1 and 0.
        training: whether mean and variance are those of x, over all axes but the second; the variance is divided by
            their number. Otherwise they are the running ones. (Without running ones they are those of x anyway.)
        momentum: the weight of the new numbers in running ones.
        eps: what is added to the variance.

    Returns y, of the shape and dtype of x. In training, and given running statistics, (y, mean, var): the new running
    statistics, (1 - momentum) running + momentum batch, with the variance of the batch divided by one less than the
    number. (PyTorch changes them in place.) No gradient flows through them.

    Raises ShapeError for shapes that do not fit, and in training for a single number a channel.

    >>> x = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> batch_norm(x, eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]])
    >>> y, mean, var = batch_norm(x, np.zeros(2), np.ones(2), training=True)
    >>> mean, var
    (array([0.2, 0.4]), array([1.1, 1.7]))
    """
    given = [y for y in (x, running_mean, running_var, weight, bias) if y is not None]
    tape = _tape(given)
    x = _operand("batch_norm", x, tape)
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: x needs axes for samples and channels, it has shape {x.shape}")
    if (running_mean is None) != (running_var is None):
        raise OperationError("batch_norm: running_mean and running_var are given both or neither")
    n, channels = x.shape[:2]
    each = math.prod(x.shape[2:])
    shape = [n, channels, 1, each, 1]
    w, b = _channels("batch_norm", tape, channels, (channels,), weight, bias)
    running = [
        _of_shape("batch_norm", name, y, (channels,), tape)
        for name, y in (("running_mean", running_mean), ("running_var", running_var)) if y is not None
    ]  # fmt: skip
    if not training and running:
        mean, var = running
        return _done(_normalized(x, mean, var, w, b, shape, eps), tape, given)
    if n * each < 2:
        raise ShapeError(f"batch_norm: in training there must be more than one number a channel, x has shape {x.shape}")
    mean, var = _moments(x, shape)
    y = _normalized(x, mean, var, w, b, shape, eps)
    if not training or not running:
        return _done(y, tape, given)
    count = n * each
    rates = 1.0 - momentum, momentum
    new_mean = rates[0] * running[0] + rates[1] * mean.detach()
    new_var = rates[0] * running[1] + (rates[1] * count / (count - 1)) * var.detach()
    return tuple(_done(z, tape, given) for z in (y, new_mean, new_var))


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Layer normalisation: y = (x - mean) / sqrt(var + eps) weight + bias, over the last axes.

    Args:
        x: (..., *normalized_shape).
        normalized_shape: a length or a tuple of them: mean and variance, divided by the number, are over these axes.
        weight, bias: of the shape normalized_shape; None for 1 and 0.
        eps: what is added to the variance.

    Returns y, of the shape and dtype of x. Raises ShapeError for shapes that do not fit.

    >>> layer_norm(np.array([[1.0, 3.0], [2.0, 6.0]]), 2, eps=0.0)
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    given = [y for y in (x, weight, bias) if y is not None]
    tape = _tape(given)
    last = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    x = _operand("layer_norm", x, tape)
    if not last or x.shape[-len(last) :] != last:
        raise ShapeError(f"layer_norm: x has shape {x.shape}, which does not end with normalized_shape {last}")
    channels = math.prod(last)
    shape = [x.size // max(channels, 1), 1, channels, 1]
    w, b = _channels("layer_norm", tape, channels, last, weight, bias)
    if not x.size:
        return _done(x * 1.0, tape, given)
    return _done(_in_groups(x, w, b, eps, shape), tape, given)


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Group normalisation: y = (x - mean) / sqrt(var + eps) weight + bias, over groups of channels of each sample.

    Args:
        x: (n, channels, ...).
        num_groups: how many groups the channels fall into; mean and variance, divided by the number, are over the
            channels of a group and all axes after them.
        weight, bias: (channels,); None for 1 and 0.
        eps: what is added to the variance.

    Returns y, of the shape and dtype of x. Raises ShapeError for shapes that do not fit, and where num_groups does not
    divide the channels.

    >>> group_norm(np.array([[1.0, 3.0, 2.0, 6.0]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    given = [y for y in (x, weight, bias) if y is not None]
    tape = _tape(given)
    x = _operand("group_norm", x, tape)
    if x.ndim < 2:
        raise ShapeError(f"group_norm: x needs axes for samples and channels, it has shape {x.shape}")
    n, channels = x.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ShapeError(f"group_norm: {channels} channels do not fall into {num_groups} groups of one size")
    shape = [n, num_groups, channels // num_groups, math.prod(x.shape[2:])]
    w, b = _channels("group_norm", tape, channels, (channels,), weight, bias)
    if not x.size:
        return _done(x * 1.0, tape, given)
    return _done(_in_groups(x, w, b, eps, shape), tape, given)


def dropout(x: Any, p: float = 0.5, rng: Any = None, *, training: bool = True) -> Any:
    """Each number of x is 0 with probability p, and otherwise divided by 1 - p.

    Args:
        x: numbers of any shape.
        p: the probability, from 0 to 1.
        rng: a `numpy.random.Generator`, from which as many numbers as x has are drawn; or a seed for a new one. Where
            the generator is an argument of a recorded function, each replay draws anew. None for a new generator,
            which is not allowed while a function is recorded: its numbers would be drawn once.
        training: without it, x is returned as it is.

    Raises OperationError for p out of range; DTypeError for integers; UnsupportedError for a generator that is no
    argument of the function that is recorded.

    >>> dropout(np.ones(6), 0.5, rng=0)
    array([2., 2., 2., 0., 0., 0.])
    """
    check_probability(p)
    if not isinstance(x, Value):
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise DTypeError(f"dropout takes floats, not {x.dtype}: convert them with .astype(float)")
    if not training or p == 0.0:
        return x
    rng = _generator(rng)
    kept = rng.random(x.shape, dtype=np.float32) >= np.float32(p)
    # Multiplied by 1 where p is 1, as nothing is kept then.
    scale = 1.0 / (1.0 - p) if p < 1.0 else 1.0
    if isinstance(kept, Value):
        return x * np.where(kept, scale, 0.0)
    return x * np.where(kept, scale, 0.0).astype(x.dtype)


def _tape(given: Sequence[Any]) -> Tape:
    """The tape of Values, or for arrays alone one of their dtype."""
    if holds_value(given):
        return tape_of(given)
    floats = [a.dtype for a in map(np.asarray, given) if a.dtype.kind == "f"]
    return current_tape(np.result_type(np.float32, *floats) if floats else None)


def _done(y: Value, tape: Tape, given: Sequence[Any]) -> Any:
    """Values for Values, and arrays for arrays."""
    return y if holds_value(given) or tape.recording else np.array(y.data)


def _operand(what: str, x: Any, tape: Tape) -> Value:
    if not isinstance(x, Value) and np.asarray(x).dtype.kind not in "fiub":
        raise DTypeError(f"{what}: x holds {np.asarray(x).dtype}, no real numbers")
    return contiguous(as_value(x, tape, what))


def _of_shape(what: str, name: str, y: Any, shape: tuple[int, ...], tape: Tape) -> Value:
    if np.shape(y) != shape:
        raise ShapeError(f"{what}: {name} has shape {np.shape(y)}, it must have {shape}")
    return contiguous(as_value(y, tape, what))


def _channels(
    what: str, tape: Tape, count: int, shape: tuple[int, ...], weight: Any, bias: Any
) -> tuple[Value, Value]:
    """Weights and biases as vectors."""
    found = []
    for name, y, other in (("weight", weight, np.ones), ("bias", bias, np.zeros)):
        y = other(count, tape.dtype) if y is None else _of_shape(what, name, y, shape, tape).reshape(count)
        found.append(contiguous(as_value(y, tape, what)))
    return found[0], found[1]


def _in_groups(x: Value, w: Value, b: Value, eps: Any, shape: list[int]) -> Value:
    """Each sample's groups normalised; see `tapegrad.ops.group_norms`."""
    return structured("normalize_groups", x.tape, x.shape, [x, w, b, as_value(eps, x.tape, "eps")], shape)


def _moments(x: Value, shape: list[int]) -> tuple[Value, Value]:
    """The means and variances of groups across samples; see `tapegrad.ops.normalization`."""
    found = structured("moments", x.tape, (2, shape[1]), [x], shape)
    return found[0], found[1]


def _normalized(x: Value, mean: Value, var: Value, w: Value, b: Value, shape: list[int], eps: float) -> Value:
    scale = (var + eps) ** -0.5
    return structured("normalize", x.tape, x.shape, [x, contiguous(mean), contiguous(scale), w, b], [*shape, 0])


def _generator(rng: Any) -> Any:
    if recording_tape() is not None and not isinstance(rng, RecordedGenerator):
        raise UnsupportedError(
            "dropout in a function that is recorded draws from a generator that is an argument of that function, as in "
            "tg.grad(f)(w, rng), so that each replay draws anew; this one's numbers would be drawn once. Or use "
            "tapegrad.nn.Dropout"
        )
    return rng if isinstance(rng, RecordedGenerator) else np.random.default_rng(rng)


def check_probability(p: Any) -> None:
    """Raise ValueError unless p is a number from 0 to 1."""
    if not isinstance(p, int | float | np.number) or not 0.0 <= p <= 1.0:
        raise OperationError(f"dropout: p must be a number from 0 to 1, not {p!r}")


def dropout_mask(state: Any, shape: Sequence[int], p: float, tape: Tape) -> Value:
    """0 with probability p, else 1 / (1 - p), in an array on a tape; what is drawn follows from a state. See
    `tapegrad.ops.random`."""
    state = contiguous(as_value(state, tape, "dropout"))
    n = math.prod(shape)
    mask = structured("dropout_mask", tape, (n,), [state], [n, round(p * (1 << 32))])
    return mask.reshape(tuple(shape))


def next_state(state: Any) -> Any:
    """The state after a call."""
    calls = state[2] + 1.0
    over = calls >= float(HALF)
    return np.stack([state[0], state[1], np.where(over, 0.0, calls), state[3] + np.where(over, 1.0, 0.0)])

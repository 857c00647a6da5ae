"""Layers that normalise: over batches, over the axes of a sample, over groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.normalization import batch_norm, group_norm, layer_norm
from tapegrad.nn.buffers import Buffer
from tapegrad.nn.calls import called
from tapegrad.nn.counts import counted
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter


class _BatchNorm(Module):
    # How many axes x may have, and what to call them.
    _axes: tuple[int, ...]
    _shapes: str

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        num_features = counted(num_features, f"{type(self).__name__}: num_features")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        self.running_mean: Any = Buffer(np.zeros(num_features, dtype)) if track_running_stats else None
        self.running_var: Any = Buffer(np.ones(num_features, dtype)) if track_running_stats else None
        self.num_batches_tracked: Any = Buffer(np.array(0)) if track_running_stats else None

    def forward(self, x: Any) -> Any:
        shape = np.shape(x)
        if len(shape) not in self._axes or shape[1] != self.num_features:
            shapes = self._shapes.replace("c", str(self.num_features))
            raise ShapeError(f"{called(self)} takes arrays of shape {shapes}, not {shape}")
        given = self.weight, self.bias
        if not self.track_running_stats:
            return batch_norm(x, None, None, *given, True, eps=self.eps)
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, *given, eps=self.eps)
        count = self.num_batches_tracked + 1
        rate = 1.0 / count if self.momentum is None else self.momentum
        y, mean, var = batch_norm(x, self.running_mean, self.running_var, *given, True, rate, self.eps)
        self.running_mean, self.running_var, self.num_batches_tracked = mean, var, count
        return y

    def describe(self) -> str:
        told = [f"{self.num_features}", f"eps={self.eps}", f"momentum={self.momentum}"]
        told += [] if self.affine else ["affine=False"]
        return ", ".join(told + ([] if self.track_running_stats else ["track_running_stats=False"]))


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of x of shape (n, num_features) or (n, num_features, length).

    y = (x - mean) / sqrt(var + eps) weight + bias, for each feature. In training mean and variance are those of the
    batch, and running ones go along; in evaluation (see `Module.eval`) they are the running ones.

    Args:
        num_features: the length of the second axis of x.
        eps: what is added to the variance.
        momentum: the weight of a batch in the running numbers; None for the mean over all batches so far.
        affine: whether there are weight and bias, of shape (num_features,), at first 1 and 0.
        track_running_stats: whether there are running numbers; otherwise those of the batch are used in evaluation too.
        dtype: float64 or float32.

    The running numbers are the buffers `running_mean` and `running_var`, whose variance is divided by one less than the
    number; `num_batches_tracked` counts batches.

    Raises ShapeError for x of another shape, and in training for a single number a feature.

    >>> layer = BatchNorm1d(2)
    >>> y = layer(np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> y.data.round(3), layer.running_mean
    (array([[-1., -1.],
           [ 1.,  1.]]), array([0.2, 0.4]))
    """

    _axes, _shapes = (2, 3), "(n, c) or (n, c, length)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x of shape (n, num_features, height, width); see `BatchNorm1d`.

    >>> BatchNorm2d(3)(np.random.default_rng(0).normal(size=(2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _axes, _shapes = (4,), "(n, c, height, width)"


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of x of shape (n, num_features, depth, height, width); see `BatchNorm1d`.

    >>> BatchNorm3d(3)
    BatchNorm3d(3, eps=1e-05, momentum=0.1)
    """

    _axes, _shapes = (5,), "(n, c, depth, height, width)"


class LayerNorm(Module):
    """Layer normalisation: y = (x - mean) / sqrt(var + eps) weight + bias, over the last axes of each sample.

    Args:
        normalized_shape: the lengths of these axes, or the length of the last.
        eps: what is added to the variance.
        elementwise_affine: whether there are weight and bias, of that shape, at first 1 and 0.
        bias: whether there is a bias.
        dtype: float64 or float32.

    Raises ShapeError for x that does not end with that shape.

    >>> LayerNorm(2)(np.array([[1.0, 3.0], [2.0, 6.0]])).data.round(3)
    array([[-1.,  1.],
           [-1.,  1.]])
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, *, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not shape or min(shape) < 1:
            raise OperationError(f"LayerNorm: normalized_shape must be positive lengths, not {normalized_shape!r}")
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.weight = Parameter(np.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        if np.shape(x)[-len(self.normalized_shape) :] != self.normalized_shape:
            ends = ", ".join(map(str, self.normalized_shape))
            raise ShapeError(f"{called(self)} takes arrays of shape (..., {ends}), not {np.shape(x)}")
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}" + (
            "" if self.elementwise_affine else ", elementwise_affine=False"
        )


class GroupNorm(Module):
    """Group normalisation: y = (x - mean) / sqrt(var + eps) weight + bias, over groups of channels of each sample.

    Args:
        num_groups: how many groups the channels fall into.
        num_channels: the length of the second axis of x, a multiple of num_groups.
        eps: what is added to the variance.
        affine: whether there are weight and bias, of shape (num_channels,), at first 1 and 0.
        dtype: float64 or float32.

    Raises OperationError where num_groups does not divide num_channels, ShapeError for x of another shape than
    (n, num_channels, ...).

    >>> GroupNorm(2, 4)(np.arange(8.0).reshape(1, 4, 2)).data.round(2).tolist()
    [[[-1.34, -0.45], [0.45, 1.34], [-1.34, -0.45], [0.45, 1.34]]]
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = np.float64
    ) -> None:
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise OperationError(f"GroupNorm: {num_channels} channels do not fall into {num_groups} groups of one size")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine else None

    def forward(self, x: Any) -> Any:
        if np.ndim(x) < 2 or np.shape(x)[1] != self.num_channels:
            raise ShapeError(f"{called(self)} takes arrays of shape (n, {self.num_channels}, ...), not {np.shape(x)}")
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def describe(self) -> str:
        told = f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
        return told + ("" if self.affine else ", affine=False")

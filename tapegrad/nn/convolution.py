"""Convolutions and pooling as modules, with the arguments of PyTorch's."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.convolution import conv, conv_transpose, per_axis
from tapegrad.functions.pooling import avg_pool, max_pool
from tapegrad.nn.calls import called
from tapegrad.nn.init import Rng
from tapegrad.nn.module import Module
from tapegrad.nn.parameter import Parameter


def _only_zeros(name: str, padding_mode: Any) -> None:
    if padding_mode != "zeros":
        raise OperationError(f"{name}: padding_mode must be 'zeros', not {padding_mode!r}; pad by np.pad for another")


class _Convolution(Module):
    """What all convolutions have in common: the arguments, the parameters, and how they look."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool]

    def _set(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        groups: int, bias: bool, padding_mode: str, rng: Rng, dtype: Any,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        _only_zeros(name, padding_mode)
        if in_channels < 1 or out_channels < 1 or groups < 1 or in_channels % groups or out_channels % groups:
            raise OperationError(
                f"{name}: in_channels and out_channels must be positive, and groups divide both, not {in_channels}, "
                f"{out_channels} and groups={groups}"
            )
        each = lambda what, given, least: per_axis(name, what, given, self._axes, least)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = each("kernel_size", kernel_size, 1)
        self.stride, self.dilation = each("stride", stride, 1), each("dilation", dilation, 1)
        self.padding = padding if isinstance(padding, str) else each("padding", padding, 0)
        first, second = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        # What stands in the second axis of the weight, times the window: PyTorch's rule for both kinds.
        limit = 1.0 / math.sqrt(math.prod(shape[1:]))
        rng = np.random.default_rng(rng)
        self.weight = Parameter(rng.uniform(-limit, limit, shape).astype(dtype))
        self.bias = Parameter(rng.uniform(-limit, limit, out_channels).astype(dtype)) if bias else None

    def _check(self, x: Any) -> None:
        shape = np.shape(x)
        if len(shape) - self._axes not in (1, 2) or shape[-self._axes - 1] != self.in_channels:
            lengths = ("length", "height, width", "depth, height, width")[self._axes - 1]
            raise ShapeError(
                f"{called(self)} takes arrays of shape (batch, {self.in_channels}, {lengths}), or without the batch, "
                f"not {shape}"
            )

    def describe(self) -> str:
        said = [str(self.in_channels), str(self.out_channels), f"kernel_size={self.kernel_size}"]
        defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
        for name, default in defaults.items():
            given = vars(self).get(name, default)
            if given not in (default, (default,) * self._axes):
                said.append(f"{name}={given!r}")
        return ", ".join(said) + ("" if vars(self)["bias"] is not None else ", bias=False")


class _Conv(_Convolution):
    _transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", *, rng: Rng = None,
        dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, rng,
                  dtype)  # fmt: skip

    def forward(self, x: Any) -> Any:
        self._check(x)
        return conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _ConvTranspose(_Convolution):
    _transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        *, rng: Rng = None, dtype: Any = np.float64,
    ) -> None:  # fmt: skip
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, rng,
                  dtype)  # fmt: skip
        self.output_padding = per_axis(type(self).__name__, "output_padding", output_padding, self._axes, 0)

    def forward(self, x: Any) -> Any:
        self._check(x)
        return conv_transpose(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class Conv1d(_Conv):
    """`tg.conv` over one axis, with its weight and bias as parameters.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        kernel_size: how long a window is.
        stride, padding, dilation, groups: as for `tg.conv`.
        bias: whether each channel of the result has a number added.
        padding_mode: "zeros".
        rng: a generator for weight and bias, or a seed.
        dtype: float64 or float32.

    x has shape (batch, in_channels, length) or (in_channels, length), the weight
    (out_channels, in_channels / groups, kernel_size), the bias (out_channels,). Both begin uniform in
    ±1 / sqrt(in_channels / groups * kernel_size), as PyTorch's do.

    Raises OperationError for arguments that are no such numbers, ShapeError for x of another shape.

    >>> layer = Conv1d(2, 4, 3, padding=1, rng=0)
    >>> layer
    Conv1d(2, 4, kernel_size=(3,), padding=(1,))
    >>> layer(np.zeros((5, 2, 8))).shape
    (5, 4, 8)
    """

    _axes = 1


class Conv2d(_Conv):
    """`tg.conv` over two axes, with its weight and bias as parameters; arguments as for `Conv1d`, each number of
    `kernel_size`, `stride`, `padding` and `dilation` either one for both axes or a pair.

    x has shape (batch, in_channels, height, width) or (in_channels, height, width).

    >>> layer = Conv2d(1, 8, (3, 5), stride=2, rng=0)
    >>> layer(np.zeros((10, 1, 28, 28))).shape
    (10, 8, 13, 12)
    """

    _axes = 2


class Conv3d(_Conv):
    """`tg.conv` over three axes, with its weight and bias as parameters; arguments as for `Conv2d`.

    x has shape (batch, in_channels, depth, height, width) or (in_channels, depth, height, width).

    >>> Conv3d(1, 2, 3, padding="same", rng=0)(np.zeros((1, 4, 5, 6))).shape
    (2, 4, 5, 6)
    """

    _axes = 3


class ConvTranspose1d(_ConvTranspose):
    """`tg.conv_transpose` over one axis, with its weight and bias as parameters.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        kernel_size: how long a window is.
        stride, padding, output_padding, groups, dilation: as for `tg.conv_transpose`.
        bias: whether each channel of the result has a number added.
        padding_mode: "zeros".
        rng: a generator for weight and bias, or a seed.
        dtype: float64 or float32.

    x has shape (batch, in_channels, length) or (in_channels, length), the weight
    (in_channels, out_channels / groups, kernel_size), the bias (out_channels,). Both begin uniform in
    ±1 / sqrt(out_channels / groups * kernel_size), as PyTorch's do.

    Raises OperationError for arguments that are no such numbers, ShapeError for x of another shape.

    >>> ConvTranspose1d(4, 2, 3, stride=2, rng=0)(np.zeros((5, 4, 8))).shape
    (5, 2, 17)
    """

    _axes = 1


class ConvTranspose2d(_ConvTranspose):
    """`tg.conv_transpose` over two axes, with its weight and bias as parameters; arguments as for `ConvTranspose1d`.

    x has shape (batch, in_channels, height, width) or (in_channels, height, width).

    >>> layer = ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1, rng=0)
    >>> layer(np.zeros((10, 8, 14, 14))).shape
    (10, 1, 28, 28)
    """

    _axes = 2


class ConvTranspose3d(_ConvTranspose):
    """`tg.conv_transpose` over three axes, with its weight and bias as parameters; arguments as for `ConvTranspose1d`.

    x has shape (batch, in_channels, depth, height, width) or (in_channels, depth, height, width).

    >>> ConvTranspose3d(2, 1, 2, stride=2, rng=0)(np.zeros((1, 2, 3, 4, 5))).shape
    (1, 1, 6, 8, 10)
    """

    _axes = 3


class _Pool(Module):
    _axes: ClassVar[int]

    def _set(self, kernel_size: Any, stride: Any, padding: Any, **others: Any) -> None:
        name = type(self).__name__
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, self._axes, 1)
        self.stride = self.kernel_size if stride is None else per_axis(name, "stride", stride, self._axes, 1)
        self.padding = per_axis(name, "padding", padding, self._axes, 0)
        for key, given in others.items():
            setattr(self, key, given)

    def describe(self) -> str:
        said = [f"kernel_size={self.kernel_size}"]
        if self.stride != self.kernel_size:
            said.append(f"stride={self.stride}")
        defaults = {"padding": 0, "dilation": 1, "ceil_mode": False, "count_include_pad": True}
        for name, default in defaults.items():
            given = vars(self).get(name, default)
            if given not in (default, (default,) * self._axes):
                said.append(f"{name}={given!r}")
        return ", ".join(said)


class _MaxPool(_Pool):
    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        if return_indices:
            raise OperationError(f"{type(self).__name__}: return_indices is not supported")
        dilation = per_axis(type(self).__name__, "dilation", dilation, self._axes, 1)
        self._set(kernel_size, stride, padding, dilation=dilation, ceil_mode=bool(ceil_mode))
        self.dilation: tuple[int, ...]
        self.ceil_mode: bool

    def forward(self, x: Any) -> Any:
        return max_pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class _AvgPool(_Pool):
    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        self._set(kernel_size, stride, padding, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad))
        self.ceil_mode: bool
        self.count_include_pad: bool

    def forward(self, x: Any) -> Any:
        return avg_pool(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class MaxPool1d(_MaxPool):
    """The largest element of each window along the last axis: `tg.max_pool`, with its arguments.

    Raises OperationError for `return_indices=True`, which PyTorch has here, and for what `tg.max_pool` refuses.

    >>> MaxPool1d(2)(np.array([[1.0, 5.0, 2.0, 3.0]])).tolist()
    [[5.0, 3.0]]
    """

    _axes = 1


class MaxPool2d(_MaxPool):
    """As `MaxPool1d`, of windows over the last two axes.

    >>> pool = MaxPool2d(3, stride=2, padding=1)
    >>> pool
    MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    >>> pool(np.zeros((10, 8, 28, 28))).shape
    (10, 8, 14, 14)
    """

    _axes = 2


class MaxPool3d(_MaxPool):
    """As `MaxPool1d`, of windows over the last three axes.

    >>> MaxPool3d(2)(np.zeros((1, 4, 6, 8))).shape
    (1, 2, 3, 4)
    """

    _axes = 3


class AvgPool1d(_AvgPool):
    """The mean of each window along the last axis: `tg.avg_pool`, with its arguments.

    >>> AvgPool1d(2)(np.array([[1.0, 5.0, 2.0, 3.0]])).tolist()
    [[3.0, 2.5]]
    """

    _axes = 1


class AvgPool2d(_AvgPool):
    """As `AvgPool1d`, of windows over the last two axes.

    >>> AvgPool2d(2)(np.zeros((10, 8, 28, 28))).shape
    (10, 8, 14, 14)
    """

    _axes = 2


class AvgPool3d(_AvgPool):
    """As `AvgPool1d`, of windows over the last three axes.

    >>> AvgPool3d(2)(np.zeros((1, 4, 6, 8))).shape
    (1, 2, 3, 4)
    """

    _axes = 3

"""The largest element, or the mean, of each window of an array."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.convolution import LONGEST, per_axis
from tapegrad.functions.registry import numbers_for_numbers, to_value
from tapegrad.value import Value, contiguous, structured


class _Windows:
    """Where the windows of an array are.

    Attributes:
        x: the array, dense.
        shape: of one number a window.
        params: what the kernels are given. Of fewer than three axes the first are of length 1.
    """

    def __init__(
        self, what: str, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, axes: Any
    ) -> None:
        self.x = contiguous(to_value(x, what))
        if axes is None:
            if not isinstance(kernel_size, tuple | list):
                raise OperationError(
                    f"{what}: kernel_size={kernel_size!r} does not say over how many axes windows go: write one number "
                    f"for each, as ({kernel_size!r}, {kernel_size!r}), or say axes=2"
                )
            axes = len(kernel_size)
        axes = operator.index(axes)
        if not 1 <= axes <= 3:
            raise OperationError(f"{what}: windows go over one, two or three axes, not {axes}")
        self.kernel = per_axis(what, "kernel_size", kernel_size, axes, 1)
        self.stride = self.kernel if stride is None else per_axis(what, "stride", stride, axes, 1)
        self.padding = per_axis(what, "padding", padding, axes, 0)
        self.dilation = per_axis(what, "dilation", dilation, axes, 1)
        if self.x.ndim < axes:
            raise ShapeError(f"{what}: windows over {axes} axes need an array that has these, not shape {self.x.shape}")
        self.space = self.x.shape[self.x.ndim - axes :]
        long = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        if any(2 * p > n for p, n in zip(self.padding, long, strict=True)):
            raise OperationError(
                f"{what}: padding {padding!r} is more than half of a window of {tuple(long)} elements, with dilation"
            )
        self.out = []
        for n, l, s, p in zip(self.space, long, self.stride, self.padding, strict=True):
            left = n + 2 * p - l
            count = (left + (s - 1 if ceil_mode else 0)) // s + 1
            if ceil_mode and (count - 1) * s >= n + p:
                count -= 1  # A window that begins behind the end has nothing to look at.
            self.out.append(count)
            if count < 1 or n == 0:
                raise ShapeError(
                    f"{what}: a window of {tuple(long)} elements, with dilation, is longer than the last axes of shape "
                    f"{self.x.shape} with padding {padding!r}"
                )
        leading = self.x.shape[: self.x.ndim - axes]
        self.shape = (*leading, *self.out)
        self.params = [math.prod(leading)]
        rows = (
            (self.space, 1), (self.out, 1), (self.kernel, 1), (self.stride, 1), (self.padding, 0), (self.dilation, 1)
        )  # fmt: skip
        for numbers, fill in rows:
            self.params += [*[fill] * (3 - axes), *numbers]
        if max(self.params) > LONGEST:
            raise OperationError(f"{what}: window, stride, padding and dilation must be 2**40 at most")

    def inside(self, axis: int, low: int, high: int) -> np.ndarray:
        """How many elements of each window along an axis stand from `low` to before `high`."""
        first = np.arange(self.out[axis])[:, None] * self.stride[axis] - self.padding[axis]
        at = first + np.arange(self.kernel[axis]) * self.dilation[axis]
        return np.asarray(np.sum((at >= low) & (at < high), axis=1))


@numbers_for_numbers
def max_pool(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False, *,
    axes: int | None = None,
) -> Value:  # fmt: skip
    """The largest element of each window over the last axes, as PyTorch's `max_pool1d`, 2d and 3d.

    Args:
        x: (..., *space). All axes before those of the windows are batches, so (N, C, *space) and (C, *space) are.
        kernel_size: how long a window is along each axis. As many numbers as it has, over so many of the last axes
            windows go; of a single number `axes` says how many they are.
        stride: how far one window is from the next: a number, or one for each axis, as all that follow; as far as a
            window is long, if it is None.
        padding: by how much the first window begins before the first element, at most half of a window. What is there
            is never the largest.
        dilation: how far the elements of a window are apart.
        ceil_mode: whether there is also a window that only begins within x.
        axes: over how many of the last axes windows go, where `kernel_size` is a single number.

    Returns:
        (..., *out), where out = (length + 2 padding - dilation (kernel - 1) - 1) / stride + 1, rounded down, or up with
        `ceil_mode`.

    Of several largest elements, the first has the whole gradient. A window with a NaN gives NaN, and its gradient goes
    to the first NaN. Raises ShapeError for windows that are longer than x, OperationError for other numbers than are
    described.

    >>> x = Value([[1.0, 5.0, 2.0, 2.0]])
    >>> z = max_pool(x, (2,))
    >>> z.sum().backward()
    >>> z.numpy().tolist(), x.grad.tolist()
    ([[5.0, 2.0]], [[0.0, 1.0, 1.0, 0.0]])
    """
    found = _Windows("max_pool", x, kernel_size, stride, padding, dilation, ceil_mode, axes)
    for d, n in enumerate(found.space):
        if not found.inside(d, 0, n).all():
            raise ShapeError(
                f"max_pool: with padding {padding!r} and dilation {dilation!r} a window has no element of x, "
                f"whose shape is {found.x.shape}"
            )
    behind, length = 0, 1
    for n, k, d in zip(found.space[::-1], found.kernel[::-1], found.dilation[::-1], strict=True):
        behind, length = behind + (k - 1) * d * length, length * n
    if behind >= 2 ** (np.finfo(found.x.dtype).nmant + 1):
        raise ShapeError(f"max_pool: a window over {behind + 1:,} numbers is too long for {found.x.dtype}")
    tape = found.x._tape
    choice = structured("window_argmax", tape, found.shape, [found.x], found.params)
    return structured("window_take", tape, found.shape, [found.x, choice], found.params)


@numbers_for_numbers
def avg_pool(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, *, axes: int | None = None,
) -> Value:  # fmt: skip
    """The mean of each window over the last axes, as PyTorch's `avg_pool1d`, 2d and 3d.

    Args:
        x, kernel_size, stride, ceil_mode, axes: as for `max_pool`.
        padding: how many zeros are put before x and behind it, at most half of a window.
        count_include_pad: whether these zeros count as elements, of which the mean is taken. What a window has beyond
            them, with `ceil_mode`, never does.

    Returns and raises what `max_pool` does.

    >>> avg_pool(Value([[1.0, 5.0, 2.0, 4.0]]), 2, axes=1).numpy()
    array([[3., 3.]])
    """
    found = _Windows("avg_pool", x, kernel_size, stride, padding, 1, ceil_mode, axes)
    sums = structured("window_sum", found.x._tape, found.shape, [found.x], found.params)
    counts: Any = 1.0
    for d, (n, p) in enumerate(zip(found.space, found.padding, strict=True)):
        own = found.inside(d, -p, n + p) if count_include_pad else found.inside(d, 0, n)
        counts = np.multiply.outer(counts, own.astype(float))
    if np.all(counts == counts.flat[0]):
        return sums / float(counts.flat[0])
    return sums / counts.astype(found.x.dtype)

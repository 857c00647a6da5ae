"""Convolutions over one, two or three axes."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.registry import numbers_for_numbers
from tapegrad.ops.planes import axis, reach
from tapegrad.tape import Tape
from tapegrad.value import Value, as_value, contiguous, structured, tape_of

# The largest stride, padding and dilation: positions that are computed of them stay far below 2**63.
LONGEST = 1 << 40
# How many numbers the planes of one image may have.
_MOST = 1 << 32


def per_axis(what: str, name: str, given: Any, axes: int, least: int) -> tuple[int, ...]:
    """One whole number for each axis; a single one stands for all of them. Raises OperationError."""
    try:
        several = given if isinstance(given, tuple | list) else (given,) * axes
        found = tuple(map(operator.index, several))
    except TypeError:
        raise OperationError(f"{what}: {name} must be a whole number, or one for each axis, not {given!r}") from None
    if len(found) != axes or min(found) < least:
        raise OperationError(
            f"{what}: {name} must be {axes} numbers of {least} or more, or one such number, not {given!r}"
        )
    return found


def _whole(what: str, name: str, given: Any, least: int) -> int:
    return per_axis(what, name, given, 1, least)[0]


class _Shapes:
    """The operands of a convolution: how many axes they have, and how many channels and groups."""

    def __init__(self, what: str, x: Any, weight: Any, bias: Any, groups: Any) -> None:
        self.what = what
        self.tape: Tape = tape_of((x, weight, bias))
        self.x, self.weight = (contiguous(as_value(a, self.tape, what)) for a in (x, weight))
        self.bias = None if bias is None else contiguous(as_value(bias, self.tape, what))
        self.axes = self.weight.ndim - 2
        if not 1 <= self.axes <= 3:
            raise ShapeError(
                f"{what}: weight must have one, two or three axes after those of the channels, its shape is "
                f"{self.weight.shape}"
            )
        if self.x.ndim not in (self.axes + 1, self.axes + 2):
            raise ShapeError(
                f"{what}: with weight of shape {self.weight.shape}, x must have {self.axes + 2} axes, or "
                f"{self.axes + 1} where there is no batch, its shape is {self.x.shape}"
            )
        self.groups = _whole(what, "groups", groups, 1)
        self.space, self.kernel = self.x.shape[-self.axes :], self.weight.shape[2:]
        self.batch = self.x.shape[: -self.axes - 1]
        self.channels = self.x.shape[-self.axes - 1]
        if 0 in self.kernel:
            raise ShapeError(f"{what}: weight of shape {self.weight.shape} has a window without elements")

    def check_bias(self, channels: int) -> None:
        """Raise ShapeError where the bias is not one number for each channel of the result."""
        if self.bias is not None and self.bias.shape != (channels,):
            raise ShapeError(
                f"{self.what}: bias must have shape ({channels},), one number for each channel of the result, its "
                f"shape is {self.bias.shape}"
            )

    def each(self, name: str, given: Any, least: int) -> tuple[int, ...]:
        """One whole number for each axis."""
        return per_axis(self.what, name, given, self.axes, least)

    def params(
        self, ci: int, co: int, wide: Sequence[int], narrow: Sequence[int], stride: Sequence[int],
        padding: Sequence[int], dilation: Sequence[int],
    ) -> list[int]:  # fmt: skip
        """What the kernels are given. Of fewer than three axes the first are of length 1."""
        params = [math.prod(self.batch), self.groups, ci, co]
        rows = (wide, 1), (self.kernel, 1), (narrow, 1), (stride, 1), (padding, 0), (dilation, 1)
        for numbers, fill in rows:
            params += [*[fill] * (3 - self.axes), *numbers]
        self._check_reach(params)
        return params

    def _check_reach(self, params: Sequence[int]) -> None:
        """Raise OperationError for strides, dilations and paddings with which positions overflow, or with which planes
        would not fit in memory."""
        if max(params) > LONGEST:
            raise OperationError(f"{self.what}: stride, padding and dilation must be 2**40 at most")
        least = params[2] + params[3]
        for d in range(3):
            i, k, o, s, pad, dilation = axis(params, 0, d)
            planes, offset = reach(k, s, dilation)
            longest = max(o, (i - 1 + pad) // s - pad // s + 1) + offset
            least *= planes * (longest if d == 2 else 4 + offset)
        if least > _MOST:
            raise OperationError(
                f"{self.what}: with this stride and dilation, planes of {least:,} numbers are needed for one image"
            )


@numbers_for_numbers
def conv(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1
) -> Value:
    """The convolution of neural networks over one, two or three axes, as PyTorch's `conv1d`, `conv2d` and `conv3d`:

    z[n, c, p] = bias[c] + sum over d, k of x[n, d, p stride + k dilation - padding] weight[c, d, k],

    where x counts as zero beyond its ends. (The window is not turned round, as mathematicians have it.)

    Args:
        x: (N, C, *space), or (C, *space) without a batch.
        weight: (O, C / groups, *kernel). It has as many axes after the first two as the convolution goes over.
        bias: (O,), or None.
        stride: how far one window is from the next: a number, or one for each axis. So are `padding` and `dilation`.
        padding: how many zeros are put before x and behind it; "valid" for none; "same" for so many that the result is
            as long as x, where the stride is 1 (where they are odd, one more behind).
        dilation: how far the elements of a window are apart.
        groups: C channels and O results are divided into so many groups, each of which has its own part of `weight`.

    Returns:
        (N, O, *out), or (O, *out), where out = (length + 2 padding - dilation (kernel - 1) - 1) // stride + 1.

    Raises ShapeError for shapes that do not fit and windows that are longer than x with its padding; OperationError
    for other numbers than are described.

    >>> conv(Value([[1.0, 2.0, 3.0, 4.0]]), [[[1.0, -1.0]]], padding=1).numpy()
    array([[-1., -1., -1., -1.,  4.]])
    """
    given = _Shapes("conv", x, weight, bias, groups)
    kernel, space, groups = given.kernel, given.space, given.groups
    strides, dilations = given.each("stride", stride, 1), given.each("dilation", dilation, 1)
    out_channels, ci = given.weight.shape[:2]
    if given.channels != ci * groups:
        raise ShapeError(
            f"conv: weight of shape {given.weight.shape} in groups={groups} needs x with {ci * groups} channels, x of "
            f"shape {given.x.shape} has {given.channels}"
        )
    if out_channels % groups:
        raise ShapeError(
            f"conv: weight of shape {given.weight.shape} makes {out_channels} channels, which "
            f"groups={groups} does not divide"
        )
    given.check_bias(out_channels)
    long = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise OperationError(f"conv: padding must be numbers, 'same' or 'valid', not {padding!r}")
        if padding == "same" and max(strides) > 1:
            raise OperationError(f"conv: padding='same' needs stride 1, not {stride!r}")
        both = [n - 1 if padding == "same" else 0 for n in long]
        paddings = tuple(n // 2 for n in both)
    else:
        paddings = given.each("padding", padding, 0)
        both = [2 * n for n in paddings]
    out = [(n + more - l) // s + 1 for n, more, l, s in zip(space, both, long, strides, strict=True)]
    if min(out) < 1:
        raise ShapeError(
            f"conv: a window of {tuple(long)} elements, with dilation, is longer than x of shape {given.x.shape} with "
            f"padding {padding!r}"
        )
    params = given.params(ci, out_channels // groups, space, out, strides, paddings, dilations)
    shape = (*given.batch, out_channels, *out)
    if given.bias is None:
        return structured("convolution", given.tape, shape, [given.x, given.weight], params)
    return structured("biased_convolution", given.tape, shape, [given.x, given.weight, given.bias], params)


@numbers_for_numbers
def conv_transpose(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: Any = 1,
    dilation: Any = 1,
) -> Value:  # fmt: skip
    """The transpose of `conv` with the same weight, stride, padding and dilation, as PyTorch's `conv_transpose1d` and
    its like:

    z[n, d, p stride + k dilation - padding] is the sum of x[n, c, p] weight[c, d, k] over c, p and k, plus bias[d].

    Args:
        x: (N, C, *space), or (C, *space) without a batch.
        weight: (C, O / groups, *kernel).
        bias: (O,), or None.
        stride: how far one number's window is from the next one's: a number, or one for each axis, as all that follow
            but `groups`.
        padding: how many numbers at either end are left out.
        output_padding: how many more there are at the end. Less than stride or dilation.
        groups: as for `conv`.
        dilation: how far the elements of a window are apart.

    Returns:
        (N, O, *out), where out = (length - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.

    Raises ShapeError and OperationError as `conv` does.

    >>> conv_transpose(Value([[1.0, 2.0]]), [[[1.0, 10.0, 100.0]]], stride=2).numpy()
    array([[  1.,  10., 102.,  20., 200.]])
    """
    given = _Shapes("conv_transpose", x, weight, bias, groups)
    kernel, space, groups = given.kernel, given.space, given.groups
    strides, paddings = given.each("stride", stride, 1), given.each("padding", padding, 0)
    dilations, more = given.each("dilation", dilation, 1), given.each("output_padding", output_padding, 0)
    channels, each = given.weight.shape[:2]
    if given.channels != channels or channels % groups:
        raise ShapeError(
            f"conv_transpose: weight of shape {given.weight.shape} needs x with {channels} channels, a number that "
            f"groups={groups} divides; x of shape {given.x.shape} has {given.channels}"
        )
    given.check_bias(each * groups)
    if any(m and m >= max(s, d) for m, s, d in zip(more, strides, dilations, strict=True)):
        raise OperationError(
            f"conv_transpose: output_padding must be less than stride or dilation, not {output_padding!r} with stride "
            f"{stride!r} and dilation {dilation!r}"
        )
    out = [
        (n - 1) * s - 2 * p + d * (k - 1) + m + 1
        for n, s, p, d, k, m in zip(space, strides, paddings, dilations, kernel, more, strict=True)
    ]
    if min(out) < 1 or min(space) < 1:
        raise ShapeError(
            f"conv_transpose: nothing is left of x of shape {given.x.shape} by a window of {kernel} with padding "
            f"{padding!r}: the result would have the lengths {tuple(out)}"
        )
    params = given.params(each, channels // groups, out, space, strides, paddings, dilations)
    shape = (*given.batch, each * groups, *out)
    z = structured("convolution_input", given.tape, shape, [given.x, given.weight], params)
    return z if given.bias is None else z + given.bias.reshape(-1, *[1] * given.axes)

"""Random small networks, compared with PyTorch: `python -m tests.random_networks --count 1000 --seed 0`.

Each is a chain of convolutions, pooling, normalisation, activations and views over one to three axes, of random
shapes, strides, paddings, dilations and groups, with a loss at its end or a weighted sum. Values, gradients and
Hessians times a vector are compared: of Values, of replays at other numbers, interpreted and compiled, and of batches.
"""

import argparse
import math
import sys

import numpy as np
import torch

import tapegrad as tg

F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ACTIVATIONS = [
    (tg.relu, F.relu), (np.tanh, torch.tanh), (tg.gelu, F.gelu), (tg.softplus, F.softplus), (tg.sigmoid, torch.sigmoid),
]  # fmt: skip
LENGTH = {1: 12, 2: 8, 3: 5}
MOST = 400
CLOSE = {np.float64: 1e-8, np.float32: 3e-3}


class Network:
    """A random network: layers are pairs of functions of (x, parameters, labels), ours and PyTorch's."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.seed, self.axes = seed, int(self.rng.integers(1, 4))
        self.dtype = np.float32 if self.rng.random() < 0.3 else np.float64
        self.text, self.layers, self.shapes, self.labels = [], [], [], []
        space = self.rng.integers(1, LENGTH[self.axes] + 1, self.axes)
        batch = [(1,), (2,), (3,), ()][self.rng.integers(4)]
        self.shape = (*batch, int(self.rng.integers(1, 5)), *space.tolist())
        at = self.parameter(self.shape)
        self.layer(f"x{self.shape}", lambda x, p, labels: p[at])
        kinds = [self.convolution, self.transposed, self.pooling, self.normalised, self.activation, self.view]
        for _ in range(self.rng.integers(1, 5)):
            kinds[self.rng.integers(len(kinds))]()
        if self.rng.random() < 0.5:
            self.loss()

    def parameter(self, shape):
        self.shapes.append(tuple(shape))
        return len(self.shapes) - 1

    def layer(self, text, ours, theirs=None, shape=None):
        self.text.append(text)
        self.layers.append((ours, theirs or ours))
        self.shape = self.shape if shape is None else tuple(shape)

    def several(self, low, high):
        """A number for all axes, or one for each."""
        found = tuple(self.rng.integers(low, high + 1, self.axes).tolist())
        return found if self.rng.random() < 0.7 else found[0]

    def each(self, given):
        return given if isinstance(given, tuple) else (given,) * self.axes

    def split(self):
        """The shape as batch, channels and space."""
        return self.shape[: -self.axes - 1], self.shape[-self.axes - 1], self.shape[-self.axes :]

    def groups(self, channels):
        return int(self.rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))

    def optional(self, shape, probability=0.6):
        return self.parameter(shape) if self.rng.random() < probability else None

    # Layers. What does not fit the shape is left out.

    def convolution(self):
        batch, channels, space = self.split()
        groups = self.groups(channels)
        made = groups * int(self.rng.integers(1, 4))
        kernel = self.rng.integers(1, 4, self.axes).tolist()
        stride, padding, dilation = self.several(1, 3), self.several(0, 4), self.several(1, 3)
        if self.rng.random() < 0.25:
            stride, padding, out = 1, "same", space
        else:
            rows = zip(space, *map(self.each, (padding, dilation, stride)), kernel, strict=True)
            out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, s, k in rows]
        if min(out) < 1 or math.prod(out) > MOST:
            return
        w, b = self.parameter((made, channels // groups, *kernel)), self.optional((made,))
        how = stride, padding, dilation, groups
        self.layer(
            f"conv(kernel={kernel}, bias={b is not None}, {how})",
            lambda x, p, labels: tg.conv(x, p[w], _at(p, b), *how),
            lambda x, p, labels: CONV[self.axes](x, p[w], _at(p, b), *how), (*batch, made, *out),
        )  # fmt: skip

    def transposed(self):
        batch, channels, space = self.split()
        groups, each = self.groups(channels), int(self.rng.integers(1, 4))
        kernel = self.rng.integers(1, 4, self.axes).tolist()
        stride, padding, dilation = self.several(1, 3), self.several(0, 2), self.several(1, 3)
        longer = [max(s, d) for s, d in zip(self.each(stride), self.each(dilation), strict=True)]
        more = tuple(int(self.rng.integers(0, m)) for m in longer)
        rows = zip(space, *map(self.each, (stride, padding, dilation)), kernel, more, strict=True)
        out = [(n - 1) * s - 2 * p + d * (k - 1) + m + 1 for n, s, p, d, k, m in rows]
        if min(out) < 1 or math.prod(out) > MOST:
            return
        w, b = self.parameter((channels, each, *kernel)), self.optional((each * groups,))
        how = stride, padding, more, groups, dilation
        self.layer(
            f"conv_transpose(kernel={kernel}, bias={b is not None}, {how})",
            lambda x, p, labels: tg.conv_transpose(x, p[w], _at(p, b), *how),
            lambda x, p, labels: TRANSPOSED[self.axes](x, p[w], _at(p, b), *how), (*batch, each * groups, *out),
        )  # fmt: skip

    def pooling(self):
        kernel = tuple(self.rng.integers(1, 4, self.axes).tolist())
        padding = tuple(int(self.rng.integers(0, k // 2 + 1)) for k in kernel)
        stride = None if self.rng.random() < 0.5 else self.several(1, 4)
        largest, up = bool(self.rng.random() < 0.5), bool(self.rng.random() < 0.5)
        dilation = self.several(1, 2) if largest else 1
        how = (stride, padding, dilation, up) if largest else (stride, padding, up, bool(self.rng.random() < 0.5))
        ours, theirs = (tg.max_pool, MAX[self.axes]) if largest else (tg.avg_pool, AVERAGE[self.axes])
        try:
            found = theirs(torch.zeros(self.shape), kernel, *how)
        except RuntimeError:
            return
        if not torch.isfinite(found).all():
            return  # A window has no element of x: PyTorch answers -inf, we refuse it.
        self.layer(
            f"{ours.__name__}({kernel}, {how})", lambda x, p, labels: ours(x, kernel, *how),
            lambda x, p, labels: theirs(x, kernel, *how), found.shape,
        )  # fmt: skip

    def normalised(self):
        batch, channels, space = self.split()
        kind, eps = self.rng.integers(3), [1e-5, 0.1][self.rng.integers(2)]
        shape = self.shape[-int(self.rng.integers(1, len(self.shape) + 1)) :] if kind == 0 else (channels,)
        groups = self.groups(channels)
        each = [math.prod(shape), math.prod(space) * channels // groups, math.prod(self.shape) // channels][kind]
        if each < 2 or (kind > 0 and not batch):
            return
        # PyTorch's second derivatives want both or neither.
        w = self.optional(shape)
        b = None if w is None else self.parameter(shape)
        if kind == 0:
            self.layer(
                f"layer_norm({shape}, {w is not None})",
                lambda x, p, labels: tg.layer_norm(x, shape, _at(p, w), _at(p, b), eps),
                lambda x, p, labels: F.layer_norm(x, shape, _at(p, w), _at(p, b), eps),
            )
        elif kind == 1:
            self.layer(
                f"group_norm({groups}, {w is not None})",
                lambda x, p, labels: tg.group_norm(x, groups, _at(p, w), _at(p, b), eps),
                lambda x, p, labels: F.group_norm(x, groups, _at(p, w), _at(p, b), eps),
            )
        else:
            self.layer(
                f"batch_norm({w is not None})",
                lambda x, p, labels: tg.batch_norm(x, None, None, _at(p, w), _at(p, b), True, eps=eps),
                lambda x, p, labels: F.batch_norm(x, None, None, _at(p, w), _at(p, b), True, eps=eps),
            )

    def activation(self):
        if self.rng.random() < 0.3:
            axis = int(self.rng.integers(-len(self.shape), len(self.shape)))
            self.layer(f"softmax({axis})", lambda x, *_: tg.softmax(x, axis), lambda x, *_: F.softmax(x, axis))
            return
        ours, theirs = ACTIVATIONS[self.rng.integers(len(ACTIVATIONS))]
        self.layer(theirs.__name__, lambda x, *_: ours(x), lambda x, *_: theirs(x))

    def view(self):
        kind, axis = self.rng.integers(3), int(self.rng.integers(len(self.shape)))
        if kind == 0:
            self.layer(f"flip({axis})", lambda x, *_: np.flip(x, axis), lambda x, *_: torch.flip(x, (axis,)))
        elif kind == 1:
            self.layer("every second", lambda x, *_: x[..., ::2], None, (*self.shape[:-1], (self.shape[-1] + 1) // 2))
        elif self.axes > 1:
            shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
            self.layer("turned", lambda x, *_: np.swapaxes(x, -1, -2), lambda x, *_: x.swapaxes(-1, -2), shape)

    def loss(self):
        reduction, classes, lead = ["mean", "sum", "none"][self.rng.integers(3)], self.shape[-1], self.shape[:-1]
        kind = self.rng.integers(3)
        if kind == 0:
            ours, theirs = [
                (tg.mse_loss, F.mse_loss), (tg.l1_loss, F.l1_loss), (tg.huber_loss, F.huber_loss),
                (tg.smooth_l1_loss, F.smooth_l1_loss),
            ][self.rng.integers(4)]  # fmt: skip
            at = self.parameter(self.shape)
            self.layer(
                f"{ours.__name__}({reduction})", lambda x, p, labels: ours(x, p[at], reduction),
                lambda x, p, labels: theirs(x, p[at], reduction=reduction),
            )  # fmt: skip
            return
        ignored = [None, -100, classes - 1][self.rng.integers(3)] if classes > 1 else None
        weight = np.abs(self.rng.normal(size=classes)).astype(self.dtype) + 0.2 if self.rng.random() < 0.5 else None
        smoothing = [0.0, 0.1, 1.0][self.rng.integers(3)] if kind == 1 else 0.0

        def draw(rng):
            found = rng.integers(0, classes, lead)
            if ignored is not None:
                found = np.where(rng.random(lead) < 0.3, ignored, found)
                found.reshape(-1)[0] = 0  # One of them counts.
            return found

        self.labels.append(draw)
        how = {"weight": weight, "ignore_index": ignored}

        def ours(x, p, labels):
            if kind == 1:
                return tg.cross_entropy(x, labels[0], reduction, label_smoothing=smoothing, **how)
            return tg.nll_loss(tg.log_softmax(x), labels[0], reduction, **how)

        def theirs(x, p, labels):
            x, y = x.reshape(-1, classes), labels[0].reshape(-1)
            own = {"weight": None if weight is None else torch.tensor(weight, dtype=torch.float64)}
            own |= {"ignore_index": -100 if ignored is None else ignored, "reduction": reduction}
            if kind == 1:
                return F.cross_entropy(x, y, label_smoothing=smoothing, **own)
            return F.nll_loss(F.log_softmax(x, -1), y, **own)

        text = f"({reduction}, weight={weight is not None}, ignored={ignored}, smoothing={smoothing})"
        self.layer(("cross_entropy" if kind == 1 else "nll_loss") + text, ours, theirs)

    # What it computes

    def numbers(self, rng):
        """Parameters and labels."""
        return [rng.normal(size=s).astype(self.dtype) for s in self.shapes], [draw(rng) for draw in self.labels]

    def ours(self, *args):
        x, n = None, len(self.shapes)
        for ours, _ in self.layers:
            x = ours(x, args[:n], args[n:])
        return x

    def theirs(self, p, labels):
        x = None
        for _, theirs in self.layers:
            x = theirs(x, p, labels)
        return x


def _at(p, i):
    return None if i is None else p[i]


class Expected:
    """What PyTorch makes of a network at some numbers: the value of a weighted sum, its gradient, and the derivative of
    that along a tangent."""

    def __init__(self, network, rng, weights):
        self.p, self.labels = network.numbers(rng)
        p = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in self.p]
        value = (torch.sin(network.theirs(p, [torch.tensor(y) for y in self.labels])).reshape(-1) * weights).sum()
        gradient = torch.autograd.grad(value, p, create_graph=True, materialize_grads=True)
        self.along = [rng.normal(size=x.shape).astype(network.dtype) for x in self.p]
        slope = sum((g * torch.tensor(t)).sum() for g, t in zip(gradient, self.along, strict=True))
        second = torch.autograd.grad(slope, p, materialize_grads=True) if slope.requires_grad else None
        self.value, self.slope = value.item(), slope.item()
        self.gradient = [g.detach().numpy() for g in gradient]
        self.product = [np.zeros(x.shape) for x in self.p] if second is None else [s.numpy() for s in second]

    @property
    def args(self):
        return *self.p, *self.labels


def hold(network):
    """What is wrong with a network, as texts, and how many numbers and arrays were compared."""
    rng = np.random.default_rng((network.seed, 1))
    p, labels = network.numbers(np.random.default_rng(0))
    size = network.theirs([torch.tensor(x).double() for x in p], [torch.tensor(y) for y in labels]).numel()
    weights = rng.normal(size=size).astype(network.dtype)
    points = [Expected(network, rng, torch.tensor(weights, dtype=torch.float64)) for _ in range(3)]
    wrong, compared, n = [], 0, len(network.shapes)
    numbers = tuple(range(n))

    def close(what, found, expected):
        nonlocal compared
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            a, b = np.asarray(a), np.asarray(b)
            off = np.abs(a - b).max(initial=0.0) if a.shape == b.shape else np.inf
            # Not `>`: a NaN is wrong.
            if not off <= CLOSE[network.dtype] * (1.0 + np.abs(b).max(initial=0.0)):
                wrong.append(f"{what} {i}: off by {off:.3g} of {np.abs(b).max(initial=0.0):.3g}")
            compared += 1

    def f(*args):
        return np.sum(np.sin(network.ours(*args)).reshape(-1) * weights)

    values = [tg.Value(x) for x in points[0].p]
    result = f(*values, *points[0].labels)
    result.backward()
    close("eager", [result.data, *(v.grad for v in values)], [points[0].value, *points[0].gradient])
    for compile in (False, True) if network.seed % 12 == 0 else (False,):
        recording = tg.record(f, *points[0].args, compile=compile)
        for at in points[:2]:
            value, gradient = recording.value_and_grad(*at.args, argnums=numbers)
            close(f"replay, compile={compile}", [value, *gradient], [at.value, *at.gradient])
            tangents = *at.along, *[None] * len(at.labels)
            close(f"jvp, compile={compile}", recording.jvp(at.args, tangents), [at.value, at.slope])
            found = recording.hvp(at.args, tuple(at.along), argnums=numbers)
            close(f"hvp, compile={compile}", found, at.product)
    axes = [int(rng.integers(0, np.ndim(x) + 1)) for x in points[0].args]
    args = [np.stack(x, axis) for axis, x in zip(axes, zip(*(at.args for at in points), strict=True), strict=True)]
    value, gradient = tg.vmap(tg.value_and_grad(f, argnums=numbers), in_axes=tuple(axes))(*args)
    expected = [np.stack(x) for x in zip(*(at.gradient for at in points), strict=True)]
    close("vmap", [value, *gradient], [[at.value for at in points], *expected])
    return wrong, compared


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.random_networks", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many networks")
    parser.add_argument("--seed", type=int, default=0, help="that of the first network")
    options, failed, compared = parser.parse_args(), 0, 0
    for seed in range(options.seed, options.seed + options.count):
        network = Network(seed)
        wrong, count = hold(network)
        compared += count
        if wrong:
            failed += 1
            print(f"\n### {seed}, {network.dtype.__name__}:", *network.text, *wrong, sep="\n", flush=True)
    print(f"{options.count} networks, {compared} comparisons, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

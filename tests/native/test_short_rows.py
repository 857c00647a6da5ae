"""Rows of two to four numbers, which are read and written by whole vectors that are put together and taken apart."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native.writer import NEAR, Register, Writer

from .both import Both, difference


def elementwise(x):
    return x * 2.0 - 1.0, np.sqrt(np.abs(x)), x[:, 0] * x[:, -1]


def spaced(x):
    flat = x.reshape(-1)
    return flat[::2] * 3.0, flat[1::3] - 1.0, flat[2::4] + flat[2::4]


def put_together(x):
    return np.stack([x[:, -1] * x[:, 0], x[:, 0] - x[:, -1]], axis=1), np.concatenate([x, -x[:, :1]], axis=1)


def differences(x):
    d = x[1:] - x[:-1]
    return d, np.sum(d * d, axis=1), d[1:] * d[:-1]


def gradient_of_pairs(x):
    f = lambda x: np.sum(100.0 * (x[:, -1] - x[:, 0] ** 2) ** 2 + (1.0 - x[:, 0]) ** 2) + np.sum(x[2:, 0] * x[:-2, -1])
    return tg.value_and_grad(f)(x)


@pytest.mark.parametrize("f", [elementwise, spaced, put_together, differences, gradient_of_pairs])
@pytest.mark.parametrize("width", [2, 3, 4, 5])
@pytest.mark.parametrize("n", [64, 67, 200, 801])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_programs(f, width, n, dtype):
    rng = np.random.default_rng(n + width)
    x = rng.normal(size=(n, width)).astype(dtype)
    both = Both(f, x)
    exact = f not in (gradient_of_pairs, differences)
    assert difference(*both.run(x)) <= (0.0 if exact else 1e-13 if dtype == np.float64 else 1e-5)
    x[rng.random(x.shape) < 0.05] = np.nan
    assert difference(*both.run(x)) <= (0.0 if exact else 1e-13 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("lanes", [2, 4, 8, 16])
@pytest.mark.parametrize("stride", range(2, NEAR + 1))
def test_nothing_but_what_lies_between_is_read(lanes, stride):
    w = Writer(np.dtype(np.float64), lanes)
    w.gather("%p", stride)
    starts = [int(line.rsplit(" ", 1)[1]) for line in w.lines if "getelementptr" in line]
    assert starts[0] == 0 and max(starts) + lanes == (lanes - 1) * stride + 1
    # No more vectors than have to be.
    assert len(starts) <= stride


def test_vectors_side_by_side():
    # What the shuffles pick, followed on paper.
    w = Writer(np.dtype(np.float64), 4)
    made = w.side_by_side([Register(f"%x{j}", True) for j in range(3)])
    known = {"poison": [None] * 4} | {f"%x{j}": [(i, j) for i in range(4)] for j in range(3)}
    for line in w.lines:
        name, _, text = line.partition(" = shufflevector ")
        operands = [part.split(",")[0].rsplit(" ", 1)[-1] for part in text.split("<4 x double>")[1:]]
        mask = text.split("<4 x i32> <")[1].rstrip(">").split(", ")
        both = known[operands[0]] + known[operands[1]]
        known[name] = [None if m.endswith("poison") else both[int(m.split(" ")[1])] for m in mask]
    assert [pair for x in made for pair in known[x.text]] == [(i, j) for i in range(4) for j in range(3)]

"""tapegrad.scipy.signal: against SciPy and differences."""

import numpy as np
import pytest
import scipy.signal

import tapegrad as tg
from tapegrad.errors import ShapeError
from tapegrad.scipy import signal

RNG = np.random.default_rng(0)
SHAPES = [((7,), (3,)), ((3,), (7,)), ((6, 5), (2, 3)), ((2, 3), (6, 5)), ((4, 4, 3), (2, 2, 2)), ((1,), (1,))]
CALLS = [("convolve", {}), ("convolve", {"method": "direct"}), ("convolve", {"method": "fft"}), ("correlate", {}),
         ("correlate", {"method": "direct"}), ("fftconvolve", {}), ("oaconvolve", {})]  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize(("name", "kwargs"), CALLS)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_convolutions(shapes, name, kwargs, mode):
    a, b = (RNG.normal(size=shape) for shape in shapes)
    f = getattr(signal, name)
    expected = getattr(scipy.signal, name)(a, b, mode, **kwargs)
    np.testing.assert_array_equal(f(a, b, mode, **kwargs), expected)
    recording = tg.record(lambda a, b: f(a, b, mode, **kwargs), 0.0 * a, b)
    found = recording(a, b)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    tg.check_grads(lambda a, b: f(a, b, mode, **kwargs), (a, b), order=2)


@pytest.mark.parametrize("name", ["convolve2d", "correlate2d"])
def test_in_two_dimensions(name):
    a, b = RNG.normal(size=(5, 6)), RNG.normal(size=(2, 3))
    for mode in ("full", "same", "valid"):
        found = getattr(signal, name)(tg.Value(a), b, mode).data
        np.testing.assert_allclose(found, getattr(scipy.signal, name)(a, b, mode), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="pad the first array"):
        getattr(signal, name)(tg.Value(a), b, boundary="wrap")
    with pytest.raises(ShapeError, match="two axes"):
        getattr(signal, name)(tg.Value(a[0]), b[0])


def test_float32():
    a, b = RNG.normal(size=9).astype(np.float32), RNG.normal(size=4).astype(np.float32)
    gradient = tg.grad(lambda b: np.sum(signal.convolve(a, b) ** 2))(b)
    exact = tg.grad(lambda b: np.sum(signal.convolve(a.astype(float), b) ** 2))(b.astype(float))
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, exact, rtol=1e-4)


def test_what_is_wrong_is_named():
    a = tg.Value(np.ones(3))
    with pytest.raises(ValueError, match="mode must be"):
        signal.convolve(a, np.ones(2), "all")
    with pytest.raises(ValueError, match="method must be"):
        signal.convolve(a, np.ones(2), method="fast")
    with pytest.raises(ShapeError, match="as many axes"):
        signal.convolve(a, np.ones((2, 2)))
    with pytest.raises(ShapeError, match="must fit into the other"):
        signal.convolve(a.reshape(3, 1), np.ones((1, 3)), "valid")
    with pytest.raises(ValueError, match="must be all of them"):
        signal.fftconvolve(a.reshape(3, 1), np.ones((1, 3)), axes=0)

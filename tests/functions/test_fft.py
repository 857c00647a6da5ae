"""np.fft on Values, and pairs of Values that stand for complex numbers."""

import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import ComplexValue, Value
from tapegrad.errors import CutGradientError, IntegerInputError, OperationError, ShapeError, UnsupportedError
from tests.functions.linalg_checks import check_derivatives, check_float32, close, weighed


def all_of(z):
    """A smooth function of the parts of a complex array."""
    return weighed(z.real) + weighed(z.imag * z.real) + weighed(np.abs(z))


REAL = {"irfft": np.fft.irfft, "hfft": np.fft.hfft}
COMPLEX = {"fft": np.fft.fft, "ifft": np.fft.ifft, "rfft": np.fft.rfft, "ihfft": np.fft.ihfft}


@pytest.mark.parametrize("n", [None, 3, 4, 7, 8])
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize("name", [*REAL, *COMPLEX])
def test_transforms_over_one_axis(name, n, norm):
    def f(x):
        if name in REAL:
            return weighed(REAL[name](np.fft.fft(x), n, 0, norm)) + weighed(REAL[name](x, n, norm=norm))
        z = COMPLEX[name](x, n, 0, norm)
        return all_of(z) + (all_of(COMPLEX[name](z, n, -1, norm)) if name in ("fft", "ifft") else 0.0)

    check_derivatives(f, (4, 5), second=norm is None and n in (None, 7))


SEVERAL = {
    "fft2": (lambda x: all_of(np.fft.fft2(x)), (2, 4, 5)),
    "ifft2": (lambda x: all_of(np.fft.ifft2(np.fft.fft2(x) ** 2, (3, 6))), (4, 5)),
    "rfft2": (lambda x: all_of(np.fft.rfft2(x, (3, 6), norm="ortho")), (2, 4, 5)),
    "irfft2": (lambda x: weighed(np.fft.irfft2(np.fft.fft2(x), (5, 4))), (2, 4, 5)),
    "fftn": (lambda x: all_of(np.fft.fftn(x, axes=(2, 0))), (2, 3, 4)),
    "ifftn": (lambda x: all_of(np.fft.ifftn(np.fft.rfftn(x), s=(4, 2), axes=(1, 2))), (2, 3, 4)),
    "rfftn": (lambda x: all_of(np.fft.rfftn(x, s=(3, -1), axes=(2, 0))), (2, 3, 4)),
    "irfftn": (lambda x: weighed(np.fft.irfftn(np.fft.rfftn(x) ** 2, norm="forward")), (2, 3, 4)),
    "shifts": (lambda x: all_of(np.fft.fftshift(np.fft.fft(x))) + weighed(np.fft.ifftshift(x, axes=0)), (3, 5)),
    "there and back": (lambda x: weighed(np.fft.ifftshift(np.fft.fftshift(x)) * x), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_transforms_over_several_axes(name):
    check_derivatives(*SEVERAL[name])


@pytest.mark.parametrize("name", SEVERAL)
def test_float32_stays_float32(name):
    check_float32(*SEVERAL[name])


KERNEL = np.fft.rfft(np.array([0.5, 0.25, 0.0, 0.0, 0.25]))
RNG = np.random.default_rng(0)
C = RNG.normal(size=(5, 5)) + 1j * RNG.normal(size=(5, 5))
ARITHMETIC = {
    "convolution": lambda x: weighed(np.fft.irfft(np.fft.rfft(x) * KERNEL, 5)),
    "numbers": lambda x: all_of(2.0 * np.fft.fft(x) - 1j + (1.0 - np.fft.fft(x)) * (2.0 - 3.0j) / (1.0 + 2.0j)),
    "arrays": lambda x: all_of(C[0] * np.fft.fft(x) + C[1].real - np.fft.fft(x) / C[2] + C[3].imag * np.fft.fft(x)),
    "Values": lambda x: all_of(x * np.fft.fft(x) + np.fft.fft(x) / (x + 5.0) - x + (x - np.fft.fft(x))),
    "quotients": lambda x: all_of(np.fft.ifft(x) / (np.fft.fft(x) + 9.0) + 1.0 / (np.fft.fft(x) + 9.0)),
    "powers": lambda x: all_of(np.fft.ifft(x) ** 3 + np.square(np.fft.ifft(x)) + np.fft.ifft(x) ** 4),
    "products": lambda x: all_of(C @ np.fft.fft(x) + np.fft.fft(x) @ C.real + (C.real @ np.fft.fft(x)) @ C),
    "functions": lambda x: all_of(np.exp(0.3 * np.fft.fft(x)) + np.conj(np.fft.fft(x)) - (-np.fft.fft(x)).conj()),
    "angle": lambda x: weighed(np.angle(np.fft.rfft(x))[1:]),
    "parts": lambda x: weighed(np.real(np.fft.fft(x)) * np.imag(np.fft.fft(x))),
    "joined": lambda x: all_of(np.stack([np.fft.fft(x), np.fft.ifft(x)])[:, 1:].reshape(4, 2).T),
    "rolled": lambda x: all_of(np.concatenate([np.roll(np.fft.fft(x), 2), np.fft.ifft(x)])),
    "sums": lambda x: (abs(np.sum(np.fft.fft(x)[1:]) + np.fft.fft(x).mean())) ** 2,
    "power": lambda x: np.sum(np.abs(np.fft.rfft(x)) ** 2),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_of_complex_values(name):
    check_derivatives(ARITHMETIC[name], (5,))


def test_quotients_neither_overflow_nor_vanish():
    z = 1.0 / ComplexValue(Value([1e200, 1e-200]), Value([1e200, -1e-200]))
    close(z.real.data * [1e200, 1e-200], [0.5, 0.5], 1e-15)
    close(z.imag.data * [1e200, 1e-200], [-0.5, 0.5], 1e-15)


def test_recordings_take_and_return_complex_numbers():
    recording = tg.record(lambda x: {"spectrum": np.fft.rfft(x), "x": x}, np.ones(4))
    x = np.arange(4.0)
    result = recording(x)
    assert result["spectrum"].dtype == complex
    close(result["spectrum"], np.fft.rfft(x), 1e-15)
    again = pickle.loads(pickle.dumps(tg.record(spectrum, np.ones(4))))
    assert again.grad(x).tolist() == tg.grad(spectrum)(x).tolist()


def spectrum(x):
    return np.sum(np.abs(np.fft.fft(x)) ** 2)


def test_attributes():
    z = np.fft.rfft(Value(np.ones((2, 5), np.float32)))
    assert z.shape == (2, 3) and z.ndim == 2 and z.size == 6 and len(z) == 2 and z.dtype == np.complex64
    assert z.data.dtype == np.complex64 and z[0].shape == z.swapaxes(0, 1)[:, 0].shape == (3,)
    assert "ComplexValue(real=Value(" in repr(z)
    assert np.array_equal(z.data, np.fft.rfft(np.ones((2, 5), np.float32)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda v: np.fft.rfft(np.fft.fft(v)), OperationError, "np.fft.rfft takes real numbers"),
        (lambda v: np.fft.fft(v, 0), ShapeError, r"np.fft.fft: a transform needs one number or more.*\(4,\)"),
        (lambda v: np.fft.fft(v, -1), ShapeError, "one number or more, not -1"),
        (lambda v: np.fft.hfft(v, -1), ShapeError, "np.fft.hfft.*not -1"),
        (lambda v: np.fft.rfft(v, 2.5), IntegerInputError, "a length is a whole number, not 2.5"),
        (lambda v: np.fft.irfft(v[:1]), ShapeError, r"np.fft.irfft.*\(1,\)"),
        (lambda v: np.fft.fft(v, axis=3), ShapeError, "axis 3"),
        (lambda v: np.fft.fft2(v), ShapeError, "axis -2"),
        (lambda v: np.fft.fftn(v, s=(2,), axes=(0, 0)), UnsupportedError, "each axis once"),
        (lambda v: np.fft.fftn(v[:, None], s=(2,), axes=(0, 1)), ShapeError, "1 lengths for 2 axes"),
        (lambda v: np.fft.fft(v, norm="x"), OperationError, "norm is"),
        (lambda v: np.fft.fft(v, out=np.zeros(4, complex)), UnsupportedError, "out="),
        (lambda v: np.sort(np.fft.fft(v)), UnsupportedError, r"np.sort.*z\.real"),
        (lambda v: np.log(np.fft.fft(v)), UnsupportedError, r"np.log.*z\.real"),
        (lambda v: np.fft.fft(v) ** 0.5, UnsupportedError, "whole exponents"),
        (lambda v: bool(np.fft.fft(v)), UnsupportedError, "neither true nor false"),
        (lambda v: np.asarray(np.fft.fft(v)), CutGradientError, r"z\.data"),
        (lambda v: np.fft.fft(v[:0]), ShapeError, r"np.fft.fft.*\(0,\)"),
    ],
)
def test_what_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call(Value(np.ones(4)))


def test_empty_batches():
    assert np.fft.rfft(Value(np.zeros((0, 4)))).shape == (0, 3)

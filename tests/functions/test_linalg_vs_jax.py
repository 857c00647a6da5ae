"""Linear algebra and Fourier transforms against JAX: values, gradients, Hessians at points that were not recorded."""

import functools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.scipy import linalg as ours
from tests.oracles import jax, jit, jnp

THEIRS = jax.scipy.linalg
W = np.random.default_rng(0).normal(size=(3, 3))

# Of NumPy's module or JAX's, SciPy's linear algebra as either has it, and one matrix of 3 by 3.
CASES = {
    "cholesky, batched": lambda xp, la, a: xp.sum(xp.linalg.cholesky(xp.stack([a @ a.T, a.T @ a]) + xp.eye(3)) ** 3),
    "eigh": lambda xp, la, a: xp.sum(W * xp.linalg.eigh(a + a.T)[1] ** 2) + xp.linalg.eigh(a + a.T)[0][1] ** 2,
    "svd": lambda xp, la, a: xp.sum(W * xp.linalg.svd(a, full_matrices=False)[0] ** 2),
    "nuclear norm": lambda xp, la, a: xp.linalg.norm(a, "nuc") * xp.linalg.norm(a, 2),
    "pinv": lambda xp, la, a: xp.sum(W[:2] * xp.linalg.pinv(a[:, :2])),
    "qr": lambda xp, la, a: xp.sum(W * xp.linalg.qr(a)[0]),
    "expm": lambda xp, la, a: xp.sum(W * la.expm(a)),
    "triangular": lambda xp, la, a: xp.sum(W * la.solve_triangular(a + 3.0 * xp.eye(3), a * a, trans=1, lower=True)),
    "convolution": lambda xp, la, a: xp.sum(W[0] * xp.fft.irfft(xp.fft.rfft(a[0]) * xp.fft.rfft(a[1]), 3) ** 3),
    "power spectrum": lambda xp, la, a: xp.sum(xp.log(xp.abs(xp.fft.rfft2(a)) ** 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_against_jax(name):
    f, g = functools.partial(CASES[name], np, ours), functools.partial(CASES[name], jnp, THEIRS)
    rng = np.random.default_rng(4)
    recording = tg.record(f, rng.normal(size=(3, 3)))
    first, second = jit(jax.value_and_grad(g)), jit(jax.hessian(g))
    for _ in range(2):
        a = rng.normal(size=(3, 3))
        value, gradient = first(a)
        np.testing.assert_allclose(recording(a), value, rtol=1e-11)
        np.testing.assert_allclose(recording.grad(a), gradient, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(recording.hessian(a), second(a), rtol=1e-6, atol=1e-6)

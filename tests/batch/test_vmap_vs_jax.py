"""`vmap(grad)` and `vmap(hessian)` of functions written once, for NumPy and for JAX, against JAX's."""

import numpy as np
import pytest
from oracles import jax, jit, jnp

import tapegrad as tg

jax.config.update("jax_enable_x64", True)
MATRIX = np.random.default_rng(5).uniform(0.5, 1.5, (6, 6)).round(2)
INDICES = np.array([2, 0, 0, 5])

FUNCTIONS = {
    "polynomial": lambda xp, x: x[0] ** 3 * x[1] - x[2] * x[3] * x[4] + x[5],
    "sines": lambda xp, x: xp.sum(xp.sin(x) * x[::-1]),
    "chain": lambda xp, x: xp.tanh(xp.sin(x[0]) * xp.exp(x[1])) / (1.0 + x[2] ** 2),
    "rosenbrock": lambda xp, x: xp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2),
    "powers": lambda xp, x: xp.sum(xp.abs(x) ** 1.7 + 2.0**x),
    "logs": lambda xp, x: xp.sum(xp.log(1.5 + x * x) * xp.log1p(x**2)),
    "roots": lambda xp, x: xp.sum(xp.sqrt(1.0 + x * x) / xp.cbrt(2.0 + x**2)),
    "angles": lambda xp, x: xp.sum(xp.arctan2(x[:3], x[3:]) * xp.hypot(x[:3], x[3:])),
    "hyperbolic": lambda xp, x: xp.sum(xp.sinh(x) / xp.cosh(x) ** 2 + xp.arcsinh(x)),
    "products": lambda xp, x: xp.prod(x) + xp.prod(x[:3] + 1.0),
    "largest": lambda xp, x: xp.max(x) ** 2 * xp.min(x) + xp.max(x.reshape(2, 3) ** 2, axis=1)[0],
    "sums": lambda xp, x: xp.sum(xp.cumsum(x * x) * x),
    "means": lambda xp, x: xp.mean(x**2) * xp.var(x) + xp.std(x),
    "lengths": lambda xp, x: xp.linalg.norm(x) * xp.sum(xp.linalg.norm(x.reshape(2, 3), axis=0)),
    "logarithm of sums": lambda xp, x: xp.log(xp.sum(xp.exp(x - xp.max(x)))) + xp.max(x),
    "quadratic form": lambda xp, x: x @ MATRIX @ x / (1.0 + x @ x),
    "products with a matrix": lambda xp, x: xp.sum(xp.sin(MATRIX @ x) * (x @ MATRIX)),
    "products of matrices": lambda xp, x: xp.sum(xp.sin(x.reshape(2, 3) @ x.reshape(3, 2)) @ x.reshape(2, 3)),
    "matrix and vector": lambda xp, x: xp.sum((x[:4].reshape(2, 2) @ x[4:]) ** 3),
    "transposed": lambda xp, x: xp.sum(x.reshape(2, 3).T * x.reshape(3, 2) ** 2),
    "einsum": lambda xp, x: xp.sum(xp.einsum("ij,kj->ik", x.reshape(2, 3), xp.sin(x.reshape(2, 3))) ** 2),
    "trace": lambda xp, x: xp.trace(xp.outer(x, xp.exp(x)) @ MATRIX),
    "indices": lambda xp, x: xp.sum(x[INDICES] ** 2 * xp.sin(x[INDICES[::-1]])),
    "slices": lambda xp, x: xp.sum(x[::2] * x[1::2] + x[::-2] ** 2),
    "joined": lambda xp, x: xp.sum(xp.concatenate([x, x[::-1] ** 2, xp.stack([x[0], x[1] * x[2]])]) ** 2),
    "padded": lambda xp, x: xp.sum(xp.pad(x.reshape(2, 3), ((1, 0), (0, 2))) ** 3),
    "repeated": lambda xp, x: xp.sum(xp.tile(x, 2) ** 2 * xp.repeat(x, 2)),
    "rolled": lambda xp, x: xp.sum(xp.roll(x, 2) * xp.roll(x**2, -1) + xp.diff(x, prepend=0.3) ** 3),
    "sorted": lambda xp, x: xp.sum(xp.sort(x) * xp.exp(xp.sort(x)[::-1])),
    "chosen": lambda xp, x: xp.sum(xp.where(x > 0.25, xp.sin(x) * x, x**3)) + xp.sum(xp.maximum(x[:3], x[3:]) ** 2),
    "clipped": lambda xp, x: xp.sum(xp.clip(x, -0.75, 0.7) ** 3 * xp.roll(x, 1)),
    "softmax": lambda xp, x: xp.sum((xp.exp(x) / xp.sum(xp.exp(x))) ** 2 * x),
    "solved": lambda xp, x: xp.sum(xp.linalg.solve(x[:4].reshape(2, 2) + 3.0 * xp.eye(2), x[4:]) ** 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_hessians_of_lanes(name):
    f, rng = FUNCTIONS[name], np.random.default_rng(6)
    # No two numbers of a lane are close, and none is near a kink.
    grid = np.array([-1.3, -0.95, -0.6, -0.2, 0.45, 0.95])
    x = np.stack([rng.permutation(grid) for _ in range(40)]) + rng.uniform(-0.05, 0.05, (40, 6))
    own, other = (lambda x: f(np, x)), (lambda x: f(jnp, x))
    for ours, theirs in ((tg.grad, jax.grad), (tg.hessian, jax.hessian)):
        wanted = np.asarray(jit(jax.vmap(theirs(other)))(x))
        np.testing.assert_allclose(tg.vmap(ours(own))(x), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
        found = tg.vmap(ours(own), in_axes=-1, out_axes=-1)(x.T)
        np.testing.assert_allclose(np.moveaxis(found, -1, 0), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("nest", ["grad of sum", "jacobian", "twice", "hvp inside", "hessian of sum"])
def test_nested_with_other_transforms(nest):
    rng = np.random.default_rng(7)
    w, x = rng.normal(size=3), rng.normal(size=(4, 3))

    def build(xp, t):
        def f(w, x):
            return xp.sum(xp.tanh(w * x)) ** 2 + xp.sin(w[0] * x[1])

        lanes = t.vmap(f, in_axes=(None, 0))
        if nest == "grad of sum":
            return t.grad(lambda w, x: xp.sum(lanes(w, x) ** 2), argnums=(0, 1))(w, x)
        if nest == "jacobian":
            return (t.jacfwd if t is jax else t.jacobian)(lanes, argnums=1)(w, x)
        if nest == "twice":
            return t.vmap(t.vmap(t.grad(f), in_axes=(None, 0)), in_axes=(0, None))(xp.stack([w, 2.0 * w]), x)
        if nest == "hvp inside":
            product = lambda w, x: t.jvp(lambda w: t.grad(f)(w, x), (w,), (x,))[1]
            return t.vmap(product, in_axes=(None, 0), out_axes=1)(w, x)
        return t.hessian(lambda w: xp.mean(t.vmap(t.grad(f), in_axes=(None, 0))(w, x) ** 2))(w)

    found, wanted = build(np, tg), build(jnp, jax)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)

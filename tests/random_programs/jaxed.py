"""The same numbers by JAX, in double precision."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import flow
from .holding import Expected, leaves, mapped, whole


def expected(at: Expected, jax: Any) -> list[float]:
    """Value, derivative along u, along v, and second derivative along both, of a program at a point."""
    jnp = jax.numpy
    names = {"np": jnp, "eye": jnp.eye, **flow.FUNCTIONS, "scan": functools.partial(flow.scan, stack=jnp.stack)}
    loss = at.program.functions(**names, **{name: _wide(x) for name, x in at.program.constants.items()})["loss"]
    point, u, v = (leaves(tree) for tree in (at.point, at.u, at.v))
    wanted = [i for i, x in enumerate(point) if not whole(x)]

    def f(*given: Any) -> Any:
        numbers = list(point)
        for i, x in zip(wanted, given):
            numbers[i] = x
        remaining = iter(numbers)
        return loss(*mapped(lambda _: next(remaining), at.point))

    at_ = [jnp.asarray(point[i], float) for i in wanted]
    along_u, along_v = ([jnp.asarray(d[i], float) for i in wanted] for d in (u, v))
    gradient = jax.grad(f, argnums=tuple(range(len(at_))))
    found, pushed = jax.jvp(gradient, tuple(at_), tuple(along_v))
    pairs = (found, along_u), (found, along_v), (pushed, along_u)
    dots = [sum(float(jnp.sum(g * d)) for g, d in zip(*pair)) for pair in pairs]
    return [float(f(*at_)), *dots]


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(float) if x.dtype.kind == "f" else x

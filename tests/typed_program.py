"""A program that is annotated throughout, for type checkers in their strictest modes. They read it; nothing runs it."""

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import tapegrad as tg
from tapegrad import Value
from tapegrad.nn import MLP, Linear, Module, Parameter
from tapegrad.optim import Adam
from tapegrad.optimize import minimize

Array = NDArray[np.float64]


def energy(x: Array, scale: float = 1.0) -> Any:
    return scale * np.sum(np.sin(x) * x)


# A derivative has the signature of the function: names, defaults and annotations.
gradient = tg.grad(energy)
slope: Array = gradient(np.ones(3), scale=2.0)
gradient("no array")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
value, g = tg.value_and_grad(energy)(np.ones(3))
matrix: Array = tg.hessian(energy)(np.ones(3), 1.0)
rows: Array = tg.jacobian(energy)(x=np.ones(3))
lanes: Array = tg.vmap(energy)(np.ones((10, 3)))
product: Array = tg.hvp(energy, (np.ones(3),), (np.ones(3),))

recording = tg.record(energy, np.ones(3))
assert_type(recording, tg.Recording)
slope = recording.grad(np.zeros(3))
recording.batch.grad(np.ones((10, 3)))

# Scalar and array Values.
a, b = Value(2.0, label="a"), Value(-3.0, label="b")
assert_type(a * b, Value)
assert_type(2.0 * a - b / 3, Value)
assert_type((a * b + 1).tanh(), Value)
assert_type(a**2, Value)
assert_type(-a, Value)
assert_type(np.ones((2, 2)) @ Value(np.ones(2)) if False else a.relu(), Value)
v = Value(np.arange(3.0))
assert_type(v[0], Value)
assert_type(v[:, None], Value)
assert_type(v.T, Value)
assert_type(v @ v, Value)
for part in v:
    assert_type(part, Value)
np.sum(np.exp(v) * np.where(v > 0.0, v, 0.0)).backward()
np.mean(np.stack([v, v]))
np.linalg.solve(np.eye(3), v)
v.exp().sum().backward()
a.backward()
shape: tuple[int, ...] = v.shape
assert_type(v.sum(0, keepdims=True).reshape(1), Value)
assert_type(v.mean(axis=0), Value)
assert_type(v.clip(0.0, 1.0).max(), Value)
assert_type(tg.stop_gradient(v), Value)
switched: Any = tg.relu(v)


# Decorators keep the parameters too, and add methods.
@tg.recorded
def potential(x: Array, k: float = 1.0) -> float:
    return k * float(np.sum(x**2))


potential(np.ones(3), k=2.0)
potential.grad(np.ones(3), k=2.0)
potential("no array")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tg.recorded(compile=False)
def barrier(x: Array) -> float:
    return -float(np.sum(np.log(x)))


barrier(np.ones(3))
barrier(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
barrier.hessian(np.ones(3))


@tg.custom_vjp
def clipped(x: Array) -> Array:
    return x * 1.0


def clipped_forward(x: Array) -> tuple[Array, None]:
    return x * 1.0, None


def clipped_back(_: None, cotangent: Any) -> tuple[Any]:
    return (np.clip(cotangent, -1.0, 1.0),)


clipped.defvjp(clipped_forward, clipped_back)
clipped(x=np.ones(3))
clipped(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@tg.custom_jvp
def soft(x: Array) -> Array:
    return np.log1p(np.exp(x))


@soft.defjvp
def soft_forward(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    return soft(primals[0]), tangents[0] / (1.0 + np.exp(-primals[0]))


soft(np.ones(3))


@tg.checkpoint
def step(x: Array, rate: float) -> Array:
    return x - rate * x


step(np.ones(3), rate=0.1)
step(np.ones(3), "0.1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def table(x: float) -> float:
    return x * x


def table_back(cotangent: float, result: float, x: float) -> float:
    return cotangent * 2.0 * x


looked_up: float = tg.external(table, table_back)(x=1.0)


def advance(total: Any, x: Any) -> tuple[Any, None]:
    return total + x, None


last, sums = tg.scan(advance, 0.0, np.ones(3))
found: Any = minimize(energy, np.ones(3), method="trust-exact").x
operation: Callable[..., Any] = tg.sigmoid


class Scale(Module):
    """A module with parameters in an attribute and in a list."""

    def __init__(self, n: int) -> None:
        self.factor = Parameter(np.ones(n))
        self.w = [Parameter(np.ones(n)) for _ in range(2)]
        self.layer = Linear(n, n)

    def forward(self, x: Array) -> Any:
        return self.layer(x) * self.factor + self.w[0] * self.w[1]


model = Scale(3)
model(np.ones((4, 3))).sum().backward()
assert_type(model.flat, Value)


def loss(model: Scale, x: Array, y: Array) -> Any:
    return ((model(x) - y) ** 2).mean()


number, change = tg.value_and_grad(loss)(model, np.ones((4, 3)), np.zeros((4, 3)))
Adam(MLP([3, 4, 1]), 0.01).step()

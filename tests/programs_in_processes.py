"""Functions that tests hand to other processes, which find them here by name."""

import numpy as np

import tapegrad as tg
from tapegrad import nn, optim

FACTOR = 2.0


def loss(x, k=1.0):
    return FACTOR * np.sum(np.sin(x) * x) * k if x[0] > 0 else np.sum(x * x)


def pair(x):
    return np.stack([np.sum(x**3), x[0] * x[1]])


def curve(rate, start):
    return tg.scan(lambda x, _: (rate * x * (1.0 - x), None), start, None, 2000)[0]


@tg.recorded
def energy(x):
    return np.sum(np.exp(x) * x)


@tg.grad
def slope(x):
    return np.sum(np.exp(x) * x)


@tg.custom_vjp
def clipped(x):
    return x * 1.0


def _forward(x):
    return x * 1.0, None


def _back(_, w):
    return (np.clip(w, -1.0, 1.0),)


clipped.defvjp(_forward, _back)


@tg.checkpoint
def step(x):
    return np.sin(x) * np.exp(-x)


_sine = tg.external(np.sin, lambda w, y, x: w * np.cos(x))


def sine(x):
    return _sine(x)


def of_rules(x):
    return np.sum(5.0 * clipped(x) * step(step(x)))


class Scale(nn.Module):
    def __init__(self):
        self.factor = nn.Parameter(np.array([2.0, 3.0]))
        self.inner = [nn.Linear(2, 2, rng=0)]

    def forward(self, x):
        return self.inner[0](self.factor * x)


def squared(output, target):
    return np.mean((output - target) ** 2)


def losses_of(training, epochs):
    """The losses of some epochs more."""
    x = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
    return [training.epoch(x, x[:, ::-1] ** 2, rng=n).loss for n in range(epochs)]


def trained(optimizer, epochs):
    """A training after some epochs, and the loss of each."""
    model = Scale()
    training = nn.Training(model, optimizer(model), loss=squared, batch_size=8)
    return training, losses_of(training, epochs)


def adam(model):
    return optim.Adam(model, optim.warmup(3, optim.cosine(0.05, 20)))


def answers(held, x):
    """What each of the functions and recordings gives, in the process where this is called."""
    return [np.asarray(f(x)).tolist() for f in held]


def vmapped(x):
    return tg.vmap(tg.grad(loss), threads=2)(x).tolist()

"""Memory over long runs: calls made thousands of times with new functions, and what the process has grown by.

    python -m tests.long_runs --count 2000

Functions are made anew in each round and dropped, as in a program that fits one model after the other.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

import numpy as np

import tapegrad as tg
from tapegrad import nn, optim

KINDS = {}
X = np.linspace(0.1, 1.0, 20)


def kind(function):
    """What is done in one round, whose number it is given."""
    KINDS[function.__name__] = function
    return function


def new(n):
    """A function that is no other's."""
    return lambda x: np.sum(np.sin(x) * x) * (1.0 + n)


@kind
def grad(n):
    tg.grad(new(n))(X)


@kind
def record_and_every_derivative(n):
    recording = tg.record(new(n), X)
    recording(X), recording.grad(X), recording.hessian(X), recording.hvp((X,), (X,)), recording.vjp(X)[1](1.0)
    recording.jacobian(X, sparse=True), recording.hessian(X, sparse=True)


@kind
def branches(n):
    slope = tg.grad(lambda x, k: np.sum(x**2) * n if x[0] > k else np.sum(x) * n)
    for k in (0.0, 1.0):
        slope(X, k)


@kind
def recorded_and_keywords(n):
    f = tg.recorded(lambda x, k=1.0: np.sum(x**2) * k * n)
    f(X), f.grad(X, k=2.0), tg.value_and_grad(f)(X, k=3.0)


@kind
def vmap(n):
    tg.vmap(tg.grad(new(n)))(np.ones((50, 20)))


@kind
def compile_the_same(n):
    tg.record(new(n), X).compile().grad(X)


@kind
def loops(n):
    tg.grad(lambda x: tg.scan(lambda c, _: (c * 0.99 + 0.001 * n, None), x, None, 3000)[0])(0.5)


@kind
def functions_of_python(n):
    root = tg.implicit_root(lambda x, a: x * x - a * (1.0 + n), lambda a: np.sqrt(a * (1.0 + n)))
    sine = tg.external(np.sin, lambda w, y, x: w * np.cos(x))
    tg.grad(lambda a: root(a) * sine(a) * tg.checkpoint(lambda a: np.exp(-a))(a))(2.0)


@kind
def matrices(n):
    tg.grad(lambda a: np.sum(np.linalg.solve(a + n, np.ones(4))))(np.eye(4))


@kind
def values(n):
    x = tg.Value(X)
    np.sum(np.sin(x) * x * n).backward()


@kind
def training(n):
    x = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
    model = nn.MLP([2, 8, 2], "tanh", seed=n)
    fit = nn.Training(model, optim.Adam(model, 0.01), loss="mean_squared_error", batch_size=10)
    fit.epoch(x, x, rng=0)
    fit.predict(x)


@kind
def pictures_and_searches(n):
    recording = tg.record(new(n), X)
    str(recording), recording.blame(X), recording.certificate(X), recording.stats()


def resident():
    """The memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    raise OSError("this system does not say how much memory a process has")


def grown(round_, count, warm):
    """By how many bytes a round the process has grown, after some rounds that fill what is kept; and seconds."""
    for n in range(warm):
        round_(n)
    gc.collect()
    before, began = resident(), time.perf_counter()
    for n in range(warm, warm + count):
        round_(n)
    gc.collect()
    return (resident() - before) / count, time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.long_runs", description=__doc__)
    parser.add_argument("names", nargs="*", help="of what is done; all if none are named")
    parser.add_argument("--count", type=int, default=2000, help="rounds")
    parser.add_argument("--warm", type=int, default=300, help="rounds before those")
    options = parser.parse_args()
    for name in options.names or KINDS:
        each, seconds = grown(KINDS[name], options.count, options.warm)
        print(f"{name:>28}: {each:8.0f} bytes a round, {options.count} rounds in {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())

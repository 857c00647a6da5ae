"""Ctrl-C at random moments of every call that may take long: how soon it takes effect, and what it leaves behind.

    python -m tests.interrupts --times 20

Each call is first made undisturbed. Then it is made again and again, and a signal comes at a random moment of it. What
is asked is how long after the signal the call is left, and whether everything is as before: Python's own names, the
tape of the thread, and the result of the same call made once more.
"""

import argparse
import builtins
import contextlib
import itertools
import math
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import tapegrad as tg
from tapegrad import nn, optim, optimize, pytree
from tapegrad.tape import recording_tape

CALLS = {}
ORIGINALS = builtins.max, builtins.sorted, math.sqrt
UNIQUE = itertools.count(time.time_ns())


def case(function):
    """A function that returns a call that may take long; what the call returns is compared."""
    CALLS[function.__name__] = function
    return function


def scalars(count, mixed=False, seed=0):
    """A function of `count` instructions on single numbers, another one at each call, so that it is recorded anew. What
    is `mixed` does not repeat, so that no loops are found in it."""
    order = np.random.default_rng(seed).integers(0, 4, count // 2).tolist()

    def f(x):
        y = x * 1.0
        for k, which in enumerate(order):
            if not mixed:
                y = y * 0.999 + 0.001
            elif which == 0:
                y = y * x + 0.1
            elif which == 1:
                y = np.sin(y) - x
            elif which == 2:
                y = 0.5 * y - k * 1e-6
            else:
                y = y / (1.0 + x * x)
        return y

    return f


@case
def record():
    return lambda: tg.record(scalars(600_000), 0.5)(0.7)


@case
def gradient_of_scalars():
    return lambda: tg.grad(scalars(300_000), compile=False)(0.7)


@case
def compile_code_that_does_not_repeat():
    # Another program at each call, or its code would be found on disk.
    def call():
        f = scalars(6_000, mixed=True, seed=next(UNIQUE))
        compiled = tg.record(f, 0.5).compile().grad(0.7)
        return float(np.isclose(compiled, tg.grad(f, compile=False)(0.7), rtol=1e-9))

    return call


@case
def replay_over_arrays():
    def f(x):
        for _ in range(40):
            x = np.sin(x) + 0.1 * x
        return np.sum(x)

    x = np.linspace(0.0, 1.0, 1_000_000)
    recording = tg.record(f, x, compile=False)
    return lambda: recording.grad(x)


@case
def hessian():
    x, a = np.linspace(0.1, 1.0, 600), np.random.default_rng(0).normal(size=(600, 600))
    return lambda: tg.hessian(lambda x: np.sum(np.sin(a @ x) * x), compile=False)(x)


@case
def sparse_hessian_and_its_colours():
    x = np.linspace(0.1, 1.0, 300_000)
    return lambda: tg.hessian(
        lambda x: np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2), sparse=True
    )(x).data


@case
def sparse_jacobian_and_its_colours():
    rng = np.random.default_rng(0)
    at, x = rng.integers(0, 20_000, (60_000, 3)), rng.normal(size=20_000)
    return lambda: tg.jacobian(lambda x: np.sum(np.sin(x[at]), 1) * x[at[:, 0]], sparse=True)(x).data


@case
def vmap_with_branches():
    def f(x):
        y = x
        while y > 1.0:
            y = 0.7 * y
        for _ in range(30):
            y = np.sin(y) + 0.1 * x
        return y

    x = np.abs(np.random.default_rng(0).normal(size=200_000)) * 20.0
    return lambda: tg.vmap(tg.grad(lambda x: f(x)), compile=False)(x)


@case
def vmap_on_threads():
    def f(x):
        for _ in range(200):
            x = np.sin(x) + 0.1 * x
        return np.sum(x)

    x = np.random.default_rng(0).normal(size=(100_000, 4))
    return lambda: tg.vmap(tg.grad(lambda x: f(x)), threads=2)(x)


@case
def sum_of_a_batch():
    def f(w, x):
        for _ in range(100):
            x = np.sin(x * w) + 0.1
        return np.sum(x)

    w, x = np.ones(4), np.random.default_rng(0).normal(size=(100_000, 4))
    return lambda: tg.record(lambda w, x: f(w, x), w, x[0]).batch.value_and_grad_sum(w, x, in_axes=(None, 0))[1]


class Trained:
    """A training that begins anew at each call."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x, self.y = rng.normal(size=(40_000, 6)), rng.integers(0, 3, 40_000)

    def __call__(self):
        model = nn.MLP([6, 128, 128, 3], seed=0)
        training = nn.Training(model, optim.Adam(model, 1e-3), batch_size=20)
        training.epoch(self.x, self.y, rng=1)
        return training.predict(self.x[:100]), training.evaluate(self.x[:1000], self.y[:1000]).loss


@case
def training():
    return Trained()


@case
def minimize():
    x = np.linspace(-1.0, 1.0, 120)

    def f(x):
        return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)

    return lambda: optimize.minimize(lambda x: f(x), x, method="L-BFGS-B", options={"maxiter": 2000}).x


@case
def save_and_load():
    folder = tempfile.mkdtemp()
    recording = tg.record(scalars(400_000, mixed=True), 0.5)
    path = Path(folder) / "long.tape"

    def call():
        recording.save(path)
        return tg.load(path).grad(0.6)

    return call


@case
def export_to_c():
    recording = tg.record(scalars(12_000, mixed=True), 0.5)
    path = Path(tempfile.mkdtemp()) / "long.c"

    def call():
        recording.to_c(path)
        return float(len(path.read_text()))

    return call


@case
def scan_and_its_gradient():
    return lambda: tg.grad(
        lambda r: tg.scan(lambda x, _: (r * np.sin(x) * (1.0 - x), None), 0.3, None, 6_000_000, memory_limit=100_000)[0]
    )(2.5)


@case
def matrices_and_eigenvalues():
    a = np.random.default_rng(0).normal(size=(60, 60))

    def f(a):
        for _ in range(40):
            a = a - 0.01 * np.linalg.solve(np.eye(60) * 3.0 + a @ a.T, a)
        return np.sum(np.linalg.eigvalsh(a + a.T) ** 2)

    return lambda: tg.grad(lambda a: f(a))(a)


@case
def differential_equation():
    from tapegrad.scipy.integrate import solve_ivp

    def f(p):
        found = solve_ivp(
            lambda t, y: np.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]]), (0.0, 60.0),
            np.array([5.0, 3.0]), rtol=1e-9, atol=1e-9, t_eval=np.linspace(1.0, 60.0, 40),
        )  # fmt: skip
        return np.sum(found.y**2)

    return lambda: tg.grad(lambda p: f(p))(np.array([1.1, 0.4, 0.1, 0.4]))


@case
def a_profile_and_blame():
    recording = tg.record(scalars(40_000, mixed=True), 0.5)

    def call():
        return len(str(recording.profile(0.6))) > 0, recording.blame(0.6), recording.certificate(0.6).differentiable

    return call


def numbers(x):
    """What a call returned, as one array."""
    leaves = pytree.flatten(x)[0]
    return np.concatenate([np.ravel(np.asarray(0.0 if y is None else y, float)) for y in leaves])


def faults_left():
    """What an interrupt has left behind that it must not."""
    found = []
    if (builtins.max, builtins.sorted, math.sqrt) != ORIGINALS:
        found.append("Python's own names stand for other functions")
    if recording_tape() is not None:
        found.append("a recording goes on")
    return found


def interrupted(call, times, rng, seconds):
    """The longest wait after a signal, how many signals met the call, and what was wrong afterwards.

    Goes on until ``times`` signals met the call or ``seconds`` have passed. A signal misses a call that ends
    before it, and is lost where Python lets no exception out, such as in a callback of the garbage collector.
    """
    right = numbers(call())
    began = time.perf_counter()
    call()
    took, waits, wrong = time.perf_counter() - began, [], []

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    until = time.perf_counter() + seconds
    try:
        while len(waits) < times and time.perf_counter() < until:
            at = rng.uniform(0.02, 0.95) * took
            began, spent = time.perf_counter(), time.process_time()
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, at)
                    call()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0.0)
            except KeyboardInterrupt:
                # From when the signal came to when the call was left: the handler runs only once Python sees it.
                # What a busy machine or disk holds up does not count: nobody is at work then who could look at it.
                waits.append(min(time.perf_counter() - began - at, time.process_time() - spent))
            else:
                # The machine may have held up the call that was timed first: signals for later ones come sooner.
                took = min(took, time.perf_counter() - began)
            wrong += faults_left()
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    again = numbers(call())
    if again.shape != right.shape or not np.allclose(again, right, rtol=1e-11, atol=1e-12, equal_nan=True):
        wrong.append("the same call has another result")
    return took, max(waits, default=0.0), len(waits), wrong


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.interrupts", description=__doc__)
    parser.add_argument("names", nargs="*", help="of calls; all if none are named")
    parser.add_argument("--times", type=int, default=20, help="signals for each call")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each call, at most, about")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    for name in options.names or CALLS:
        rng = random.Random(f"{options.seed} {name}")
        took, wait, met, wrong = interrupted(CALLS[name](), options.times, rng, options.seconds)
        bad += bool(wrong) or wait > 1.0
        print(f"{name:>34}: {took:5.2f} s, {met} signals, left after {wait:.2f} s at most {wrong or ''}", flush=True)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())

"""Work handed to other processes: by pickle and cloudpickle, with multiprocessing, fork and joblib."""

import copy
import functools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import programs_in_processes as programs
import pytest

import tapegrad as tg
from tapegrad import errors, nn, optim
from tapegrad.native.choice import is_compiling

X = np.array([0.3, 0.2])


def again(x):
    return pickle.loads(pickle.dumps(x))


def all_of_them():
    """Functions of an array that can be pickled, all of module-level functions."""
    transforms = (tg.grad, tg.hessian, tg.jacobian, tg.jacfwd, tg.jacrev, tg.elementwise_grad)
    return [
        *(transform(programs.loss) for transform in transforms), tg.jacobian(programs.pair), tg.grad(programs.energy),
        programs.energy, programs.slope, tg.jacobian(programs.slope), tg.grad(programs.of_rules),
        tg.record(programs.loss, X), tg.record(programs.energy, X).grad, tg.record(programs.of_rules, X).grad,
        tg.record(programs.loss, X).hessian,
    ]  # fmt: skip


def test_what_is_pickled_gives_the_same_numbers():
    for held in all_of_them():
        np.testing.assert_array_equal(again(held)(X), held(X), err_msg=repr(held))
    value, slope = again(tg.value_and_grad(programs.loss))(X)
    assert value == programs.loss(X) and slope.tolist() == tg.grad(programs.loss)(X).tolist()
    rows = np.random.default_rng(0).normal(size=(5, 2))
    for batched in (tg.vmap(tg.grad(programs.loss)), tg.vmap(programs.energy, threads=2)):
        np.testing.assert_array_equal(again(batched)(rows), batched(rows))
    assert again(tg.grad(programs.curve))(3.1, 0.2) == tg.grad(programs.curve)(3.1, 0.2)


def test_what_a_decorator_has_made_is_found_by_its_name():
    for made in (programs.energy, programs.slope, programs.clipped):
        assert again(made) is made and copy.deepcopy(made) is made
    for f in (programs.energy, programs.energy.f):
        assert again(tg.record(f, X)).f is f


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_pool_of_processes(start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {start}")
    held = all_of_them()
    training, _ = programs.trained(programs.adam, 2)
    with multiprocessing.get_context(start).Pool(2) as pool:
        found = pool.starmap(programs.answers, [(held, X), (held, -X)])
        slopes = pool.map(tg.grad(programs.loss), [X, 2.0 * X, -X])
        losses = pool.apply(programs.losses_of, (training, 3))
        returned, first = pool.apply(programs.trained, (programs.adam, 2))
        rows = pool.apply(programs.vmapped, (np.ones((4, 2)),))
    for x, answers in zip((X, -X), found, strict=True):
        for f, answer in zip(held, answers, strict=True):
            np.testing.assert_allclose(answer, f(x), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(slopes, [tg.grad(programs.loss)(x) for x in (X, 2.0 * X, -X)], rtol=1e-14)
    # What was trained there is a copy, and goes on as it does here.
    assert losses == programs.losses_of(training, 3)
    # And what comes back from there, by a thread of the pool, is used here.
    assert programs.losses_of(returned, 3) == losses and len(first) == 2
    returned.optimizer.step()
    assert rows == programs.vmapped(np.ones((4, 2)))


SCRIPT = """
import multiprocessing, sys
import numpy as np
import tapegrad as tg

SCALE = 3.0

@tg.recorded
def decorated(x):
    return SCALE * np.sum(x * x)

@tg.grad
def slope(x):
    return SCALE * np.sum(x * x)

def plain(x):
    return SCALE * np.sum(x * x)

def held():
    x = np.ones(2)
    return [decorated, slope, tg.grad(plain), tg.record(plain, x), tg.record(decorated, x), tg.jacobian(slope)]

def of_lambdas():
    x = np.ones(2)
    return [tg.grad(lambda x: SCALE * np.sum(x * x)), tg.record(lambda x: SCALE * np.sum(x * x), x),
            tg.vmap(lambda x: SCALE * x)]

if __name__ == "__main__":
    x = np.array([1.0, 2.0])
    if sys.argv[1] == "spawn":
        functions = held()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = [pool.map(f, [x])[0] for f in functions]
    else:
        import joblib
        functions = held() + of_lambdas()
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(f)(x) for f in functions)
        found += joblib.Parallel(n_jobs=2)(joblib.delayed(r.grad)(x) for r in functions[3:5])
        functions += [r.grad for r in functions[3:5]]
    for f, y in zip(functions, found, strict=True):
        np.testing.assert_array_equal(y, f(x))
    print("same", len(found))
"""


@pytest.mark.parametrize(("how", "count"), [("spawn", 6), ("joblib", 11)])
def test_functions_of_a_script(tmp_path, how, count):
    if how == "joblib":
        pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", how], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == f"same {count}\n", done.stderr[-3000:]


def test_lambdas_and_closures_by_cloudpickle():
    cloudpickle = pytest.importorskip("cloudpickle")
    factor = 3.0
    root = tg.implicit_root(lambda x, a: x * x - a, lambda a: np.sqrt(a))
    sine = tg.external(np.sin, lambda w, y, x: w * np.cos(x))

    @tg.recorded
    def inner(x):
        return factor * x * x

    held = [
        tg.grad(lambda x: factor * x * x), tg.hessian(lambda x: x**3), tg.grad(lambda a: 2.0 * root(a)),
        tg.record(lambda x: factor * x**3, 1.0), tg.record(lambda a: 2.0 * root(a), 1.0).grad,
        tg.record(lambda x: sine(x) * x, 1.0).grad, inner, inner.grad, tg.grad(inner),
    ]  # fmt: skip
    for f in held:
        assert pickle.loads(cloudpickle.dumps(f))(2.0) == f(2.0)
    batched = tg.vmap(lambda x: factor * x)
    assert pickle.loads(cloudpickle.dumps(batched))(np.ones(2)).tolist() == [3.0, 3.0]
    # What stands in a module goes by name all the same.
    assert pickle.loads(cloudpickle.dumps(programs.energy)) is programs.energy


def test_what_cannot_travel_says_what_to_do():
    instead = "define it with `def` at the top of a module, or pickle with cloudpickle"
    for made in (
        tg.record(lambda x: x * x, 1.0), tg.grad(lambda x: x * x), tg.vmap(lambda x: x), tg.recorded(lambda x: x),
        optim.Adam(lr=lambda step: 0.1), tg.record(programs.sine, 1.0),
        nn.Training(programs.Scale(), optim.SGD(), loss=lambda y, t: np.mean(y - t)),
    ):  # fmt: skip
        with pytest.raises(errors.PickleError, match=instead) as error:
            pickle.dumps(made)
        assert isinstance(error.value, pickle.PicklingError) and "<lambda>" in str(error.value)
        copy.deepcopy(made)
    with pytest.raises(errors.CutGradientError, match=r"Pickle v\.data"):
        pickle.dumps(optim.SGD([tg.Value(1.0)]))
    copy.deepcopy(optim.SGD([tg.Value(1.0)]))
    cloudpickle = pytest.importorskip("cloudpickle")
    for kept in (tg.vjp(programs.loss, X)[1], tg.linearize(programs.loss, X)[1], tg.make_hvp(programs.loss)(X)):
        with pytest.raises(errors.PickleError, match="pickle the function and its arguments"):
            cloudpickle.dumps(kept)


def test_every_error_can_be_pickled():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type):
            assert type(again(kind("text"))) is kind and again(kind("text")).args == ("text",)


def test_networks_and_what_trains_them():
    training, _ = programs.trained(programs.adam, 3)
    other = again(training)
    assert programs.losses_of(other, 3) == programs.losses_of(training, 3)
    assert other.model.factor.tolist() == training.model.factor.tolist()
    assert programs.losses_of(copy.deepcopy(training), 2) == programs.losses_of(training, 2)
    gradient = tg.grad(lambda model, x: np.sum(model(x) ** 2))(training.model, X)
    kept = again(gradient)
    # A gradient holds plain arrays, also where it comes from elsewhere.
    assert type(kept.factor) is np.ndarray and kept.factor.tolist() == gradient.factor.tolist()
    for schedule in (
        optim.constant(0.1), optim.step_decay(1.0, every=3), optim.exponential(1.0, 0.5),
        optim.cosine(1.0, 10, floor=0.1), optim.warmup(4, optim.cosine(1.0, 10)),
    ):  # fmt: skip
        assert [again(schedule)(n) for n in range(12)] == [schedule(n) for n in range(12)]
    assert repr(optim.SGD(lr=optim.cosine(0.1, 10))) == "SGD(lr=cosine)"


def slower(step):
    return 0.5 * 0.9**step


@tg.recorded
def hidden(step):
    return 0.25 / (1.0 + step)


def test_rates_that_are_functions():
    model = nn.Linear(2, 1)
    for named in (slower, optim.warmup(3, slower), functools.partial(pow, 0.5)):
        assert [again(named)(n) for n in range(9)] == [named(n) for n in range(9)]
        optimizer = again(optim.Adam(lr=named, groups=[{"params": "[1]", "lr": named}]))
        assert optimizer.rate(4) == optimizer.rate(4, 0) == named(4)
    assert again(optim.warmup(2, hidden))(5) == hidden(3)
    nameless = lambda step: 0.1
    warm = optim.warmup(3, optim.warmup(2, nameless))
    with pytest.raises(errors.PickleError, match="the schedule after a warm-up is .*<lambda>.*`def` at the top"):
        pickle.dumps(warm)
    for rate in (nameless, warm, functools.partial(nameless), functools.partial(slower, key=nameless)):
        for thing, what in (
            (optim.SGD(lr=rate), "the learning rate"),
            (optim.SGD(lr=0.1, groups=[{"params": "b*", "lr": rate}]), "the learning rate of a group"),
            (nn.Training(model, optim.SGD(model, rate), "mse_loss"), "the learning rate"),
        ):
            what = "the schedule after a warm-up" if rate is warm else what
            with pytest.raises(errors.PickleError, match=f"{what} is .*<lambda>.*`def` at the top of a module"):
                pickle.dumps(thing)
        assert copy.deepcopy(optim.SGD(lr=rate)).lr is not None, "a copy in this process keeps the function"
    with pytest.raises(errors.PickleError, match="the step is .*<lambda>.*`def` at the top of a module"):
        pickle.dumps(nn.Training(model, optim.SGD(model, 0.1), step=lambda model, x: np.sum(model(x))))
    assert copy.deepcopy(warm)(7) == copy.copy(warm)(7) == 0.1


BUSY = """
def f(x):
    for _ in range({0}):
        x = x * 0.9 + {0} * 0.001 * np.cos(x)
    return x
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_threads_compute_and_compile():
    """The child has none of the parent's threads, and whatever they held."""
    lanes, long = np.random.default_rng(0).normal(size=(3000, 2)), np.linspace(0.1, 1.0, 100_000)
    energy = tg.grad(lambda x: np.sum(np.sin(x) * x))
    inverse = tg.grad(lambda a: np.sum(np.linalg.inv(a @ a.T + np.eye(60))))

    def answers():
        return [
            np.sum(tg.vmap(tg.grad(programs.loss), threads=2)(lanes)), np.sum(energy(long)), inverse(np.eye(60))[0, 0],
            tg.grad(programs.curve)(3.1, 0.2), programs.trained(programs.adam, 2)[1][-1], tg.grad(lambda x: x**4)(2.0),
        ]  # fmt: skip

    expected, ends = answers(), threading.Event()

    def busy(first):
        for n in range(first, first + 10_000):
            if ends.is_set():
                return
            own = {"np": np}
            exec(BUSY.format(300 + n), own)
            slope = tg.grad(own["f"])
            for _ in range(2000):
                slope(0.5)

    threads = [threading.Thread(target=busy, args=(1000 * k,), daemon=True) for k in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            until = time.monotonic() + 3.0
            while not is_compiling() and time.monotonic() < until:
                time.sleep(0.001)
            child = os.fork()
            if child == 0:
                status = 2
                try:
                    status = 0 if np.allclose(answers(), expected, rtol=1e-12) else 1
                finally:
                    os._exit(status)
            assert ended(child, 100) == 0
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def ended(child, seconds):
    """How a child has ended; it is killed where it hangs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"

"""Clusters of processes for tests, and what tests compare with."""

import contextlib

import dask
import numpy as np

import tapegrad as tg

RNG = np.random.default_rng(7)


@contextlib.contextmanager
def local(workers, **options):
    """A client of a cluster of so many processes on this machine."""
    from distributed import Client, LocalCluster

    settings = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**(settings | options)) as cluster, Client(cluster) as client:
        yield client


def loss(model, x, y):
    """A branch on a number, nested parameters, two arguments of data."""
    error = np.tanh(model["w"] @ x + model["b"]) @ model["v"] - y
    return error**2 if error > -0.5 else 2.0 * abs(error)


def smooth(model, x, y):
    """The same without the branch."""
    return (np.tanh(model["w"] @ x + model["b"]) @ model["v"] - y) ** 2


def model(dtype=np.float64):
    shapes = {"w": (4, 3), "b": (4,), "v": (4,)}
    return {name: RNG.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def rows(count, dtype=np.float64):
    return RNG.normal(size=(count, 3)).astype(dtype), RNG.normal(size=count).astype(dtype)


def in_one_process(f, model, x, y, mean=False):
    recording = tg.record(f, model, x[0], y[0])
    return recording.batch.value_and_grad_sum(model, x, y, in_axes=(None, 0, 0), mean=mean)


def assert_close(found, expected, rtol=1e-12):
    (value, gradient), (wanted, by_model) = found, expected
    np.testing.assert_allclose(value, wanted, rtol=rtol)
    assert list(gradient) == list(by_model)
    for name, g in by_model.items():
        assert gradient[name].dtype == g.dtype and gradient[name].shape == g.shape
        np.testing.assert_allclose(gradient[name], g, rtol=rtol, atol=rtol * np.abs(g).max())


def same_bits(one, other):
    (value, gradient), (wanted, by_model) = one, other
    return value == wanted and all(np.array_equal(gradient[name], g) for name, g in by_model.items())


@contextlib.contextmanager
def without_cluster(scheduler="synchronous"):
    with dask.config.set(scheduler=scheduler):
        yield

"""tapegrad.dask on processes: the same bits for any number of workers, and what happens when some of them end."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
from dask_clusters import assert_close, in_one_process, local, loss, model, rows, same_bits, smooth, without_cluster
from distributed import Client

import tapegrad as tg
import tapegrad.dask as td
from tapegrad import nn, optim
from tapegrad.errors import BranchError, ClusterError, ShapeError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client():
    with local(2) as client:
        yield client


def chunked(x, y, chunks):
    return da.from_array(x, chunks=(chunks, 3)), da.from_array(y, chunks=(chunks,))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("f", [loss, smooth])
def test_the_same_bits_for_any_number_of_workers(client, f, dtype):
    w, (x, y) = model(dtype), rows(700, dtype)
    data = chunked(x, y, (0, 100, 30, 20, *[50] * 11))
    own = self_contained(f)
    gradient = td.value_and_grad(own, mean=True)
    both = gradient(w, *data)
    assert_close(both, in_one_process(f, w, x, y, mean=True), rtol=1e-12 if dtype == np.float64 else 2e-5)
    assert same_bits(both, gradient(w, *data))
    first = next(iter(client.scheduler_info()["workers"]))
    with dask.annotate(workers=[first], allow_other_workers=False):
        assert same_bits(both, gradient(w, *data))
    for scheduler in ("synchronous", "threads"):
        with without_cluster(scheduler):
            assert same_bits(both, gradient(w, *data))
    # Whoever records anew has the same bits as well.
    assert same_bits(both, td.value_and_grad(own, mean=True)(w, *data))


def self_contained(f):
    """A function that travels by value, with what it calls."""
    branch = f is loss

    def own(model, x, y):
        error = np.tanh(model["w"] @ x + model["b"]) @ model["v"] - y
        if not branch:
            return error**2
        return error**2 if error > -0.5 else 2.0 * abs(error)

    return own


def test_a_branch_that_the_first_row_does_not_take(client):
    x = np.concatenate([np.full(5, 2.0), np.full(5, -3.0), np.full(5, 4.0)])
    f = td.value_and_grad(lambda w, x: (w * x) ** 2 if x > 0.0 else w if x > -10.0 else 0.0 * w)
    value, gradient = f(3.0, da.from_array(x, chunks=5))
    assert (value, gradient) == (9.0 * 20.0 + 15.0 + 9.0 * 80.0, 6.0 * 20.0 + 5.0 + 6.0 * 80.0)


def test_without_branches_no_code_travels(client):
    lock = threading.Lock()
    f = td.value_and_grad(lambda w, x: w * x if lock else x)
    assert f(2.0, da.arange(4.0, chunks=2)) == (12.0, 6.0)
    g = td.value_and_grad(lambda w, x: w * x if lock and x >= 0.0 else x)
    assert g(2.0, da.arange(4.0, chunks=2)) == (12.0, 6.0)
    with pytest.raises(BranchError, match=r"a branch in some rows that its first row does not take.*pickle.*lock"):
        g(2.0, 1.0 - da.arange(4.0, chunks=2))


def test_code_that_does_something_else_in_a_worker(client):
    f = td.value_and_grad(lambda w, x: w * float(os.getpid()) if x > 0.0 else w)
    with pytest.raises(ClusterError, match="recorded in a worker, does something else than where it was sent from"):
        f(2.0, da.from_array(np.array([1.0, 1.0, -1.0, -1.0]), chunks=2))


def test_code_that_workers_do_not_have(client, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("def f(w, x):\n    return w * x if x > 0.0 else w\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    x = da.from_array(np.array([1.0, 1.0, -1.0]), chunks=2)
    with pytest.raises(ClusterError, match=r"cannot be made a function in a worker.*register_pickle_by_value"):
        td.value_and_grad(only_here.f)(2.0, x)
    assert td.value_and_grad(lambda w, x: only_here.f(w, abs(x)))(2.0, x) == (6.0, 3.0)


def test_another_version_is_refused(client):
    def set_version(version):
        sys.modules["tapegrad"].__version__ = version

    f = td.value_and_grad(lambda w, x: w * x)
    client.run(set_version, "0.0.9")
    try:
        with pytest.raises(ClusterError, match=rf"client has tapegrad {tg.__version__}, this worker 0\.0\.9"):
            f(2.0, da.arange(4.0, chunks=2))
    finally:
        client.run(set_version, tg.__version__)
    assert f(2.0, da.arange(4.0, chunks=2)) == (12.0, 6.0)


def test_errors_of_a_worker_arrive(client):
    table = np.arange(4.0)
    with pytest.raises(IndexError) as found:
        td.value_and_grad(lambda w, k: w[k])(table, da.from_array(np.array([0, 1, 2, 3, 7, 1]), chunks=2))
    assert any(note.startswith("in chunk 2 of the rows") for note in found.value.__notes__)


@dataclasses.dataclass
class Line:
    slope: np.ndarray
    height: float


def test_parameters_of_many_kinds(client, recwarn):
    x = np.linspace(0.0, 1.0, 7)
    line = Line(np.full(1 << 21, 2.0), 3.0)
    losses = {"square": lambda e: e**2, "absolute": abs}
    f = td.value_and_grad(lambda line, x, kind: losses[kind](line.slope[5] * x + line.height), mean=True)
    value, gradient = f(line, da.from_array(x, chunks=3), "square")
    error = 2.0 * x + 3.0
    np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-14)
    # 16 MB: Dask would warn of a large graph.
    assert type(gradient) is Line and gradient.slope.shape == (1 << 21,)
    np.testing.assert_allclose([gradient.slope[5], gradient.height], [np.mean(2 * error * x), np.mean(2 * error)])
    assert np.count_nonzero(gradient.slope) == 1 and not [w for w in recwarn if "graph" in str(w.message)]


def test_chunks_that_stay_in_the_workers(client):
    w, (x, y) = model(), rows(100)
    dx, dy = chunked(x, y, (50, 0, 30, 20))
    f = td.value_and_grad(self_contained(smooth))
    expected = f(w, dx, dy)
    assert_close(expected, in_one_process(smooth, w, x, y))
    dx, dy = dx.persist(), dy.persist()
    assert same_bits(f(w, dx, dy), expected) and same_bits(f(w, dx, 0.5 * (dy + dy)), expected)
    # Nobody else refers to these.
    assert same_bits(f(w, 1.0 * dx.persist(), (1.0 * dy).persist()), expected)
    lazy = td.vmap(lambda w, x: np.sum(w["v"]) * x[0])(w, (1.0 * dx).persist())
    np.testing.assert_allclose(lazy.compute(), w["v"].sum() * x[:, 0], rtol=1e-12)
    network = nn.MLP([3, 1], seed=0)
    training = td.Training(network, optim.SGD(network, 0.01), "mean_squared_error", chunks_per_step=2)
    assert np.isfinite(training.epoch((1.0 * dx).persist(), (2.0 * dy).persist()[:, None], rng=0))


def test_data_on_disk(client, tmp_path):
    zarr = pytest.importorskip("zarr")
    w, (x, y) = model(), rows(500)
    known = in_one_process(smooth, w, x, y)
    for name, array in (("x", x), ("y", y)):
        stored = zarr.create_array(tmp_path / f"{name}.zarr", shape=array.shape, chunks=(90, *array.shape[1:]),
                                   dtype=array.dtype)  # fmt: skip
        stored[:] = array
    found = td.value_and_grad(self_contained(smooth))(
        w, da.from_zarr(tmp_path / "x.zarr"), da.from_zarr(tmp_path / "y.zarr")
    )
    assert_close(found, known)


def test_frames_on_disk(client, tmp_path):
    pytest.importorskip("pyarrow")
    frames, pandas = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    w, (x, y) = model(), rows(500)
    table = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})
    for k in range(5):
        table[100 * k : 100 * (k + 1)].to_parquet(tmp_path / f"{k}.parquet")
    frame = frames.read_parquet(tmp_path)
    known, own = in_one_process(smooth, w, x, y, mean=True), self_contained(smooth)
    assert_close(td.value_and_grad(lambda w, row: own(w, row[:3], row[3]), mean=True)(w, frame), known)
    table = frame.to_dask_array()
    assert_close(td.value_and_grad(own, mean=True)(w, table[:, :3], table[:, 3]), known)
    # Dask reads fewer columns in fewer chunks.
    with pytest.raises(ShapeError, match=r"different numbers of chunks.*take one frame with all columns"):
        td.value_and_grad(own)(w, frame[["a", "b", "c"]], frame["y"])


def test_rows_by_themselves(client):
    x = np.linspace(-1.0, 1.0, 24).reshape(8, 3)
    found = td.jacobian(lambda w, x: np.outer(x, w) @ x, argnums=1)(np.ones(3), da.from_array(x, chunks=(3, 3)))
    expected = tg.vmap(tg.jacobian(lambda w, x: np.outer(x, w) @ x, 1), (None, 0))(np.ones(3), x)
    np.testing.assert_allclose(found.compute(), expected, rtol=1e-12)


def test_a_worker_that_is_killed_in_the_middle(tmp_path):
    w, (x, y) = model(), rows(400)
    dx, dy = chunked(x, y, (50,) * 8)
    gradient = td.value_and_grad(self_contained(smooth))
    with without_cluster():
        expected = gradient(w, dx, dy)
    marker = tmp_path / "killed"

    def kill_once(block, block_info=None):
        import os
        import signal

        if block_info[0]["chunk-location"][0] == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    with local(2) as client:
        before = set(client.scheduler_info()["workers"])
        found = gradient(w, dx.map_blocks(kill_once, dtype=dx.dtype, meta=np.zeros((0, 0))), dy)
        assert marker.exists() and before != set(client.scheduler_info()["workers"])
    assert same_bits(found, expected)


def test_a_chunk_that_ends_every_worker():
    def kill(block):
        import os
        import signal

        if len(block) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    x = da.ones(5, chunks=((2, 3),)).map_blocks(kill, dtype=float, meta=np.zeros(0))
    once = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with once, local(1), pytest.raises(ClusterError, match="workers ended again and again at one task"):
        td.value_and_grad(lambda w, x: w * x)(1.0, x)


def test_a_cluster_without_workers():
    with local(0, processes=False), pytest.raises(ClusterError, match="cluster has no worker, for more than 1 seconds"):
        td.value_and_grad(lambda w, x: w * x, patience=1.0)(1.0, da.ones(4, chunks=2))


def test_a_scheduler_that_is_gone(tmp_path):
    where = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard",
               "--scheduler-file", str(where)]  # fmt: skip
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with Client(scheduler_file=str(where), set_as_default=True):
            timer = threading.Timer(1.0, scheduler.kill)
            timer.start()
            started = time.monotonic()
            with pytest.raises(ClusterError, match="scheduler"):
                td.value_and_grad(lambda w, x: w * x, patience=5.0)(1.0, da.ones(4, chunks=2))
            assert time.monotonic() - started < 30.0
            # And once more, now that the client knows.
            with pytest.raises(ClusterError, match="scheduler"):
                td.value_and_grad(lambda w, x: w * x, patience=0.5)(1.0, da.ones(4, chunks=2))
    finally:
        scheduler.send_signal(signal.SIGKILL)
        scheduler.wait()

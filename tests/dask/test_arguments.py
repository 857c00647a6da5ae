"""What tapegrad.dask takes and refuses, computed in this process: no cluster is needed for that."""

import subprocess
import sys
import threading

import dask
import dask.array as da
import numpy as np
import pytest
from dask_clusters import assert_close, in_one_process, loss, model, rows, same_bits, smooth, without_cluster

import tapegrad as tg
import tapegrad.dask as td
from tapegrad import nn
from tapegrad.dask import travel
from tapegrad.errors import (
    DTypeError,
    ExtraMissingError,
    IntegerInputError,
    NonScalarError,
    ShapeError,
    StructureError,
    UnsupportedError,
)


@pytest.fixture(autouse=True)
def _here():
    with without_cluster():
        yield


@pytest.mark.parametrize("f", [loss, smooth])
@pytest.mark.parametrize("mean", [False, True])
def test_unequal_and_empty_chunks(f, mean):
    w, (x, y) = model(), rows(57)
    found = td.value_and_grad(f, mean=mean)(
        w, da.from_array(x, chunks=((0, 20, 1, 0, 36), 3)), da.from_array(y, chunks=((0, 20, 1, 0, 36),))
    )
    assert_close(found, in_one_process(f, w, x, y, mean))


def test_the_mean_counts_chunks_by_their_rows():
    x = np.array([1.0, 2.0, 3.0, 10.0])
    value, gradient = td.value_and_grad(lambda w, x: w * x, mean=True)(2.0, da.from_array(x, chunks=((3, 1),)))
    assert (value, gradient) == (8.0, 4.0)


def test_arguments_are_brought_to_the_same_chunks():
    w, (x, y) = model(), rows(40)
    whole = td.value_and_grad(loss)(w, da.from_array(x, chunks=(10, 3)), da.from_array(y, chunks=10))
    cut = td.value_and_grad(loss)(w, da.from_array(x, chunks=(10, 2)), da.from_array(y, chunks=7))
    assert same_bits(whole, cut)


def test_unknown_numbers_of_rows():
    w, (x, y) = model(), rows(50)
    dx, dy = da.from_array(x, chunks=(10, 3)), da.from_array(y, chunks=10)
    keep = dx[:, 0] > 0.0
    found = td.value_and_grad(loss, mean=True)(w, dx[keep], dy[keep])
    assert_close(found, in_one_process(loss, w, x[x[:, 0] > 0.0], y[x[:, 0] > 0.0], mean=True))
    with pytest.raises(ShapeError, match="batch is empty: no chunk of the arguments has a row"):
        td.value_and_grad(loss)(w, dx[dx[:, 0] > 100.0], dy[dx[:, 0] > 100.0])
    with pytest.raises(ShapeError, match=r"different numbers of chunks.*compute_chunk_sizes"):
        td.value_and_grad(loss)(w, dx[keep], dy.rechunk(25)[dy.rechunk(25) > 0.0])
    with pytest.raises(ShapeError, match=r"different numbers of rows: args\[1\] has \d+, args\[2\] has \d+") as found:
        td.value_and_grad(loss)(w, dx[keep], dy[dy > 0.0])
    assert any("in chunk" in note for note in found.value.__notes__)


def test_nested_rows_and_parameters():
    (w, (x, y)), names = (model(), rows(30)), ("w", "b", "v")
    f = lambda parts, batch, scale: loss(dict(zip(names, parts[0])), *batch["xy"]) * scale
    batch = {"xy": (da.from_array(x, chunks=(8, 3)), da.from_array(y, chunks=8))}
    value, gradient = td.value_and_grad(f, argnums=(0, 2))(([w[n] for n in names],), batch, 0.5)
    wanted, by_model = in_one_process(loss, w, x, y)
    np.testing.assert_allclose(value, 0.5 * wanted, rtol=1e-12)
    assert isinstance(gradient, tuple) and isinstance(gradient[0][0], list) and isinstance(gradient[1], float)
    for name, g in zip(names, gradient[0][0]):
        np.testing.assert_allclose(g, 0.5 * by_model[name], rtol=1e-11, atol=1e-13)


def test_float32_is_summed_in_float64():
    w, (x, y) = model(np.float32), rows(300, np.float32)
    found = td.value_and_grad(smooth)(w, da.from_array(x, chunks=(50, 3)), da.from_array(y, chunks=50))
    assert_close(found, in_one_process(smooth, w, x, y), rtol=2e-6)
    assert found[1]["w"].dtype == np.float32
    # A float32 sum of many ones would stop at 2**24.
    one = np.float32(1.0)
    many = da.full(8, one, chunks=1)
    big = td.value_and_grad(lambda w, x: w * x * np.float32(2**24 - 1))(np.ones((), np.float32), many)
    assert big[0] == 8.0 * (2**24 - 1)


def test_integers_and_truth_values_as_rows():
    table, k, on = np.arange(5.0), np.array([0, 3, 3, 1]), np.array([True, False, True, True])
    f = lambda w, k, on: np.where(on, w[k], 0.0)
    value, gradient = td.value_and_grad(f)(table, da.from_array(k, chunks=3), da.from_array(on, chunks=3))
    assert value == 4.0 and gradient.tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]


def test_what_a_function_takes_from_around_it_may_change():
    scale, x = 1.0, da.from_array(np.arange(4.0), chunks=2)
    f = td.value_and_grad(lambda w, x: scale * w * x)
    assert f(1.0, x) == (6.0, 6.0)
    scale = 3.0
    assert f(1.0, x) == (18.0, 18.0)


def test_the_first_row_is_read_once():
    read = []

    def chunk(block):
        read.append(len(block))
        return block

    x = da.from_array(np.arange(6.0), chunks=2).map_blocks(chunk, dtype=float, meta=np.zeros(0))
    f = td.value_and_grad(lambda w, x: w * x)
    for _ in range(3):
        assert f(2.0, x)[1] == 15.0
    assert sum(read) == 2 + 3 * 6


def test_functions_that_cannot_stand_in_a_file_travel_as_code():
    external = tg.custom_vjp(lambda x: np.sin(x))
    external.defvjp(lambda x: (np.sin(x), x), lambda x, g: (g * np.cos(x),))
    x = np.linspace(0.0, 1.0, 9)
    value, gradient = td.value_and_grad(lambda w, x: external(w * x))(2.0, da.from_array(x, chunks=4))
    np.testing.assert_allclose((value, gradient), (np.sin(2 * x).sum(), (x * np.cos(2 * x)).sum()), rtol=1e-12)


def test_a_function_that_cannot_be_sent_at_all():
    lock = threading.Lock()
    external = tg.custom_vjp(lambda x: np.sin(x) if lock else x)
    external.defvjp(lambda x: (np.sin(x), x), lambda x, g: (g * np.cos(x),))
    with pytest.raises(UnsupportedError, match=r"cannot be sent to workers: as a recording.*cloudpickle raised.*lock"):
        td.value_and_grad(lambda w, x: external(w * x))(2.0, da.ones(4, chunks=2))


def ragged():
    parts = [dask.delayed(np.ones)((2, 3)), dask.delayed(np.ones)((2, 4))]
    return da.concatenate([da.from_delayed(p, (2, 3), float) for p in parts])


def objects():
    x = np.empty(2, object)
    x[:] = [np.ones(2), np.ones(3)]
    return da.from_array(x, chunks=1)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda f, x: f(1.0, np.ones(3)), ShapeError, "no argument is a Dask array"),
        (lambda f, x: f(1.0, da.ones((0,))), ShapeError, "batch is empty"),
        (lambda f, x: f(1.0, da.ones(())), ShapeError, r"args\[1\] is a Dask array without axes"),
        (lambda f, x: f(x, 1.0), IntegerInputError, "argument 0 has rows"),
        (lambda f, x: f(1, x), IntegerInputError, "argument 0 holds an integer"),
        (lambda f, x: f(tg.Value(1.0), x), TypeError, "Value"),
        (lambda f, x: f(1.0, dask.delayed(1.0)), StructureError, r"args\[1\] is a Delayed\w* of Dask's"),
        (lambda f, x: f(1.0, da.ones(3, dtype=complex)), DTypeError, "Dask array of complex128"),
        (lambda f, x: f(1.0, objects()), DTypeError, "Dask array of object: rows must be real numbers, all of one"),
        (lambda f, x: f(1.0, x[:, None][:, x > 0.0]), ShapeError, "only the number of rows may be unknown"),
        (lambda f, x: f(np.ones(3), x), NonScalarError, "sum it first"),
        (lambda f, x: td.value_and_grad(np.sum)(3.0), ShapeError, "no argument is a Dask array"),
        (lambda f, x: td.value_and_grad(3.0), StructureError, "a function is needed"),
        (lambda f, x: td.value_and_grad(np.sum, compile="yes"), ValueError, "compile must be"),
        (lambda f, x: td.value_and_grad(lambda w, x, y: w * x * y)(1.0, x, da.ones(4)), ShapeError,
         r"different numbers of rows: args\[1\] has 3, args\[2\] has 4"),
        (lambda f, x: td.value_and_grad(lambda w, x: np.sum(w * x))(1.0, ragged()), ShapeError,
         r"float64 array of shape \(3,\).*float64 array of shape \(4,\)"),
        (lambda f, x: f(nn.Linear(2, 1), x), StructureError,
         r"args\[0\] is a model, Linear, .*pass model.flat.data, and call model.call_with"),
        (lambda f, x: td.vmap(lambda p, x: x)({"a": [nn.Linear(2, 1)]}, x), StructureError,
         r"args\[0\]\['a'\]\[0\] is a model, Linear"),
        (lambda f, x: f(1.0, x.map_blocks(np.ma.masked_equal, 5.0)), UnsupportedError, "mask"),
    ],
)  # fmt: skip
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call(td.value_and_grad(lambda w, x: w * x), da.arange(3.0, chunks=2))


def test_an_error_names_the_row_and_the_chunk():
    table = np.arange(4.0)
    k = da.from_array(np.array([0, 1, 2, 3, 7, 1]), chunks=2)
    with pytest.raises(IndexError) as found:
        td.value_and_grad(lambda w, k: w[k])(table, k)
    assert found.value.__notes__ == ["in lane 0 of the batch", "in chunk 2 of the rows"]


# Each row by itself


def test_vmap_and_jacobian_are_lazy():
    w, x = RNG.normal(size=(2, 3)), RNG.normal(size=(7, 3))
    rows = da.from_array(x, chunks=((3, 0, 4), 3))
    f = lambda w, x: np.tanh(w @ x)
    both = td.jacobian(f, argnums=(0, 1))(w, rows)
    expected = tg.vmap(tg.jacobian(f, (0, 1)), (None, 0))(w, x)
    for lazy, known in zip(both, expected, strict=True):
        assert isinstance(lazy, da.Array) and lazy.shape == known.shape and lazy.dtype == known.dtype
        assert lazy.chunks[0] == (3, 0, 4)
        np.testing.assert_allclose(lazy.compute(), known, rtol=1e-12)
    np.testing.assert_allclose(td.vmap(f)(w, rows).sum(0).compute(), np.tanh(x @ w.T).sum(0), rtol=1e-12)
    slopes = td.vmap(tg.grad(lambda x: np.sum(x**3)))(rows)
    np.testing.assert_allclose(slopes.compute(), 3.0 * x**2, rtol=1e-12)
    named = td.vmap(lambda x: {"sum": np.sum(x), "one": 1})(rows[rows[:, 0] > 0.0])
    np.testing.assert_allclose(named["sum"].compute(), x[x[:, 0] > 0.0].sum(1), rtol=1e-12)
    assert named["one"].compute().tolist() == [1] * int((x[:, 0] > 0.0).sum())


def test_rows_by_parameters_that_are_changed_before_they_are_computed():
    w, x = np.ones(2), da.arange(8.0, chunks=4).reshape(4, 2)
    found = td.vmap(lambda w, x: np.sum(w * x))(w, x)
    w *= 5.0
    assert found.compute().tolist() == [1.0, 5.0, 9.0, 13.0]


def test_rows_that_return_something_else():
    x = da.from_array(np.array([1.0, 2.0, -3.0, -4.0]), chunks=2)
    assert td.vmap(lambda x: x if x > 0.0 else -2.0 * x)(x).compute().tolist() == [1.0, 2.0, 6.0, 8.0]
    with pytest.raises(StructureError, match=r"rows of chunk 1 return float64 arrays of shape \(\), the first row"):
        td.vmap(lambda x: 1 if x > 0.0 else x)(x).compute()


RNG = np.random.default_rng(3)


# What travels, and what is kept


def test_few_functions_are_kept():
    x = da.ones(2, chunks=2)
    for k in range(travel.MOST + 4):
        td.value_and_grad(lambda w, x, k=k: w * x * float(k))(1.0, x)
    assert len(travel._opened) == travel.MOST


def test_digests_tell_programs_apart():
    digest = lambda f: travel.digest(tg.record(f, 1.0).program)
    assert digest(lambda x: x * 2.0) == digest(lambda y: y * 2.0)
    assert len({digest(f) for f in (lambda x: x * 2.0, lambda x: x * 3.0, lambda x: x + 2.0, np.sin)}) == 4
    f = lambda x: x * x if x > 0.0 else x
    recording = tg.record(f, 1.0)
    from tapegrad.recording import from_bytes

    assert travel.digest(from_bytes(recording.to_bytes(), "it").program) == travel.digest(recording.program)


def test_without_dask_the_extra_is_named():
    for missing in ("dask", "distributed"):
        code = f"import sys; sys.modules[{missing!r}] = None; import tapegrad.dask"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and ExtraMissingError.__name__ in done.stderr
        assert 'pip install "tapegrad[dask]"' in done.stderr

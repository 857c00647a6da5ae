"""Optimisers against plain NumPy written from the papers and against PyTorch; schedules; clipping; saving."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim, pytree
from tapegrad.errors import DataError, DTypeError, ShapeError, StructureError, TapegradError

SIZE, STEPS = 7, 12


# Formulas again, one parameter vector at a time, in float64.


def naive_sgd(p, gradients, rates, momentum=0.0, nesterov=False, weight_decay=0.0):
    b = 0.0
    for g, lr in zip(gradients, rates, strict=True):
        d = g + weight_decay * p
        b = momentum * b + d
        p = p - lr * (d + momentum * b if nesterov else b)
    return p


def naive_adam(p, gradients, rates, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0.0
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def naive_adamw(p, gradients, rates, **options):
    return naive_adam(p, gradients, rates, decoupled=True, **{"weight_decay": 0.01, **options})


CASES = [
    (optim.SGD, naive_sgd, {}),
    (optim.SGD, naive_sgd, {"weight_decay": 0.3}),
    (optim.SGD, naive_sgd, {"momentum": 0.9}),
    (optim.SGD, naive_sgd, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, naive_adam, {}),
    (optim.Adam, naive_adam, {"betas": (0.5, 0.7), "eps": 1e-3, "weight_decay": 0.2}),
    (optim.AdamW, naive_adamw, {}),
    (optim.AdamW, naive_adamw, {"weight_decay": 0.4, "betas": (0.8, 0.99)}),
]
IDS = [f"{c.__name__}-{'-'.join(o) or 'plain'}" for c, _, o in CASES]


def problem(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=SIZE).astype(dtype), rng.normal(size=(STEPS, SIZE)).astype(dtype)


@pytest.mark.parametrize(("kind", "naive", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_update_follows_the_paper(kind, naive, options, dtype):
    p, gradients = problem(dtype)
    rates = 0.1 / (1 + np.arange(STEPS))
    expected = naive(p.astype(float), gradients.astype(float), rates, **options)
    start = p.copy()
    optimizer = kind(lr=lambda step: 0.1 / (1 + step), **options)
    for g in gradients:
        optimizer.update(p, g)
    assert p.dtype == dtype and optimizer.steps == STEPS
    tolerance = 1e-13 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(p, expected, rtol=tolerance, atol=tolerance)
    assert np.abs(p - start).min() > 1e-3


@pytest.mark.parametrize(("kind", "naive", "options"), CASES, ids=IDS)
def test_update_equals_torch(kind, naive, options):
    torch = pytest.importorskip("torch")
    p, gradients = problem(seed=1)
    theirs = torch.nn.Parameter(torch.tensor(p.copy()))
    reference = getattr(torch.optim, kind.__name__)([theirs], lr=0.05, **options)
    optimizer = kind(lr=0.05, **options)
    for g in gradients:
        optimizer.update(p, g)
        theirs.grad = torch.tensor(g)
        reference.step()
    np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "naive", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("how", ["list", "value", "module"])
def test_step_on_values(kind, naive, options, how):
    rng = np.random.default_rng(2)
    if how == "module":
        target = nn.Linear(3, 2, rng=0)
        values = target.parameters()
    else:
        values = [tg.Value(rng.normal(size=(2, 3))), tg.Value(0.7), tg.Value(rng.normal(size=2))]
        values = values if how == "list" else values[:1]
        target = values if how == "list" else values[0]
    start = np.concatenate([np.ravel(v.data) for v in values])
    weights = [rng.normal(size=v.shape) for v in values]
    optimizer = kind(target, lr=0.1, **options)
    for _ in range(4):
        optimizer.zero_grad()
        sum((w * v).sum() for w, v in zip(weights, values, strict=True)).backward()
        optimizer.step()
    gradient = np.concatenate([np.ravel(w) for w in weights])
    expected = naive(start, [gradient] * 4, [0.1] * 4, **options)
    found = np.concatenate([np.ravel(v.data) for v in values])
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_update_works_in_place_on_any_shape():
    p = np.ones((2, 3))
    window = p[1]
    optim.SGD(lr=1.0).update(window, np.array([1.0, 2.0, 3.0]))
    assert p.tolist() == [[1.0, 1.0, 1.0], [0.0, -1.0, -2.0]]


@pytest.mark.parametrize(
    ("params", "grads", "error"),
    [
        (np.ones(3), np.ones(2), ShapeError),
        (np.ones(3), np.ones(3, np.float32), ShapeError),
        (np.ones(3, int), np.ones(3, int), DTypeError),
        (np.ones((3, 3))[:, 0], np.ones(3), ShapeError),
        (np.broadcast_to(1.0, 3), np.ones(3), ShapeError),
        ([1.0], np.ones(1), StructureError),
        (["one"], ["two"], DTypeError),
    ],
)
def test_update_refuses(params, grads, error):
    with pytest.raises(error):
        optim.Adam().update(params, grads)


def test_update_refuses_other_parameters_than_before():
    optimizer = optim.Adam()
    optimizer.update(np.ones(3), np.ones(3))
    with pytest.raises(ShapeError, match="3 parameters, 4 were given"):
        optimizer.update(np.ones(4), np.ones(4))
    with pytest.raises(DTypeError, match="float64 parameters, these are float32"):
        optimizer.update(np.ones(3, np.float32), np.ones(3, np.float32))
    assert optimizer.steps == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.SGD(lr=-1.0),
        lambda: optim.SGD(lr=np.nan),
        lambda: optim.SGD(momentum=1.0),
        lambda: optim.SGD(nesterov=True),
        lambda: optim.Adam(betas=(0.9, 1.0)),
        lambda: optim.Adam(eps=-1.0),
        lambda: optim.AdamW(weight_decay=-0.1),
        lambda: optim.cosine(0.1, 0),
        lambda: optim.step_decay(0.1, every=0),
        lambda: optim.warmup(0, optim.constant(1.0)),
        lambda: optim.clip_by_norm(np.ones(2), 0.0),
    ],
)
def test_constants_out_of_range(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("params", [np.ones(3), [1.0, 2.0], [], tg.Tape])
def test_parameters_that_are_none(params):
    with pytest.raises(StructureError, match="module, a Value or a list of Values"):
        optim.SGD(params)


def test_parameters_without_gradient():
    with pytest.raises(StructureError, match="'frozen'|frozen"):
        optim.SGD([tg.Value(1.0, label="frozen", requires_grad=False)])
    with pytest.raises(StructureError, match="without parameters"):
        optim.SGD().step()


def test_schedules():
    decay = optim.exponential(2.0, 0.5, every=10)
    assert decay(0) == 2.0 and decay(10) == pytest.approx(1.0) and decay(5) == pytest.approx(2.0 * 0.5**0.5)
    assert [optim.step_decay(1.0, 3)(i) for i in (2, 3, 6)] == pytest.approx([1.0, 0.1, 0.01])
    wave = optim.cosine(1.0, 8, floor=0.2)
    assert [wave(i) for i in (0, 4, 8, 9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert all(wave(i) > wave(i + 1) for i in range(8))
    both = optim.warmup(4, wave)
    assert [both(i) for i in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0]) and both(12) == pytest.approx(0.2)


def test_a_schedule_is_asked_for_each_step():
    asked = []
    optimizer = optim.SGD(lr=lambda step: asked.append(step) or 0.1)
    p = np.ones(2)
    for _ in range(3):
        optimizer.update(p, p)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clip_by_norm(dtype):
    g = [np.array([3.0, 0.0], dtype), np.array([[4.0]], dtype)]
    assert optim.clip_by_norm(g, 10.0) == pytest.approx(5.0) and g[0][0] == 3.0
    assert optim.clip_by_norm(g, 0.5) == pytest.approx(5.0)
    np.testing.assert_allclose(g[0], [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(g[1], [[0.4]], rtol=1e-6)


def test_clip_by_norm_of_tiny_and_infinite_gradients():
    tiny = np.full(4, 1e-30, np.float32)  # squares of these are 0 in float32
    assert optim.clip_by_norm(tiny, 1e-30) == pytest.approx(2e-30)
    np.testing.assert_allclose(tiny, 5e-31, rtol=4 * np.finfo(np.float32).eps)
    bad = np.array([1.0, np.inf])
    assert optim.clip_by_norm(bad, 1.0) == np.inf
    assert bad.tolist() == [1.0, np.inf]


def test_clipping_of_values_and_modules():
    v = tg.Value([1.0, 2.0])
    (v * np.array([3.0, 4.0])).sum().backward()
    assert optim.clip_by_norm([v], 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(v.grad, [0.6, 0.8])
    model = nn.Linear(2, 1, rng=0)
    model([[3.0, -4.0]]).sum().backward()
    optim.clip_by_value(model, 2.0)
    np.testing.assert_allclose(model.flat.grad, [2.0, -2.0, 1.0])


@pytest.mark.parametrize("nested", ["module", "modules", "dict"])
def test_clipping_of_gradients_as_they_are_returned(nested):
    model, x = nn.MLP([3, 4, 2], "tanh", seed=0), np.random.default_rng(0).normal(size=(5, 3))
    arrays = {"w": np.ones((3, 4)), "out": [np.ones((4, 2))]}
    f = {
        "module": lambda m: np.sum(m(x) ** 2),
        "modules": lambda given: np.sum(given["model"](x) ** 2) + 3.0 * np.sum(given["extra"]),
        "dict": lambda given: np.sum((np.tanh(x @ given["w"]) @ given["out"][0]) ** 2),
    }[nested]
    gradient, again = (
        tg.grad(f)({"module": model, "modules": {"model": model, "extra": np.ones(2)}, "dict": arrays}[nested])
        for _ in range(2)
    )
    leaves = lambda g: pytree.flatten(g)[0]
    norm = np.sqrt(sum(np.sum(g**2) for g in leaves(again)))
    assert norm > 0.5 and optim.clip_by_norm(gradient, 0.5) == pytest.approx(norm, rel=1e-12)
    for clipped, g in zip(leaves(gradient), leaves(again), strict=True):
        np.testing.assert_allclose(clipped, g * 0.5 / norm, rtol=1e-12)
    optim.clip_by_value(gradient, 0.01)
    assert max(np.abs(g).max() for g in leaves(gradient)) == 0.01
    if nested == "module":
        before = model.flat.data
        optim.SGD(model, 1.0).update(model, gradient)
        np.testing.assert_allclose(before - model.flat.data, np.concatenate([g.ravel() for g in leaves(gradient)]))


def test_what_cannot_be_clipped_is_named():
    with pytest.raises(DTypeError, match=r"gradient\['b'\] must be an array of .*, to be changed in place, not float"):
        optim.clip_by_norm({"w": np.ones(2), "b": 0.5}, 1.0)
    with pytest.raises(DTypeError, match=r"gradient\[0\] must be an array .* not Linear"):
        optim.clip_by_norm([nn.Linear(2, 2), np.ones(2)], 1.0)


@pytest.mark.parametrize(("kind", "naive", "options"), CASES, ids=IDS)
def test_a_saved_optimizer_goes_on(tmp_path, kind, naive, options):
    p, gradients = problem(seed=3)
    expected = p.copy()
    whole = kind(lr=0.1, **options)
    for g in gradients:
        whole.update(expected, g)
    first = kind(lr=0.1, **options)
    for g in gradients[:5]:
        first.update(p, g)
    first.save(tmp_path / "state.npz")
    second = kind(lr=0.1, **options)
    second.load(tmp_path / "state.npz")
    for g in gradients[5:]:
        second.update(p, g)
    assert np.array_equal(p, expected) and second.steps == STEPS


def test_loading_what_does_not_fit_changes_nothing(tmp_path):
    optimizer = optim.Adam(tg.Value(np.ones(3)), lr=0.1)
    optimizer.update(np.ones(3), np.ones(3))
    before = optimizer.state_dict()
    optim.SGD().save(tmp_path / "sgd")
    with pytest.raises(StructureError, match="of SGD, this is Adam"):
        optimizer.load(tmp_path / "sgd")
    other = optim.Adam()
    other.update(np.ones(4), np.ones(4))
    other.save(tmp_path / "four.npz")
    with pytest.raises(ShapeError, match="4 parameters, these are 3"):
        optimizer.load(tmp_path / "four.npz")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(DataError, match="text: expected an .npz archive"):
        optimizer.load(tmp_path / "text")
    np.savez(tmp_path / "objects.npz", kind=np.array([{}], object), steps=0, hyper=np.ones(3), state=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"objects\.npz"):
        optimizer.load(tmp_path / "objects.npz")
    with pytest.raises(FileNotFoundError):
        optimizer.load(tmp_path / "nothing.npz")
    after = optimizer.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["four.npz", "objects.npz", "sgd", "text"]


def archive(path, entries, packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as made:
        for name, data in entries.items():
            made.writestr(f"{name}.npy", data)


def packed(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def test_a_hostile_file_raises_our_errors_only(tmp_path, rng):
    optimizer, path = optim.Adam(tg.Value(np.ones(3)), lr=0.1), tmp_path / "state.npz"
    optimizer.update(np.ones(3), np.ones(3))
    optimizer.save(path)
    good, before = path.read_bytes(), optimizer.state_dict()
    entries = {name: packed(array) for name, array in before.items()}
    refused = 0
    for trial in range(600):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 1 + trial % 3):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data) if trial % 4 else good[: len(good) * trial // 600])
        try:
            optimizer.load(path)
        except TapegradError:
            refused += 1
    assert refused > 400
    optimizer.load_state_dict(before)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }"
    for wrong in (
        b"", b"\x93NUMPY\x09\x00",
        header % b"1000000000000,", header % b"-1,", header % (b"(" * 60), b"\x93NUMPY\x01\x00",
        packed(np.array(-1)), packed(np.array([2])), packed(np.array(1.5)), packed(np.array("one")),
    ):  # fmt: skip
        archive(path, entries | {"steps": wrong})
        with pytest.raises(DataError):
            optimizer.load(path)
    constants = before["hyper"].copy()
    for number in (np.nan, -1.0, np.inf):
        constants[0] = number
        archive(path, entries | {"hyper": packed(constants)})
        with pytest.raises(DataError, match="constants"):
            optimizer.load(path)
    assert all(np.array_equal(before[name], array) for name, array in optimizer.state_dict().items())
    optimizer.load_state_dict(before)


def test_bombs_are_not_unpacked(tmp_path):
    optimizer, bomb = optim.SGD(lr=0.1), packed(np.zeros(20_000_000))
    archive(tmp_path / "bomb.npz", {"unknown": bomb}, zipfile.ZIP_DEFLATED)
    entries = dict.fromkeys(("kind", "steps", "hyper", "state"), bomb)
    archive(tmp_path / "known.npz", entries, zipfile.ZIP_DEFLATED)
    archive(tmp_path / "worse.npz", entries, zipfile.ZIP_LZMA)
    del bomb
    tracemalloc.start()
    with pytest.raises(StructureError, match="unknown"):
        optimizer.load(tmp_path / "bomb.npz")
    with pytest.raises(DataError, match="from .* bytes"):
        optimizer.load(tmp_path / "known.npz")
    with pytest.raises(DataError, match="NumPy does not use"):
        optimizer.load(tmp_path / "worse.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_saving_through_a_link_leaves_the_link(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "state.npz"
    link.symlink_to(tmp_path / "there" / "real.npz")
    optim.SGD().save(link)
    assert link.is_symlink() and [f.name for f in (tmp_path / "there").iterdir()] == ["real.npz"]
    optim.SGD().load(link)

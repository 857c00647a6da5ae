"""Every optimiser against PyTorch's over a hundred steps, alone and in groups; Lion, which PyTorch lacks, against its
formula."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim

STEPS = 100
CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"maximize": True, "betas": (0.5, 0.7), "eps": 1e-3}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.3}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.8, "alpha": 0.7, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "maximize": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.7, "weight_decay": 0.1, "eps": 1e-4, "maximize": True}),
]
IDS = [f"{kind}-{'-'.join(options) or 'plain'}" for kind, options in CASES]


def gradients(*shapes, seed=0):
    """A hundred gradients of wildly different sizes."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-3.0, 1.0, (STEPS, len(shapes)))
    return [[size * rng.normal(size=shape) for size, shape in zip(row, shapes, strict=True)] for row in sizes]


def apart(found, expected):
    """The largest difference, relative to the largest number."""
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, expected, strict=True))


def torch_steps(kind, options, rate, start, given, dtype):
    """What PyTorch makes of some arrays."""
    torch = pytest.importorskip("torch")
    theirs = [torch.nn.Parameter(torch.tensor(np.asarray(x, dtype))) for x in start]
    reference = getattr(torch.optim, kind)(theirs, lr=rate, **options)
    for step in given:
        for p, g in zip(theirs, step, strict=True):
            p.grad = torch.tensor(np.asarray(g, dtype))
        reference.step()
    return [p.detach().numpy() for p in theirs]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=IDS)
def test_a_hundred_steps(kind, options):
    rng = np.random.default_rng(1)
    start = [rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=())]
    given = gradients((3, 4), (4,), ())
    rate = 1.0 if kind == "Adadelta" else 0.02

    def steps(dtype):
        w, b, c = (np.asarray(x, dtype) for x in start)
        params, optimizer = {"w": w, "b": [b, c]}, getattr(optim, kind)(lr=rate, **options)
        for step in given:
            w, b, c = (np.asarray(g, dtype) for g in step)
            params = optimizer.update(params, {"w": w, "b": [b, c]})
        found = [params["w"], *params["b"]]
        assert all(x.dtype == dtype for x in found)
        return found

    exact = torch_steps(kind, options, rate, start, given, np.float64)
    assert apart(steps(np.float64), exact) < 1e-12
    assert apart(exact, start) > 1e-3
    # In float32 both round, each in its own way.
    theirs = apart(torch_steps(kind, options, rate, start, given, np.float32), exact)
    assert apart(steps(np.float32), exact) < 2.0 * theirs + 1e-6


@pytest.mark.parametrize("how", ["patterns", "values", "modules"])
@pytest.mark.parametrize(("kind", "options"), CASES[:3] + CASES[4:6] + CASES[9:12], ids=IDS[:3] + IDS[4:6] + IDS[9:12])
def test_a_hundred_steps_in_groups(kind, options, how):
    torch = pytest.importorskip("torch")
    model = nn.Sequential(nn.Linear(3, 2, rng=0), nn.Tanh(), nn.Linear(2, 4, rng=1))
    names = [name for name, _ in model.named_parameters()]
    theirs = [torch.nn.Parameter(torch.tensor(np.array(p.data))) for p in model.parameters()]
    # The second layer with a rate of its own, in front of the first; other decay too.
    own = {"lr": 0.3, "weight_decay": 0.2}
    reference = getattr(torch.optim, kind)(
        [{"params": theirs[2:], **own}, {"params": theirs[:2]}], lr=0.02, **options
    )
    made = getattr(optim, kind)
    if how == "patterns":
        optimizer = made(model, 0.02, groups=[{"params": names[2].split(".")[0] + ".*", **own}], **options)
    else:
        parts = (model[2], model[0]) if how == "modules" else (model[2].parameters(), model[0].parameters())
        optimizer = made([{"params": parts[0], **own}, {"params": parts[1]}], 0.02, **options)
    weights = gradients(*(p.shape for p in model.parameters()))
    for given in weights:
        optimizer.zero_grad()
        sum((g * p).sum() for g, p in zip(given, model.parameters(), strict=True)).backward()
        optimizer.step()
        for p, g in zip(theirs, given, strict=True):
            p.grad = torch.tensor(g)
        reference.step()
    found, expected = [p.data for p in model.parameters()], [p.detach().numpy() for p in theirs]
    assert apart(found, expected) < 1e-12


def test_lion_follows_its_formula():
    rng = np.random.default_rng(0)
    p, m = rng.normal(size=5), np.zeros(5)
    found, optimizer = p.copy(), optim.Lion(lr=0.01, betas=(0.8, 0.95), weight_decay=0.3)
    for (g,) in gradients((5,)):
        optimizer.update(found, g)
        p = p - 0.01 * (np.sign(0.8 * m + 0.2 * g) + 0.3 * p)
        m = 0.95 * m + 0.05 * g
    assert apart([found], [p]) < 1e-12


def rosenbrock(p):
    return np.sum(100.0 * (p[1:] - p[:-1] ** 2) ** 2 + (1.0 - p[:-1]) ** 2)


LBFGS = [
    {"lr": 1e-2, "max_iter": 7, "history_size": 5},
    {"lr": 1.0, "line_search_fn": "strong_wolfe"},
    {"lr": 0.3, "line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 4},
    {"lr": 1.0, "line_search_fn": "strong_wolfe", "max_iter": 30, "max_eval": 9, "tolerance_change": 1e-6},
]


@pytest.mark.parametrize("options", LBFGS, ids=range(len(LBFGS)))
def test_lbfgs_goes_the_way_of_torch(options):
    torch = pytest.importorskip("torch")
    start = np.array([-1.2, 1.0, 0.7, -0.4])
    theirs = torch.nn.Parameter(torch.tensor(start.copy()))
    reference = torch.optim.LBFGS([theirs], **options)

    def closure():
        reference.zero_grad()
        loss = torch.sum(100.0 * (theirs[1:] - theirs[:-1] ** 2) ** 2 + (1.0 - theirs[:-1]) ** 2)
        loss.backward()
        return loss

    value, p = tg.Value(start.copy()), start.copy()
    by_values, by_arrays = optim.LBFGS(value, **options), optim.LBFGS(**options)

    def ours():
        by_values.zero_grad()
        loss = rosenbrock(value)
        loss.backward()
        return loss

    f = tg.value_and_grad(rosenbrock)
    for call in range(6):
        expected = float(reference.step(closure).detach())
        assert float(by_values.step(ours).data) == pytest.approx(expected, rel=1e-6)
        p = by_arrays.update(p, f)
        # Each iteration magnifies what rounding makes of the one before it.
        tolerance = 1e-9 if call < 2 else 1e-6
        np.testing.assert_allclose(value.data, theirs.detach().numpy(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(p, value.data, rtol=tolerance, atol=tolerance)
    state = reference.state[theirs]
    assert by_values.steps == by_arrays.steps == state["n_iter"]

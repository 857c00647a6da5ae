"""The examples run as a user runs them, on little data, and write what they say they write."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Python itself looks beside the script that it is told to run, but `run_path` does not.
PATH = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])

# Blobs in place of the digits: the example must not need MNIST to be tested.
STAND_IN = """
import runpy, sys
import numpy as np
import mnist_data

def load_mnist(folder=None, *, dtype=np.float32):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 400)
    x = np.clip(rng.random((10, 784))[y] + 0.1 * rng.normal(size=(400, 784)), 0, 1).astype(dtype)
    return mnist_data.MNIST(x[:300], y[:300], x[300:], y[300:], source="blobs")

mnist_data.load_mnist = load_mnist
"""
RUN = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def run(code, name, *options, folder):
    env = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": PATH}
    return subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES / name), *map(str, options)],
        cwd=folder, capture_output=True, text=True, env=env, timeout=300,
    )  # fmt: skip


def assert_picture(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 10_000


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_mnist(tmp_path, optimizer):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    options = ["--epochs", 4, "--batch", 32, "--optimizer", optimizer, "--save", "model.npz"]
    done = run(STAND_IN + RUN, "mnist_mlp.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "blobs: 300 images for training, 100 for testing" in done.stdout
    accuracy = float(done.stdout.split("test accuracy ")[1].split("%")[0])
    assert accuracy > 90
    assert "s an epoch" in done.stdout and "4/4" in done.stderr
    assert_picture(tmp_path / "mnist_mlp.png")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["mnist_mlp.png", "model.npz"]


def test_mnist_by_convolutions(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    options = ["--epochs", 15, "--batch", 20, "--channels", 8, 16, "--hidden", 32, "--rate", 0.005]
    options += ["--save", "model.npz"]
    done = run(STAND_IN + RUN, "mnist_cnn.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("test accuracy ")[1].split("%")[0]) > 90
    assert "s an epoch" in done.stdout and "15/15" in done.stderr
    assert_picture(tmp_path / "mnist_cnn.png")
    assert np.load(tmp_path / "model.npz")["first.weight"].shape == (8, 1, 5, 5)


def test_mnist_without_its_data(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    done = run("import runpy, sys\n" + RUN, "mnist_mlp.py", "--data", "nowhere", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("mnist_mlp: nowhere: expected train-images-idx3-ubyte")


def test_vae(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    options = ["--batch", 50, "--hidden", 32, "--rate", 0.01, "--save", "model.npz"]
    bounds = []
    for epochs in (1, 12):
        done = run(STAND_IN + RUN, "vae.py", "--epochs", epochs, *options, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "blobs: 300 images for training, 100 for testing" in done.stdout
        bounds.append(float(done.stdout.split("log likelihood: ")[1].split(" ")[0]))
    # Images of 784 coins would take 543 nats each.
    assert bounds[1] < min(bounds[0], 543.0) - 10.0
    assert_picture(tmp_path / "vae.png")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model.npz", "vae.png"]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mnist_mlp.py", "tqdm"), ("mnist_mlp.py", "matplotlib"), ("mnist_cnn.py", "tqdm"), ("moons.py", "matplotlib"),
        ("ode_fit.py", "matplotlib"), ("gaussian_process.py", "matplotlib"), ("njit_simulation.py", "matplotlib"),
        ("njit_sampler.py", "matplotlib"), ("char_lm.py", "matplotlib"), ("char_lm.py", "tqdm"),
        ("heston.py", "matplotlib"), ("vae.py", "tqdm"), ("dask_logistic.py", "zarr"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(tmp_path, name, missing):
    hidden = f"import runpy, sys; sys.modules[{missing!r}] = None\n"
    done = run(hidden + RUN, name, folder=tmp_path)
    assert done.returncode == 1
    assert f'needs {missing}: pip install "tapegrad[examples]"' in done.stderr


def test_moons(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--points", 30, "--steps", 500, "--naive", 2, "--hidden", 8, "--grid", 12, "--output", "m.png"]
    done = run("import runpy, sys\n" + RUN, "moons.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 points, 105 parameters" in done.stdout
    apart = float(done.stdout.split("differ by at most ")[1].split()[0])
    right = float(done.stdout.split(", ")[-1].split("%")[0])
    assert apart < 1e-12 and right > 90
    assert_picture(tmp_path / "m.png")


def test_char_lm(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    verse = "the cat sat on the mat, and the rat sat on the cat. "
    (tmp_path / "verse.txt").write_text(verse * 60)
    options = ["--text", "verse.txt", "--hidden", 24, "--embedding", 8, "--length", 16, "--batch", 8, "--steps", 300]
    options += ["--rate", 0.02, "--sample", 60, "--start", "the c", "--temperature", 0.2, "--save", "m.npz"]
    done = run("import runpy, sys\n" + RUN, "char_lm.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "verse.txt: 3,120 characters, 14 of them different" in done.stdout and "300/300" in done.stderr
    # By heart, but for the beginnings of windows, and what it writes is from the verse.
    assert float(done.stdout.split("cross-entropy ")[1].split()[0]) < 0.5
    written = next(line for line in done.stdout.splitlines() if line.startswith("the c"))
    assert len(written) == 65 and len(set(written.split()) & set(verse.split())) >= 5
    assert_picture(tmp_path / "char_lm.png")
    with np.load(tmp_path / "m.npz") as saved:
        assert saved["lstm.weight_hh_l0"].shape == (96, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "missing.txt"], "missing.txt cannot be read"), (["--text", "short.txt"], "too few to learn from"),
        (["--steps", 0], "--steps must be at least 1"), (["--temperature", 0], "--temperature must be positive"),
    ],
)  # fmt: skip
def test_char_lm_refuses(tmp_path, options, message):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    (tmp_path / "short.txt").write_text("short")
    done = run("import runpy, sys\n" + RUN, "char_lm.py", *options, folder=tmp_path)
    assert done.returncode in (1, 2) and message in done.stderr


def test_ode_fit(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--points", 20, "--noise", 0.0, "--output", "o.png"]
    done = run("import runpy, sys\n" + RUN, "ode_fit.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    apart = float(done.stdout.split("apart by ")[1].split()[0])
    # Without noise the true rates come back.
    rows = {line.split()[0]: np.array(line.split()[1:], float) for line in done.stdout.splitlines() if "." in line[9:19]
            and line.split()[0] in ("true", "fit")}  # fmt: skip
    assert apart < 1e-3
    np.testing.assert_allclose(rows["fit"], rows["true"], rtol=0.02)
    assert_picture(tmp_path / "o.png")


def test_gaussian_process(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("import runpy, sys\n" + RUN, "gaussian_process.py", "--points", 40, "--output", "g.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("40 observations")
    assert float(done.stdout.split("of the gradient ")[1].split()[0]) < 1e-3
    assert 0.1 < float(done.stdout.split("noise ")[1].split()[0]) < 0.3
    assert float(done.stdout.split("% of the curve")[0].split()[-1]) > 70
    assert_picture(tmp_path / "g.png")


def test_njit_simulation(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--years", 8, "--points", 40, "--steps", 30, "--tolerance", 1e-6, "--noise", 0.02, "--output", "s.png"]
    done = run("import runpy, sys\n" + RUN, "njit_simulation.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 numbers to find from 80 counts" in done.stdout
    assert float(done.stdout.split("as near as ")[1].split()[0]) < 1e-6
    ends = {line.split(":")[0].strip(): float(line.split("then ")[1].split()[0]) for line in done.stdout.splitlines()
            if "loss" in line}  # fmt: skip
    assert ends["L-BFGS"] < 0.01 and ends["gradient descent"] < 0.1
    assert ends["L-BFGS"] == pytest.approx(ends["L-BFGS, differences"], rel=0.05)
    assert_picture(tmp_path / "s.png")


def test_njit_sampler(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("import runpy, sys\n" + RUN, "njit_sampler.py", "--seed", 3, "--output", "s.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "60,001 gradients in" in done.stdout
    moments = re.findall(r"(mean|deviation) (\S+) ± (\S+) \(true (\S+)\)", done.stdout)
    assert len(moments) == 8
    for _, found, error, true in moments:
        assert 0.0 < float(error) < 0.1 and abs(float(found) - float(true)) < 4.0 * float(error), done.stdout
    assert abs(float(done.stdout.split("x2 and x3 ")[1].split()[0]) - 0.9) < 0.02
    assert_picture(tmp_path / "s.png")


def test_heston(tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--paths", 20_000, "--steps", 50, "--prices", 3, "--threads", 2, "--seed", 1, "--output", "h.png"]
    done = run("import runpy, sys\n" + RUN, "heston.py", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *(\S+) +(\S+) ± (\S+) +formula +(\S+)", done.stdout, re.MULTILINE)
    assert [name for name, *_ in rows] == ["C", "dC/dS", "dC/dv", "dC/dκ", "dC/dθ", "dC/dσ", "dC/dρ"]
    scales = [10.0, 1.0, 40.0, 0.5, 50.0, 3.0, 1.5]
    for (_, found, error, true), scale in zip(rows, scales, strict=True):
        assert 0.0 < float(error) < 0.05 * scale and abs(float(found) - float(true)) < 4.0 * float(error), done.stdout
    assert_picture(tmp_path / "h.png")


def test_the_formula_that_heston_is_held_against(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import heston
    from scipy.stats import norm

    # Without volatility of the variance, which starts at its mean, it is the formula of Black and Scholes.
    model, strike, years = np.array([100.0, 0.05, 2.0, 0.05, 1e-3, 0.0]), 110.0, 1.5
    total = np.sqrt(0.05 * years)
    d = (np.log(100.0 / strike) + heston.RATE * years) / total + 0.5 * total
    plain = 100.0 * norm.cdf(d) - strike * np.exp(-heston.RATE * years) * norm.cdf(d - total)
    assert heston.formula(model, strike, years) == pytest.approx(plain, rel=1e-6)
    assert heston.sensitivities_of_formula(model, strike, years)[0] == pytest.approx(norm.cdf(d), rel=1e-6)
    # A call of strike 0 is the price itself, and a path pays that on the average.
    assert heston.formula(heston.MODEL, 1e-6, 1.0) == pytest.approx(100.0, rel=1e-6)


@pytest.mark.slow
def test_dask_logistic(tmp_path):
    for package in ("matplotlib", "tqdm", "zarr", "distributed"):
        pytest.importorskip(package)
    options = ["--rows", 20_500, "--features", 5, "--chunk", 3000, "--memory", "1GB", "--output", "d.png"]
    done = run("import runpy, sys\n" + RUN, "dask_logistic.py", *options, "--folder", "rows", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20,500 rows, 1 MB on disk; 2 workers of 1GB each" in done.stdout
    assert float(done.stdout.split("loss ")[1].split()[0]) < 0.68
    assert float(done.stdout.split("found to ")[1].split()[0]) < 0.3
    assert "MB in a worker" in done.stdout and "pass" in done.stderr
    assert_picture(tmp_path / "d.png")
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["rows-20500-5-3000-0.zarr"]


def test_wrong_options(tmp_path):
    given = {"mnist_mlp": "--epochs", "mnist_cnn": "--batch", "moons": "--steps", "ode_fit": "--points",
             "gaussian_process": "--points", "njit_simulation": "--points", "njit_sampler": "--samples",
             "heston": "--paths", "vae": "--epochs", "dask_logistic": "--rows"}  # fmt: skip
    for name, option in given.items():
        done = run("import runpy, sys\n" + RUN, f"{name}.py", option, 0, folder=tmp_path)
        assert done.returncode == 2 and "must be at least" in done.stderr

"""The command `tapegrad`."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.command import info, main, measure


def run(capsys, *arguments):
    status = main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_info_tells_what_there_is(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TAPEGRAD_CACHE", str(tmp_path))
    monkeypatch.setenv("TAPEGRAD_COMPILE", "never")
    status, said, _ = run(capsys, "info")
    facts = dict(line.split("  ", 1) for line in said.splitlines())
    assert status == 0 and list(facts) == [
        "packages", "Python", "processor", "threads", "memory", "BLAS", "vector math", "compiling", "cache", "settings",
    ]  # fmt: skip
    assert "numba" in facts["packages"] and str(tmp_path) in facts["cache"] and "0 files" in facts["cache"]
    assert "TAPEGRAD_COMPILE=never" in facts["settings"] and "TAPEGRAD_COMPILE" in facts["compiling"]


def test_a_wrong_setting_is_said_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("TAPEGRAD_COMPILE", "sometimes")
    status, said, error = run(capsys, "info")
    assert status == 1 and not said and "sometimes" in error and error.count("\n") == 1


def test_clearing_the_cache_leaves_all_other_files(capsys, monkeypatch, tmp_path):
    digest = "0123456789abcdef0123"
    code = ["native_" + digest + ".code", "sweep_float64_" + digest + ".py", "driver_" + digest + ".driver"]
    inside = ["sweep_float64_" + digest + ".f-3.py311.nbi", "sweep_float64_" + digest + ".cpython-311.pyc"]
    others = ["train-images-idx3-ubyte.gz", "thesis.py", "notes_" + digest + ".txt", "sub/native_" + digest + ".code"]
    for name in (*code, *(f"__pycache__/{name}" for name in inside), *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    monkeypatch.setenv("TAPEGRAD_CACHE", str(tmp_path))
    assert "5 files, 25 bytes" in run(capsys, "cache")[1]
    assert "removed 5 of 5 files" in run(capsys, "cache", "clear")[1]
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(others)
    assert "0 files" in run(capsys, "cache", "show")[1]


def test_every_file_in_the_folder_of_a_run_is_known(tmp_path):
    environment = os.environ | {"TAPEGRAD_CACHE": str(tmp_path)}
    script = "import numpy as np, tapegrad as tg; tg.grad(lambda x: np.sum(np.sin(x)), compile=True)(np.ones(3))"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, stderr=subprocess.DEVNULL)
    clear = [sys.executable, "-m", "tapegrad", "cache", "clear"]
    done = subprocess.run(clear, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("removed ") and not done.stdout.startswith("removed 0 ")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_measurement_is_a_table(monkeypatch):
    monkeypatch.setattr(measure, "_median", lambda call: (call(), 2e-6)[1])
    found = measure.rows()
    assert len(found) == 8 and all(row.seconds > 0.0 for row in found)
    said = measure.table(found)
    assert said.count("\n") == 7 and "2 us a call" in said and "an operation" in said


@pytest.mark.parametrize(
    ("seconds", "said"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (3e-10, "0.30 ns")]
)
def test_times_are_said_in_a_fitting_unit(seconds, said):
    assert said in measure.table([measure.Row("x", "call", seconds)])


def test_sizes_are_said_in_a_fitting_unit():
    assert [info._bytes(n) for n in (0, 999, 1000, 2_500_000, 7e9, 7e12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "7.0 GB", "7000.0 GB",
    ]  # fmt: skip


def test_what_is_no_command_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["frobnicate"])
    assert "invalid choice: 'frobnicate'" in capsys.readouterr().err


@pytest.fixture
def file(tmp_path):
    recording = tg.record(lambda x, k, n: np.sum(np.sin(x) * k) * n, np.array([0.1, 0.2]), 2.0, 3)
    recording.save(tmp_path / "sines.tape")
    return str(tmp_path / "sines.tape")


def test_a_saved_recording_is_listed(capsys, file):
    status, said, _ = run(capsys, "show", file, "--at", "[0.5, 1]", "3", "2")
    assert status == 0 and f"{2 * 3 * (np.sin(0.5) + np.sin(1.0)):.5f}" in said and "sin" in said
    assert "0.841471" in run(capsys, "show", file)[1]


def test_a_saved_recording_is_drawn_and_played(capsys, file, tmp_path):
    assert run(capsys, "draw", file)[0] == 0 and "<svg" in (tmp_path / "sines.svg").read_text()
    status, said, _ = run(capsys, "play", file, "--at", "[0.5, 1]", "3.5", "2", "--output", str(tmp_path / "p.html"))
    assert status == 0 and "p.html" in said and "<html" in (tmp_path / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("at", "wrong"),
    [
        (["3"], "takes 3 arguments, --at has 1"), (["[1, 2", "3", "1"], "no JSON"),
        (["[1, 2, 3]", "3", "1"], "shape (2,)"), (["[1, 2]", '"text"', "1"], "argument 1"),
        (["[[1], [2, 3]]", "3", "1"], "argument 0"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_said(capsys, file, at, wrong):
    status, said, error = run(capsys, "show", file, "--at", *at)
    assert status == 1 and not said and wrong in error and error.count("\n") == 1


def test_files_that_are_no_recordings_are_said(capsys, tmp_path):
    (tmp_path / "x.tape").write_text("hello")
    assert "no file that a recording was saved in" in run(capsys, "show", str(tmp_path / "x.tape"))[2]
    assert "No such file" in run(capsys, "play", str(tmp_path / "y.tape"))[2]

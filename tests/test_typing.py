"""What type checkers say about programs that use the library: those of the README and of docs/, the examples, and one
that is annotated throughout.

The code of the pages is checked with every strict rule but those that ask for annotations, which pages have few of.
"""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_readme import FOUND, sections

import tapegrad as tg
from tapegrad.value import declared

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "typed_program.py"
UNANNOTATED = [f"--allow-{what}" for what in ("untyped-defs", "incomplete-defs", "untyped-calls", "untyped-decorators")]

needs_mypy = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
needs_pyright = pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="needs pyright")


def mypy(cache, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--ignore-missing-imports", "--no-error-summary",
         "--cache-dir", str(cache), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("mypy")


def code_of(blocks):
    return "\n\n".join(
        doctest.script_from_examples(block.code) if block.code.lstrip().startswith(">>>") else block.code
        for block in blocks
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A module for each section of the README and each page of docs/."""
    folder = tmp_path_factory.mktemp("pages")
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
def test_programs_of_the_pages_check(pages, cache):
    assert mypy(cache, *UNANNOTATED, *pages) == ""


@needs_mypy
@pytest.mark.slow
def test_examples_check(cache):
    assert mypy(cache, *sorted((ROOT / "examples").glob("*.py"))) == ""


@needs_mypy
def test_an_annotated_program_checks(cache):
    assert mypy(cache, "--warn-unused-ignores", PROGRAM) == ""


@needs_pyright
@pytest.mark.slow
def test_an_annotated_program_checks_in_pyright(tmp_path):
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(f'{{"include": ["{PROGRAM}"], "typeCheckingMode": "strict", "extraPaths": ["{ROOT}"]}}')
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", str(settings)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


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

"""The notebooks of the documentation: their cells run from top to bottom, and hold no output of anybody's run."""

import json
import linecache
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    for number, cell in enumerate(cells):
        assert not cell["outputs"] and cell["execution_count"] is None
        code, name = "".join(cell["source"]), f"<{path.stem} {number}>"
        # As in a notebook, what reads the source of a cell finds it.
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        exec(compile(code, name, "exec"), namespace)


def test_there_are_notebooks():
    assert NOTEBOOKS

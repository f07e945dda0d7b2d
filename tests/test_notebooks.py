"""Executes every notebook, so that a reader never meets a cell that raises."""

import json
import os
import pathlib

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def execute(notebook):
    """Runs all cells in a fresh kernel that finds this checkout first."""
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})


@each_notebook
def test_every_cell_runs(path):
    execute(nbformat.read(path, as_version=4))


@each_notebook
def test_it_is_stored_with_the_outputs_of_one_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert str(pathlib.Path.home()) not in json.dumps(notebook)
    assert path.stat().st_size < 400_000


def test_a_failing_cell_fails():
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        execute(broken)

"""The notebooks of Colab and Kaggle, filled in; the first is executed on this CPU."""

import json
import os
import pathlib

import nbclient
import nbformat
import pytest

from cotjax.launching import notebooks

ROOT = pathlib.Path(__file__).parents[2]
SMALL = """\
stage = "sft"  # one that compiles little
steps = 2

[batch]
size = 2
sequence_length = 96

[mesh]
data = 1

[checkpoint]
every = 0

[eval]
every = 0
problems = 2
samples = 1
batch_size = 4
max_new_tokens = 4
"""


def settings(text):
    """What the first cells of code set."""
    known = {}
    for cell in json.loads(text)["cells"]:
        if {"settings", "config"} & set(cell["metadata"].get("tags", ())):
            exec("".join(cell["source"]), known)
    return known


@pytest.mark.parametrize("text", ['a = "\\n"\n', "a = '''b'''", "x", 'a = """b"""\n'])
def test_settings_are_the_jobs(job, text):
    flags = ("--steps=3", "--reward.function=./it's.py:f")
    for fill in (notebooks.colab, notebooks.kaggle):
        found = settings(fill(job(text=text, flags=flags)))
        assert found["CONFIG"].strip("\n") == text.strip("\n")
        assert (found["NAME"], tuple(found["FLAGS"])) == ("My_run.1", flags)
    assert settings(notebooks.colab(job()))["BUCKET"] == "gs://my-runs/maths"
    assert settings(notebooks.colab(job(bucket=None)))["BUCKET"] == ""


def execute(text, folder):
    """The outputs of all cells, as text, of a kernel that has this checkout and one device."""
    notebook = nbformat.reads(text, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )


def test_colabs_trains_on_what_there_is_and_goes_on(job, tmp_path):
    first = job(text=SMALL, bucket=None)
    said = execute(notebooks.colab(first), tmp_path)
    assert said.startswith("cpu [CpuDevice(id=0)")
    result = json.loads((tmp_path / "runs" / "My_run.1" / "result.json").read_text())
    assert result["after"].keys() == result["before"].keys()
    execute(notebooks.colab(job(text=SMALL, bucket=None, flags=("--steps=3",))), tmp_path)
    steps = (tmp_path / "runs" / "My_run.1" / "metrics.jsonl").read_text()
    assert '"step": 3' in steps

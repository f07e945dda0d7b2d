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
sequence_length = 512

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


def test_colabs_trains_on_what_there_is_and_goes_on_when_all_is_run_again(job, tmp_path):
    notebook = nbformat.reads(notebooks.colab(job(text=SMALL, bucket=None)), as_version=4)
    _, _, config, _, train, *_ = notebook.cells
    assert config.source.startswith("CONFIG") and "train(load(" in train.source
    notebook.cells += [nbformat.v4.new_code_cell('FLAGS = ["--steps=3"]')]
    notebook.cells += [nbformat.v4.new_code_cell(train.source)]
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    said = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ())]
    assert said[0].startswith("cpu [CpuDevice(id=0)")
    run = tmp_path / "runs" / "My_run.1"
    assert json.loads((run / "result.json").read_text())["after"]
    assert '"step": 3' in (run / "metrics.jsonl").read_text()

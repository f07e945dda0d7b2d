"""`cotjax evaluate`: the numbers of a run or a model, on the screen and in a file."""

import json

import pytest

from cotjax.evaluate import main
from tests.tiny import flags, write_sevens, write_student


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    student = write_student(folder / "student")
    own = flags(student, write_sevens(folder / "sevens.jsonl"), folder, "x", "--stage=sft")
    return folder, student, [flag for flag in own if not flag.startswith("--model.path")]


def test_a_model_is_measured_and_its_numbers_written(world, capsys):
    folder, student, own = world
    out = folder / "numbers.json"
    assert main(["--checkpoint", student, f"--out={out}", *own]) == 0
    numbers = json.loads(out.read_text())
    assert numbers["step"] == 0 and numbers["problems"] == 4
    shown = capsys.readouterr().out
    assert f"{student}, step 0" in shown and f"{numbers['tokens']:.4g}" in shown


def test_what_is_not_there_or_cannot_be_written_is_one_line(world, capsys):
    folder, student, own = world
    assert main(["--checkpoint", "nowhere", *own]) == 2
    assert main(["--checkpoint", student, f"--out={folder / 'no' / 'x.json'}", *own]) == 2
    told = capsys.readouterr().err.splitlines()
    first, second = (line for line in told if not line.startswith("note: "))
    assert first.startswith("error: --checkpoint nowhere: there is no such run")
    assert second.startswith("error: --out ") and "cannot write there" in second

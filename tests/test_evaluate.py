"""`cotjax evaluate`: the numbers of a run or a model, on the screen and in a file."""

import importlib
import json

import pytest

from cotjax.evaluate import main
from cotjax.progress import Progress
from tests.tiny import flags, write_sevens, write_student


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    student = write_student(folder / "student")
    own = flags(student, write_sevens(folder / "sevens.jsonl"), folder, "x", "--stage=sft")
    return folder, student, [flag for flag in own if not flag.startswith("--model.path")]


def test_a_model_is_measured_and_its_numbers_written(world, capsys):
    folder, student, own = world
    out, texts = folder / "numbers.json", folder / "completions.jsonl"
    argv = ["--checkpoint", student, f"--out={out}", f"--completions={texts}", *own]
    assert main(argv) == 0
    numbers = json.loads(out.read_text())
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert len(rows) == 4 and len({row["id"] for row in rows}) == 4
    assert sum(row["tokens"] for row in rows) / 4 == numbers["tokens"]
    assert sum(row["parts"]["correct"] for row in rows) / 4 == numbers["accuracy"]
    assert numbers["step"] == 0 and numbers["problems"] == 4
    shown = capsys.readouterr().out
    assert f"{student}, step 0" in shown and f"{numbers['tokens']:.4g}" in shown


def test_what_is_not_there_or_cannot_be_written_is_one_line(world, capsys):
    folder, student, own = world
    assert main(["--checkpoint", "nowhere", *own]) == 2
    assert main(["--checkpoint", student, f"--out={folder / 'no' / 'x.json'}", *own]) == 2
    argv = ["--checkpoint", student, f"--completions={folder}", *own]
    assert main(argv) == 2
    *told, third = capsys.readouterr().err.splitlines()
    assert (
        third == f"error: --completions {folder}: cannot write there (it is a folder). Name a file."
    )
    first, second = (line for line in told if not line.startswith("note: "))
    assert first.startswith("error: --checkpoint nowhere: there is no such run")
    assert second.startswith("error: --out ") and "cannot write there" in second


def test_several_files_in_one_call(world, capsys):
    folder, student, own = world
    names = [write_sevens(folder / f"{count}.jsonl", count) for count in (2, 3)]
    own = [flag for flag in own if not flag.startswith("--eval.problems")]
    out = folder / "files.json"
    argv = ["--checkpoint", student, f"--out={out}", *own, "--eval.samples=0", "--files", *names]
    assert main(argv) == 0
    numbers = json.loads(out.read_text())
    assert [numbers[name]["problems"] for name in names] == [2, 3]
    assert "sampled_accuracy" not in numbers[names[0]]
    shown = capsys.readouterr().out
    assert all(f"{student}, step 0 on {name}" in shown for name in names)


def test_ctrl_c_prints_the_numbers_that_there_are(world, capsys, monkeypatch):
    folder, student, own = world
    partial = {"step": 0, "problems": 64, "accuracy": 0.5, "problems_left": 192}
    command = importlib.import_module("cotjax.evaluate")
    monkeypatch.setattr(command, "measure", lambda opened, keep: partial)
    assert main(["--checkpoint", student, *own]) == 130
    assert "stopped after 64 of 256 problems" in capsys.readouterr().out
    names = [write_sevens(folder / f"{count}.jsonl", count) for count in (2, 3)]
    done = {names[0]: {"step": 0, "problems": 2}}
    monkeypatch.setattr(command, "measure_files", lambda *args, **more: done)
    assert main(["--checkpoint", student, *own, "--files", *names]) == 130
    assert f"nothing was measured on {names[1]}" in capsys.readouterr().err

    def stopped(opened, keep):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", stopped)
    assert main(["--checkpoint", student, *own]) == 130
    assert "stopped before the first batch" in capsys.readouterr().err


def test_two_models_are_compared_on_the_same_questions(world, capsys):
    folder, student, own = world
    other = write_student(folder / "other", answers=("3", "7"))
    out, texts = folder / "compared.json", folder / "both.jsonl"
    argv = ["--compare", student, other, f"--out={out}", f"--completions={texts}", *own]
    assert main(argv) == 0
    found = json.loads(out.read_text())
    assert found["against"] == student and found["numbers"].keys() == {student, other}
    overall = found["paired"][other][0]
    assert (overall["level"], overall["questions"]) == ("", 4)
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    assert [row["model"] for row in rows] == [student] * 4 + [other] * 4
    assert [row["id"] for row in rows[:4]] == [row["id"] for row in rows[4:]]
    shown = capsys.readouterr().out
    assert "The same 4 held-out questions, answered greedily." in shown and "Right: " in shown


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "needs --checkpoint RUN, or --compare A B; one of them"),
        (["--checkpoint=a", "--compare", "a", "b"], "one of them"),
        (["--compare", "a"], "--compare a: needs two different runs or models"),
        (["--compare", "a", "a"], "--compare a a: needs two different"),
        (["--compare", "nowhere", "tiny"], "--checkpoint nowhere: there is no such run or model"),
    ],
)
def test_a_comparison_of_nothing_is_one_line(capsys, flags, said):
    assert main(flags) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told


def test_a_comparison_that_ctrl_c_cuts_off_compares_nothing(world, capsys, monkeypatch):
    _, student, own = world
    command = importlib.import_module("cotjax.evaluate")
    partial = {"step": 0, "problems": 64, "problems_left": 192}
    monkeypatch.setattr(command, "measure", lambda opened, keep: partial)
    assert main(["--compare", student, "tiny", *own]) == 130
    assert f"stopped while {student} was measured" in capsys.readouterr().err


@pytest.mark.parametrize(("numbers", "status"), [({}, 0), ({"problems_left": 3}, 130)])
def test_json_prints_the_numbers_alone_and_quiet_nothing_on_the_way(
    monkeypatch, capsys, numbers, status
):
    numbers = {"step": 0, "problems": 4, "accuracy": 0.5} | numbers
    quiet = []

    def measured(*args, **settings):
        quiet.append(Progress("evaluation", 4, "problems")._quiet)
        return numbers

    monkeypatch.setattr(importlib.import_module("cotjax.evaluate"), "evaluate", measured)
    assert main(["--checkpoint=x", "--json", "--quiet"]) == status
    assert json.loads(capsys.readouterr().out) == numbers
    assert main(["--checkpoint=x"]) == status
    assert "accuracy           0.5" in capsys.readouterr().out
    assert quiet == [True, False]

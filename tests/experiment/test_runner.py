"""Running an experiment: whole, stopped and given again, with a run that fails, and by parts."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest

from cotjax.experiment import runner
from cotjax.experiment.__main__ import main
from cotjax.experiment.results import read_rows
from cotjax.run.commit import commit_of
from tests.tiny import write_sevens, write_student

TEXT = """
seeds = [0]
validation_seeds = [9]
against = "sft"
budget = {{ tokens = 400 }}
questions = {{ test = 4, validation = 2 }}
[settings]
data = {{ source = "jsonl", path = "{folder}/sevens.jsonl", eval_path = "{folder}/sevens.jsonl" }}
model = {{ path = "{folder}/student" }}
mesh = {{ data = 1 }}
rollout = {{ prompts = 2, group_size = 2, max_prompt_tokens = 32, max_new_tokens = 8 }}
batch = {{ size = 2, sequence_length = 64 }}
eval = {{ samples = 1, max_new_tokens = 8, batch_size = 8 }}
optimizer = {{ schedule = "constant", warmup_steps = 0 }}
checkpoint = {{ every = 1 }}
[arms.base]
[arms.sft]
stage = "sft"
model = {{ init = "pretrained" }}
[[arms.list.stages]]
stage = "sft"
model = {{ init = "pretrained" }}
budget = {{ tokens = 150 }}
[[arms.list.stages]]
stage = "grpo"
"""


@pytest.fixture
def file(tmp_path):
    write_student(tmp_path / "student")
    write_sevens(tmp_path / "sevens.jsonl")
    path = tmp_path / "compare.toml"
    path.write_text(TEXT.format(folder=tmp_path), encoding="utf-8")
    return path


KILLED = """
import os, signal, sys
from cotjax.train import main as train
from cotjax.stages.policy import PolicyStage
original = PolicyStage.next_step
def next_step(self, params, step):
    work = original(self, params, step)
    if step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return work
PolicyStage.next_step = next_step
train(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs are processes of their own, which start slowly; here they run in this one."""
    calls = []

    def run(words, log):
        from cotjax.train import main as train

        calls.append(words)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            return train(words[3:])

    monkeypatch.setattr(runner, "_run", run)
    return calls


def test_what_ended_is_not_run_again_and_rows_hold_the_numbers(
    file, tmp_path, capsys, in_this_process
):
    argv = [str(file), f"--out={tmp_path / 'out'}"]
    assert main(argv) == 0
    rows = {row.arm: row for row in read_rows(tmp_path / "out" / "results.jsonl")}
    assert set(rows) == {"base", "sft", "list"} and len(in_this_process) == 2
    assert all(len(row.right) == len(row.lengths) == 4 for row in rows.values())
    assert len({row.questions for row in rows.values()}) == 1
    for arm in ("sft", "list"):
        row = rows[arm]
        assert row.tokens >= 400 and row.curve[0][0] == 0 and row.curve[-1][0] >= 1
        assert row.numbers == row.curve[-1][1] and row.used_tokens["trained"] > 0
        assert row.numbers["accuracy"] == row.right.count("1") / 4
    assert rows["list"].used_tokens["sampled"] > 0
    shown = capsys.readouterr().out
    assert "| list | 1 |" in shown and (tmp_path / "out" / "results.png").is_file()
    assert main(argv) == 0 and len(in_this_process) == 2
    assert "is there" in capsys.readouterr().out
    assert main([*argv, f"--table={tmp_path / 'out' / 'results.jsonl'}", "--no-figure"]) == 0


def test_a_run_that_fails_is_told_and_tried_again(file, tmp_path, capsys, in_this_process):
    argv = [str(file), f"--out={tmp_path / 'out'}", "--no-figure", "--arm=sft"]
    data = tmp_path / "sevens.jsonl"
    text = data.read_text()
    data.write_text("{")
    assert main(argv) == 1
    shown = capsys.readouterr().out
    assert "sft, seed 0: failed: status 2" in shown
    assert "sft with seed 0 failed, and is not in the tables" in shown
    data.write_text(text)
    assert main(argv) == 0 and len(in_this_process) == 2


def test_a_run_of_other_settings_is_not_taken_for_this_one(file, tmp_path, capsys):
    argv = [str(file), f"--out={tmp_path / 'out'}", "--no-figure", "--arm=sft"]
    assert main(argv) == 0
    file.write_text(file.read_text().replace("{ size = 2,", "{ size = 1,"))
    assert main(argv) == 2
    assert "was begun with other settings than sft now has" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_to_the_same_results(
    file, tmp_path, monkeypatch, capsys
):
    file.write_text(file.read_text().replace("tokens = 400", "tokens = 1000"))
    argv = [str(file), "--no-figure", "--arm=list"]
    monkeypatch.setattr("cotjax.run.parts.commit_of", lambda: "second")
    assert main([*argv, f"--out={tmp_path / 'whole'}"]) == 0

    def killed(words, log):
        script = [sys.executable, "-c", KILLED, *words[3:]]
        return subprocess.run(script, stdout=log, stderr=log).returncode

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_run", killed)
        assert main([*argv, f"--out={out}"]) == 1
    assert f"list, seed 0: failed: status {-signal.SIGKILL}" in capsys.readouterr().out
    (first,) = json.loads((out / "runs" / "list-0" / "2-grpo" / "parts.json").read_text())
    assert first["last_step"] == 2 and not first["ended"]
    assert main([*argv, f"--out={out}"]) == 0
    rows = [read_rows(folder / "results.jsonl") for folder in (out, tmp_path / "whole")]
    rows = [{row.arm: row for row in found} for found in rows]
    for arm in ("base", "list"):
        one, other = (dataclasses.replace(found[arm], seconds=0, commit="") for found in rows)
        assert one == other
    assert rows[0]["list"].commit == f"{commit_of()}, second"
    assert rows[1]["list"].commit == "second"


RUNNER = """
import pathlib, sys
from cotjax.experiment import runner
with open(sys.argv[1], "w") as log:
    try:
        print(runner._run([sys.executable, "-uc", sys.argv[2]], log))
    except KeyboardInterrupt as stopped:
        print(stopped)
        sys.exit(stopped.status)
"""
SAVES = """
import signal, sys, time
def save(*_):
    print("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("begun")
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_first(tmp_path, number, status):
    log = tmp_path / "log"
    words = [sys.executable, "-c", RUNNER, str(log), SAVES]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while not (log.is_file() and log.read_text() == "begun\n"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == status
        assert log.read_text() == "begun\nsaved\n"
        assert "the same command goes on from there" in process.stdout.read()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--part=5/4"], "--part 5/4: needs i/n"),
        (["--arm=nothing"], '--arm "nothing": '),
        (["--table=nowhere.jsonl"], "nowhere.jsonl: holds no results"),
    ],
)
def test_flags_that_are_wrong(file, tmp_path, capsys, flags, words):
    assert main([str(file), f"--out={tmp_path / 'out'}", *flags]) == 2
    assert words in capsys.readouterr().err


def test_validation_needs_seeds(file, capsys):
    file.write_text(file.read_text().replace("validation_seeds = [9]\n", ""))
    assert main([str(file), "--validation"]) == 2
    assert "--validation needs validation_seeds" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(file, tmp_path, capsys):
    assert main([str(file), f"--out={file}"]) == 2
    assert "cannot be made (File exists). Name a folder." in capsys.readouterr().err


def test_an_arm_that_asks_in_other_words_is_no_base_of_the_others(file, tmp_path, monkeypatch, row):
    """The base of the first run that ends is not that of all: here the first one is such an arm."""
    file.write_text(file.read_text().replace("seeds = [0]", "seeds = [0, 1]"))

    def collect(experiment, cell, folder):
        began = "told" if (cell.arm, cell.seed) == ("sft", 0) else "common"
        return row("base", began=began), row(cell.arm, cell.seed, began=began)

    monkeypatch.setattr(runner, "_train", lambda *_: "")
    monkeypatch.setattr(runner, "collect", collect)
    assert main([str(file), f"--out={tmp_path / 'out'}", "--no-figure"]) == 0
    (base,) = [row for row in read_rows(tmp_path / "out" / "results.jsonl") if row.arm == "base"]
    assert base.began == "common"


@pytest.mark.parametrize("rule", ["note", "drop"])
def test_held_out_questions_that_were_trained_on_are_told(file, tmp_path, capsys, rule):
    """The run says it in its log, which nobody reads whose table looks fine."""
    text = file.read_text().replace("[settings]\ndata = {", "[settings]\ndata = { RULE,")
    file.write_text(text.replace("RULE", f'on_duplicate = "{rule}"'))
    rows = (tmp_path / "sevens.jsonl").read_text().splitlines()
    more = json.loads(rows[0]) | {"question": "what else is there"}
    (tmp_path / "more.jsonl").write_text("\n".join([*rows, json.dumps(more)]) + "\n")
    file.write_text(
        file.read_text().replace(
            'path = "' + str(tmp_path / "sevens"), 'path = "' + str(tmp_path / "more"), 1
        )
    )
    assert main([str(file), f"--out={tmp_path / 'out'}", "--no-figure", "--arm=sft"]) == 0
    shown = capsys.readouterr().out
    assert ("are trained on too" in shown) == (rule == "note")
    assert ("Held-out questions in training, sft 0: 4 held-out questions" in shown) == (
        rule == "note"
    )


def test_the_base_is_no_work_for_a_machine_and_a_machine_without_work_has_not_failed(
    file, tmp_path, capsys, monkeypatch, row
):
    monkeypatch.setattr(runner, "_train", lambda *_: "")
    monkeypatch.setattr(runner, "collect", lambda _, cell, __: (row("base"), row(cell.arm, 0)))
    for number, arms in ((1, {"base", "sft"}), (2, {"base", "list"}), (3, set())):
        out = tmp_path / str(number)
        argv = [str(file), f"--out={out}", f"--part={number}/3", "--no-figure"]
        assert main(argv) == 0
        assert {row.arm for row in read_rows(out / "results.jsonl")} == arms
    assert "--part 3/3: nothing to run, as there are 2 runs." in capsys.readouterr().out

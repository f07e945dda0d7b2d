"""What a run is about to do, in words, known without JAX and without writing anything."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from cotjax.config import Config, load, to_toml
from cotjax.config.ranges import STAGES
from cotjax.run.explain import explain
from cotjax.train import main
from tests.tiny import with_section


def rows(config, folder, **more):
    summary = explain(config, folder, **more)
    return summary.sentence, dict(summary.rows)


def test_a_stage_is_told_with_its_data_steps_budget_and_questions(tmp_path):
    flags = ["--stage=grpo", "--budget.tokens=5000", "--eval.every=20", f"--output={tmp_path}"]
    sentence, told = rows(load(flags), tmp_path / "new")
    assert sentence == (
        "Trains the built-in student with grpo on built-in word problems of 2 to 6 steps."
    )
    assert told["learns"].startswith("8 completions of each question, rewarded and compared")
    assert told["batch"] == "16 prompts × 8 completions"
    assert told["steps"] == "60 at most, until 5,000 tokens are used"
    assert told["tested on"] == (
        "256 held-out questions before and after, every 20 steps, greedily and 4 times by sampling"
    )
    assert told["goes to"] == f"{tmp_path / 'new'}; config.toml there has every setting"
    assert "time" not in told and "auto" not in " ".join(told.values())


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "distill"])
def test_every_built_in_stage_says_what_it_learns(stage, tmp_path):
    _, told = rows(Config.for_stage(stage, name="x", output=str(tmp_path)), tmp_path / "x")
    assert told.get("learns") or any(label.startswith("1 ") for label in told)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--stage=distill"], "the distributions of 2 teachers over the next token"),
        (["--stage=distill", "--distill.target=text"], "texts that 2 teachers wrote, as targets"),
        (["--stage=distill", "--distill.on-policy=0.5"], "on its own texts too"),
        (["--stage=grpo", "--distill.coefficient=0.5"], "; 2 teachers beside"),
        (["--stage=grpo", "--mask.rule=bridge"], "and its solution, some steps masked"),
    ],
)
def test_teachers_and_masks_are_told(flags, says, tmp_path):
    teachers = [] if "--mask.rule=bridge" in flags else ["--teachers.paths", "a", "b"]
    assert says in rows(load([*flags, *teachers, "--name=x"]), tmp_path / "x")[1]["learns"]


def test_models_and_data_by_their_names(tmp_path):
    config = load(["--stage=sft", "--name=x", "--data.source=jsonl", "--data.path=train.jsonl"])
    config = with_section(config, "model", path="models/a", init="random")
    config = with_section(config, "lora", rank=4)
    assert rows(config, tmp_path / "x")[0] == (
        "Trains an adapter of rank 4 on models/a from random weights with sft on train.jsonl."
    )


def test_a_list_has_a_row_for_each_stage(tmp_path):
    sentence, told = rows(load(["--stage=bridge", f"--output={tmp_path}"]), tmp_path / "x")
    assert sentence.startswith("Trains the built-in student in 3 stages on")
    assert told["2 grpo"].endswith("; 60 steps") and told["3 rewrite"].endswith("; 4 steps")
    assert "before and after each stage, greedily" in told["tested on"]


def test_time_is_that_of_an_equal_run_that_has_ended_or_is_not_told(tmp_path):
    config = load(["--stage=sft", "--name=new", f"--output={tmp_path}", "--seed=5"])
    assert rows(config, tmp_path / "new", alone=True)[1]["time"] == (
        f"not measured: no run in {tmp_path} has these settings"
    )
    for name, more, seconds in (
        ("equal", ["--seed=6"], 252.4),
        ("longer", ["--steps=2000"], 900),
        ("damaged", [], "x"),
    ):
        old = load(["--stage=sft", f"--name={name}", f"--output={tmp_path}", *more])
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text(to_toml(old))
        (tmp_path / name / "result.json").write_text(json.dumps({"seconds": seconds}))
    assert rows(config, tmp_path / "new")[1]["time"] == (
        f"4 min 12 s, as {tmp_path / 'equal'} took with these settings"
    )
    about = explain(config, tmp_path / "new").about
    assert about["measured_seconds"] == 252.4 and about["held_out"] == 256


def test_a_folder_that_is_taken_is_told_and_no_error(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").touch()
    argv = ["--stage=grpo", "--explain", f"--output={tmp_path}", "--name=x"]
    assert main(argv) == 0
    told = rows(load([one for one in argv if one != "--explain"]), tmp_path / "x", alone=True)[1]
    assert "which exists: --resume goes on there, another --name is free" in told["goes to"]


@pytest.mark.parametrize("width", [100, 60, 20])
def test_it_reads_on_a_terminal_of_any_width(width, tmp_path):
    summary = explain(load(["--stage=grpo", "--name=x"]), tmp_path / "a")
    out = io.StringIO()
    summary.show(Console(file=out, width=width, force_terminal=True, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "held-out" in out.getvalue()


def test_a_log_has_a_line_for_each(tmp_path):
    summary = explain(load(["--stage=grpo", "--name=x"]), tmp_path / "a")
    out = io.StringIO()
    summary.show(Console(file=out, width=20))
    assert len(out.getvalue().splitlines()) == len(summary.rows) + 2


ALONE = """
import sys
from cotjax.train import main
assert main(["--explain", "--stage=grpo", "--output=out", "--name=x", *sys.argv[1:]]) == 0
assert "jax" not in sys.modules
"""


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_explain_trains_and_writes_nothing_and_needs_no_jax(tmp_path, more, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", ALONE, *more]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert [*tmp_path.iterdir()] == [] and done.stderr == ""
    if more:
        about = json.loads(done.stdout)
        assert about["event"] == "start" and about["folder"] == "out/x" and about["steps"] == 60
    else:
        assert "not measured" in done.stdout and "without a budget of tokens" in done.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--explain", "--model.path=nowhere"], 'model.path = "nowhere"'),
        (["--explain", "--quiet"], "--quiet: --explain says something else"),
        (["--quiet", "--json"], "--quiet: --json says something else"),
        (["--explian"], 'unknown key "explian". Did you mean "explain"?'),
    ],
)
def test_what_is_wrong_is_one_sentence(argv, says, capsys, tmp_path):
    assert main(["--stage=grpo", f"--output={tmp_path}", *argv]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and shown.out == ""

"""`--stage=bridge`: stages in order, each from the one before, stopped anywhere and resumed."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from cotjax import export
from cotjax.config import load, stage_configs
from cotjax.errors import InputError
from cotjax.evaluate import evaluate
from cotjax.run.stage_list import check_lengths, plan
from cotjax.stages.policy import PolicyStage
from cotjax.stages.supervised import SupervisedStage
from cotjax.student import mining
from cotjax.train import main as train
from tests.tiny import flags, write_sevens, write_student

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ["1-reconstruct", "2-grpo", "3-rewrite"]
STAGES = [
    {
        "stage": "reconstruct",
        "steps": 3,
        "batch": {"size": 2, "sequence_length": 96},
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
    },
    {
        "stage": "grpo",
        "steps": 3,
        "rollout": {"max_prompt_tokens": 64},
        "mask": {"rule": "share"},
        "curriculum": {"buckets": 2},
    },
    {
        "stage": "rewrite",
        "steps": 3,
        "rollout": {"max_prompt_tokens": 64},
        "batch": {"size": 2, "sequence_length": 64},
        # Greedily the student says 7, so the questions whose answer is 3 are failures.
        "mining": {"questions": 12, "attempts": 1, "max_new_tokens": 8, "batch_size": 4},
    },
]
# What holds for all comes over an entry's own; these stay with their entries.
OWN = "--batch.", "--rollout.max-prompt", "--optimizer."


class World:
    """A bridge that is run once."""

    def __init__(self, folder):
        self.folder = folder
        self.student = write_student(folder / "student")
        self.data = write_sevens(folder / "sevens.jsonl")
        rows = [json.loads(line) for line in Path(self.data).read_text().splitlines()]
        for row in rows[::2]:
            row["answer"] = "3*1=3\n#### 3"
        Path(self.data).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "bridge.toml").write_text(tomli_w.dumps({"stage": "bridge", "stages": STAGES}))

    def argv(self, name, *more):
        config = f"--config={self.folder / 'bridge.toml'}"
        both = flags(self.student, self.data, self.folder / "runs", name, config)
        both = [flag for flag in both if not flag.startswith(OWN)]
        return [*both, "--eval.max-prompt-tokens=32", "--checkpoint.every=2", *more]

    def train(self, name, *more):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = train(self.argv(name, *more))
        return status, out.getvalue()

    def result(self, name):
        return json.loads((self.folder / "runs" / name / "result.json").read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("bridge"))
    status, world.shown = world.train("whole")
    assert status == 0
    return world


def test_every_stage_leaves_a_run_and_the_table_shows_them_all(world):
    run = world.folder / "runs" / "whole"
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == NAMES
    for name in NAMES:
        assert {"checkpoints", "result.json", "report.html"} <= {
            path.name for path in (run / name).iterdir()
        }
    rows = world.result("whole")["stages"]
    assert [row["name"] for row in rows] == ["base", *NAMES]
    table = world.shown[world.shown.rindex("Held-out problems") :]
    for row in rows:
        assert row["name"] in table and f"{row['accuracy']:.1%}" in table
    page = (run / "report.html").read_text("utf-8")
    assert all(f'href="{name}/report.html"' in page for name in NAMES)


def test_a_stage_begins_with_the_weights_of_the_one_before(world):
    rows = world.result("whole")["stages"]
    for before, name in zip(rows, NAMES, strict=False):
        result = json.loads((world.folder / "runs" / "whole" / name / "result.json").read_text())
        for key, value in result["before"].items():
            assert value == before[key], (name, key)
    assert rows[0] != rows[1]


def test_a_stage_alone_from_a_run_folder_or_an_exported_one(world, tmp_path):
    run = world.folder / "runs" / "whole" / "1-reconstruct"
    export.export(str(run), str(tmp_path / "exported"))
    after = json.loads((run / "result.json").read_text())["after"]
    for name in ("solve_loss", "drift"):  # which supervised stages alone measure
        after.pop(name, None)
    common = ["--stage=grpo", "--steps=1", "--mask.rule=bridge", "--rollout.max-prompt-tokens=64"]
    for name, path in (("of-run", run), ("of-export", tmp_path / "exported")):
        own = flags(path, world.data, world.folder / "runs", name, *common)
        assert train([*own, "--eval.max-prompt-tokens=32"]) == 0
        assert world.result(name)["before"] == after
    numbers = evaluate(str(world.folder / "runs" / "of-run"))
    expected = world.result("of-run")["after"]
    assert {key: numbers[key] for key in expected} == expected


class Stop(BaseException):  # any other is one line, and a status
    """Stands for whatever ends a run."""


PLACES = {
    "reconstruct": (SupervisedStage, "next_step", 2),
    "grpo": (PolicyStage, "sample_step", 1),
    "mining": (mining, "_try", 1),
    "rewrite": (PolicyStage, "sample_step", 5),
}


@pytest.mark.parametrize("place", PLACES)
def test_stopped_anywhere_it_resumes_to_the_same_numbers(world, place, monkeypatch):
    owner, method, number = PLACES[place]
    original, calls = getattr(owner, method), []

    def stopping(*arguments):
        calls.append(method)
        if len(calls) > number:
            raise Stop
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(owner, method, stopping)
        world.train(place)
    assert world.train(place, "--resume")[0] == 0
    assert same(world.result(place)) == same(world.result("whole"))


def same(result):
    return {key: result[key] for key in ("before", "after", "stages", "steps", "seed")}


KILLED = """
import importlib, os, signal, sys
from cotjax.train import main as train
module, owner, method, number, *argv = sys.argv[1:]
module = importlib.import_module(module)
owner = getattr(module, owner) if owner else module
original, calls = getattr(owner, method), []
def killing(*arguments):
    calls.append(method)
    if len(calls) > int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(owner, method, killing)
train(argv)
"""


@pytest.mark.parametrize(
    "place", [p if p == "mining" else pytest.param(p, marks=pytest.mark.slow) for p in PLACES]
)
def test_a_bridge_killed_inside_any_stage_resumes_to_the_same_numbers(world, place):
    owner, method, number = PLACES[place]
    inside = isinstance(owner, type)
    where = [owner.__module__, owner.__name__] if inside else [owner.__name__, ""]
    name = f"killed-{place}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *where, method, str(number), *world.argv(name)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert world.train(name, "--resume")[0] == 0
    assert same(world.result(name)) == same(world.result("whole"))


def test_resuming_a_finished_bridge_runs_nothing(world, monkeypatch):
    monkeypatch.setattr(PolicyStage, "evaluate", None)
    before = world.result("whole")
    assert world.train("whole", "--resume")[0] == 0
    assert world.result("whole") == before


def test_without_a_failure_the_last_stage_is_left_out(world, monkeypatch):
    monkeypatch.setattr(mining, "outcome", lambda attempts: "solved")
    status, shown = world.train("solved")
    assert status == 0 and "3-rewrite is left out: " in shown and "nothing to rewrite" in shown
    assert [row["name"] for row in world.result("solved")["stages"]] == ["base", *NAMES[:2]]


def test_an_adapter_in_every_stage_is_merged_for_the_next(world):
    assert world.train("adapter", "--lora.rank=2", "--lora.alpha=2")[0] == 0
    run = world.folder / "runs" / "adapter"
    results = [json.loads((run / name / "result.json").read_text()) for name in NAMES]
    for one, other in zip(results, results[1:], strict=False):
        assert other["before"]["accuracy"] == pytest.approx(one["after"]["accuracy"], abs=0.26)


def test_texts_beyond_the_context_are_refused_before_the_first_stage_begins(world, capsys):
    path = world.folder / "long.toml"
    longer = [*STAGES[:2], STAGES[2] | {"rollout": {"max_new_tokens": 4000}}]
    path.write_text(tomli_w.dumps({"stages": longer}))
    own = flags(world.student, world.data, world.folder / "runs", "long", f"--config={path}")
    assert train([flag for flag in own if "max-new" not in flag]) == 2
    said = capsys.readouterr().err
    assert "[[stages]] 3-rewrite: rollout.max_prompt_tokens = 32, rollout.max_new" in said
    assert "context of 2048" in said
    assert not (world.folder / "runs" / "long").exists()


# The built-in list, and the files that are shipped.


def test_the_built_in_list_is_reconstruct_then_masked_grpo_then_rewrite():
    (_, first), (_, second), (_, third) = stage_configs(load(["--stage=bridge", "--name=x"]))
    assert (first.stage, second.stage, third.stage) == ("reconstruct", "grpo", "rewrite")
    assert second.mask.rule == "share" and second.curriculum.buckets == 3
    assert {one.eval.max_prompt_tokens for one in (first, second, third)} == {80}
    changed = load(["--stage=bridge", "--name=x", "--seed=4", "--lora.rank=2"])
    assert {(own.seed, own.lora.rank) for _, own in stage_configs(changed)} == {(4, 2)}


def test_the_shipped_files_are_valid_and_the_tiny_one_is_the_default():
    tiny = load(["--config", str(CONFIGS / "tiny_bridge.toml"), "--name=x"])
    assert stage_configs(tiny) == stage_configs(load(["--stage=bridge", "--name=x"]))
    large = ["--config", str(CONFIGS / "bridge_qwen2.5-3b_gsm8k.toml"), "--data.path=x", "--name=x"]
    (_, released), *_ = stage_configs(load(large))
    assert (released.lora.rank, released.lora.alpha, released.lora.dropout) == (16, 32, 0.05)
    assert released.seed == 42 and released.optimizer.learning_rate == 5e-5


@pytest.mark.parametrize("file", ["tiny_bridge", "tiny_bridge_clpd"])
def test_the_tiny_files_ask_for_no_more_than_the_student_s_context(file, tmp_path):
    stages = plan(load(["--config", str(CONFIGS / f"{file}.toml"), "--name=x"]), tmp_path)
    check_lengths(stages)
    longer = dataclasses.replace(stages[1].rollout, max_new_tokens=1000)
    stages[1] = dataclasses.replace(stages[1], rollout=longer)
    with pytest.raises(InputError, match=r"\[\[stages\]\] .* context of 1024 tokens. Lower one"):
        check_lengths(stages)

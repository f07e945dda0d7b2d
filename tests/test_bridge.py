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

from cotjax import config as configs
from cotjax import export
from cotjax.evaluate import evaluate
from cotjax.train import main as train
from cotjax.errors import InputError
from cotjax.stages import bridge
from cotjax.stages.policy import PolicyStage
from cotjax.stages.supervised import SupervisedStage
from cotjax.student import mining
from tests.tiny import flags, write_sevens, write_student

NAMES = ["1-reconstruct", "2-grpo", "3-rewrite"]
BASE = {
    "stage": "bridge",
    "bridge": {
        "reconstruct": {
            "steps": 3,
            "sft": {"batch_size": 2, "sequence_length": 96},
            "optimizer": {"learning_rate": 0.003},
        },
        "grpo": {"steps": 3, "rollout": {"max_prompt_tokens": 64}, "levels": {"count": 2}},
        "rewrite": {
            "steps": 3,
            "rollout": {"max_prompt_tokens": 64},
            "rewrite": {"replay_batch": 2},
            "sft": {"sequence_length": 64},
            # Greedily the student says 7, so the questions whose answer is 3 are failures.
            "mining": {"questions": 12, "attempts": 1, "max_new_tokens": 8, "batch_size": 4},
        },
    },
}


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
        (folder / "bridge.toml").write_text(tomli_w.dumps(BASE))

    def argv(self, name, *more):
        both = flags(self.student, self.data, self.folder / "runs", name)
        own = "--config", str(self.folder / "bridge.toml"), "--eval.max-prompt-tokens=32"
        return [*own, *both, "--checkpoint.every=2", *more]

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
    common = ["--stage=grpo", "--steps=1", "--mask.rule=bridge", "--rollout.max-prompt-tokens=64"]
    for name, path in (("of-run", run), ("of-export", tmp_path / "exported")):
        own = [*flags(path, world.data, world.folder / "runs", name), *common]
        assert train([*own, "--eval.max-prompt-tokens=32"]) == 0
        assert world.result(name)["before"] == after
    numbers = evaluate(str(world.folder / "runs" / "of-run"))
    expected = world.result("of-run")["after"]
    assert {key: numbers[key] for key in expected} == expected


class Stop(Exception):
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


@pytest.mark.parametrize("place", PLACES)
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
    name = "long"
    path = world.folder / "long.toml"
    path.write_text('stage = "bridge"\n[bridge.rewrite]\nrollout = { max_new_tokens = 4000 }\n')
    own = flags(world.student, world.data, world.folder / "runs", name, f"--config={path}")
    assert train(own) == 2
    said = capsys.readouterr().err
    assert "[bridge.rewrite] rollout.max_prompt_tokens = 320, rollout.max_new_tokens = 4000" in said
    assert "context of 2048" in said
    assert not (world.folder / "runs" / name).exists()


# What a bridge's file says.


def test_a_stage_has_its_own_table_over_the_bridges(tmp_path):
    path = tmp_path / "b.toml"
    path.write_text('stage = "bridge"\nseed = 4\n[bridge.grpo.optimizer]\nlearning_rate = 0.5\n')
    config = configs.load(["--config", str(path), "--name=x"])
    grpo = configs.stage_config(config, "grpo")
    assert (grpo.stage, grpo.seed, grpo.optimizer.learning_rate) == ("grpo", 4, 0.5)
    assert grpo.mask.rule == "share"  # what the file does not say stays
    again = tmp_path / "again.toml"
    again.write_text(configs.to_toml(config))
    assert configs.load(["--config", str(again)]) == config


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("[bridge.grpo]\nstepz = 3", 'bridge.grpo: unknown key "stepz". Did you mean "steps"'),
        ("[bridge.grpo]\nsteps = 'x'", 'bridge.grpo: steps = "x" (str): needs a whole number'),
        ("[bridge.rewrite]\nsteps = 0", "[bridge.rewrite] steps = 0: out of range"),
        ("[bridge]\ngrpo = 3", "needs a section per stage"),
        ("[bridge.sft]\nsteps = 3", 'unknown key "bridge.sft"'),
    ],
)
def test_a_wrong_table_names_its_key(tmp_path, capsys, table, complaint):
    path = tmp_path / "b.toml"
    path.write_text(f'stage = "bridge"\n{table}\n')
    assert train(["--config", str(path), f"--output={tmp_path}", "--name=x"]) == 2
    assert complaint in capsys.readouterr().err


def test_the_shipped_files_are_valid_and_the_tiny_one_is_the_default(tmp_path):
    folder = Path(__file__).parents[1] / "configs"
    tiny = configs.load(["--config", str(folder / "tiny_bridge.toml"), "--name=x"])
    assert tiny == configs.load(["--stage=bridge", "--name=x"])
    large = ["--config", str(folder / "bridge_qwen2.5-3b_gsm8k.toml"), "--data.path=x", "--name=x"]
    for stage in configs.BRIDGE_STAGES:
        configs.stage_config(configs.load(large), stage)
    released = configs.stage_config(configs.load(large), "reconstruct")
    assert (released.lora.rank, released.lora.alpha, released.lora.dropout) == (16, 32, 0.05)
    assert released.seed == 42 and released.optimizer.learning_rate == 5e-5


@pytest.mark.parametrize("file", ["tiny_bridge", "tiny_bridge_arms", "tiny_bridge_long"])
def test_the_tiny_files_ask_for_no_more_than_the_student_s_context(file):
    path = Path(__file__).parents[1] / "configs" / f"{file}.toml"
    stages = bridge.plan(configs.load(["--config", str(path), "--name=x"]))
    bridge.check_lengths(stages)
    longer = dataclasses.replace(stages[1].rollout, max_new_tokens=1000)
    stages[1] = dataclasses.replace(stages[1], rollout=longer)
    with pytest.raises(InputError, match=r"\[bridge.grpo\] .* context of 1024 tokens. Lower one"):
        bridge.check_lengths(stages)


def test_a_path_inside_a_run_that_is_not_there(world):
    path = world.folder / "runs" / "whole" / "1-reconstruct" / "checkpoints" / "99"
    with pytest.raises(InputError, match="model.path .*99: not there"):
        train.run(configs.load(flags(path, world.data, world.folder / "runs", "none")))

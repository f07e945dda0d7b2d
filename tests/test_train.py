"""`python -m cotjax.train`: what a run says and leaves; it can be repeated, killed and resumed."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import tomllib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cotjax import export
from cotjax.errors import InputError
from cotjax.evaluate import evaluate
from cotjax.replay import main as replay
from cotjax.stages.policy import PolicyStage
from cotjax.stages.rejection import RejectionStage
from cotjax.stages.replay import ReplayStage
from cotjax.stages.supervised import SupervisedStage
from cotjax.student import generate as student_generate
from cotjax.train import main as train
from cotjax.training.checkpoint import Checkpoints
from tests.tiny import SHAPE, flags, without_notes, write_sevens, write_student

STEPS = 4
STAGES = {
    "grpo": (PolicyStage, ["--stage=grpo", "--policy.inner-updates=2", "--policy.micro-batch=2"]),
    "adapter": (PolicyStage, ["--stage=grpo", "--lora.rank=2", "--policy.micro-batch=2"]),
    "rft": (RejectionStage, ["--stage=rft", "--rewrite.updates=2"]),
    "sft": (SupervisedStage, ["--stage=sft", "--model.init=pretrained"]),
    "reconstruct": (
        SupervisedStage,
        ["--stage=reconstruct", "--batch.sequence-length=96", "--optimizer.warmup-steps=0"],
    ),
    "rewrite": (
        ReplayStage,
        [
            *("--stage=rewrite", "--rollout.max-prompt-tokens=64"),
            *("--batch.size=2", "--batch.sequence-length=64"),
            *("--mining.questions=6", "--mining.max-new-tokens=8", "--mining.batch-size=8"),
        ],
    ),
}


def config_stage(stage):
    return "grpo" if stage == "adapter" else stage


def made_of(stage):
    return STAGES[stage][0]


class World:
    """A student, its data and the runs made of them; each run is made once and then only read."""

    def __init__(self, folder):
        self.folder = folder
        self.student = write_student(folder / "student")
        self.data = write_sevens(folder / "sevens.jsonl")
        self._runs = {}

    def flags(self, stage, name, *more):
        both = [f"--steps={STEPS}", "--eval.every=2", "--checkpoint.keep=9", *STAGES[stage][1]]
        return flags(self.student, self.data, self.folder / "runs", name, *both, *more)

    def train(self, argv):
        """Exit status and output of a run."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = train(argv)
        return status, out.getvalue()

    def run(self, stage):
        """Folder and output of the unbroken run of a stage."""
        if stage not in self._runs:
            status, shown = self.train(self.flags(stage, stage))
            assert status == 0
            self._runs[stage] = shown
        return self.folder / "runs" / stage, self._runs[stage]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("train"))


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def without_times(path):
    """The lines of metrics.jsonl without seconds, rates and the share of a step spent waiting."""
    return [
        {name: value for name, value in line.items() if not name.endswith(("_s", "data_wait"))}
        for line in lines(path / "metrics.jsonl")
    ]


def checkpoint(run, step=STEPS):
    """Everything that a checkpoint holds, as it lies on the disk."""
    folder = run / "checkpoints" / str(step)
    with ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(folder / "state").item_metadata.tree
        like = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        state = reader.restore(folder / "state", ocp.args.PyTreeRestore(restore_args=like))
    return state, json.loads((folder / "data" / "metadata").read_text())


# Files of what some runs have: failures, something to tell, a student whose answers end.
SOMETIMES = {"mined.jsonl", "alarms.jsonl", "first_answers.json"}


def assert_same_run(one, other, step=STEPS, rounding=(), but=()):
    """Equal bit for bit, except how long it took, and metrics that are a rounding's size alone."""
    for mine, theirs in zip(without_times(one), without_times(other), strict=True):
        for name in {*rounding} & {*mine}:
            assert mine.pop(name) == pytest.approx(theirs.pop(name), abs=1e-7)
        assert mine == theirs
    for name in ("completions.jsonl", "digests.jsonl"):
        assert lines(one / name) == lines(other / name)
    for name in SOMETIMES - {"mined.jsonl", *but}:
        mine, theirs = (run / name for run in (one, other))
        assert mine.exists() == theirs.exists()
        assert not mine.exists() or mine.read_bytes() == theirs.read_bytes()
    (state, position), (other_state, other_position) = (
        checkpoint(one, step),
        checkpoint(other, step),
    )
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert position == other_position
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    for result in results:
        del result["seconds"], result["name"], result["programs"], result["parts"]
    assert results[0] == results[1]


def contents(run):
    """Every file of a run but its checkpoints, byte for byte."""
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_replayed_to_the_same_bits(world, stage, capsys):
    run, _ = world.run(stage)
    assert replay([str(run), "--step=3"]) == 0, capsys.readouterr().out
    assert "step 3 of 4" in capsys.readouterr().out


# What a run leaves and says.


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_its_folder(world, stage):
    run, _ = world.run(stage)
    assert {path.name for path in run.iterdir()} - SOMETIMES == {
        *("config.toml", "metrics.jsonl", "completions.jsonl", "checkpoints", "result.json"),
        *("report.html", "facts.json", "parts.json", "digests.jsonl", ".lock"),
        *(["base.json"] if stage == "adapter" else []),
    }
    assert (run / "mined.jsonl").exists() == (stage == "rewrite")
    config = tomllib.loads((run / "config.toml").read_text())
    assert (
        config["stage"] == config_stage(stage)
        and config["steps"] == STEPS
        and config["name"] == stage
    )
    kinds = [(line["kind"], line["step"]) for line in lines(run / "metrics.jsonl")]
    assert kinds == [
        *(("eval", 0), ("train", 1), ("train", 2), ("eval", 2), ("train", 3), ("train", 4)),
        ("eval", 4),
    ]
    rows = lines(run / "completions.jsonl")
    assert sum(row["kind"] == "before" for row in rows) == 4
    assert sum(row["kind"] == "after" for row in rows) == 4
    assert any(row["kind"] == "train" for row in rows) == (made_of(stage) != SupervisedStage)
    assert f"<title>{stage}" in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize("stage", STAGES)
def test_the_result_holds_before_and_after(world, stage):
    run, _ = world.run(stage)
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == STEPS and result["seed"] == 3 and result["seconds"] > 0
    evaluations = [line for line in lines(run / "metrics.jsonl") if line["kind"] == "eval"]
    for when, line in (("before", evaluations[0]), ("after", evaluations[-1])):
        numbers = result[when]
        assert {"accuracy", "sampled_accuracy", "tokens"} <= numbers.keys()
        assert 0 <= numbers["accuracy"] <= 1 and numbers["tokens"] > 0
        assert numbers == {key: value for key, value in line.items() if key in numbers}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_says_what_it_does(world, stage):
    run, shown = world.run(stage)
    assert f"with {config_stage(stage)} on " in shown and "4 held-out questions" in shown
    assert "[rollout]" not in shown, "every setting is in config.toml, and not here"
    for step in range(1, STEPS + 1):
        assert len(re.findall(rf"^ *{step}/{STEPS} ", shown, re.MULTILINE)) == 1
    for words in ("before: accuracy", "step 2: accuracy", "after: accuracy"):
        assert shown.count(words) == 1
    assert "Two questions, before and after:" in shown and shown.count("\nbefore: ") == 3
    assert re.search(r"accuracy +[\d.]+% +[\d.]+%", shown)
    last = shown.splitlines()[-1]
    assert last.startswith("Held-out accuracy ")
    assert last.endswith(f" Everything is in {run}; open {run / 'report.html'}")


def test_json_has_the_numbers_of_the_files_and_nothing_else(world):
    _, shown = world.train([*world.flags("grpo", "as-json"), "--json"])
    run, _ = world.run("grpo")
    events = [json.loads(line) for line in shown.splitlines()]
    start, *middle, end = events
    assert (start["event"], start["name"], start["steps"]) == ("start", "as-json", STEPS)
    written = lines(run.with_name("as-json") / "metrics.jsonl")
    of = {"train": "step", "eval": "eval"}
    assert [one for one in middle if one["event"] != "alarm"] == [
        {"event": of[line["kind"]], **line} for line in written
    ]
    result = json.loads((run.with_name("as-json") / "result.json").read_text())
    assert end["event"] == "end" and result.items() <= end.items()
    assert end["says"].startswith("Held-out accuracy") and end["report"].endswith("report.html")
    assert_same_run(run.with_name("as-json"), run)


def test_a_quiet_run_is_the_last_line_and_what_is_wrong(world, capsys):
    _, shown = world.train([*world.flags("grpo", "quiet"), "--quiet", "--profile-start"])
    parts = [line[:34].strip() for line in capsys.readouterr().err.splitlines()]
    wanted = ["settings", "tokenizer and records", "weights", "the first step", "together"]
    assert [part for part in parts if part in wanted] == wanted
    run, whole = world.run("grpo")
    *alarms, last = shown.splitlines()
    assert last == whole.splitlines()[-1].replace(str(run), str(run.with_name("quiet")))
    assert all(line.startswith("step ") and line in whole for line in alarms)
    assert_same_run(run.with_name("quiet"), run)


def test_a_profile_needs_a_run(world):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert train(["--stage=grpo", "--explain", "--profile-start"]) == 2
    assert "--profile-start: --explain trains nothing" in said.getvalue()


def test_an_error_ends_the_json_too(world):
    status, shown = world.train([*world.flags("grpo", "too-long"), "--eval.max-new-tokens=99999",
                                 "--json"])  # fmt: skip
    start, end = map(json.loads, shown.splitlines())
    assert (status, start["event"], end["event"]) == (2, "start", "end")
    assert "eval.max_new_tokens" in end["error"]


def test_grpo_reports_what_the_table_and_the_report_promise(world):
    run, _ = world.run("grpo")
    for line in lines(run / "metrics.jsonl"):
        if line["kind"] == "train":
            assert {
                *("accuracy", "reward", "completion_tokens", "kl", "entropy", "no_signal"),
                *("rollout_tok_s", "update_tok_s", "step_s", "sampler_gap", "truncated"),
            } <= line.keys()


# Doing it again.


@pytest.mark.parametrize("stage", STAGES)
def test_the_resolved_config_repeats_the_run(world, stage):
    run, _ = world.run(stage)
    argv = ["--config", str(run / "config.toml"), f"--name={stage}-again"]
    assert world.train(argv)[0] == 0
    assert_same_run(run.with_name(f"{stage}-again"), run)


class Stop(BaseException):  # any other is one line, and a status
    """Stands for whatever ends a run between two steps."""


@pytest.mark.parametrize("stage", STAGES)
def test_stopping_and_resuming_equals_an_unbroken_run(world, stage, monkeypatch):
    run, _ = world.run(stage)
    made, save = STAGES[stage][0], Checkpoints.save

    def next_step(self, params, step, original=made.next_step):
        if step == 3:
            raise Stop
        return original(self, params, step)

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self._manager.wait_until_finished()

    argv = world.flags(stage, f"{stage}-stopped")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(made, "next_step", next_step)
        patch.setattr(Checkpoints, "save", save_and_wait)
        world.train(argv)
    assert world.train([*argv, "--resume"])[0] == 0
    assert_same_run(run.with_name(f"{stage}-stopped"), run)


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


def test_a_killed_process_resumes_to_the_same_run(world):
    run, _ = world.run("grpo")
    argv = world.flags("grpo", "killed")
    done = subprocess.run([sys.executable, "-c", KILLED, *argv], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    killed = run.with_name("killed")
    assert lines(killed / "metrics.jsonl")[-1]["step"] == 2
    assert world.train([*argv, "--resume"])[0] == 0
    assert_same_run(killed, run)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_process_that_is_asked_to_end_saves_itself_and_says_how_it_goes_on(world, name, status):
    run, _ = world.run("grpo")
    argv = world.flags("grpo", f"asked-{name}")
    code = KILLED.replace("SIGKILL", name).replace(
        "train(sys.argv[1:])", "sys.exit(train(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert f"{name}: the run finishes its step, saves it and ends" in done.stdout
    said = "The run is saved after step 3: --resume goes on from there."
    assert done.stderr.strip().splitlines()[-1] == f"stopped by {name}. {said}"
    assert world.train([*argv, "--resume"])[0] == 0
    # The sampler's distance to the trainer, 2e-7, is rounding: another process compiles it anew.
    assert_same_run(run.with_name(f"asked-{name}"), run, rounding=("sampler_gap",))


def test_an_unexpected_error_is_one_line_and_its_traceback_a_file(world, capsys, monkeypatch):
    def next_step(self, params, step):
        raise ZeroDivisionError("by zero")

    argv = world.flags("sft", "raised")
    with monkeypatch.context() as patch:
        patch.setattr(STAGES["sft"][0], "next_step", next_step)
        assert world.train(argv)[0] == 1
    file = world.folder / "runs" / "raised" / "error.txt"
    said = without_notes(capsys.readouterr().err)
    assert said == f"error: ZeroDivisionError: by zero. The traceback is in {file}.\n"
    assert "in next_step" in file.read_text()
    assert world.train([*argv, "--resume"])[0] == 0


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_a_finished_run_is_harmless(world, stage):
    run, _ = world.run(stage)
    before = contents(run)
    assert world.train([*world.flags(stage, stage), "--resume"])[0] == 0
    after = contents(run)
    for name in ("config.toml", "metrics.jsonl", "completions.jsonl"):
        assert after[name] == before[name]
    results = [json.loads(files["result.json"]) for files in (before, after)]
    varying = {"seconds": 0, "programs": {}}
    assert results[0] | varying == results[1] | varying


def test_further_steps_compile_nothing(world):
    asked = []
    for steps in (1, 2, 9):  # the first one leaves programs behind for the others
        argv = world.flags("grpo", f"compiled-{steps}", "--eval.every=0", "--checkpoint.every=0")
        assert world.train([*argv, f"--steps={steps}"])[0] == 0
        result = json.loads(
            (world.folder / "runs" / f"compiled-{steps}" / "result.json").read_text()
        )
        asked.append(result["programs"]["compiled"] + result["programs"]["cached"])
    assert asked[1] == asked[2] > 0


# Resuming what cannot be resumed; the rest of bad input is in test_bad_input.py.


def refused(world, argv, capsys, monkeypatch):
    """The one message of a run that stops before it computes anything."""

    def generate(*arguments, **settings):
        raise AssertionError("something was computed")

    monkeypatch.setattr(student_generate, "generate", generate)
    assert world.train(argv)[0] == 2
    said = without_notes(capsys.readouterr().err)
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def test_a_checkpoint_of_another_architecture(world, capsys, monkeypatch):
    run, _ = world.run("sft")
    before = contents(run)
    other = write_student(world.folder / "wider", mlp_size=2 * SHAPE.mlp_size)
    argv = [*world.flags("sft", "sft", f"--steps={STEPS + 1}"), f"--model.path={other}", "--resume"]
    said = refused(world, argv, capsys, monkeypatch)
    assert f'--resume: model.path = "{other}": {run} has "{world.student}"' in said
    assert f"begin another run from this one: --name NEW --model.path {run}." in said
    assert contents(run) == before


def test_a_run_of_another_stage_or_seed(world, capsys, monkeypatch):
    run, _ = world.run("sft")
    before = contents(run)
    own = [f"--output={run.parent}", "--name=sft", "--resume"]
    for flag, said in (
        ("--stage=grpo", '--resume: stage = "grpo": '),
        ("--seed=4", "--resume: seed = 4: "),
        ("--eval.problems=3", "--resume: eval.problems = 3: "),
    ):
        assert said in refused(world, [*own, flag], capsys, monkeypatch)
    assert contents(run) == before


def test_a_run_that_has_taken_more_steps(world, capsys, monkeypatch):
    run, _ = world.run("sft")
    said = refused(
        world, [*world.flags("sft", "sft", "--steps=3"), "--resume"], capsys, monkeypatch
    )
    assert f"steps = 3: {run} has already taken 4. Set steps >= 4." in said


@pytest.mark.parametrize("name", ["file", "n" * 300])
def test_a_run_folder_that_cannot_be_looked_into(world, capsys, monkeypatch, name):
    (world.folder / "runs").mkdir(exist_ok=True)
    (world.folder / "runs" / "file").touch()
    for more in ([], ["--resume"]):
        said = refused(world, [*world.flags("sft", name), *more], capsys, monkeypatch)
        assert str(world.folder / "runs" / name) in said and "--name" in said


def test_a_run_is_evaluated_and_exported_as_it_was_trained(world, tmp_path):
    for stage in ("grpo", "adapter"):
        run, _ = world.run(stage)
        after = json.loads((run / "result.json").read_text())["after"]
        out = tmp_path / stage
        export.export(str(run), str(out))
        for checkpoint in (str(run), str(out)):
            flags = ["--config", str(run / "config.toml")] if checkpoint == str(out) else []
            flags += ["--lora.rank=0"] * (checkpoint == str(out))
            numbers = evaluate(checkpoint, flags)
            assert {name: numbers[name] for name in after} == after


def test_an_adapter_is_exported_alone(world, tmp_path):
    run, _ = world.run("adapter")
    export.export(str(run), str(tmp_path / "adapter"), adapter=True)
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(InputError, match="--adapter: .* has none"):
        export.export(str(world.run("grpo")[0]), str(tmp_path / "none"), adapter=True)

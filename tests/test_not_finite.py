"""Faults planted into whole runs: no NaN reaches a parameter, and what a command advises works."""

import contextlib
import dataclasses
import io
import json
import re

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from cotjax.cache_logits import main as cache_logits
from cotjax.config import change, with_objects
from cotjax.errors import BadSteps, NotFinite
from cotjax.evaluate import main as evaluate
from cotjax.export import main as export
from cotjax.generate import main as generate
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.distill import Distill
from cotjax.stages.grpo import Grpo
from cotjax.stages.supervised import SupervisedStage
from cotjax.teachers.logit_store import LogitStore
from cotjax.teachers.pool import TeacherPool
from cotjax.teachers.text import TextTeachers
from cotjax.train import main as train
from cotjax.training.bundle import read_bundle
from cotjax.training.loop import LoopSettings, fit
from cotjax.training.printer import Printer
from tests.test_train import assert_same_run
from tests.tiny import flags, make_config, write_sevens, write_student, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("not-finite")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    write_teachers(folder)
    return folder


def with_nan(folder, name, array="lm_head.weight", value=np.nan):
    """The student's folder, or another model's, with a row of an array planted."""
    copy = folder / f"{name}-{value}"
    if not copy.exists():
        copy.mkdir()
        for file in (folder / name).iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        weights = copy / "model.safetensors"
        tensors = load_file(weights)
        tensors[array] = tensors[array].copy()
        tensors[array][3] = value
        save_file(tensors, weights, metadata={"format": "pt"})
    return copy


# A batch of a supervised run, from the command to the advice.


@contextlib.contextmanager
def planted(*steps):
    """Targets of these steps, from 1, weigh infinitely much."""
    own = SupervisedStage.next_step

    def next_step(self, params, step):
        work = own(self, params, step)
        if step + 1 in steps:
            (batch, key), *_ = work.batch
            weight = jax.numpy.where(batch.weight > 0, np.inf, 0.0)
            work = dataclasses.replace(
                work, batch=[(dataclasses.replace(batch, weight=weight), key)]
            )
        return work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupervisedStage, "next_step", next_step)
        yield


def told(argv):
    """Exit status and everything that a command said."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = train(argv)
    return status, out.getvalue(), err.getvalue()


def test_a_supervised_run_that_meets_infinities_stops_and_both_its_advices_work(folder):
    def argv(name, *more):
        own = "--stage=sft", "--model.init=pretrained", "--steps=5", "--checkpoint.keep=9"
        own += "--eval.samples=0", "--optimizer.warmup-steps=1"
        return flags(
            folder / "student", folder / "sevens.jsonl", folder / "runs", name, *own, *more
        )

    with planted(2, 3):
        status, out, err = told(argv("stopped", "--training.max-bad-steps=2"))
    run = folder / "runs" / "stopped"
    assert status == 2 and "Traceback" not in err
    assert "step 2, not finite: its update was skipped (1 of at most 2 such steps in a row)" in out
    for words in (
        "error: step 3: 2 steps in a row had numbers that are NaN or infinite "
        "(training.max_bad_steps = 2). The first, step 2: loss is inf; grad_norm is ",
        f"Everything about it is in {run / 'bad_step-2'}.",
        "The run is saved after step 3: --resume goes on from there.",
    ):
        assert words in err
    bundle = read_bundle(run / "bad_step-2")
    assert bundle.checkpoint == 1 and bundle.about["0.0.weight"]["not_finite"] > 0
    assert 'stage = "sft"' in (bundle.folder / "config.toml").read_text()
    # The first advice: the same run goes on, as one that did not stop.
    assert told([*argv("stopped", "--training.max-bad-steps=2"), "--resume"])[0] == 0
    with planted(2, 3):
        assert told(argv("whole"))[0] == 0
    whole = folder / "runs" / "whole"
    assert_same_run(run, whole, step=5, but={"alarms.jsonl"})  # which tell the limit, 2 or 3
    # The second: another run begins from it.
    (advice,) = re.findall(r"--name NEW (--model.path \S+)\.", err)
    more = [*advice.split(), "--optimizer.learning-rate=0.001"]
    own = [flag for flag in argv("new") if not flag.startswith(("--model.path", "--optimizer.lea"))]
    assert told([*own, *more])[0] == 0


# Weights.


def refuses(command, argv, array):
    """What a command says that must refuse weights, and does what it is told to all the same."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as err,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        assert command(argv) == 2
    said = err.getvalue()
    assert re.search(rf"\d+ of \d+ numbers of {array} are NaN or infinite\.", said)
    if command is not train:
        assert "--allow-nonfinite" in said
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert command([*argv, "--allow-nonfinite"]) == 0
        return out.getvalue()
    return said


def test_commands_refuse_weights_with_a_nan_unless_told_otherwise(folder, tmp_path):
    model = str(with_nan(folder, "student"))
    small = ["--data.source=jsonl", f"--data.path={folder / 'sevens.jsonl'}", "--mesh.data=1"]
    small += ["--eval.problems=2", "--eval.samples=0", "--eval.max-new-tokens=4"]
    shown = refuses(evaluate, ["--checkpoint", model, *small], "unembed_weight")
    assert re.search(r"accuracy +0\n", shown)
    asked = ["--checkpoint", model, "--max-new-tokens=4", "--plain", "Mia has"]
    refuses(generate, asked, "unembed_weight")
    refuses(export, ["--checkpoint", model, "--out", str(tmp_path / "out")], "unembed_weight")
    assert np.isnan(load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"]).any()


def test_a_run_refuses_to_begin_from_them_and_its_name_stays_free(folder):
    model = with_nan(folder, "student", value=np.inf)
    own = "--stage=sft", "--model.init=pretrained", "--steps=2"
    argv = flags(model, folder / "sevens.jsonl", folder / "runs", "free", *own)
    said = refuses(train, argv, "unembed_weight")
    assert f'model.path = "{model}"' in said
    assert not (folder / "runs" / "free").exists()


def test_a_teacher_whose_weights_hold_a_nan_is_refused_by_name(folder):
    teacher = with_nan(folder, "strong")
    stage = distilled(folder, "--teachers.paths", str(teacher))
    with pytest.raises(
        NotFinite, match=rf"teacher {re.escape(str(teacher))}: \d+ of \d+ numbers of unembed_weight"
    ):
        stage.next_step(stage.state.params, 0)


# Teachers and rewards, in the loop.


def distilled(folder, *more):
    own = "--stage=distill", "--steps=4", "--curriculum.num-monitor=4"
    own += ("--curriculum.buckets=1",)
    if "--distill.target=text" not in more:
        own += ("--curriculum.ranking-problems=0",)
    return Distill.from_config(make_config(folder, *own, *more), make_mesh(1))


def ends_in_bad_steps(stage, run):
    """The error of a run of bad steps alone, which leave every parameter as it was."""
    quiet = Console(quiet=True)
    settings = LoopSettings(4, 0, 0, 1, resume=False, max_bad_steps=2)
    run.mkdir(exist_ok=True)
    stage.prepare(run)
    before = jax.tree.map(np.array, stage.state)
    states = []
    update = stage.update

    def seen(state, batch):
        state, metrics = update(state, batch)
        states.append(jax.tree.map(np.array, state))
        return state, metrics

    stage.update = seen
    stage.evaluate = lambda params: (
        {"accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 1.0, "tokens": 1.0, "problems": 1},
        [],
    )
    with pytest.raises(BadSteps) as error:
        fit(stage, run, settings, Printer(quiet))
    assert len(states) == 2
    for state in states:
        jax.tree.map(np.testing.assert_array_equal, state, before)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows if row["kind"] == "train"] == [1, 1]
    return str(error.value)


@contextlib.contextmanager
def nan_of_teacher(which=1):
    """Hidden states of a teacher are NaN, for the first of some texts."""
    own = TeacherPool.hidden

    def hidden(self, index, batch, *more):
        found = own(self, index, batch, *more)
        return found.at[(0,) * (found.ndim - 2)].set(np.nan) if index == which else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherPool, "hidden", hidden)
        yield


@pytest.fixture
def nan_of_strong():
    with nan_of_teacher():
        yield


BOTH = "--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5", "0.5"


def paths(folder):
    return "--teachers.paths", str(folder / "weak"), str(folder / "strong")


@pytest.mark.usefixtures("nan_of_strong")
@pytest.mark.parametrize("kind", ["forward_kl", "total_variation"])
def test_a_nan_of_a_teacher_is_named_and_teaches_nothing(folder, tmp_path, kind):
    # The mixture has it, whatever the other teacher says.
    stage = distilled(folder, *paths(folder), *BOTH, f"--distill.divergence={kind}")
    said = ends_in_bad_steps(stage, tmp_path)
    assert "loss is nan; " in said  # a total variation's gradient is finite all the same
    assert f"teacher {folder / 'strong'}: " in said and "numbers of 0.outputs.hidden.1 are" in said


def test_logits_of_a_teacher_that_overflow_teach_nothing(folder, tmp_path):
    teacher = with_nan(folder, "strong", value=3e38)
    stage = distilled(folder, "--teachers.paths", str(teacher))
    said = ends_in_bad_steps(stage, tmp_path)
    assert f"a number became too large in the student or teacher {teacher}." in said


@pytest.mark.usefixtures("nan_of_strong")
@pytest.mark.parametrize("loss", ["policy_gradient", "divergence"])
def test_a_nan_of_a_teacher_beside_a_policy_teaches_nothing(folder, tmp_path, loss):
    own = "--stage=grpo", "--steps=4", "--distill.coefficient=0.1", *paths(folder), *BOTH
    own += f"--distill.on-policy-loss={loss}", "--curriculum.ranking-problems=0"
    stage = Grpo.from_config(make_config(folder, *own), make_mesh(1))
    said = ends_in_bad_steps(stage, tmp_path)
    name = "logp_teacher" if loss == "policy_gradient" else "teacher_outputs.hidden.1"
    assert f"{folder / 'strong'}" in said and name in said


def test_a_nan_in_cached_logits_is_named_with_its_file(folder, tmp_path, monkeypatch):
    own = "--curriculum.buckets=1", "--curriculum.num-monitor=4", "--curriculum.ranking-problems=0"
    own += "--teachers.paths", str(folder / "weak"), "--steps=4"
    argv = flags(
        *(folder / "student", folder / "sevens.jsonl", folder / "runs", "cached"),
        *("--stage=distill", *own),
    )
    out = ["--out", str(tmp_path / "cache")]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cache_logits([*out, *(flag for flag in argv if flag != "--stage=distill")]) == 0
    read = LogitStore.read

    def with_a_nan(self, teacher, example):
        found = read(self, teacher, example)
        return dataclasses.replace(found, logp=found.logp * np.nan)

    monkeypatch.setattr(LogitStore, "read", with_a_nan)
    stage = distilled(folder, *own[:-1], f"--teachers.cache={tmp_path / 'cache'}")
    said = ends_in_bad_steps(stage, tmp_path / "run")
    file = tmp_path / "cache" / "t0-b0-00000.array_record"
    assert re.search(rf"teacher \S+, example \d+ in {file} \(remove that and", said)
    assert "numbers of 0.outputs.topk_logp.0 are NaN" in said


def test_a_teacher_with_a_nan_writes_no_cache(folder, tmp_path, capsys):
    teacher = with_nan(folder, "strong", value=3e38)
    own = "--curriculum.buckets=1", "--curriculum.num-monitor=4", "--curriculum.ranking-problems=0"
    argv = flags(
        *(folder / "student", folder / "sevens.jsonl", folder / "runs", "cached"),
        *("--stage=distill", *own, "--teachers.paths", str(teacher), "--steps=4"),
    )
    argv = [flag for flag in argv if flag != "--stage=distill"]
    assert cache_logits(["--out", str(tmp_path / "cache"), *argv]) == 2
    said = capsys.readouterr().err
    assert f"teacher {teacher}: its log-probabilities at " in said and "not written" in said
    assert not list((tmp_path / "cache").glob("t0*.json"))


def test_texts_of_a_teacher_with_a_nan_are_none_and_the_step_is_bad(folder, tmp_path):
    teacher = with_nan(folder, "strong", value=3e38)
    own = "--distill.target=text", "--distill.no-filter-texts", "--batch.sequence-length=96"
    stage = distilled(folder, *own, "--teachers.paths", str(teacher))
    assert isinstance(stage.teachers, TextTeachers)
    stage.prepare(tmp_path)
    work = stage.next_step(stage.state.params, 0)
    assert work.metrics["nonfinite"] > 0
    name = re.escape(str(teacher))
    assert re.fullmatch(rf"\d+ texts of teacher {name} ended in a logit that is .*", work.bad)


def test_a_reward_that_is_no_number_leaves_its_group_and_the_step_is_good(folder):
    def reward(completion, record):
        return float("nan") if completion.tokens % 2 else 1e308

    config = with_objects(make_config(folder, "--stage=grpo", "--steps=2"), reward=reward)
    config = change(config, {"reward": {"max_failed": 1.0}}, "this test")
    stage = Grpo.from_config(config, make_mesh(1))
    work, sampled = stage.sample_step(stage.state.params, 0)
    assert work.metrics["unrewarded"] == sampled.rollout.end.size and not work.bad
    assert all(np.isfinite(np.asarray(micro.advantage)).all() for micro in work.batch)
    state, metrics = stage.update(stage.state, work.batch)
    assert metrics["skipped"][0] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert "have no reward; the first: reward.function" in work.alarm

"""Distillation by teachers that are shown part of the reference rationales."""

import json

import jax
import numpy as np
import pytest

from cotjax.config import load
from cotjax.curriculum.cache_logits import cache_logits
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.distill_logits import DistillLogitsStage
from cotjax.stages.distill_text import DistillTextStage
from tests.stages.test_distill_logits import ADAPTIVE, run
from tests.tiny import make_config, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill-context")
    write_teachers(folder)
    return folder


def open_stage(folder, *names, more=(), steps=4):
    flags = ["--stage=distill", f"--steps={steps}", "--curriculum.buckets=2"]
    flags += ["--curriculum.num-monitor=4", "--teachers.paths"]
    flags += [name if name.startswith("self") else str(folder / name) for name in names]
    if not any("ranking" in flag for flag in more):
        more = *more, "--curriculum.ranking-problems=0"
    return DistillLogitsStage(make_config(folder, *flags, *more), make_mesh(1))


def losses(stage, stop=4):
    return [row["loss"] for row in run(stage, stop=stop)[1]]


def test_a_share_of_0_is_bit_for_bit_the_teacher_without_one(folder):
    plain, zero = (open_stage(folder, name) for name in ("strong", "strong@0"))
    assert losses(plain) == losses(zero) != losses(open_stage(folder, "strong@1"))


def test_what_teachers_are_shown_does_not_change_the_students_batches(folder):
    one, other = open_stage(folder, "strong", "weak"), open_stage(folder, "strong@0.5", "weak@1")
    for step in range(4):
        (mine,), (its,) = (
            stage.next_step(stage.state.params, step).batch for stage in (one, other)
        )
        jax.tree.map(np.testing.assert_array_equal, mine.batch, its.batch)


def test_the_start_is_what_the_student_was_however_it_learns(folder):
    for more in ((), ("--lora.rank=2", "--lora.alpha=4")):
        more = *more, "--distill.alpha=0.5", "--optimizer.warmup-steps=0"
        _, rows = run(open_stage(folder, "self@0", more=more), stop=4)
        first, *rest = (row["divergence"] for row in rows)
        assert abs(first) < 1e-6 and all(one > 1e-5 for one in rest)


@pytest.mark.parametrize("loss", ["divergence", "policy_gradient"])
def test_the_students_own_texts_are_scored_too(folder, loss):
    flags = "--distill.on-policy=0.5", f"--distill.on-policy-loss={loss}"
    stage = open_stage(folder, "weak@0.5", "strong@1", more=flags)
    _, rows = run(stage, stop=4)
    assert [row["own_text"] for row in rows] == [0, 1, 0, 1]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert stage.teachers.calls == [2, 2]


def test_a_run_resumes_bit_for_bit(folder):
    flags = *ADAPTIVE, "--distill.on-policy=0.5"
    names = "weak@0", "weak@0.5", "self@1"
    _, expected = run(open_stage(folder, *names, more=flags, steps=8))
    first, again = (open_stage(folder, *names, more=flags, steps=8) for _ in range(2))
    state, _ = run(first, stop=5)
    again.data.set_state(json.loads(json.dumps(first.data.get_state())))
    _, rows = run(again, 5, 8, state)
    for row in expected + rows:
        row.pop("data_wait_s")
    assert rows == expected[5:] and rows[-1]["teacher_2"] + rows[-1]["teacher_3"] > 0


def test_how_likely_the_rationales_are_is_measured_and_told(folder, tmp_path):
    stage = open_stage(folder, "strong@0", "strong@1", more=["--curriculum.ranking-problems=3"])
    told = stage.prepare(tmp_path)
    assert stage.teachers.resident == set(), "measured, and dropped"
    (note,) = [one for one in told if "3 reference rationales" in one]
    found = [float(part.split()[-1]) for part in note.rstrip(".").split(", ")]
    assert found == pytest.approx([stage._likelihood(k) for k in range(2)], abs=1e-3)
    warned = any("not in the order weak to strong" in one for one in told)
    assert warned == (found[1] < found[0]) and found[0] != found[1]


def test_a_cache_is_keyed_by_what_is_shown(folder, tmp_path):
    more = "--teachers.top-k=421", "--distill.divergence=forward_kl"
    live = open_stage(folder, "weak@0", "strong@1", more=more)
    assert cache_logits(live.config, make_mesh(1), tmp_path / "store").shards == 2
    cached = *more, f"--teachers.cache={tmp_path / 'store'}"
    stored = open_stage(folder, "weak@0", "strong@1", more=cached)
    assert losses(stored) == pytest.approx(losses(live), abs=3e-3)
    same = open_stage(folder, "weak", "strong@1", more=cached)
    assert losses(same) == losses(open_stage(folder, "weak@0", "strong@1", more=cached))
    with pytest.raises(InputError, match="was made with teachers"):
        losses(open_stage(folder, "weak", "strong@0.5", more=cached))


def test_the_students_start_can_write_texts(folder):
    flags = "--stage=distill", "--distill.target=text", "--distill.no-filter-texts", "--steps=2"
    config = make_config(folder, *flags, "--curriculum.num-monitor=4", "--teachers.paths", "self@0")
    stage = DistillTextStage(config, make_mesh(1))
    step = stage.next_step(stage.state.params, 0)
    assert stage.teachers.models[0].params is stage.student.params and step.metrics["examples"] > 0


@pytest.mark.parametrize(
    ("stage", "names", "more", "words"),
    [
        ("distill", ["a@2"], [], 'teachers.paths: "a@2": .* a number from 0 to 1'),
        ("distill", ["a.jsonl@1"], ["--distill.target=text"], "written already"),
        ("distill", ["a", "a@0.5"], ["--distill.target=text"], "written for the question alone"),
        ("distill", ["self@1"], ["--teachers.cache=x"], "keyed by the files of a teacher"),
        ("grpo", ["a", "a@0.5"], ["--distill.coefficient=0.1"], "see the prompts of the student"),
        ("grpo", ["self@0"], ["--distill.coefficient=0.1"], "see the prompts of the student"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(stage, names, more, words):
    with pytest.raises(InputError, match=words):
        load([f"--stage={stage}", "--name=x", "--teachers.paths", *names, *more])

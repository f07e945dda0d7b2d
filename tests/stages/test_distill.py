"""Distillation by its settings: which stage opens, and what cannot be combined."""

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.distill import Distill
from cotjax.stages.distill_logits import DistillLogitsStage
from cotjax.stages.distill_text import DistillTextStage
from tests.tiny import make_config, write_teachers


def checked(*flags, teachers=("weak", "strong")):
    return load(["--stage=distill", "--name=x", "--teachers.paths", *teachers, *flags])


@pytest.mark.parametrize(
    ("target", "made"), [("distribution", DistillLogitsStage), ("text", DistillTextStage)]
)
def test_the_target_decides_the_stage(tmp_path, target, made):
    write_teachers(tmp_path)
    flags = "--stage=distill", f"--distill.target={target}", "--curriculum.num-monitor=4"
    paths = "--seed=0", "--teachers.paths", str(tmp_path / "weak")
    stage = Distill.from_config(make_config(tmp_path, *flags, *paths), make_mesh(1))
    assert type(stage) is made


CACHE, TEXT = "--teachers.cache=somewhere", "--distill.target=text"
ON_POLICY = "--distill.on-policy-loss=policy_gradient"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data.mixture=problems=1"], "a curriculum puts the records of one source in order"),
        ([CACHE, "--distill.temperature-schedule=linear"], "a logit cache has one temperature"),
        ([CACHE, "--curriculum.rescore"], "Set curriculum.rescore = false, or teachers.cache"),
        (["--curriculum.buckets=3", "--curriculum.examples=2"], "more buckets than examples"),
        ([TEXT, CACHE], "texts of teachers are learned as they stand"),
        ([TEXT, "--distill.on-policy=0.5"], "texts of teachers are learned as they stand"),
        ([CACHE, "--distill.on-policy=0.5"], "the student writes others"),
        ([CACHE, "--distill.divergence=reverse_kl"], "a cache of top logits gives the forward KL"),
        ([CACHE, "--curriculum.mixing=logit", "--curriculum.schedule=linear"],
         'their mixture in probability space alone. Set curriculum.mixing = "probability"'),
        ([ON_POLICY, "--distill.on-policy=0.5", "--rollout.temperature=0.7"],
         "distill.on_policy = 0.5, distill.temperature = 1.0.*Set distill.temperature = 0.7"),
        ([ON_POLICY, "--distill.on-policy=1", "--distill.temperature-schedule=linear"],
         'distill.temperature_schedule = "linear": the gap to the teachers is an advantage only'),
        (["--curriculum.schedule=fixed"], "needs one weight for each of 2 teachers"),
        (["--curriculum.teacher-weights", "1", "0"], "the others need none"),
        (
            ["--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5", "1"],
            r"teacher_weights = \[0.5, 1.0\]: they sum to 1.5. Set weights >= 0 that sum to 1",
        ),
        (
            ["--curriculum.schedule=fixed", "--curriculum.teacher-weights", "1.5", "-0.5"],
            "Set weights >= 0 that sum to 1",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_names_the_keys_and_the_fix(flags, words):
    with pytest.raises(InputError, match=words):
        checked(*flags)


def test_a_file_of_texts_has_no_distribution():
    with pytest.raises(InputError, match='teachers.paths: "a.jsonl" holds texts'):
        checked(teachers=("weak", "a.jsonl"))
    assert checked("--distill.target=text", teachers=("weak", "a.jsonl"))


def test_fixed_weights_that_sum_to_one_are_taken():
    flags = "--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.25", "0.75"
    assert checked(*flags).curriculum.teacher_weights == (0.25, 0.75)


def test_teachers_of_a_cache_that_come_one_at_a_time_are_not_mixed():
    flags = CACHE, "--curriculum.mixing=logit"
    assert checked(*flags).curriculum.mixing == "logit"
    checked(*flags, "--curriculum.schedule=adaptive", "--curriculum.handover=1")
    checked(*flags, "--curriculum.schedule=linear", teachers=("weak",))


def test_a_divergence_on_the_students_own_texts_has_a_temperature_of_its_own():
    checked("--distill.on-policy=1", "--distill.temperature=2", "--rollout.temperature=0.7")
    checked(
        ON_POLICY, "--distill.on-policy=1", "--rollout.temperature=2", "--distill.temperature=2"
    )

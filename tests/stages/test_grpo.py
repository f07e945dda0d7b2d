"""GRPO on masked completion: what a prompt shows, and what the config says of it."""

import dataclasses

import numpy as np
import pytest

from cotjax import config as configs
from cotjax.cot import completion_mask_count
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.grpo import Grpo, MaskedPrompt
from cotjax.student import guards
from tests.tiny import STUDENT, make_config

STEPS = tuple(f"{i}0+1={i}1" for i in range(2, 8))
RECORD = Record("r/1", "How many?", "71", STEPS, 6)
SOLVE = STUDENT.prompts.solve(RECORD.question)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("grpo")


def make(*flags):
    return configs.load(["--stage=grpo", "--name=x", *flags])


def prompt(config, record=RECORD, seed=0, progress=1.0):
    made = MaskedPrompt(config.mask, STUDENT.prompts, progress)
    return made(record, np.random.default_rng(seed))


def shorter(size):
    return dataclasses.replace(RECORD, steps=STEPS[:size])


def test_without_a_mask_the_prompt_is_the_question():
    assert prompt(make()) == SOLVE


@pytest.mark.parametrize("size", range(7))
def test_the_released_rule_masks_its_number_of_steps_in_order(size):
    text = prompt(make("--mask.rule=bridge"), shorter(size))
    shown = [text.index(step) for step in STEPS[:size] if step in text]
    assert shown == sorted(shown)
    masked = completion_mask_count(size)
    assert text.count("[MASK]") == masked
    # One step, or none: nothing could be left to write, so nothing is shown.
    assert len(shown) == (size - masked if masked else 0)
    assert guards.leak_guard([text], [shorter(size)]) == ()


def test_the_masked_share_grows_with_progress_up_to_the_question_alone():
    config = make("--mask.rule=share", "--mask.share-start=0.25", "--mask.share-end=1")
    counts = [MaskedPrompt(config.mask, STUDENT.prompts, x).count(6) for x in (0, 0.5, 1)]
    assert counts == [2, 4, 6]
    assert prompt(config, progress=0).count("[MASK]") == 2
    shares = [MaskedPrompt(config.mask, STUDENT.prompts, x).metrics() for x in (0, 0.5, 1)]
    assert shares == [{"masked_share": share} for share in (0.25, 0.625, 1)]
    assert MaskedPrompt(make("--mask.rule=bridge").mask, STUDENT.prompts, 0).metrics() == {}
    assert prompt(config, progress=1) == SOLVE


@pytest.mark.parametrize("share", [0, 0.1, 0.3])
def test_levels_may_start_from_one_mask_which_is_never_none(share):
    config = make("--mask.rule=share", f"--mask.share-start={share}")
    masked = [prompt(config, shorter(size), progress=0).count("[MASK]") for size in range(7)]
    assert masked == [0, 0, 1, 1, 1, max(round(5 * share), 1), max(round(6 * share), 1)]
    assert prompt(config, shorter(1), progress=0) == SOLVE  # nothing else is there to show


def test_each_step_tells_its_bucket_and_its_masked_share(folder, tmp_path):
    flags = "--stage=grpo", "--mask.rule=share", "--curriculum.buckets=2", "--mask.share-end=0.8"
    flags += "--curriculum.advance-after=1", "--rollout.max-prompt-tokens=96"
    stage = Grpo.from_config(make_config(folder, *flags), make_mesh(1))
    stage.prepare(tmp_path)
    told = [stage.next_step(stage.state.params, step).metrics for step in range(2)]
    assert [(one["bucket"], one["masked_share"]) for one in told] == [(1, 0.5), (2, 0.8)]
    assert all("accuracy" in one for one in told)


def test_equal_draws_mask_equal_steps_and_others_others():
    config = make("--mask.rule=bridge")
    texts = [prompt(config, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert texts[0] == texts[1] and len(set(texts)) > 2


def test_numbers_may_be_hidden_instead_of_steps():
    config = make("--mask.rule=share", "--mask.granularity=number", "--mask.share-end=0.5")
    assert prompt(config, progress=1).count("[MASK]+[MASK]=[MASK]") == 3
    wordy = dataclasses.replace(RECORD, steps=("no number", "none here"))
    assert prompt(config, wordy) == SOLVE


# What the config says.


def open_stage(folder, *flags):
    return Grpo.from_config(make_config(folder, "--steps=3", *flags), make_mesh(1))


def test_the_objective_is_the_configs(folder):
    objective = open_stage(
        folder,
        *("--policy.objective=dapo", "--policy.clip-high=0.28", "--policy.kl-estimator=k2"),
        *("--policy.kl-coefficient=0.5", "--policy.advantage-scale=none", "--policy.ddof=0"),
    ).objective
    assert (objective.term, objective.reduction, objective.clip_high) == ("clipped", "token", 0.28)
    assert (objective.kl, objective.beta, objective.scale) == ("k2", 0.5, "none")
    assert objective.ddof == 0


def test_a_masked_prompt_that_does_not_fit_is_refused_before_the_run(folder):
    with pytest.raises(InputError, match="sevens.jsonl:.*rollout.max_prompt_tokens >= "):
        open_stage(folder, "--mask.rule=bridge")
    assert open_stage(folder, "--mask.rule=bridge", "--rollout.max-prompt-tokens=64")


def test_success_opens_the_next_bucket_of_the_stream(folder):
    flags = "--curriculum.buckets=2", "--curriculum.advance-window=1"
    flags += "--curriculum.advance-accuracy=0", "--mask.rule=share"
    stage = open_stage(folder, *flags, "--rollout.max-prompt-tokens=64")
    metrics = [stage.next_step(stage.state.params, step).metrics for step in range(3)]
    assert [one["bucket"] for one in metrics] == [1, 2, 2]


def test_more_buckets_than_records_is_refused(folder):
    with pytest.raises(InputError, match="curriculum.buckets = 21: a bucket would be empty"):
        open_stage(folder, "--curriculum.buckets=21")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--curriculum.schedule=adaptive"], 'curriculum.schedule = "adaptive": it follows'),
        (["--distill.temperature=2"], "Set distill.temperature = 1.0"),
        (
            ["--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5"],
            "needs one weight for each of 2 teachers",
        ),
        (["--teachers.cache=somewhere"], "teachers.cache: stage grpo does not read it"),
    ],
)
def test_teachers_that_cannot_be_added_are_refused_by_their_key(flags, words):
    with pytest.raises(InputError, match=words):
        make("--distill.coefficient=0.5", "--teachers.paths", "weak", "strong", *flags)


def test_without_a_coefficient_a_setting_of_the_teachers_is_refused():
    with pytest.raises(InputError, match="does nothing while distill.coefficient = 0.0"):
        make("--distill.temperature=2")


LENGTHS = {
    "none": (),
    "target": ("--reward.target-min=4", "--reward.target-max=8", "--reward.target-form=exact",
               "--rollout.max-prompt-tokens=48"),
    "group_relative": (),
    "budget": ("--reward.limit-end=4", "--reward.limit-rounds=3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_step_with_another_length_is_a_function_of_its_number_and_says_what_it_earned(
    folder, kind
):
    config = make_config(folder, "--steps=3", f"--reward.length={kind}", *LENGTHS[kind])
    stages = [Grpo.from_config(config, make_mesh(1)) for _ in range(2)]
    for step in range(3):
        one = stages[0].next_step(stages[0].state.params, step)
        if step < 2:
            stages[1].data.set_state(stages[0].data.get_state())
    other = stages[1].next_step(stages[1].state.params, 2)
    np.testing.assert_array_equal(one.batch[0].advantage, other.batch[0].advantage)
    (row, *_), metrics = one.completions, one.metrics
    assert {row["parts"]["steps"], row["parts"]["brevity"]} == {0.0}, "it writes no steps"
    if kind == "budget":
        assert metrics["limit"] == other.metrics["limit"] == 4
        assert 0 <= metrics["over_limit"] <= 1
        assert all(one["parts"]["over_limit"] == (one["tokens"] > 4) for one in other.completions)
    if kind == "target":
        assert all(4 <= one["parts"]["target"] <= 8 for one in other.completions)
        assert f"keep {row['parts']['target']:.0f} equal parts." in row["question"]
        assert stages[0].held_out[0].question.endswith("keep 6 equal parts.")
    assert ("reward_brevity" in metrics) == (kind in ("target", "group_relative"))
    numbers, rows = stages[0].evaluate(stages[0].state.params)
    assert rows[0]["reward"] in (-2, -1) and numbers["accuracy"] >= 0


def test_samples_that_order_the_prompts_are_counted_in_the_first_step(folder, tmp_path):
    flags = "--curriculum.buckets=2", "--curriculum.difficulty=pass_rate", "--curriculum.samples=2"
    config = make_config(folder, "--steps=3", *flags, "--curriculum.examples=6")
    counts = []
    for _ in range(2):  # the second goes on with the rates that the first has kept
        stage = Grpo.from_config(config, make_mesh(1))
        stage.prepare(tmp_path)
        counts.append([
            stage.next_step(stage.state.params, step).metrics.get("mined_tokens", 0)
            for step in range(2)
        ])  # fmt: skip
    assert counts[0] == counts[1] and counts[0][0] > 2 * 6 and counts[0][1] == 0
    stage = Grpo.from_config(config, make_mesh(1))
    stage.prepare(tmp_path)
    assert "mined_tokens" not in stage.next_step(stage.state.params, 1).metrics, "a resumed run"

"""Dynamic sampling, overlong completions, levels: what policy stages add to the plain step."""

import dataclasses

import numpy as np
import pytest
from cotjax.stages.completions import JudgedCompletion

from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages import common, completions, grpo
from cotjax.stages.policy import with_overlong
from tests.tiny import keep_compiled_programs, make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    keep_compiled_programs()
    return tmp_path_factory.mktemp("groups")


def open_stage(folder, *flags):
    return grpo.open_stage(make_config(folder, "--stage=grpo", "--steps=3", *flags), make_mesh(1))


def judge_as(rewards):
    """Replaces judging by given rewards [rollouts, B, G], in order."""
    calls = iter(rewards)

    def judge(student, config, records, rollout, reward):
        return [
            [
                JudgedCompletion("", 3, bool(end), value, {"correct": value > 0, "well_formed": 1})
                for value, end in zip(row, ends, strict=True)
            ]
            for row, ends in zip(next(calls), rollout.ended, strict=True)
        ]

    return judge


DULL, SHARP = [1.0] * 4, [1.0, -2.0, -2.0, -2.0]


def test_groups_of_equal_rewards_are_replaced_within_the_budget(folder, monkeypatch):
    stage = open_stage(folder, "--policy.refill=2", "--policy.micro-batch=0")
    first = [SHARP, DULL, DULL, DULL], [DULL, SHARP, SHARP, DULL], [DULL, DULL, DULL, SHARP]
    monkeypatch.setattr(completions, "judge", judge_as(first))
    work = stage.next_step(stage.state.params, 0)
    assert work.metrics["sampled_groups"] == 12 and work.metrics["dropped_groups"] == 0
    (groups,) = work.batch
    assert (np.ptp(np.asarray(groups.advantage), axis=1) > 0).all()
    assert len(np.unique(np.asarray(groups.prompt), axis=0)) >= 2
    assert work.metrics["no_signal"] == 8 / 12


def test_a_spent_budget_leaves_dull_groups_out_of_the_loss(folder, monkeypatch):
    stage = open_stage(folder, "--policy.refill=1", "--policy.micro-batch=0")
    monkeypatch.setattr(completions, "judge", judge_as([[SHARP, DULL, DULL, DULL], [DULL] * 4]))
    work = stage.next_step(stage.state.params, 0)
    assert work.metrics["sampled_groups"] == 8 and work.metrics["dropped_groups"] == 3
    (groups,) = work.batch
    counted = np.asarray(groups.completion_mask).any(axis=(1, 2))
    assert counted.sum() == 1
    assert (np.asarray(groups.advantage)[counted] != 0).any()
    _, metrics = stage.update(stage.state, work.batch)
    assert np.isfinite(float(metrics["loss"][0])) and metrics["loss"][1] == 4


def test_no_refill_if_every_group_differs(folder, monkeypatch):
    stage = open_stage(folder, "--policy.refill=2", "--policy.micro-batch=0")
    monkeypatch.setattr(completions, "judge", judge_as([[SHARP] * 4]))
    assert stage.next_step(stage.state.params, 0).metrics["sampled_groups"] == 4


def test_cut_off_completions_teach_nothing_if_masked(folder):
    stage = open_stage(folder, "--policy.overlong=mask", "--policy.micro-batch=0")
    work = stage.next_step(stage.state.params, 0)
    (groups,) = work.batch
    mask, tokens = np.asarray(groups.completion_mask), np.asarray(groups.completion)
    ended = (tokens == stage.student.eos_id).any(axis=-1)
    assert 0 < ended.sum() < ended.size
    np.testing.assert_array_equal(mask.any(axis=-1), ended)
    advantage = np.asarray(groups.advantage)
    for row, ends in zip(advantage, ended, strict=True):  # the baseline is that of the others
        if ends.sum() > 1:
            assert row[ends].mean() == pytest.approx(0, abs=1e-5)


def test_reward_falls_by_one_over_the_buffer(folder):
    config = make_config(folder, "--rollout.max-new-tokens=100", "--policy.overlong-buffer=20")
    reward = with_overlong(lambda *settings: (1.0, {"outcome": 1.0}))
    record: common.Record = None  # pyright: ignore[reportAssignmentType]
    earned = [reward(config, record, "", tokens)[0] for tokens in (0, 80, 85, 90, 100)]
    np.testing.assert_allclose(earned, [1, 1, 0.75, 0.5, 0])
    assert reward(config, record, "", 90)[1] == {"outcome": 1.0, "overlong": -0.5}
    off = dataclasses.replace(config, policy=dataclasses.replace(config.policy, overlong_buffer=0))
    assert reward(off, record, "", 100) == (1.0, {"outcome": 1.0})


def test_success_opens_the_next_level_of_the_stream(folder):
    flags = "--curriculum.buckets=2", "--curriculum.advance-window=1", "--curriculum.advance-accuracy=0"
    stage = open_stage(folder, *flags, "--mask.rule=share", "--rollout.max-prompt-tokens=64")
    levels = [stage.next_step(stage.state.params, step).metrics["level"] for step in range(3)]
    assert levels == [0, 1, 1]


def test_more_levels_than_records_is_refused(folder):
    with pytest.raises(InputError, match="curriculum.buckets = 21: a bucket would be empty"):
        open_stage(folder, "--curriculum.buckets=21")


def test_alarms_of_a_step_name_the_accident(folder, monkeypatch):
    stage = open_stage(folder)
    target = "Step 1: 7*1=7\nAnswer: 7"
    stage.student = dataclasses.replace(
        stage.student, tokenizer=Shown(stage.student.tokenizer, target)
    )
    assert "leak guard: 4 of 4 prompts" in stage.next_step(stage.state.params, 0).alarm


class Shown:
    """A tokenizer whose prompts hold the target text when they are decoded."""

    def __init__(self, tokenizer, text):
        self._tokenizer, self._text = tokenizer, text

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def batch_decode(self, rows, **settings):
        return [f"{text}\n{self._text}" for text in self._tokenizer.batch_decode(rows, **settings)]

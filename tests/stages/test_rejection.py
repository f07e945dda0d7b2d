"""A stage that learns its accepted completions: what is accepted, counted, updated and resumed."""

import dataclasses

import jax
import numpy as np
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.stages.rft import Rft
from cotjax.student import rewards
from tests.stages.test_accepted import GOOD, attempt, take
from tests.stages.test_supervised import kl_to_start
from tests.tiny import STUDENT, make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rejection")


def open_stage(folder, tmp_path, *flags, devices=1):
    config = make_config(folder, "--steps=3", "--stage=rft", *flags)
    stage = Rft.from_config(config, make_mesh(devices))
    stage.prepare(tmp_path)
    return stage


@pytest.fixture
def lucky(monkeypatch):
    """Every right completion counts as a whole solution in form."""
    judge = rewards.judge

    def well_formed(*arguments, **more):
        return [
            [
                dataclasses.replace(
                    one, text=GOOD, parts=one.parts | {"well_formed": one.parts["correct"]}
                )
                for one in group
            ]
            for group in judge(*arguments, **more)
        ]

    monkeypatch.setattr(rewards, "judge", well_formed)


def test_a_step_without_an_accepted_completion_trains_nothing_and_goes_on(folder, tmp_path):
    stage = open_stage(folder, tmp_path)  # this student writes no steps
    before = jax.tree.map(np.array, stage.state)
    work = stage.next_step(stage.state.params, 0)
    assert work.batch == [] and "nothing accepted" in work.alarm and work.metrics["accepted"] == 0
    assert work.metrics["trained_tokens"] == 0 < work.metrics["sampled_tokens"]
    state, metrics = stage.update(stage.state, work.batch)
    assert metrics == {}
    jax.tree.map(np.testing.assert_array_equal, state, before)
    other = stage.next_step(stage.state.params, 1)
    assert [row["id"] for row in other.completions] != [row["id"] for row in work.completions]


def test_prompts_are_bare_questions_and_the_shortest_right_completion_is_accepted(
    folder, tmp_path, lucky
):
    stage = open_stage(folder, tmp_path)
    groups, _ = stage.sample(stage.state.params, 0)
    for record, tokens, mask in zip(
        groups.records, groups.prompts.tokens, groups.prompts.mask, strict=True
    ):
        shown = STUDENT.tokenizer.decode(np.asarray(tokens)[np.asarray(mask)])
        assert shown == STUDENT.prompts.solve(record.question)
    stage.accepted.take(groups)
    right = {
        record.id: [one.tokens for one in group if one.ended and one.parts["correct"]]
        for record, group in zip(groups.records, groups.judged, strict=True)
    }
    shortest = {name: min(sizes) for name, sizes in right.items() if sizes}
    kept = stage.accepted.completions
    assert {name: one["tokens"] for name, one in kept.items()} == shortest and shortest


def test_tokens_are_counted_as_they_are_sampled_and_trained(folder, tmp_path, lucky):
    stage = open_stage(folder, tmp_path, "--rewrite.updates=2")
    work = stage.next_step(stage.state.params, 0)
    ended = open_stage(folder, tmp_path).sample(stage.state.params, 0)[0]
    prompts, written = np.asarray(ended.prompts.mask), np.asarray(ended.rollout.mask)
    assert work.metrics["sampled_tokens"] == prompts.sum() + written.sum()
    rows = [np.asarray(batch.segment) > 0 for batch, _ in work.batch]
    assert len(rows) == 2 and work.metrics["trained_tokens"] == sum(one.sum() for one in rows) > 0
    assert work.metrics["batch_tokens"] == 2 * rows[0].size
    encode = STUDENT.tokenizer.encode
    questions = {one["id"]: one["question"] for one in stage.accepted.completions.values()}
    sizes = {
        len(encode(STUDENT.prompts.solve(question))) + len(encode(GOOD))
        for question in questions.values()
    }
    assert {int(size) for one in rows for size in one.sum(axis=1)} <= sizes | {0}
    state, _ = stage.update(stage.state, work.batch)
    assert int(state.step) == 2


def test_a_few_steps_raise_the_likelihood_of_what_was_accepted(folder, tmp_path):
    stage = open_stage(folder, tmp_path)
    take(stage.accepted, attempt(1.0, tokens=8, text=GOOD))
    state, losses = stage.state, []
    for step in range(3):
        work = stage.next_step(state.params, step)
        state, metrics = stage.update(state, work.batch)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    assert losses[0] > losses[1] > losses[2]


def test_updates_may_stay_near_the_start(folder, tmp_path):
    stage = open_stage(folder, tmp_path, "--supervised.kl-coefficient=9")
    assert any("supervised.kl_coefficient = 9" in note for note in stage.notes)
    take(stage.accepted, attempt(1.0, tokens=8, text=GOOD))
    work = stage.next_step(stage.state.params, 0)
    state, _ = stage.update(stage.state, work.batch)
    again, count = kl_to_start(stage.student, state.params, work.batch[0][0])
    _, told = stage.update(state, work.batch)
    np.testing.assert_allclose(told["kl"][0], again, rtol=1e-4)
    assert told["kl"][1] == count and again > 0


def test_a_resumed_stage_goes_on_bit_for_bit(folder, tmp_path, lucky):
    first, second = open_stage(folder, tmp_path), open_stage(folder, tmp_path)
    state = first.state
    state, _ = first.update(state, first.next_step(state.params, 0).batch)
    second.data.set_state(first.data.get_state())
    assert second.accepted.completions == first.accepted.completions != {}
    one, other = (stage.next_step(state.params, 1) for stage in (first, second))
    jax.tree.map(np.testing.assert_array_equal, one.batch, other.batch)
    assert one.completions == other.completions


def test_success_opens_the_next_bucket(folder, tmp_path):
    flags = "--curriculum.buckets=2", "--curriculum.advance-window=1"
    stage = open_stage(folder, tmp_path, *flags, "--curriculum.advance-accuracy=0")
    told = [stage.next_step(stage.state.params, step).metrics for step in range(2)]
    assert [one["bucket"] for one in told] == [1, 2]


def test_an_adapter_learns_alone(folder, tmp_path):
    flags = "--lora.rank=2", "--lora.dropout=0.1", "--supervised.kl-coefficient=0.1"
    stage = open_stage(folder, tmp_path, *flags)
    assert not stage.keeps_start
    take(stage.accepted, attempt(1.0, tokens=8, text=GOOD))
    work = stage.next_step(stage.state.params, 0)
    state, metrics = stage.update(stage.state, work.batch)
    assert int(state.step) == 1 and float(metrics["loss"][0]) > 0


def test_two_devices_draw_and_learn_as_one(folder, tmp_path):
    losses = []
    for devices in (1, 2):
        stage = open_stage(folder, tmp_path, devices=devices)
        take(stage.accepted, attempt(1.0, tokens=8, text=GOOD))
        work = stage.next_step(stage.state.params, 0)
        loss, count = stage.update(stage.state, work.batch)[1]["loss"]
        losses.append((float(loss), float(count)))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_it_lists_no_policy_update(folder, tmp_path):
    names = [program.name for program in open_stage(folder, tmp_path).programs()]
    assert names.count("update") == 1 and "advantage" not in names

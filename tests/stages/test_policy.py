"""What every policy stage does in a step: what it hands to the update, and what must not change."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from cotjax.interfaces import End
from cotjax.models.formats import huggingface
from cotjax.models.transformer import Architecture
from cotjax.parallel.mesh import make_mesh
from cotjax.stages import base
from cotjax.stages.grpo import Grpo
from cotjax.student import rewards
from cotjax.training.evaluation import JudgedCompletion
from tests.tiny import TOKENIZER, make_config, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policy")


def open_stage(folder, *flags, devices=1):
    return Grpo.from_config(make_config(folder, "--steps=3", *flags), make_mesh(devices))


def copy(tree):
    """On the host, for an update reuses the buffers of its state."""
    return jax.tree.map(np.array, tree)


def values(metrics):
    return {name: float(total) / float(count) for name, (total, count) in metrics.items()}


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one, other, tolerance=1e-5):
    """Relative to the largest number of all leaves."""
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale), one, other
    )


# A step.


def test_a_step_holds_scored_groups_and_says_what_they_are_like(folder):
    stage = open_stage(folder, "--policy.inner-updates=2", "--policy.micro-batch=0")
    work = stage.next_step(stage.state.params, 0)
    (groups,) = work.batch
    assert groups.completion.shape == groups.logp_old.shape == groups.logp_ref.shape == (4, 4, 8)
    mask, advantage = np.asarray(groups.completion_mask), np.asarray(groups.advantage)
    assert 0 < work.metrics["accuracy"] < 1 and 0 <= work.metrics["no_signal"] < 1
    np.testing.assert_allclose(advantage.mean(axis=1), 0, atol=1e-6)
    assert work.metrics["completion_tokens"] == pytest.approx(mask.sum() / 16)
    assert work.metrics["batch_tokens"] == mask.sum() + 16 * 32
    assert len(work.completions) == 4 and len({row["id"] for row in work.completions}) == 2
    assert {row["advantage"] for row in work.completions} <= set(
        advantage.round(4).ravel().tolist()
    )
    # The sampler, the trainer and the reference are still one policy.
    for logp in (groups.logp_sampler, groups.logp_ref):
        np.testing.assert_allclose(
            np.asarray(logp)[mask], np.asarray(groups.logp_old)[mask], atol=1e-5
        )


def test_the_first_update_has_ratio_one_and_no_gap_to_the_sampler(folder):
    stage = open_stage(folder, "--policy.inner-updates=2")
    work = stage.next_step(stage.state.params, 0)
    state, metrics = stage.update(stage.state, work.batch)
    first, second = values(metrics), values(stage.update(state, work.batch)[1])
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["sampler_gap"] < 1e-5 and abs(first["kl"]) < 1e-9 and abs(first["kl_old"]) < 1e-9
    # The second update meets a policy that is no longer the one that sampled.
    assert second["kl"] > 1e-6 and second["kl_old"] > 1e-6
    assert second["sampler_gap"] < 1e-5, "the gap is that of the policy that sampled"


def test_a_reference_scored_in_the_update_counts_like_one_scored_before(folder):
    inside, before = (
        open_stage(folder, "--policy.kl-coefficient=0.5", f"--policy.inner-updates={n}")
        for n in (1, 2)
    )
    outcomes = []
    for stage in (inside, before):
        # A policy that is not the reference, so that the KL is no zero.
        stage.state = dataclasses.replace(
            stage.state, params=jax.tree.map(lambda leaf: 0.9 * leaf, stage.state.params)
        )
        work = stage.next_step(stage.state.params, 0)
        assert all((groups.logp_ref is None) == (stage is inside) for groups in work.batch)
        state, metrics = stage.update(stage.state, work.batch)
        outcomes.append((copy(state.params), values(metrics)))
    (params, metrics), (expected_params, expected) = outcomes
    assert metrics["kl"] > 1e-3
    assert_close(metrics, expected)
    assert_close(params, expected_params)


@pytest.mark.parametrize("updates", [1, 2])
def test_an_adapter_learns_beside_a_base_that_stays_and_is_the_reference(folder, updates):
    flags = "--lora.rank=2", "--lora.alpha=8", f"--policy.inner-updates={updates}"
    stage = open_stage(folder, *flags, "--optimizer.learning-rate=0.05")
    base = copy(stage.student.base)
    assert set(stage.state.params["layers"]) == {"query", "key", "value", "out"}
    state = stage.state
    for step in range(2):
        for _ in range(updates):
            work = stage.next_step(state.params, step)
            state, metrics = stage.update(state, work.batch)
        if step == 0 and updates == 1:  # an adapter begins as the identity
            assert values(metrics)["ratio"] == pytest.approx(1, abs=1e-5)
            assert abs(values(metrics)["kl"]) < 1e-9
    assert values(metrics)["kl"] > 1e-6
    assert np.abs(state.params["layers"]["query"]["lora_b"]).max() > 0
    assert_same(stage.student.base, base)
    numbers, _ = stage.evaluate(state.params)
    assert 0 <= numbers["accuracy"] <= 1


def test_the_same_step_asks_for_the_same_completions(folder):
    stage = open_stage(folder)
    position = stage.data.get_state()
    one = stage.next_step(stage.state.params, 5)
    stage.data.set_state(position)
    other = stage.next_step(stage.state.params, 5)
    assert_same(one.batch, other.batch)
    stage.data.set_state(position)
    third = stage.next_step(stage.state.params, 6)
    assert (third.batch[0].completion != one.batch[0].completion).any()


def test_without_a_learning_rate_nothing_changes(folder):
    stage = open_stage(folder, "--optimizer.learning-rate=0")
    before, state = copy(stage.state.params), stage.state
    for step in range(3):
        state, metrics = stage.update(state, stage.next_step(state.params, step).batch)
        assert abs(values(metrics)["kl"]) < 1e-9
    assert_same(state.params, before)


def test_the_reference_stays_while_the_student_learns(folder):
    stage = open_stage(folder)
    before = copy(stage.student.params)
    state, _ = stage.update(stage.state, stage.next_step(stage.state.params, 0).batch)
    assert_same(stage.student.params, before)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (copy(state.params), before)),
                                              strict=True))  # fmt: skip


def test_equal_rewards_have_no_gradient_and_sound_the_alarm(folder, monkeypatch):
    monkeypatch.setattr(rewards, "judge", judge_as([[[-2.0] * 4] * 4]))
    stage = open_stage(folder, "--policy.kl-coefficient=0", "--optimizer.weight-decay=0")
    work = stage.next_step(stage.state.params, 0)
    assert work.metrics["no_signal"] == 1
    assert "no signal: in 4 of 4 groups every completion is wrong" in work.alarm
    before = copy(stage.state.params)
    state, metrics = stage.update(stage.state, work.batch)
    assert values(metrics)["grad_norm"] == 0
    assert_same(state.params, before)


def test_learning_raises_the_reward(folder):
    stage = open_stage(folder)
    state, rewards = stage.state, []
    for step in range(8):
        work = stage.next_step(state.params, step)
        rewards.append(work.metrics["reward"])
        state, _ = stage.update(state, work.batch)
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1


# Micro-batches and devices; plain descent, so that parameters move by gradients alone.


@pytest.fixture
def descent(monkeypatch):
    monkeypatch.setattr(base, "make_optimizer", lambda *settings: optax.sgd(0.5))


def three_steps(stage):
    """Metrics of three steps, and the parameters after them."""
    state, seen = stage.state, []
    for step in range(3):
        work = stage.next_step(state.params, step)
        state, metrics = stage.update(state, work.batch)
        seen.append(values(metrics) | {"reward": work.metrics["reward"]})
    return seen, copy(state.params)


def test_micro_batches_give_the_update_of_the_whole_batch(folder, descent):
    whole, micro = (open_stage(folder, f"--policy.micro-batch={size}") for size in (0, 2))
    assert len(micro.next_step(micro.state.params, 0).batch) == 2
    micro = open_stage(folder, "--policy.micro-batch=2")
    (expected, params), (seen, other) = three_steps(whole), three_steps(micro)
    assert_close(other, params)
    for one, two in zip(expected, seen, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_eight_devices_equal_one(folder, descent):
    stages = [open_stage(folder, "--rollout.prompts=8", devices=n) for n in (1, 8)]
    (expected, params), (seen, other) = map(three_steps, stages)
    assert_close(other, params)
    for one, two in zip(expected, seen, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


# A student whose logits have a soft cap.


def test_capped_logits_are_the_samplers_and_the_losses(folder):
    shape = Architecture(
        *("gemma2", 432, 16, 1, 2, 1, 8, 16),
        activation="gelu_pytorch_tanh",
        scale_embeddings=True,
        offset_norms=True,
        post_norms=True,
        attention_softcap=5.0,
        logit_softcap=2.0,
    )
    huggingface.save(make_model(shape), folder / "capped", tokenizer=TOKENIZER)
    stage = open_stage(folder, f"--model.path={folder / 'capped'}", "--policy.kl-coefficient=0.1")
    work = stage.next_step(stage.state.params, 0)
    _, metrics = stage.update(stage.state, work.batch)
    found = values(metrics)
    assert found["sampler_gap"] < 1e-5 and abs(found["kl"]) < 1e-9
    logp = np.asarray(work.batch[0].logp_sampler)[np.asarray(work.batch[0].completion_mask)]
    # No token of 432 can be likelier than with one logit at +2 and the others at -2.
    assert np.exp(logp).max() <= 1 / (1 + 431 * np.exp(-4))


# Groups without a signal, and completions without an end.


def judge_as(rewards):
    """Replaces judging by given rewards [rollouts, B, G], in order."""
    calls = iter(rewards)

    def judge(student, config, records, rollout, reward, verifier):
        return [
            [
                JudgedCompletion(
                    "",
                    3,
                    End.EOS if end else End.LENGTH,
                    value,
                    {"correct": value > 0, "well_formed": 1},
                )
                for value, end in zip(row, ends, strict=True)
            ]
            for row, ends in zip(next(calls), rollout.end, strict=True)
        ]

    return judge


DULL, SHARP = [1.0] * 4, [1.0, -2.0, -2.0, -2.0]


def test_groups_of_equal_rewards_are_replaced_within_the_budget(folder, monkeypatch):
    stage = open_stage(folder, "--policy.refill=2", "--policy.micro-batch=0")
    first = [SHARP, DULL, DULL, DULL], [DULL, SHARP, SHARP, DULL], [DULL, DULL, DULL, SHARP]
    monkeypatch.setattr(rewards, "judge", judge_as(first))
    work = stage.next_step(stage.state.params, 0)
    assert work.metrics["sampled_groups"] == 12 and work.metrics["dropped_groups"] == 0
    (groups,) = work.batch
    assert (np.ptp(np.asarray(groups.advantage), axis=1) > 0).all()
    assert len(np.unique(np.asarray(groups.prompt), axis=0)) >= 2
    assert work.metrics["no_signal"] == pytest.approx(8 / 12)


def test_a_spent_budget_leaves_dull_groups_out_of_the_loss(folder, monkeypatch):
    stage = open_stage(folder, "--policy.refill=1", "--policy.micro-batch=0")
    monkeypatch.setattr(rewards, "judge", judge_as([[SHARP, DULL, DULL, DULL], [DULL] * 4]))
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
    monkeypatch.setattr(rewards, "judge", judge_as([[SHARP] * 4]))
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


def test_groups_that_differ_in_masked_completions_alone_are_dull(folder, monkeypatch):
    flags = "--policy.refill=1", "--policy.overlong=mask", "--policy.micro-batch=0"
    stage = open_stage(folder, *flags)

    def judge(student, config, records, rollout, reward, verifier):
        one = lambda end: JudgedCompletion(  # noqa: E731
            "", 3, End(end), -2.0 if end == End.LENGTH else 1.0, {"correct": 1, "well_formed": 1}
        )
        return [[one(end) for end in ends] for ends in rollout.end]

    monkeypatch.setattr(rewards, "judge", judge)
    work = stage.next_step(stage.state.params, 0)
    assert work.groups is not None
    assert any(len(set(row)) > 1 for row in work.groups.rollout.end.tolist()), "some were cut off"
    assert not np.asarray(work.batch[0].advantage).any()
    assert work.metrics["sampled_groups"] == 8 and work.metrics["dropped_groups"] == 4
    assert work.metrics["no_signal"] == 1 and not np.asarray(work.batch[0].completion_mask).any()


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

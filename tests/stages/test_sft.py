"""Supervised fine-tuning: what is predicted, what counts, and that it learns."""

import itertools

import jax
import numpy as np
import pytest

from cotjax.core.logprobs import token_logprobs
from cotjax.cot import extract_answer, parse_rationale
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh
from cotjax.stages import sft
from tests.tiny import make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sft")


@pytest.fixture
def stage(folder):
    return sft.open_stage(make_config(folder, "--stage=sft", "--steps=12"), make_mesh(1))


def learn(stage, steps):
    """Losses of some steps."""
    state, losses = stage.state, []
    for step in range(steps):
        state, metrics = stage.update(state, stage.next_step(state.params, step).batch)
        total, count = metrics["loss"]
        losses.append(float(total / count))
    return losses


def test_the_targets_are_the_rationale_the_answer_and_the_end(stage):
    ((batch, _),) = stage.next_step(None, 0).batch
    targets, weight, segment = (np.asarray(x) for x in (batch.targets, batch.weight, batch.segment))
    tokens = np.asarray(batch.tokens)
    examples = 0
    for row, number in itertools.product(range(2), range(1, segment.max() + 1)):
        of_example = segment[row] == number
        if not of_example.any():
            continue
        examples += 1
        counted = targets[row, of_example & (weight[row] > 0)]
        assert counted[-1] == stage.student.eos_id
        text = stage.student.tokenizer.decode(counted[:-1])
        assert parse_rationale(text).steps == ("7*1=7",) and extract_answer(text) == "7"
        prompt = stage.student.tokenizer.decode(tokens[row, of_example & (weight[row] == 0)])
        assert prompt.startswith("Question: Mia has 7 pens.")
    assert examples >= 2


def test_the_loss_is_the_mean_cross_entropy_of_the_targets(stage):
    policy, params = stage.student.policy, jax.tree.map(np.asarray, stage.state.params)
    work = stage.next_step(None, 0)
    ((batch, _),) = work.batch
    _, metrics = stage.update(stage.state, work.batch)
    logp = token_logprobs(policy.rows(params, batch) @ policy.unembed(params).T, batch.targets)
    counted = np.asarray(batch.weight) > 0
    assert metrics["loss"][1] == counted.sum()
    expected = -np.asarray(logp)[counted].mean()
    np.testing.assert_allclose(metrics["loss"][0] / counted.sum(), expected, rtol=1e-5)
    assert work.metrics["batch_tokens"] == batch.tokens.size
    used, places = metrics["used"]
    assert used / places == pytest.approx((np.asarray(batch.segment) > 0).mean())


def test_rows_that_devices_cannot_share(folder):
    with pytest.raises(InputError, match="batch.size = 3: 2 devices cannot share it"):
        sft.open_stage(make_config(folder, "--stage=sft", "--batch.size=3"), make_mesh(2))


def test_an_adapter_learns_with_dropout_and_its_base_stays(folder):
    flags = "--stage=sft", "--steps=12", "--lora.rank=4", "--lora.alpha=16"
    flags += "--optimizer.warmup-steps=0", "--optimizer.learning-rate=0.03"
    stage = sft.open_stage(make_config(folder, *flags), make_mesh(1))
    base = jax.tree.map(np.array, stage.student.base)
    losses = learn(stage, 12)
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, stage.student.base, base)
    (_, one), (_, other) = (stage.next_step(None, step).batch[0] for step in (0, 1))
    assert (jax.random.key_data(one) != jax.random.key_data(other)).any()

"""Packed rows of prompts and targets: the loss, what it counts, and that it learns."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from cotjax.core.logprobs import token_logprobs
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.stages.sft import Sft
from cotjax.stages.supervised import dropout_key, solution_encoder
from tests.tiny import END, STUDENT, TOKENIZER, make_config

RECORD = Record("r/1", "How many?", "7", ("7*1=7",), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("supervised")


@pytest.fixture
def stage(folder):
    return Sft.from_config(make_config(folder, "--stage=sft", "--steps=12"), make_mesh(1))


def learn(stage, steps):
    """Losses of some steps."""
    state, losses = stage.state, []
    for step in range(steps):
        state, metrics = stage.update(state, stage.next_step(state.params, step).batch)
        total, count = metrics["loss"]
        losses.append(float(total / count))
    return losses


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
        Sft.from_config(make_config(folder, "--stage=sft", "--batch.size=3"), make_mesh(2))


def test_an_adapter_learns_with_dropout_and_its_base_stays(folder):
    flags = "--stage=sft", "--steps=12", "--lora.rank=4", "--lora.alpha=16"
    flags += "--optimizer.warmup-steps=0", "--optimizer.learning-rate=0.03"
    stage = Sft.from_config(make_config(folder, *flags), make_mesh(1))
    base = jax.tree.map(np.array, stage.student.base)
    losses = learn(stage, 12)
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, stage.student.base, base)
    (_, one), (_, other) = (stage.next_step(None, step).batch[0] for step in (0, 1))
    assert (jax.random.key_data(one) != jax.random.key_data(other)).any()


def test_without_an_adapter_nothing_is_dropped(folder):
    config = make_config(folder, "--stage=sft")
    assert dropout_key(config, make_mesh(1), jax.random.key(0)) is None
    dropping = make_config(folder, "--stage=sft", "--lora.rank=2")
    assert dropout_key(dropping, make_mesh(1), jax.random.key(0)) is not None
    none = make_config(folder, "--stage=sft", "--lora.rank=2", "--lora.dropout=0")
    assert dropout_key(none, make_mesh(1), jax.random.key(0)) is None


def test_a_solution_is_encoded_behind_its_prompt_and_travels_to_workers(folder):
    encode = solution_encoder(STUDENT, make_config(folder, "--stage=sft"))
    rng = np.random.default_rng(0)
    row, again = encode(RECORD, rng), pickle.loads(pickle.dumps(encode))(RECORD, rng)
    for name, values in row.items():
        np.testing.assert_array_equal(again[name], values)
    counted = row["weight"] > 0
    assert TOKENIZER.decode(row["tokens"][: np.argmax(counted) + 1]) == STUDENT.prompts.solve(
        RECORD.question
    )
    targets = row["targets"][counted]
    assert TOKENIZER.decode(targets[:-1]) == "Step 1: 7*1=7\nAnswer: 7" and targets[-1] == END


def test_a_solution_that_is_too_long_names_the_record_and_the_key(folder):
    config = make_config(folder, "--stage=sft", "--batch.sequence-length=8")
    long = dataclasses.replace(RECORD, id="long/3")
    with pytest.raises(InputError, match="^long/3: .* Set batch.sequence_length >= "):
        solution_encoder(STUDENT, config)(long, np.random.default_rng(0))


def test_batches_resume_where_their_state_stood(folder):
    flags = make_config(folder, "--stage=sft", "--steps=12")
    first, second = (Sft.from_config(flags, make_mesh(1)) for _ in range(2))
    first.next_step(None, 0)
    second.data.set_state(first.data.get_state())
    one, other = (stage.next_step(None, 1).batch for stage in (first, second))
    jax.tree.map(np.testing.assert_array_equal, one, other)

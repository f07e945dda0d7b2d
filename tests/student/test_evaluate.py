"""Greedy and sampled accuracy on held-out records, whatever the batches and devices."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.student import generate
from cotjax.student.evaluate import evaluate, without_samples
from cotjax.student.records import load_records
from cotjax.student.rewards import solve_reward
from tests.student.test_rewards import make_rollout
from tests.tiny import STUDENT, make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluate")


# Its parameters go to the generator below as they come.
WHOLE = types.SimpleNamespace(join=lambda params, base: params)


def writer(devices):
    """A student that samples on so many devices."""
    sampler = types.SimpleNamespace(placement=types.SimpleNamespace(mesh=make_mesh(devices)))
    return dataclasses.replace(STUDENT, policy=WHOLE, sampler=sampler)  # pyright: ignore


WRITER = writer(1)


def ids(records):
    return [record.id for record in records]


# With a generator that writes 7 for records of odd ids.


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def write(policy, params, batch, key, *, settings, stop_table):
        odd = np.asarray(batch.ids) % 2 == 1
        rows = [make_rollout(*["Answer: 7" if one else "Answer: 8…"] * settings.group_size)
                for one in odd]  # fmt: skip
        calls.append((settings, batch.tokens.shape[0]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)

    monkeypatch.setattr(generate, "generate", write)
    return calls


@pytest.mark.parametrize("devices", [1, 4])
def test_an_evaluation_counts_each_record_once_whatever_the_batches(folder, calls, devices):
    config = make_config(folder, "--eval.batch-size=8", "--eval.samples=4", "--eval.problems=11")
    _, held_out = load_records(config, STUDENT.tokenizer, STUDENT.prompts)
    numbers, rows = evaluate(writer(devices), config, make_mesh(devices), {}, held_out)
    assert ids(held_out) == [row["id"] for row in rows]
    assert numbers["problems"] == 11 and numbers["samples"] == 4
    assert numbers["accuracy"] == numbers["sampled_accuracy"] == 5 / 11
    assert numbers["truncated"] == 6 / 11
    # One greedy and four sampled; every call has one shape, divided by the devices.
    assert {settings.group_size for settings, _ in calls} == {5}
    assert all(settings.greedy_first for settings, _ in calls)
    assert [size for _, size in calls] == {1: [1] * 11, 4: [4] * 3}[devices]


def test_a_row_says_everything_about_a_completion(folder, calls):
    config = make_config(folder, "--eval.problems=2")
    _, held_out = load_records(config, STUDENT.tokenizer, STUDENT.prompts)
    _, (wrong, right) = evaluate(WRITER, config, make_mesh(1), {}, held_out, solve_reward)
    assert right["question"] == held_out[1].question and right["gold"] == "7"
    assert right["completion"] == "Answer: 7" and wrong["completion"] == "Answer: 8"
    assert (right["reward"], wrong["reward"]) == (-1, -2)
    assert (right["end"], wrong["end"]) == ("eos", "length")
    assert right["tokens"] == wrong["tokens"] + 1
    assert right["parts"]["correct"] == 1


def test_without_samples_an_evaluation_is_greedy_alone(folder, calls):
    config = without_samples(make_config(folder, "--eval.batch-size=8", "--eval.problems=11"))
    _, held_out = load_records(config, STUDENT.tokenizer, STUDENT.prompts)
    numbers, _ = evaluate(WRITER, config, make_mesh(1), {}, held_out)
    assert numbers["accuracy"] == 5 / 11 and "sampled_accuracy" not in numbers
    assert {settings.group_size for settings, _ in calls} == {1}
    assert {settings.temperature for settings, _ in calls} == {0.0}
    assert [size for _, size in calls] == [6, 6], "as few calls as fit, of one size"


def test_ctrl_c_keeps_what_is_done_only_where_that_is_asked_for(folder, calls, monkeypatch):
    config = make_config(folder, "--eval.batch-size=5", "--eval.problems=4")
    _, held_out = load_records(config, STUDENT.tokenizer, STUDENT.prompts)
    write = generate.generate

    def stopped_in_the_third(*args, **more):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args, **more)

    monkeypatch.setattr(generate, "generate", stopped_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(WRITER, config, make_mesh(1), {}, held_out)
    calls.clear()
    numbers, rows = evaluate(WRITER, config, make_mesh(1), {}, held_out, keep_partial=True)
    assert numbers["problems"] == 2 and ids(held_out[:2]) == [row["id"] for row in rows]


def test_the_config_without_samples_is_else_the_same(folder):
    config = make_config(folder, "--eval.samples=4")
    assert without_samples(config).eval.samples == 0
    assert without_samples(config).rollout == config.rollout

"""Completions of records: how a run samples, and that batches change nothing."""

import jax
import numpy as np
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.student import generate
from cotjax.student.generate import (
    complete,
    evaluation_sampling,
    prompt_width,
    prompts_at_once,
    rollout_params,
    rollout_sampling,
)
from cotjax.student.load import load_policy
from cotjax.student.records import load_records
from tests.tiny import END, PAD, STUDENT, make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generate")


def test_an_evaluation_samples_one_greedy_completion_and_some_others(folder):
    config = make_config(folder, "--eval.samples=3", "--eval.temperature=0.5")
    settings = evaluation_sampling(STUDENT, config)
    assert settings.group_size == 4 and settings.greedy_first and settings.temperature == 0.5
    assert (settings.max_new_tokens, settings.eos_id, settings.pad_id) == (8, END, PAD)


def test_a_rollout_samples_in_groups_and_slots_or_one_for_each_prompt(folder):
    flags = "--rollout.max-concurrent=8", "--rollout.completions-per-slot=2", "--rollout.top-p=0.9"
    rollout = make_config(folder, *flags).rollout
    grouped = rollout_sampling(rollout, STUDENT)
    assert (grouped.group_size, grouped.rows, grouped.share) == (4, 8, 2)
    single = rollout_sampling(rollout, STUDENT, in_groups=False)
    assert (single.group_size, single.rows, single.share) == (1, 0, 0)
    assert grouped.top_p == single.top_p == 0.9 and not grouped.greedy_first


@pytest.mark.parametrize(
    ("completions", "group", "devices", "prompts"),
    [(16, 4, 1, 4), (17, 4, 1, 4), (3, 4, 1, 1), (16, 4, 8, 8), (100, 4, 8, 32)],
)
def test_prompts_at_once_are_whole_groups_that_devices_can_share(
    completions, group, devices, prompts
):
    assert prompts_at_once(completions, group, make_mesh(devices), records=320) == prompts


@pytest.mark.parametrize(
    ("records", "devices", "prompts"),
    [
        (40, 1, 40),
        (64, 1, 64),
        (100, 1, 50),
        (1319, 1, 63),
        (1, 1, 1),
        (40, 8, 40),
        (3, 8, 8),
        (0, 1, 1),
    ],
)
def test_a_call_has_no_more_prompts_than_there_are_records(records, devices, prompts):
    assert prompts_at_once(320, 5, make_mesh(devices), records) == prompts


def test_the_calls_are_as_few_as_the_limit_allows_and_decode_next_to_nothing_in_vain():
    for records in range(1, 200):
        size = prompts_at_once(64, 2, make_mesh(1), records)
        calls = -(-records // size)
        assert size <= 32 and calls == -(-records // 32) and calls * size - records < calls


def test_without_samples_the_sampler_is_greedy(folder):
    settings = evaluation_sampling(STUDENT, make_config(folder, "--eval.samples=0"))
    assert (settings.group_size, settings.temperature, settings.greedy_first) == (1, 0.0, False)


def test_a_part_of_the_records_is_decoded_in_the_shape_of_the_whole(folder, monkeypatch):
    config, mesh = make_config(folder), make_mesh(1)
    student = load_policy(config, mesh)
    records = [record for record in load_records(config, student.tokenizer, student.prompts)[0]][:3]
    settings, seen = rollout_sampling(config.rollout, student), []
    write = generate.generate

    def counting(policy, params, batch, *args, **more):
        seen.append(len(batch.tokens))
        return write(policy, params, batch, *args, **more)

    monkeypatch.setattr(generate, "generate", counting)
    own = student, config, mesh, student.params
    for part, of in ((records, 0), (records[:1], 3), (records[:0], 3)):
        list(complete(*own, part, settings=settings, completions=32, of=of))
    assert seen == [3, 3]


def test_prompts_are_as_wide_as_the_evaluation_says_or_the_rollout(folder):
    assert prompt_width(make_config(folder)) == 32
    assert prompt_width(make_config(folder, "--eval.max-prompt-tokens=24")) == 24


def test_an_adapter_is_joined_to_sample(folder):
    config, mesh = make_config(folder, "--lora.rank=2"), make_mesh(1)
    student = load_policy(config, mesh)
    joined = rollout_params(student, config, mesh, student.params)
    assert jax.tree.structure(joined) == jax.tree.structure(student.all_params(student.params))


def test_batches_and_parts_of_the_records_change_no_completion(folder):
    config, mesh = make_config(folder), make_mesh(1)
    student = load_policy(config, mesh)
    records = [record for record in load_records(config, student.tokenizer, student.prompts)[0]][:5]
    settings = rollout_sampling(config.rollout, STUDENT)

    def texts(records, completions, **more):
        groups = complete(student, config, mesh, student.params, records, settings=settings,
                          completions=completions, **more)  # fmt: skip
        return [[one.text for one in group] for group in groups]

    whole = texts(records, 32)
    assert [len(group) for group in whole] == [4] * 5
    assert texts(records, 8) == whole and texts(records[3:], 8, first=3) == whole[3:]
    assert texts(records, 32, key=jax.random.key(9)) != whole
    assert len(np.unique([text for group in whole for text in group])) > 1

"""Teachers: checked before anything is computed, in memory only while they teach."""

import json

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.interfaces import TokenBatch
from cotjax.parallel import sharding
from cotjax.parallel.mesh import make_mesh
from cotjax.teachers.pool import TeacherPool, plan_teacher
from cotjax.train import main as train
from tests.tiny import TEACHERS, TOKENIZER, flags, make_config, write_teachers

SIZE = max(TOKENIZER.get_vocab().values()) + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    write_teachers(folder)
    return folder


def config_of(folder, *names, more=()):
    paths = [str(folder / name) for name in names]
    return make_config(folder, "--stage=distill", *more, "--teachers.paths", *paths)


def opened(folder, *names, slots=2, **more):
    return TeacherPool(config_of(folder, *names), make_mesh(1), TOKENIZER, slots=slots, **more)


def rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, SIZE, (2, 12)).astype(np.int32)
    ones = np.ones(tokens.shape, np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape)
    host = tokens, tokens, ones.astype(np.float32), ones, positions
    return sharding.shard(make_mesh(1), TokenBatch(*host))  # pyright: ignore[reportArgumentType]


# Before anything is computed.


def test_without_a_name_nobody_teaches(folder):
    with pytest.raises(InputError, match=r"teachers.paths = \[\]: there is no teacher"):
        opened(folder)


def test_a_teacher_that_is_not_there_is_named_with_its_key(folder):
    with pytest.raises(InputError, match='teachers.paths: ".*nobody"'):
        opened(folder, "weak", "nobody")


def test_shapes_are_known_without_weights_and_no_teacher_is_in_memory(folder):
    teachers = opened(folder, "weak", "strong")
    assert teachers.width == TEACHERS["strong"].hidden_size and teachers.vocab_size == SIZE
    assert teachers.resident == set() and teachers.calls == [0, 0]
    assert teachers.plans[0].size < teachers.plans[1].size


def test_too_little_memory_names_the_largest_and_what_to_lower(folder, monkeypatch):
    monkeypatch.setattr("cotjax.teachers.teacher_plan.free_bytes", lambda mesh: 1000)
    with pytest.raises(InputError, match='the largest is ".*strong".*teachers.dtype = "bfloat16"'):
        opened(folder, "weak", "strong")


def test_another_tokenizer_matters_only_if_logits_are_compared(folder):
    other = folder / "other"
    write_teachers(other)
    table = json.loads((other / "weak" / "tokenizer.json").read_text())
    vocab = table["model"]["vocab"]
    vocab["Answer"], vocab["ĠShe"] = vocab["ĠShe"], vocab["Answer"]
    (other / "weak" / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="different tokenizers"):
        opened(folder, "other/weak")
    assert opened(folder, "other/weak", compare=False).vocab_size == 0


def test_a_fingerprint_is_that_of_the_weights(folder, tmp_path):
    write_teachers(tmp_path)
    config = config_of(folder, "weak")
    here, there = (
        plan_teacher(str(one / "weak"), config, make_mesh(1)) for one in (folder, tmp_path)
    )
    assert here.fingerprint() == there.fingerprint()
    assert (
        here.fingerprint()
        != plan_teacher(str(folder / "strong"), config, make_mesh(1)).fingerprint()
    )
    weights = tmp_path / "weak" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert here.fingerprint() != there.fingerprint()


# In use.


def test_teachers_are_loaded_when_needed_and_dropped_when_not(folder):
    teachers = opened(folder, "weak", "strong")
    teachers.prefetch([1])
    assert teachers.resident == {1}
    assert teachers[0].head.matrix.shape == teachers[1].head.matrix.shape == (SIZE, 24)
    teachers.keep_only([0])
    assert teachers.resident == {0}


def test_slots_hold_the_teachers_in_use_and_are_always_as_many(folder):
    teachers = opened(folder, "weak", "strong")
    assert teachers.in_slots([0.25, 0.75]) == [(0, 0.25), (1, 0.75)]
    assert teachers.in_slots([0, 1]) == [(1, 1.0), (1, 0.0)]


def test_hidden_states_and_heads_give_the_teachers_own_logits(folder):
    teachers, batch = opened(folder, "weak", "strong"), rows()
    outputs = teachers.outputs(batch, [0.5, 0.5], 2.0)
    assert outputs.temperature == 2 and outputs.weight.tolist() == [0.5, 0.5]
    for index, (hidden, head) in enumerate(zip(outputs.hidden, outputs.head, strict=True)):
        policy, params = teachers[index].student.policy, teachers[index].params
        own = policy.head(params)(policy.rows(params, batch))[..., :SIZE]
        np.testing.assert_allclose(head(hidden), own, atol=1e-5)


def test_a_teacher_of_weight_0_is_not_run(folder):
    teachers, batch = opened(folder, "weak", "strong"), rows()
    for _ in range(2):
        teachers.outputs(batch, [0, 1], 1.0)
    assert teachers.calls == [0, 2] and teachers.resident == {1}


@pytest.mark.parametrize("own", [[], ["--lora.rank=2", "--lora.alpha=4"]], ids=["full", "adapter"])
def test_a_run_teaches_with_what_it_has_learned(folder, own):
    make_config(folder)
    name = "adapted" if own else "trained"
    both = "--stage=sft", "--model.init=pretrained", "--steps=1", "--optimizer.warmup-steps=0"
    argv = flags(folder / "student", folder / "sevens.jsonl", folder, name, *both)
    assert train([*argv, *own]) == 0
    before, after = opened(folder, "student", slots=1), opened(folder, name, slots=1)
    assert before.plans[0].run is None and after.plans[0].run == folder / name
    pairs = [np.asarray(pool.hidden(0, rows())) for pool in (before, after)]
    assert np.abs(pairs[0] - pairs[1]).max() > 1e-4
    kinds = {leaf.dtype for leaf in jax.tree.leaves(after[0].params)}
    assert kinds == {np.dtype("float32")}

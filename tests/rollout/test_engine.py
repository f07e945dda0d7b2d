"""The sampler: its numbers are the trainer's, and a completion is nobody's business but its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.core.logprobs import token_logprobs
from cotjax.interfaces import PromptBatch
from cotjax.rollout.engine import Sampling, generate, row_keys
from tests.tiny import SHAPE, make_policy

BATCH, PROMPT, GROUP, NEW = 8, 5, 4, 6
SETTINGS = Sampling(GROUP, NEW, eos_id=0, pad_id=1, temperature=0.7)
KEY = jax.random.key(7)
NAMES = ("tokens", "mask", "logp", "ended")


def make_prompts(seed=0):
    """Prompts of 1 to 5 tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, SHAPE.vocab_size, (BATCH, PROMPT)).astype(np.int32)
    mask = np.arange(PROMPT) >= (np.arange(BATCH) % PROMPT)[:, None]
    return PromptBatch(np.where(mask, tokens, 1), mask, np.arange(BATCH, dtype=np.int32) * 3 + 1)


PROMPTS = make_prompts()


def policy_that_ends():
    """A random policy with a large unembedding of the end token: rows end at many lengths."""
    policy, params = make_policy(dataclasses.replace(SHAPE, num_layers=1))
    return policy, params | {"unembed_weight": params["unembed_weight"].at[0].multiply(4)}


POLICY, PARAMS = policy_that_ends()


def run(prompts=PROMPTS, settings=SETTINGS):
    return jax.device_get(generate(POLICY, PARAMS, prompts, KEY, settings=settings))


@pytest.fixture(scope="module")
def rollout():
    rollout = run()
    lengths = rollout.mask.sum(axis=-1)
    assert rollout.ended.any() and not rollout.ended.all(), "the tests need both kinds"
    assert len(np.unique(lengths)) > 3, "and several lengths"
    return rollout


FILTERED = dataclasses.replace(SETTINGS, top_k=3, pad_id=SETTINGS.eos_id)


@pytest.fixture(scope="module")
def filtered():
    return run(settings=FILTERED)


def assert_same_completions(one, other):
    """The same tokens and ends exactly; log-probabilities to float32."""
    for name in ("tokens", "mask", "ended"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_allclose(one.logp, other.logp, atol=1e-5)


@functools.partial(jax.jit, static_argnames="temperature")
def trainer_logp(prompts, tokens, mask, temperature):
    hidden = POLICY.completions(PARAMS, prompts.tokens, prompts.mask, tokens)
    logits = hidden @ POLICY.unembed(PARAMS).T
    return token_logprobs(logits, tokens, temperature=temperature, mask=mask)


# What a rollout holds.


def test_logp_equals_the_trainers(rollout):
    expected = trainer_logp(PROMPTS, rollout.tokens, rollout.mask, SETTINGS.temperature)
    np.testing.assert_allclose(rollout.logp, expected, atol=1e-5)
    assert (rollout.logp[rollout.mask] < 0).all() and not rollout.logp[~rollout.mask].any()


def assert_ends_are_told(rollout, settings):
    for tokens, mask, ended in zip(
        *(getattr(rollout, name).reshape(-1, *getattr(rollout, name).shape[2:])
          for name in ("tokens", "mask", "ended")), strict=True
    ):  # fmt: skip
        (ends,) = np.nonzero(tokens == settings.eos_id)
        length = ends[0] + 1 if len(ends) else settings.max_new_tokens
        np.testing.assert_array_equal(mask, np.arange(settings.max_new_tokens) < length)
        assert ended == bool(len(ends))
        assert (tokens[length:] == settings.pad_id).all()


def test_the_mask_includes_the_end_and_excludes_padding(rollout):
    assert_ends_are_told(rollout, SETTINGS)


def test_logp_is_under_the_full_distribution_whatever_the_filter(filtered):
    expected = trainer_logp(PROMPTS, filtered.tokens, filtered.mask, SETTINGS.temperature)
    np.testing.assert_allclose(filtered.logp, expected, atol=1e-5)


def test_the_end_counts_where_it_is_also_the_padding(filtered):
    assert filtered.ended.any()
    assert_ends_are_told(filtered, FILTERED)


def test_greedy_is_the_argmax_of_the_full_forward_at_each_step():
    settings = Sampling(1, NEW, eos_id=0, pad_id=1, temperature=0.0)
    greedy = run(settings=settings)

    @jax.jit
    def logits(tokens):
        hidden = POLICY.completions(PARAMS, PROMPTS.tokens, PROMPTS.mask, tokens)
        return hidden @ POLICY.unembed(PARAMS).T

    tokens = np.full((BATCH, 1, NEW), 1, np.int32)
    ended = np.zeros((BATCH, 1), bool)
    for step in range(NEW):
        best = np.argmax(logits(tokens)[:, :, step], axis=-1)
        tokens[:, :, step] = np.where(ended, 1, best)
        ended |= tokens[:, :, step] == 0
    np.testing.assert_array_equal(greedy.tokens, tokens)
    expected = trainer_logp(PROMPTS, greedy.tokens, greedy.mask, 1.0)
    np.testing.assert_allclose(greedy.logp, expected, atol=1e-5)


def test_the_first_completion_may_be_greedy_and_the_others_as_ever(rollout):
    mixed = run(settings=dataclasses.replace(SETTINGS, greedy_first=True))
    alone = run(settings=dataclasses.replace(SETTINGS, group_size=1, temperature=0.0))
    np.testing.assert_array_equal(mixed.tokens[:, :1], alone.tokens)
    np.testing.assert_array_equal(mixed.tokens[:, 1:], rollout.tokens[:, 1:])
    expected = trainer_logp(PROMPTS, mixed.tokens, mixed.mask, SETTINGS.temperature)
    np.testing.assert_allclose(mixed.logp, expected, atol=1e-5)


# A completion depends on (key, prompt id, completion number) and on nothing else.


def test_a_prompts_completions_differ_from_each_other_and_with_the_key(rollout):
    assert (rollout.tokens[:, 0] != rollout.tokens[:, 1]).any()
    other = generate(POLICY, PARAMS, PROMPTS, jax.random.key(8), settings=SETTINGS)
    assert (rollout.tokens != np.asarray(other.tokens)).any()


def test_the_order_of_the_batch_changes_nothing(rollout):
    order = np.random.default_rng(0).permutation(BATCH)
    shuffled = run(jax.tree.map(lambda x: x[order], PROMPTS))
    assert_same_completions(shuffled, jax.tree.map(lambda x: x[order], rollout))


def test_the_other_prompts_change_nothing(rollout):
    others = make_prompts(seed=1)
    mixed = PromptBatch(
        *(np.concatenate([getattr(PROMPTS, name)[:3], getattr(others, name)[3:] + shift])
          for name, shift in (("tokens", 0), ("mask", False), ("ids", 50)))
    )  # fmt: skip
    some = run(mixed)
    assert_same_completions(*(jax.tree.map(lambda x: x[:3], r) for r in (some, rollout)))
    assert (some.tokens[3:] != rollout.tokens[3:]).any()


def test_padding_group_size_and_devices_change_nothing(rollout):
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    assert mesh.size == 8
    wide = PromptBatch(
        np.pad(PROMPTS.tokens, ((0, 0), (3, 0)), constant_values=9),
        np.pad(PROMPTS.mask, ((0, 0), (3, 0))),
        PROMPTS.ids,
    )
    pairs = generate(
        POLICY,
        jax.device_put(PARAMS, NamedSharding(mesh, P())),
        jax.device_put(wide, NamedSharding(mesh, P("data"))),
        KEY,
        settings=dataclasses.replace(SETTINGS, group_size=2),
    )
    assert len(pairs.tokens.sharding.device_set) == 8
    first_two = type(rollout)(*(getattr(rollout, name)[:, :2] for name in NAMES))
    assert_same_completions(jax.device_get(pairs), first_two)


def test_keys_are_all_different():
    keys = jax.random.key_data(row_keys(KEY, jnp.arange(50), 8)).reshape(400, -1)
    assert len(np.unique(np.asarray(keys), axis=0)) == 400


# A decoder that counts, to see when the loop stops.


@dataclasses.dataclass(frozen=True)
class Countdown:
    """Prompt n is followed by n - 1, n - 2, … 0; `calls` gets an entry per decoding step."""

    calls: "Calls"

    def _hidden(self, tokens):
        return jax.nn.one_hot(jnp.maximum(tokens - 1, 0), 10)

    def prefill(self, params, prompt, prompt_mask, *, group_size, max_new_tokens):
        return self._hidden(prompt[:, -1]), []

    def decode(self, params, tokens, prompt_mask, index, caches):
        jax.debug.callback(self.calls.add, index)
        return self._hidden(tokens), caches

    def unembed(self, params):
        return 50 * jnp.eye(10)


class Calls:
    """A list that may be part of a static argument: equal to itself alone."""

    def __init__(self):
        self.indices = []

    def add(self, index):
        self.indices.append(int(index))


COUNTDOWN = Countdown(Calls())


@pytest.mark.parametrize(("numbers", "steps"), [([3, 2], 2), ([1, 1], 0), ([9, 2], 5)])
def test_the_loop_ends_with_the_last_row(numbers, steps):
    COUNTDOWN.calls.indices.clear()
    prompts = PromptBatch(
        np.array(numbers, np.int32)[:, None], np.ones((2, 1), bool), np.arange(2, dtype=np.int32)
    )
    rollout = generate(COUNTDOWN, {}, prompts, KEY, settings=SETTINGS)
    jax.effects_barrier()
    assert COUNTDOWN.calls.indices == list(range(steps))
    lengths = np.asarray(rollout.mask.sum(axis=-1))
    np.testing.assert_array_equal(lengths, [[min(n, NEW)] * GROUP for n in numbers])
    assert rollout.ended.tolist() == [[n <= NEW] * GROUP for n in numbers]

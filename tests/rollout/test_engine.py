"""The sampler: its numbers are the trainer's, and a completion is nobody's business but its own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.core.logprobs import entropy, token_logprobs
from cotjax.interfaces import End, Placement, PromptBatch
from cotjax.models import policy
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling, make_plan, row_uniforms
from tests.tiny import SHAPE, make_policy

BATCH, PROMPT, GROUP, NEW = 8, 5, 4, 6
SETTINGS = Sampling(GROUP, NEW, eos_id=0, pad_id=1, temperature=0.7)
KEY = jax.random.key(7)


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
    for name in ("tokens", "mask", "end"):
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


def test_a_small_cache_is_read_whole(rollout, monkeypatch):
    assert policy._block_sizes(6, 100) == [2, 2, 2]
    monkeypatch.setattr(policy, "SMALL_CACHE", 600)
    assert policy._block_sizes(6, 100) == [6] and policy._block_sizes(7, 100) == [2, 2, 2, 1]
    monkeypatch.setattr(policy, "SMALL_CACHE", 2**20)
    longer = dataclasses.replace(SETTINGS, max_new_tokens=NEW + 1)  # a program of its own
    whole = run(settings=longer)
    mask = rollout.mask
    np.testing.assert_array_equal(whole.tokens[:, :, :NEW][mask], rollout.tokens[mask])
    np.testing.assert_allclose(whole.logp[:, :, :NEW][mask], rollout.logp[mask], atol=1e-5)


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
    first_two = jax.tree.map(lambda leaf: leaf[:, :2], rollout)
    assert_same_completions(jax.device_get(pairs), first_two)


def test_each_token_has_a_number_of_its_own_key():
    numbers = np.asarray(row_uniforms(KEY, jnp.array([3, 9]), 4, 6))
    assert len(np.unique(numbers)) == numbers.size == 2 * 4 * 6
    key = KEY
    for name in (9, 2, 5):  # prompt, completion, token
        key = jax.random.fold_in(key, name)
    assert numbers[1, 2, 5] == jax.random.uniform(key)


# A decoder that counts, to see when the loop stops.


@dataclasses.dataclass(frozen=True)
class Countdown:
    """Prompt n is followed by n - 1, n - 2, … 0; `calls` gets an entry per decoding step."""

    calls: "Calls"

    def _hidden(self, tokens):
        return jax.nn.one_hot(jnp.maximum(tokens - 1, 0), 10)

    lanes = 1

    def prefill(self, params, prompt, prompt_mask):
        return []

    def own_caches(self, prompt_caches, *, rows, group, max_new_tokens):
        return []

    def unstacked(self, params, dtype="auto"):
        return None

    def decode(self, params, layers, tokens, prompt_mask, filled, clock, caches):
        jax.debug.callback(self.calls.add, clock)
        return self._hidden(tokens), caches[1]

    def head(self, params):
        return lambda hidden: hidden @ (50 * jnp.eye(10))

    def keep(self, values):
        return values


class Calls:
    """A list that may be part of a static argument: equal to itself alone."""

    def __init__(self):
        self.indices = []

    def add(self, index):
        self.indices.append(int(index))


COUNTDOWN = Countdown(Calls())


@pytest.mark.parametrize(("numbers", "steps"), [([3, 2], 3), ([1, 1], 1), ([9, 2], 6)])
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


# Refill: slots take the next job when their rows have ended.


REFILLS = {
    "one row": dict(rows=1, share=1),
    "rows of their own": dict(rows=8, share=1),
    "a narrower tail": dict(rows=16, share=2),
    "whole groups": dict(rows=8, share=4),
    "a slot for every job": dict(rows=0, share=2),
}


@pytest.mark.parametrize("how", REFILLS)
def test_a_completion_does_not_depend_on_its_slot(rollout, how):
    settings = dataclasses.replace(SETTINGS, **REFILLS[how])
    assert_same_completions(run(settings=settings), rollout)


def test_refill_gives_greedy_and_sampled_completions_alike():
    settings = dataclasses.replace(SETTINGS, greedy_first=True)
    refilled = dataclasses.replace(settings, rows=8, share=2)
    assert_same_completions(run(settings=refilled), run(settings=settings))


def test_each_device_refills_its_own_slots(rollout):
    mesh = Mesh(np.asarray(jax.devices()[:4]).reshape(4, 1), ("data", "tensor"))
    policy = dataclasses.replace(POLICY, placement=Placement(mesh, ("data",), "tensor"))
    both = [jax.device_put(PARAMS, NamedSharding(mesh, P())),
            jax.device_put(PROMPTS, NamedSharding(mesh, P("data")))]  # fmt: skip
    settings = dataclasses.replace(SETTINGS, rows=8, share=1)
    refilled = generate(policy, *both, KEY, settings=settings)
    assert make_plan(BATCH, policy.lanes, settings).slots == 2
    assert_same_completions(jax.device_get(refilled), rollout)


def test_a_share_that_does_not_divide_the_group_is_refused():
    with pytest.raises(ValueError, match="share = 3 does not divide group_size = 4"):
        run(settings=dataclasses.replace(SETTINGS, share=3))


# Entropy, and why a row ended.


def test_entropy_is_that_of_the_full_distribution(filtered):
    hidden = POLICY.completions(PARAMS, PROMPTS.tokens, PROMPTS.mask, filtered.tokens)
    expected = entropy(hidden @ POLICY.unembed(PARAMS).T, temperature=SETTINGS.temperature)
    np.testing.assert_allclose(filtered.entropy, np.where(filtered.mask, expected, 0), atol=1e-5)


def test_other_tokens_stop_too(rollout):
    stop = int(rollout.tokens[0, 0, 0])
    stopped = run(settings=dataclasses.replace(SETTINGS, stop_ids=(stop,)))
    assert stopped.mask[0, 0].sum() == 1 and stopped.end[0, 0] == End.EOS


@pytest.mark.parametrize("rows", [0, 4])
def test_a_nan_ends_its_row_and_no_other(rollout, rows):
    """The token whose successor has no finite logits is the last; other rows stay as they are."""
    poison = int(rollout.tokens[1, 1, 1])
    embed = np.asarray(PARAMS["embed"]["embedding"]).copy()
    embed[poison] = np.nan
    assert poison not in PROMPTS.tokens
    ill = PARAMS | {"embed": {"embedding": embed}}
    settings = dataclasses.replace(SETTINGS, rows=rows, share=1 if rows else 0)
    found = jax.device_get(generate(POLICY, ill, PROMPTS, KEY, settings=settings))
    seen = (rollout.tokens == poison) & rollout.mask
    first = np.where(seen.any(-1), seen.argmax(-1), NEW)
    reached = first < rollout.mask.sum(-1) - 1
    assert reached[1, 1] and not reached.all()
    np.testing.assert_array_equal(found.end == End.NONFINITE, reached)
    np.testing.assert_array_equal(found.mask.sum(-1)[reached], first[reached] + 1)
    np.testing.assert_array_equal(found.tokens[~reached], rollout.tokens[~reached])
    assert np.isfinite(found.logp).all() and np.isfinite(found.entropy).all()


# A soft cap (Gemma 2) stands between the unembedding and whoever reads logits.


def test_capped_logits_are_sampled_and_scored_alike():
    shape = dataclasses.replace(SHAPE, num_layers=1, logit_softcap=2.0)
    policy, params = make_policy(shape)
    found = jax.device_get(generate(policy, params, PROMPTS, KEY, settings=SETTINGS))
    hidden = policy.completions(params, PROMPTS.tokens, PROMPTS.mask, found.tokens)
    products = hidden @ policy.unembed(params).T
    assert np.abs(products).max() > 3, "the cap must bind"
    capped = 2 * jnp.tanh(products / 2)
    knobs = {"temperature": SETTINGS.temperature, "mask": found.mask}
    np.testing.assert_allclose(found.logp, token_logprobs(capped, found.tokens, **knobs), atol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy(capped, **knobs), atol=1e-5)

"""Drafts change how often a decoder runs, and nothing of what it writes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from cotjax.interfaces import End, Placement, PromptBatch
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from cotjax.rollout.speculation import propose
from tests.tiny import SHAPE, make_policy

BATCH, PROMPT, GROUP, NEW = 8, 12, 4, 20
SETTINGS = Sampling(GROUP, NEW, eos_id=0, pad_id=1, temperature=0.7)
KEY = jax.random.key(3)


def make_prompts(seed=0):
    """Prompts of 1 to 12 tokens of few kinds, so that drafts are found."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 7, (BATCH, PROMPT)).astype(np.int32)
    mask = np.arange(PROMPT) >= (np.arange(BATCH) * 3 % PROMPT)[:, None]
    return PromptBatch(np.where(mask, tokens, 1), mask, np.arange(BATCH, dtype=np.int32))


PROMPTS = make_prompts()


@functools.cache
def policy(**changes):
    """A random policy that mostly writes few kinds of tokens, and ends at many lengths."""
    shape = dataclasses.replace(SHAPE, num_layers=2, **changes)
    policy, params = make_policy(shape)
    scale = jnp.ones(shape.vocab_size).at[0].set(6).at[3:7].set(4)
    return policy, params | {"unembed_weight": params["unembed_weight"] * scale[:, None]}


def run(draft, settings=SETTINGS, *, of=None, prompts=PROMPTS, **more):
    model, params = of or policy()
    settings = dataclasses.replace(settings, draft_tokens=draft)
    return jax.device_get(generate(model, params, prompts, KEY, settings=settings, **more))


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    np.testing.assert_array_equal(ours.end, theirs.end)
    np.testing.assert_allclose(ours.logp, theirs.logp, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, rtol=1e-4, atol=1e-4)


WAYS = {
    "sampled": SETTINGS,
    "greedy": dataclasses.replace(SETTINGS, temperature=0.0),
    "greedy first": dataclasses.replace(SETTINGS, greedy_first=True),
    "filtered": dataclasses.replace(SETTINGS, top_k=4, top_p=0.9),
    "refill": dataclasses.replace(SETTINGS, rows=8, share=2),
    "refill, alone": dataclasses.replace(SETTINGS, rows=6, share=1, greedy_first=True),
    "stops": dataclasses.replace(SETTINGS, stop_ids=(4,)),
}
SLOW = "greedy first", "refill", "stops"


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.slow) if w in SLOW else w for w in WAYS]
)
def test_completions_are_those_without_drafts(way):
    plain, fast = run(0, WAYS[way]), run(3, WAYS[way])
    assert plain.passes is None
    assert_same(fast, plain)
    lengths = fast.mask.sum(axis=-1)
    assert len(np.unique(lengths)) > 2 or way != "sampled"
    assert (fast.passes <= lengths).all() and (fast.passes >= -(-lengths // 4)).all()
    assert fast.passes.sum() < lengths.sum()


def test_a_greedy_row_that_goes_in_circles_takes_a_whole_draft_at_once():
    settings = dataclasses.replace(SETTINGS, temperature=0.0, eos_id=2, max_new_tokens=60)
    fast = run(5, settings)
    assert_same(fast, run(0, settings))
    circles = (fast.mask.sum(-1) == 60) & (fast.passes <= 30)
    assert circles.any()


@pytest.mark.slow
@pytest.mark.parametrize("draft", [1, 2, NEW + 5])
def test_drafts_of_any_length_even_beyond_the_limit(draft):
    assert_same(run(draft), run(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"sliding_window": 6}, {"num_kv_heads": 1}], ids=["window", "one key head"]
)
def test_of_other_shapes(changes):
    of = policy(**changes)
    assert_same(run(3, of=of), run(0, of=of))


def test_a_stop_string_that_crosses_the_end_of_a_draft():
    # Over tokens: "5 6" is found, by an automaton of its own.
    table = np.zeros((3, SHAPE.vocab_size), np.int16)
    table[:2, 5] = 1
    table[1, 6] = 2
    table[2] = 2
    plain, fast = run(0, stop_table=table), run(3, stop_table=table)
    assert (plain.end == End.STOP).any()
    assert_same(fast, plain)


def test_a_cache_of_int8_keeps_the_same_numbers():
    model, params = policy()
    of = dataclasses.replace(model, cache_dtype=jnp.int8), params
    assert_same(run(3, of=of), run(0, of=of))


def test_a_nan_ends_the_row_it_is_of():
    model, params = policy()
    embedding = params["embed"]["embedding"].at[40:90].set(jnp.nan)  # in no prompt
    of = model, params | {"embed": {"embedding": embedding}}
    plain, fast = run(0, of=of), run(3, of=of)
    assert (plain.end == End.NONFINITE).any() and (plain.end != End.NONFINITE).any()
    assert_same(fast, plain)


@pytest.mark.parametrize("rows", [pytest.param(0, marks=pytest.mark.slow), 8])
def test_over_devices(rows):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(4, 1), ("data", "tensor"))
    model, params = policy()
    split = dataclasses.replace(model, placement=Placement(mesh, ("data",), "tensor"))
    settings = dataclasses.replace(SETTINGS, rows=rows, share=2 if rows else 0)
    assert_same(run(3, settings, of=(split, params)), run(0, settings))


@pytest.mark.slow
def test_a_long_cache_is_read_in_parts():
    settings = dataclasses.replace(SETTINGS, max_new_tokens=280, eos_id=2, group_size=1)
    assert_same(run(3, settings), run(0, settings))


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ("1 2 3 9 9 1 2", "3 9 9"),  # the last two tokens, once before
        ("1 2 3 1 2 4 7 1 2", "4 7 1"),  # the newest of two places
        ("1 2 3 5 2 4 7 1 2", "3 5 2"),  # two tokens count more than one that is newer
        ("8 2 3 5 2", "3 5 2"),  # one token where two stand nowhere
        ("2 2", "2 0 0"),  # overlapping itself; behind the text nothing is known
    ],
)
def test_a_draft_follows_the_newest_place_that_reads_the_same(text, draft):
    tokens = np.array([[int(word) for word in text.split()] + [0] * 4], np.int32)
    size = len(text.split())
    known = np.arange(tokens.shape[1])[None] < size
    found = propose(jnp.asarray(tokens), jnp.asarray(known), jnp.array([size - 1]), 3)
    assert " ".join(map(str, np.asarray(found)[0].tolist())) == draft


def test_padding_is_no_text():
    tokens = jnp.array([[7, 7, 1, 7, 0, 0]])
    known = jnp.array([[False, False, True, True, False, False]])
    assert propose(tokens, known, jnp.array([3]), 2).tolist() == [[0, 0]]

"""Each shape of attention is the plain one, seen from a different side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models import attention
from cotjax.models.attention import EVERYTHING, Causal, DecodeShared, Scoring, SharedPrompt
from cotjax.models.kv_cache import keep

BATCH, GROUP, PROMPT, OWN, HEADS, WIDTH = 2, 3, 4, 5, 4, 8
TOLERANCE = 1e-5
# The second prompt is padded on the left.
PROMPT_MASK = np.array([[1, 1, 1, 1], [0, 0, 1, 1]], bool)
# Windows that end inside the prompt, that completions of OWN tokens leave, that see only oneself.
SCORINGS = {
    "everything": EVERYTHING,
    "window": Scoring(window=PROMPT - 1),
    "wide window, soft cap": Scoring(window=PROMPT + 2, scale=0.5, softcap=1.5),
    "oneself": Scoring(window=1),
}


def qkv(size, num_kv, seed=0):
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(rng.normal(size=(BATCH, size, heads, WIDTH)), jnp.float32)
        for heads in (HEADS, num_kv, num_kv)
    ]


@functools.partial(jax.jit, static_argnames="scoring")
def causal(query, key, value, segment, scoring=EVERYTHING):
    out, cache = Causal(segment)(query, key, value, None, scoring)
    assert cache is None
    return out


def attend_by_loops(query, key, value, segment, scoring):
    """The equation, one query at a time; padding attends to nothing worth reading."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, s, h in np.ndindex(query.shape[:3]):
        head = h * key.shape[2] // query.shape[2]
        first = max(s + 1 - scoring.window, 0) if scoring.window else 0
        seen = [i for i in range(first, s + 1) if segment[b, i] == segment[b, s]]
        scores = key[b, seen, head] @ query[b, s, h] * (scoring.scale or WIDTH**-0.5)
        if scoring.softcap:
            scores = scoring.softcap * np.tanh(scores / scoring.softcap)
        weights = np.exp(scores - scores.max())
        out[b, s, h] = weights / weights.sum() @ value[b, seen, head]
    return out


@pytest.mark.parametrize("num_kv", [4, 2, 1])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(
    "segment",
    [[[1, 1, 1, 1, 1, 1]] * 2, [[1, 1, 2, 2, 2, 3], [1, 2, 2, 2, 0, 0]], [[0, 0, 0, 1, 1, 1]] * 2],
    ids=["plain", "packed", "left-padded"],
)
def test_causal_equals_the_loops(num_kv, scoring, segment):
    inputs, segment, scoring = qkv(6, num_kv), np.array(segment), SCORINGS[scoring]
    expected = attend_by_loops(*inputs, segment, scoring)
    np.testing.assert_allclose(causal(*inputs, segment, scoring), expected, atol=TOLERANCE)


@pytest.mark.parametrize("size", [8, 9, 11, 257])
@pytest.mark.parametrize("scoring", ["everything", "window"])
def test_a_row_in_steps_equals_the_whole_one_and_has_its_gradient(monkeypatch, size, scoring):
    inputs = qkv(size, num_kv=2)
    segment = jnp.asarray(np.arange(size) * 3 // size + np.array([[0], [1]]))  # one is padded

    def result(long):
        monkeypatch.setattr(attention, "LONG", long)

        def loss(*inputs):
            out, _ = Causal(segment)(*inputs, None, SCORINGS[scoring])
            return (jnp.where(segment[..., None, None] > 0, out, 0) ** 3).sum()

        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*inputs).compile()
        return compiled(*inputs), compiled.cost_analysis()["flops"]

    (whole, most), (steps, less) = result(size + 1), result(8)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=TOLERANCE, rtol=1e-5),
                 whole, steps)  # fmt: skip
    assert size < 257 or less < 0.8 * most, "scores of keys behind the query"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_summed_in_the_format_that_is_named(dtype):
    query, key = (x.astype(jnp.bfloat16) for x in qkv(6, 4)[:2])
    scores = Scoring(scale=1.0, dtype=jnp.dtype(dtype))(query, jnp.matrix_transpose(key))
    exact = np.asarray(query, np.float32) @ np.asarray(key, np.float32).swapaxes(-1, -2)
    assert scores.dtype == jnp.float32
    rounded = exact.astype(jnp.dtype(dtype)).astype(np.float32)
    np.testing.assert_allclose(scores, rounded, atol=TOLERANCE if dtype == "float32" else 0.05)
    assert (np.abs(scores - exact).max() > 1e-3) == (dtype == "bfloat16")


def test_causal_keeps_its_keys_and_values_for_a_decoder():
    query, key, value = qkv(6, 2)
    _, (kept_key, kept_value) = Causal(jnp.ones((BATCH, 6), jnp.int32), keep_cache=True)(
        query, key, value, None
    )
    np.testing.assert_array_equal(kept_key.values, key.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(kept_value.values, value.transpose(0, 2, 1, 3))


@functools.partial(jax.jit, static_argnames="scoring")
def shared(query, key, value, scoring=EVERYTHING, prompt_mask=PROMPT_MASK):
    out, cache = SharedPrompt(prompt_mask, GROUP)(query, key, value, None, scoring)
    assert cache is None
    return out


def alone(query, key, value, scoring):
    """Every completion in a row of its own, behind its own copy of the prompt."""
    outs = []
    for g in range(GROUP):
        own = slice(PROMPT + g * OWN, PROMPT + (g + 1) * OWN)
        rows = [jnp.concatenate([x[:, :PROMPT], x[:, own]], axis=1) for x in (query, key, value)]
        segment = np.concatenate([PROMPT_MASK, np.ones((BATCH, OWN), bool)], axis=1)
        outs.append(causal(*rows, segment.astype(int), scoring))
    return jnp.concatenate([outs[0][:, :PROMPT], *(out[:, PROMPT:] for out in outs)], axis=1)


@pytest.mark.parametrize("num_kv", [4, 2])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_shared_prompt_equals_each_completion_alone_and_has_its_gradient(num_kv, scoring):
    inputs = qkv(PROMPT + GROUP * OWN, num_kv)
    pull = np.random.default_rng(1).normal(size=inputs[0].shape)

    def pulled(attend, inputs):
        out = attend(*inputs, SCORINGS[scoring])
        return (out * pull).sum(), out

    values = [
        jax.jit(jax.value_and_grad(functools.partial(pulled, attend), has_aux=True))(inputs)
        for attend in (shared, alone)
    ]
    ((_, out), ours), ((_, expected), theirs) = values
    np.testing.assert_allclose(out, expected, atol=TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE), ours, theirs)


# Of the largest value; bfloat16 rounds by 2^-9, int8 by 1/254 of a token's largest number.
CACHES = {"float32": TOLERANCE, "bfloat16": 2**-8, "int8": 2**-6}


@pytest.mark.parametrize("num_kv", [4, 2])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("dtype", CACHES)
def test_decoding_token_by_token_equals_the_shared_row(num_kv, scoring, dtype):
    scoring = SCORINGS[scoring]
    query, key, value = qkv(PROMPT + GROUP * OWN, num_kv)
    prefill = Causal(PROMPT_MASK.astype(int), keep_cache=True, cache_dtype=jnp.dtype(dtype))

    @jax.jit
    def decode(index, *now):
        filled, clock = jnp.full(BATCH, index), (index + 3) % OWN  # a ring begins anywhere
        return DecodeShared(PROMPT_MASK, filled, clock)(*now, scoring)

    _, prompt = jax.jit(prefill.__call__)(*(x[:, :PROMPT] for x in (query, key, value)), None)
    blocks = []
    for size in (1, OWN - 3, 2):  # what is not written is not seen
        own_key = jnp.full((BATCH, num_kv, GROUP, WIDTH, size), 7.0)
        blocks.append((keep(own_key, dtype, axis=-2), keep(own_key.mT, dtype, axis=-1)))
    cache = (*prompt, blocks)
    outs = []
    for index in range(OWN):
        now = (x[:, PROMPT:].reshape(BATCH, GROUP, OWN, -1, WIDTH) for x in (query, key, value))
        out, cache = decode(index, *(x[:, :, index] for x in now), cache)
        outs.append(out)
    expected = shared(query, key, value, scoring)[:, PROMPT:].reshape(
        BATCH, GROUP, OWN, HEADS, WIDTH
    )
    difference = np.abs(jnp.stack(outs, axis=2) - expected).max() / np.abs(expected).max()
    assert difference < CACHES[dtype]
    assert all(leaf.dtype == dtype for leaf in (cache[0].values, cache[2][0][1].values))


def test_an_empty_prompt_stays_finite():
    empty = np.zeros_like(PROMPT_MASK)
    gradient = jax.grad(lambda x: shared(*x, prompt_mask=empty).sum())(qkv(PROMPT + GROUP * OWN, 2))
    assert all(np.isfinite(leaf).all() for leaf in gradient)

"""A soft cap stands between products and temperature, wherever logits are formed in blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax import core

CAP, TEMPERATURE, TOKENS, WIDTH, VOCABULARY = 3.0, 0.7, (2, 5), 6, 300


def arrays(seed=0):
    """Hidden states, an unembedding whose logits reach far beyond the cap, and tokens."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(*TOKENS, WIDTH)).astype(np.float32)
    unembed = 2 * rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    return hidden, unembed, rng.integers(0, VOCABULARY, TOKENS).astype(np.int32)


def product(hidden, unembed):
    return jnp.einsum("...d,vd->...v", hidden, unembed)


def assert_same(chunked, dense, *arguments):
    """Equal values, and equal gradients of a sum with uneven weights."""
    weight = np.random.default_rng(9).normal(size=TOKENS).astype(np.float32)

    def both(function):
        def total(*arguments):
            value = function(*arguments)
            return (value * weight).sum(), value

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(*arguments)

    for ours, theirs in zip(*(jax.tree.leaves(both(f)) for f in (chunked, dense)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


def test_the_cap_bounds_and_keeps_order_and_small_logits():
    logits = np.array([-1e4, -2.0, 1e-3, 2.0, 1e4], np.float64)
    capped = core.soft_cap(jnp.asarray(logits, jnp.float32), CAP)
    np.testing.assert_allclose(capped, [CAP * np.tanh(z / CAP) for z in logits], rtol=1e-6)
    assert core.soft_cap(logits, None) is logits


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("chunk_size", [1, 100])
def test_log_probabilities_and_entropies_are_those_of_capped_logits(output, chunk_size):
    hidden, unembed, tokens = arrays()

    def chunked(hidden, unembed):
        knobs = {"chunk_size": chunk_size, "temperature": TEMPERATURE, "softcap": CAP}
        return core.chunked_token_logprobs(hidden, unembed, tokens, **knobs)[output]

    def dense(hidden, unembed):
        logits = core.soft_cap(product(hidden, unembed), CAP)
        if output:
            return core.entropy(logits, temperature=TEMPERATURE)
        return core.token_logprobs(logits, tokens, temperature=TEMPERATURE)

    assert_same(chunked, dense, hidden, unembed)


def test_a_traced_temperature_divides_hidden_states_and_cap():
    hidden, unembed, tokens = arrays()

    @jax.jit
    def by_hand(temperature):
        return core.chunked_token_logprobs(
            hidden / temperature, unembed, tokens, chunk_size=1, softcap=CAP / temperature
        )[0]

    knobs = {"chunk_size": 1, "temperature": TEMPERATURE, "softcap": CAP}
    expected = core.chunked_token_logprobs(hidden, unembed, tokens, **knobs)[0]
    np.testing.assert_allclose(by_hand(jnp.float32(TEMPERATURE)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("caps", [(CAP, 2.0), (None, CAP), (CAP, None)])
def test_divergences_are_those_of_capped_logits(kind, caps):
    (hidden, unembed, _), (their_hidden, their_unembed, _) = arrays(), arrays(1)

    def chunked(hidden, unembed):
        return core.chunked_divergence(
            kind,
            [their_hidden],
            [their_unembed],
            hidden,
            unembed,
            chunk_size=1,
            temperature=TEMPERATURE,
            softcap=caps[0],
            teacher_softcap=[caps[1]],
        )

    def dense(hidden, unembed):
        student = core.soft_cap(product(hidden, unembed), caps[0])
        teacher = core.soft_cap(product(their_hidden, their_unembed), caps[1])
        return getattr(core, kind)(teacher, student, temperature=TEMPERATURE)

    assert_same(chunked, dense, hidden, unembed)


def test_a_stored_teacher_meets_capped_logits():
    hidden, unembed, _ = arrays()
    logp, ids = jax.lax.top_k(jax.nn.log_softmax(product(*arrays(1)[:2])), 4)
    knobs = {"temperature": TEMPERATURE}
    chunked = functools.partial(
        core.chunked_topk_forward_kl, logp, ids, chunk_size=1, softcap=CAP, **knobs
    )

    def dense(hidden, unembed):
        logits = core.soft_cap(product(hidden, unembed), CAP)
        return core.topk_forward_kl(logp, ids, logits, **knobs)

    assert_same(chunked, dense, hidden, unembed)

"""Losses of logits that are never whole: cut into chunks, each number is computed once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.core.chunked.blocks import (
    LANES,
    Cut,
    blockwise_loss,
    check_sizes,
    rows_gradient,
    unembedding,
    wide_of,
)
from tests.oracles import COMPOSED, assert_close

B, T, D, V = 2, 7, 5, 300  # the vocabulary takes three blocks, the last of which overlaps


class LogSumExp:
    """log Σ exp z, times a number of each token and one of all; static."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return type(other) is LogSumExp

    def rows(self, logits, tokens, shared, unembed):
        norm = jax.nn.logsumexp(logits, axis=-1)
        return shared * tokens * norm, norm

    def slopes(self, logits, saved, tokens, shared, unembed, start):
        return shared * tokens[..., None] * jnp.exp(logits - saved[..., None])

    def both(self, logits, tokens, shared, unembed):
        value, norm = self.rows(logits, tokens, shared, unembed)
        return value, self.slopes(logits, norm, tokens, shared, unembed, 0)


def problem(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return draw(B, T, D), draw(V + 9, D), draw(B, T), jnp.asarray(0.5, dtype)


def dense(hidden, matrix, tokens, shared, softcap=None):
    logits = hidden @ matrix[:V].T
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return shared * tokens * jax.nn.logsumexp(logits, axis=-1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk_size", [1, 4, 14, 1000])
def test_values_and_gradients_are_those_of_all_logits(chunk_size, softcap):
    def ours(hidden, matrix, tokens, shared):
        return blockwise_loss(
            LogSumExp(), hidden, matrix, tokens, shared,
            chunk_size=chunk_size, vocab_size=V, softcap=softcap,
        )  # fmt: skip

    theirs = functools.partial(dense, softcap=softcap)
    assert_close(ours(*problem()), theirs(*problem()), COMPOSED)
    weight = jnp.arange(B * T, dtype=jnp.float32).reshape(B, T)  # every cotangent is another
    for place in (0, 1):
        found, expected = (
            jax.grad(lambda *xs, f=f: (weight * f(*xs)).sum(), argnums=place)(*problem())
            for f in (ours, theirs)
        )
        assert_close(found, expected, COMPOSED)


def test_rows_behind_the_vocabulary_have_no_gradient():
    gradient = jax.grad(
        lambda matrix, hidden, *rest: blockwise_loss(
            LogSumExp(), hidden, matrix, *rest, chunk_size=4, vocab_size=V
        ).sum()
    )(problem()[1], problem()[0], *problem()[2:])
    assert gradient.shape == (V + 9, D) and not np.asarray(gradient[V:]).any()


@given(st.integers(1, 40), st.integers(1, 100), st.lists(st.integers(1, 3), max_size=2))
def test_what_was_cut_is_joined_again_and_chunks_are_as_large_as_they_may_be(length, size, lead):
    x = jnp.arange(int(np.prod(lead)) * length * 2.0).reshape(*lead, length, 2)
    cut = Cut.of(x, size)
    parts = cut.split(x)
    np.testing.assert_array_equal(cut.join(parts), x)
    tokens = cut.chunk * int(np.prod(lead))
    assert tokens <= max(size, int(np.prod(lead))), "one token of every row is the least"
    assert parts.shape == (-(-length // cut.chunk), *lead, cut.chunk, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_a_chunk_are_the_product_for_all_of_the_vocabulary(dtype):
    hidden, matrix, *_ = problem(dtype)
    logits = unembedding(hidden, 4, V)(hidden[:, :2], matrix)
    wide = jnp.einsum("btd,vd->btv", hidden[:, :2], matrix[:V], preferred_element_type=jnp.float32)
    assert logits.dtype == wide_of(hidden) == jnp.float32 and logits.shape == (B, 2, V)
    np.testing.assert_allclose(logits, wide, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_rows_is_one_sum_over_all_tokens():
    hidden, *_ = problem()
    slopes = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, LANES)), jnp.float32)
    expected = np.einsum("btw,btd->wd", slopes, hidden)
    np.testing.assert_allclose(rows_gradient(slopes, hidden), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("chunk", "vocabulary", "words"),
    [(0, 5, "at least 1 token"), (1, 9, "has 8 rows"), (1, 0, "has 8 rows")],
)
def test_sizes_that_cannot_be_are_refused(chunk, vocabulary, words):
    check_sizes(1, 8, 8)
    with pytest.raises(ValueError, match=words):
        check_sizes(chunk, vocabulary, 8)

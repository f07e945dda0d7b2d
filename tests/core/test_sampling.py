"""Laws of the filters and of drawing tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from cotjax.core.sampling import BLOCK, HEAD, _invert, _nucleus_by_halving
from tests import oracles
from tests.oracles import assert_close

STATIC = ("temperature", "top_k", "top_p", "min_p")
filter_logits = jax.jit(core.filter_logits, static_argnames=STATIC)
sample = jax.jit(core.sample, static_argnames=STATIC)
invert = jax.jit(_invert)
nucleus_by_halving = jax.jit(_nucleus_by_halving)

SETTINGS = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 99},
    {"top_p": 0.5},
    {"top_p": 0.95, "temperature": 2.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 4, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
]


def draw(seed=0, shape=(2, 9)):
    rng = np.random.default_rng(seed)
    return jnp.asarray(2 * rng.normal(size=shape), jnp.float32)


# Filters


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_filters_equal_the_loops(chosen, seed):
    logits = draw(seed)
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | chosen
    expected = [oracles.filter_logits(row, **full) for row in oracles.rows(logits)]
    actual = filter_logits(logits, **chosen)
    assert_close(actual, expected)
    assert (actual.argmax(axis=-1) == logits.argmax(axis=-1)).all()


def test_a_neutral_filter_changes_nothing_and_costs_nothing():
    logits = draw()
    np.testing.assert_array_equal(core.filter_logits(logits), logits)
    primitives = {
        equation.primitive.name
        for equation in jax.make_jaxpr(core.filter_logits)(logits).jaxpr.eqns
    }
    assert not primitives & {"while", "sort", "exp", "top_k", "cumsum"}


def test_temperature_zero_keeps_the_first_largest():
    logits = jnp.array([[1.0, 3.0, 3.0, -jnp.inf]])
    filtered = core.filter_logits(logits, temperature=0)
    np.testing.assert_array_equal(filtered, [[-np.inf, 0, -np.inf, -np.inf]])


def test_ties_with_the_last_one_stay():
    logits = jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]]))
    for chosen in ({"top_k": 2}, {"top_p": 0.5}):
        assert jnp.isfinite(core.filter_logits(logits, **chosen)).all()
    assert jnp.isfinite(core.filter_logits(logits, top_k=1)).sum() == 1
    assert jnp.isfinite(core.filter_logits(logits, top_p=0.4)).sum() == 1


def test_top_p_keeps_the_token_that_reaches_the_mass():
    logits = jnp.log(jnp.array([[0.125, 0.5, 0.25, 0.125]]))
    kept = lambda p: np.flatnonzero(np.isfinite(core.filter_logits(logits, top_p=p)[0]))  # noqa: E731
    np.testing.assert_array_equal(kept(0.49), [1])
    np.testing.assert_array_equal(kept(0.51), [1, 2])
    np.testing.assert_array_equal(kept(0.74), [1, 2])
    np.testing.assert_array_equal(kept(0.76), [0, 1, 2, 3])


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_nucleus_wider_than_the_head_equals_the_loops(top_p):
    logits = draw(6, (2, 3 * HEAD)) / 4
    expected = [oracles.filter_logits(row, 1.0, 0, top_p, 0.0) for row in oracles.rows(logits)]
    assert np.isfinite(expected).sum(axis=1).min() > (HEAD if top_p > 0.5 else 0)
    assert_close(filter_logits(logits, top_p=top_p), expected)


@settings(max_examples=10)
@given(mass=st.floats(0.01, 0.99), seed=st.integers(0, 2**16))
def test_halving_finds_the_threshold_that_the_head_finds(mass, seed):
    # Signs, zeros, tiny and huge numbers: the order of the bits is the order of the floats.
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(3, 40)) * 10.0 ** rng.integers(-3, 2, (3, 1)), 3)
    logits[0, :4] = [0.0, -0.0, 1e-30, -1e-30]
    logits[1, :2] = [-3e38, -np.inf]
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    arrays = jnp.asarray(logits, jnp.float32), jnp.asarray(probability, jnp.float32)
    least = nucleus_by_halving(*arrays, mass)
    for row, p, limit in zip(*map(np.asarray, arrays), np.asarray(least)[:, 0], strict=True):
        assert limit in row
        assert p[row >= limit].sum() >= mass - 1e-6
        assert p[row > limit].sum() <= mass + 1e-6


def test_a_tpu_sorts_nothing():
    draw = jax.jit(functools.partial(sample, top_p=0.9))
    traced = draw.trace(jax.random.key(0), jnp.zeros((2, 1000)))
    sorts = ("top_k", "stablehlo.sort")
    assert not any(one in traced.lower(lowering_platforms=("tpu",)).as_text() for one in sorts)
    assert any(one in traced.lower(lowering_platforms=("cpu",)).as_text() for one in sorts)


def test_halving_tells_neighbouring_floats_apart():
    # From −inf to far above 0 the interval of ranks is the widest that there is.
    lower = np.random.default_rng(0).normal(size=64).astype(np.float32)
    upper = np.nextafter(lower, np.float32(np.inf))
    ends = [np.full(64, end, np.float32) for end in (-np.inf, 3e38)]
    logits = jnp.asarray(np.stack([lower, upper, *ends], axis=1))
    probability = jnp.tile(jnp.array([0.5, 0.5, 0, 0]), (64, 1))
    for mass, limit in ((0.4, upper), (0.6, lower)):
        np.testing.assert_array_equal(nucleus_by_halving(logits, probability, mass)[:, 0], limit)


def test_top_k_counts_in_order_through_signs_and_zeros():
    logits = jnp.array([[-3e38, -1.0, -1e-30, -0.0, 1e-30, 2.0, 3e38]])
    for k in range(1, 8):
        kept = np.isfinite(np.asarray(core.filter_logits(logits, top_k=k)[0]))
        np.testing.assert_array_equal(kept, np.arange(7) >= 7 - k)


@pytest.mark.parametrize("chosen", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_bad_logits_are_read_deterministically(chosen):
    nan, inf = jnp.nan, jnp.inf
    logits = jnp.array([[nan, 1.0, 0.5], [inf, 1.0, inf], [nan, nan, nan], [-inf, -inf, -inf]])
    filtered = core.filter_logits(logits, **chosen)
    assert filtered[0, 0] == -inf
    assert jnp.isfinite(filtered[1, ::2]).all()
    assert (filtered[2:] == -inf).all()


def test_half_precision_logits_are_filtered_in_float32():
    logits = draw().astype(jnp.bfloat16)
    for chosen in SETTINGS:
        filtered = filter_logits(logits, **chosen)
        assert filtered.dtype == jnp.float32
        np.testing.assert_array_equal(filtered, filter_logits(logits.astype(jnp.float32), **chosen))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
    ],
)
def test_settings_outside_their_range_are_refused(name, value):
    for function in (core.filter_logits, functools.partial(core.sample, jax.random.key(0))):
        with pytest.raises(ValueError, match=f"{name} is {value}; needs to be"):
            function(draw(), **{name: value})
    if name != "temperature":
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            core.sample(jax.random.key(0), draw(), **{"temperature": 0, name: value})


# Drawing


@pytest.mark.parametrize("vocabulary", [1, 5, BLOCK, 3 * BLOCK, 3 * BLOCK + 7])
def test_a_draw_inverts_the_cumulative_sum(vocabulary):
    logits = draw(1, (1, vocabulary))
    uniform = jnp.linspace(0, 1, 401, endpoint=False)
    tokens = invert(jnp.repeat(logits, 401, axis=0), uniform)
    weight = np.exp(np.asarray(logits[0], np.float64))
    reach = np.cumsum(weight) / weight.sum()
    for u, token in zip(np.asarray(uniform, np.float64), np.asarray(tokens), strict=True):
        assert reach[token] > u - 1e-6  # rounding may move a token's border, not its neighbour
        assert token == 0 or reach[token - 1] <= u + 1e-6


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24, 1.0, 1.5])
def test_a_forbidden_token_is_never_drawn(uniform):
    # Only tokens 1 and 300 exist; the rest of both blocks, and a whole block, weigh nothing.
    logits = jnp.full((1, 512), -jnp.inf).at[0, jnp.array([1, 300])].set(0.0)
    token = invert(logits, jnp.array([uniform]))[0]
    assert token == (1 if uniform < 0.5 else 300)


def test_small_weights_behind_a_large_one_never_give_an_empty_token():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(64, 400)) * 30, jnp.float32)
    logits = jnp.where(jnp.asarray(rng.random((64, 400)) < 0.9), -jnp.inf, logits)
    for uniform in (0.0, 0.3, 1 - 2**-24):
        tokens = invert(logits, jnp.full(64, uniform))
        drawn = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
        assert (jnp.exp(drawn - logits.max(axis=1)) > 0).all()


@pytest.mark.parametrize("chosen", [{}, {"temperature": 0.5, "top_k": 4}])
def test_frequencies_are_the_probabilities(chosen):
    logits = draw(2, (1, 6))
    n = 20_000
    tokens = sample(jax.random.key(0), jnp.repeat(logits, n, axis=0), **chosen)
    frequency = np.bincount(np.asarray(tokens), minlength=6) / n
    probability = np.asarray(jax.nn.softmax(core.filter_logits(logits, **chosen))[0])
    error = np.sqrt(probability * (1 - probability) / n)
    assert (np.abs(frequency - probability) <= 4 * error).all()
    assert tokens.dtype == jnp.int32


def test_a_key_per_row_makes_rows_independent_of_their_batch():
    logits = draw(3, (5, 300))
    keys = jax.random.split(jax.random.key(7), 5)
    together = sample(keys, logits)
    alone = [sample(keys[i : i + 1], logits[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(sample(keys[::-1], logits[::-1]), together[::-1])
    np.testing.assert_array_equal(sample(keys[0], logits[0]), together[0])


def test_leading_axes_are_free():
    logits = draw(4, (2, 3, 20))
    keys = jax.random.split(jax.random.key(1), (2, 3))
    flat = sample(keys.reshape(6), logits.reshape(6, 20))
    np.testing.assert_array_equal(sample(keys, logits), flat.reshape(2, 3))
    assert sample(jax.random.key(0), logits).shape == (2, 3)


def test_one_key_gives_each_row_its_own_number():
    tokens = sample(jax.random.key(0), jnp.zeros((50, 1000)))
    assert len(set(tokens.tolist())) > 40
    assert tokens.tolist() != sample(jax.random.key(1), jnp.zeros((50, 1000))).tolist()


def test_keys_that_do_not_match_the_rows_are_refused():
    with pytest.raises(ValueError, match=r"keys have shape \(3,\); needs \(\) or \(2,\)"):
        core.sample(jax.random.split(jax.random.key(0), 3), draw())


@pytest.mark.parametrize("vocabulary", [1, 127, BLOCK, 3 * BLOCK + 5])
def test_greedy_is_the_first_largest_token(vocabulary):
    rng = np.random.default_rng(vocabulary)
    logits = jnp.asarray(rng.integers(0, 4, (30, vocabulary)), jnp.float32)  # many ties
    tokens = core.sample(jax.random.key(0), logits, temperature=0)
    np.testing.assert_array_equal(tokens, np.argmax(np.asarray(logits), axis=-1))


def test_temperature_zero_is_greedy_and_ignores_the_key():
    logits = jnp.array([[0.0, 2.0, 2.0], [jnp.nan, -1.0, -2.0], [jnp.inf, jnp.inf, 0.0]])
    for key in (jax.random.key(0), jax.random.key(1)):
        tokens = core.sample(key, logits, temperature=0)
        np.testing.assert_array_equal(tokens, [1, 1, 0])
        assert tokens.dtype == jnp.int32


def test_a_row_without_a_finite_logit_gives_token_zero():
    logits = jnp.array([[jnp.nan] * 200, [-jnp.inf] * 200])
    for temperature in (0, 1.0):
        tokens = core.sample(jax.random.key(0), logits, temperature=temperature)
        np.testing.assert_array_equal(tokens, [0, 0])


def test_a_nan_is_never_drawn():
    logits = jnp.zeros((200, 10)).at[:, ::2].set(jnp.nan)
    assert (sample(jax.random.key(0), logits) % 2 == 1).all()


def test_the_filters_reach_the_draw():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    rows = jnp.repeat(logits, 300, axis=0)
    for chosen, kept in (
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.65}, {0, 1}),
        ({"min_p": 0.6}, {0, 1}),
        ({"temperature": 0.01}, {0}),
    ):
        assert set(sample(jax.random.key(0), rows, **chosen).tolist()) == kept


def test_half_precision_logits_are_drawn_in_float32():
    logits = draw(5, (50, 40)).astype(jnp.bfloat16)
    wide = sample(jax.random.key(0), logits.astype(jnp.float32))
    np.testing.assert_array_equal(sample(jax.random.key(0), logits), wide)


def test_numbers_drawn_beforehand_give_the_tokens_of_the_key():
    logits = jax.random.normal(jax.random.key(1), (6, 300))
    keys = jax.random.split(jax.random.key(2), 6)
    uniform = jax.vmap(jax.random.uniform)(keys)
    for changes in ({}, {"top_k": 5}, {"temperature": 0.0}):
        np.testing.assert_array_equal(
            core.sample_at(uniform, logits, **changes),
            sample(keys, logits, **changes),
        )

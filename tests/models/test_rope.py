"""Rotary positions: what turns, how far, and what stretching leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.rope import Rope, options_of, rope_of, rotate

WIDTH = 32
LLAMA3 = Rope(5e5, "llama3", 8.0, 512)
YARN = Rope(1e6, "yarn", 4.0, 512, attention_factor=0.1 * np.log(4.0) + 1)


def slowed(rope):
    """How many times slower each pair turns than without scaling."""
    return Rope(rope.theta).frequencies(WIDTH) / rope.frequencies(WIDTH)


def test_frequencies_fall_from_one_to_the_base():
    frequencies = Rope(10_000.0).frequencies(WIDTH)
    np.testing.assert_allclose(frequencies, 10_000.0 ** -(np.arange(16) / 16), rtol=1e-6)
    assert frequencies.dtype == np.float32


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    query, key = jnp.asarray(rng.normal(size=(2, 1, 1, 1, WIDTH)), jnp.float32)
    for rope in (Rope(), LLAMA3):
        scores = []
        for start in (0, 7, 90):
            turned = [
                rotate(x, rope.table(jnp.array([[start + at]]), WIDTH))
                for x, at in ((query, 5), (key, 2))
            ]
            scores.append((turned[0] * turned[1]).sum())
        np.testing.assert_allclose(scores, scores[0], rtol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="it is a CPU's compiler that repeats")
def test_the_table_is_computed_once_for_all_layers():
    @jax.jit
    def layers(x, positions):
        table = Rope().table(positions, WIDTH)
        for _ in range(3):
            x = jnp.tanh(rotate(x, table) @ jnp.ones((WIDTH, WIDTH)))
        return x

    arguments = jnp.ones((2, 8, 4, WIDTH)), jnp.ones((2, 8), jnp.int32)
    program = layers.lower(*arguments).compile().as_text()
    assert program.count(" cosine(") == 1


def test_linear_slows_every_pair_alike():
    np.testing.assert_allclose(slowed(Rope(1e4, "linear", 4.0)), 4.0, rtol=1e-6)


@pytest.mark.parametrize("rope", [LLAMA3, YARN])
def test_fast_pairs_are_kept_and_slow_ones_divided(rope):
    factors = slowed(rope)
    assert (np.diff(factors) > -1e-4).all()
    np.testing.assert_allclose(factors[[0, -1]], [1.0, rope.factor], rtol=1e-6)
    turns = rope.original_positions * Rope(rope.theta).frequencies(WIDTH) / (2 * np.pi)
    if rope.kind == "llama3":
        np.testing.assert_allclose(factors[turns > rope.high_frequency], 1.0, rtol=1e-6)
        np.testing.assert_allclose(factors[turns < rope.low_frequency], rope.factor, rtol=1e-6)
    assert ((factors > 1.01) & (factors < rope.factor - 0.01)).any()


def test_yarn_lets_scores_grow_by_the_square_of_its_factor():
    positions, plain = jnp.array([[0]]), Rope(1e6)
    x = jnp.ones((1, 1, 1, WIDTH))
    scores = [(rotate(x, rope.table(positions, WIDTH)) ** 2).sum() for rope in (YARN, plain)]
    np.testing.assert_allclose(scores[0], scores[1] * YARN.attention_factor**2, rtol=1e-6)


OPTIONS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 8},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 8192},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 16},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_written_is_read_back(options):
    rope = rope_of(options, 1e4, 128, "config.json")
    assert rope_of(options_of(rope) or {}, 1e4, 128, "config.json") == rope


def test_what_yarn_options_leave_out():
    options = {"rope_type": "yarn", "original_max_position_embeddings": 64, "beta_fast": None}
    rope = rope_of(options, 1e4, 128, "config.json")
    assert rope == Rope(1e4, "yarn", 2.0, 64, attention_factor=0.1 * np.log(2.0) + 1)


def test_none_turns_nothing_at_any_position():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, WIDTH)), jnp.float32)
    table = Rope(5e5, "none").table(jnp.array([[0, 7, 100_000]]), WIDTH)
    np.testing.assert_array_equal(rotate(x, table), x)

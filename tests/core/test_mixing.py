"""Laws of teacher mixtures and of the common vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from tests import oracles_distillation as oracle

SIMPLE, COMPOSED = 1e-5, 1e-4
SPACES = ["probability", "logit"]
every_space = pytest.mark.parametrize("space", SPACES)
teachers = functools.partial(np.random.default_rng(0).standard_normal, dtype=np.float32)


@jax.jit
def _every_space(logits, weight, cotangent, temperature):
    def both(space):
        def total(logits):
            mixed = core.mix_teachers(logits, weight, space=space, temperature=temperature)
            # The cotangent of a probability, which is finite where the log-probability is not.
            return (cotangent * jnp.exp(mixed)).sum(), mixed

        (_, mixed), slope = jax.value_and_grad(total, has_aux=True)(logits)
        return mixed, slope

    return {space: both(space) for space in SPACES}


def evaluate(space, logits, weight, temperature=1.0):
    """The mixture and the slope by the logits."""
    weight = np.asarray(weight, np.float32)
    cotangent = np.random.default_rng(1).standard_normal(logits.shape[1:]).astype(np.float32)
    answers = _every_space(logits, weight, cotangent, np.float32(temperature))
    return jax.tree.map(np.asarray, answers[space])


@every_space
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
    ruled_out=st.sampled_from([0.0, 0.4]),
    unused=st.booleans(),
)
def test_equals_the_loops(space, seed, temperature, ruled_out, unused):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((3, 2, 5))).astype(np.float32)
    logits[..., 1:][rng.random((3, 2, 4)) < ruled_out] = -np.inf
    weight = rng.dirichlet(np.ones(3))
    if unused:
        weight = np.array([weight[0], 0.0, 1 - weight[0]])
    expected = oracle.mix_teachers(logits, weight, space=space, temperature=temperature)
    mixed, slope = evaluate(space, logits, weight, temperature)
    np.testing.assert_allclose(np.exp(mixed), expected, rtol=COMPOSED, atol=1e-6)
    np.testing.assert_allclose(np.exp(mixed).sum(-1), 1, atol=SIMPLE)
    assert np.isfinite(slope).all()


@every_space
def test_slopes_equal_the_loops(space):
    logits = teachers((3, 2, 5))
    weight = np.array([0.2, 0.5, 0.3])
    _, slope = evaluate(space, logits, weight, 2.0)
    cotangent = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)
    expected = oracle.slopes(
        lambda x: (cotangent * oracle.mix_teachers(x, weight, space=space, temperature=2.0)).sum(),
        logits.astype(np.float64),
    )
    np.testing.assert_allclose(slope, expected, rtol=COMPOSED, atol=SIMPLE)


@every_space
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_teacher_of_weight_zero_contributes_exactly_nothing(space, poison):
    logits = teachers((3, 2, 5))
    poisoned = logits.copy()
    poisoned[1] = poison
    mixed, slope = evaluate(space, poisoned, [0.25, 0.0, 0.75])
    clean, _ = evaluate(space, logits, [0.25, 0.0, 0.75])
    np.testing.assert_array_equal(mixed, clean)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(slope[1], 0)


@every_space
def test_one_teacher_is_returned_as_it_is(space):
    logits = teachers((3, 2, 5))
    mixed, _ = evaluate(space, logits, [0.0, 1.0, 0.0], 2.0)
    np.testing.assert_allclose(mixed, jax.nn.log_softmax(logits[1] / 2), atol=1e-6)


@every_space
def test_the_order_of_teachers_does_not_matter(space):
    logits, weight = teachers((3, 2, 5)), np.array([0.2, 0.5, 0.3])
    order = [2, 0, 1]
    mixed, _ = evaluate(space, logits, weight)
    permuted, _ = evaluate(space, logits[order], weight[order])
    np.testing.assert_allclose(permuted, mixed, atol=1e-6)


@every_space
def test_weights_may_vary_by_row_and_by_token(space):
    logits = teachers((2, 3, 4, 5))
    by_row = np.random.default_rng(2).dirichlet(np.ones(2), size=3).T
    by_token = np.broadcast_to(by_row[..., None], (2, 3, 4))
    mixed, _ = evaluate(space, logits, by_row)
    np.testing.assert_allclose(evaluate(space, logits, by_token)[0], mixed, atol=1e-6)
    for row in range(3):
        alone = oracle.mix_teachers(logits[:, row], by_row[:, row], space=space)
        np.testing.assert_allclose(np.exp(mixed[row]), alone, rtol=COMPOSED)


def test_logit_space_needs_every_teacher_and_probability_space_any():
    logits = np.float32([[0.0, -np.inf, 0.0], [0.0, 0.0, -np.inf]])
    vote, _ = evaluate("probability", logits, [0.5, 0.5])
    consensus, _ = evaluate("logit", logits, [0.5, 0.5])
    np.testing.assert_allclose(np.exp(vote), [0.5, 0.25, 0.25], atol=1e-6)
    np.testing.assert_allclose(np.exp(consensus), [1, 0, 0], atol=1e-6)


def test_a_token_that_every_teacher_rules_out_stays_ruled_out():
    logits = teachers((2, 1, 4))
    logits[..., 2] = -np.inf
    mixed, slope = evaluate("probability", logits, [0.5, 0.5])
    assert mixed[0, 2] == -np.inf
    assert np.isfinite(slope).all()


def test_mixture_enters_a_divergence_with_its_temperature_applied():
    logits, weight = teachers((2, 3, 5)), np.array([0.4, 0.6])
    student = teachers((3, 5))
    mixed, _ = evaluate("probability", logits, weight, 2.0)
    value = core.forward_kl(mixed, student, temperature=2.0, teacher_temperature=1.0)
    p = oracle.mix_teachers(logits, weight, temperature=2.0)
    expected = [oracle.kl(p[t], oracle.softmax(student[t], 2.0)) for t in range(3)]
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=SIMPLE)


def test_default_is_a_mixture_of_probabilities_at_temperature_one():
    logits, weight = teachers((2, 3, 5)), np.float32([0.4, 0.6])
    mixed = core.mix_teachers(jnp.asarray(logits, jnp.bfloat16), weight)
    assert mixed.dtype == jnp.float32
    expected = oracle.mix_teachers(logits, weight)
    np.testing.assert_allclose(np.exp(mixed), expected, rtol=0.02, atol=0.01)


def test_float64_logits_stay_float64_whatever_the_weights_are():
    logits, weight = teachers((2, 3, 5)).astype(np.float64), np.array([0.4, 0.6])
    with jax.enable_x64(True):
        mixed = core.mix_teachers(jnp.asarray(logits), jnp.asarray(weight, jnp.float32))
        assert mixed.dtype == jnp.float64
        expected = oracle.mix_teachers(logits, np.float32(weight).astype(float))
        np.testing.assert_allclose(np.exp(mixed), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 5), (2, 3, 5, 1)])
def test_weights_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"does not fit logits \(2, 3, 5\)"):
        core.mix_teachers(jnp.zeros((2, 3, 5)), jnp.ones(shape))


def test_an_unknown_space_or_temperature_is_named():
    with pytest.raises(ValueError, match="space = 'odds'"):
        core.mix_teachers(jnp.zeros((2, 3, 5)), jnp.ones(2), space="odds")  # type: ignore
    with pytest.raises(ValueError, match="temperature = 0"):
        core.mix_teachers(jnp.zeros((2, 3, 5)), jnp.ones(2), temperature=0)


def test_common_vocabulary_drops_the_padding_of_both():
    teacher, student = teachers((3, 9)), teachers((3, 7))
    for size in (6, 7):
        cut = core.common_vocabulary(teacher, student, size=size)
        np.testing.assert_array_equal(cut[0], teacher[:, :size])
        np.testing.assert_array_equal(cut[1], student[:, :size])


@pytest.mark.parametrize(("widths", "owner"), [((6, 9), "teacher"), ((9, 6), "student")])
def test_a_model_without_the_whole_vocabulary_is_named(widths, owner):
    teacher, student = (jnp.zeros((3, width)) for width in widths)
    with pytest.raises(ValueError, match=f"the {owner} has logits for 6 tokens, .* has 7"):
        core.common_vocabulary(teacher, student, size=7)

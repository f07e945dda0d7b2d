"""Laws of the divergence from a top-k cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from cotjax.core.topk import largest, topk_and_rest
from tests import oracles_distillation as oracle

SIMPLE, COMPOSED = 1e-5, 1e-4
TAILS = ["bucket", "renormalise", "drop"]
every_tail = pytest.mark.parametrize("tail", TAILS)
SHAPE, WIDTH, KEPT = (2, 3), 7, 3


@jax.jit
def _every_tail(logp, ids, student, mask, temperature, scale):
    def both(tail):
        def total(logp, student):
            value = core.topk_forward_kl(
                logp,
                ids,
                student,
                tail=tail,
                mask=mask,
                temperature=temperature,
                scale_by_temperature=True,
            )
            value = value / jnp.where(scale, 1, temperature**2)
            return value.sum(), value

        (_, value), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(logp, student)
        return value, slopes

    return {tail: both(tail) for tail in TAILS}


def evaluate(tail, logp, ids, student, mask=None, temperature=1.0, scale=False):
    """The value [..., T] and its slopes by the cache and by the student."""
    mask = np.ones(ids.shape[:-1], bool) if mask is None else mask
    answers = _every_tail(logp, ids, student, mask, np.float32(temperature), scale)
    return jax.tree.map(np.asarray, answers[tail])


def cache_of(logits, kept=KEPT):
    """The top `kept` log-probabilities of a teacher, in no particular order, and their ids."""
    logp = np.log([oracle.softmax(row) for row in logits.reshape(-1, logits.shape[-1])])
    logp = logp.reshape(logits.shape)
    ids = np.argsort(-logp, axis=-1)[..., :kept]
    return np.take_along_axis(logp, ids, -1).astype(np.float32), ids.astype(np.int32)


def problem(seed, scale=2.0, kept=KEPT):
    rng = np.random.default_rng(seed)
    teacher = (scale * rng.standard_normal((*SHAPE, WIDTH))).astype(np.float32)
    student = (scale * rng.standard_normal((*SHAPE, WIDTH))).astype(np.float32)
    return teacher, student, *cache_of(teacher, kept)


@every_tail
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    scale=st.sampled_from([0.1, 2.0, 20.0]),
    unused=st.sampled_from([0.0, 0.5]),
)
def test_equals_the_loops(tail, seed, temperature, scale, unused):
    _, student, logp, ids = problem(seed, scale)
    empty = np.random.default_rng(seed).random(ids.shape[:-1]) < unused
    logp[..., 1][empty] = -np.inf
    ids[..., 1][empty] = ids[..., 0][empty]  # an unused slot may repeat an id
    expected = oracle.topk_forward_kl(logp, ids, student, tail=tail, temperature=temperature)
    value, slopes = evaluate(tail, logp, ids, student, temperature=temperature)
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=SIMPLE)
    assert np.isfinite(slopes[1]).all()


@every_tail
def test_slopes_equal_the_loops(tail):
    _, student, logp, ids = problem(1)
    _, slopes = evaluate(tail, logp, ids, student, temperature=2.0)
    expected = oracle.slopes(
        lambda x: oracle.topk_forward_kl(logp, ids, x, tail=tail, temperature=2.0).sum(),
        student.astype(np.float64),
    )
    np.testing.assert_allclose(slopes[1], expected, rtol=COMPOSED, atol=SIMPLE)
    assert np.isfinite(slopes[0]).all()


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_teacher_equal_to_student_gives_no_loss_and_no_gradient(tail):
    teacher, _, logp, ids = problem(2)
    value, slopes = evaluate(tail, logp, ids, teacher)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slopes[1], 0, atol=1e-6)


def test_drop_pulls_away_from_the_teacher_and_can_be_negative():
    teacher, _, logp, ids = problem(2)
    _, slopes = evaluate("drop", logp, ids, teacher)
    assert np.abs(slopes[1]).max() > 0.01
    greedy = np.zeros_like(teacher)
    np.put_along_axis(greedy, ids, logp + 5, -1)
    assert evaluate("drop", logp, ids, greedy)[0].min() < 0


def test_the_gradient_of_drop_is_the_one_written_by_hand():
    _, student, logp, ids = problem(3)
    _, slopes = evaluate("drop", logp, ids, student)
    q = np.array(jax.nn.softmax(student))
    expected = np.exp(logp).sum(-1, keepdims=True) * q
    np.put_along_axis(expected, ids, np.take_along_axis(expected, ids, -1) - np.exp(logp), -1)
    np.testing.assert_allclose(slopes[1], expected, atol=1e-6)


@every_tail
def test_all_tokens_kept_is_the_full_forward_kl(tail):
    teacher, student, logp, ids = problem(4, kept=WIDTH)
    value, slopes = evaluate(tail, logp, ids, student)
    full = core.forward_kl(teacher, student)
    np.testing.assert_allclose(value, full, rtol=COMPOSED, atol=SIMPLE)
    expected = jax.nn.softmax(student) - jax.nn.softmax(teacher)
    np.testing.assert_allclose(slopes[1], expected, atol=SIMPLE)


def test_bucket_is_a_lower_bound_that_grows_with_k():
    teacher, student, _, _ = problem(5)
    values = [evaluate("bucket", *cache_of(teacher, kept), student)[0] for kept in (1, 3, 5, WIDTH)]
    full = core.forward_kl(teacher, student)
    for fewer, more in zip(values, [*values[1:], full], strict=True):
        assert (fewer <= more + SIMPLE).all()
    assert (values[0] >= -1e-6).all()


def test_bucket_leaves_the_preferences_outside_the_cache_alone():
    _, student, logp, ids = problem(6)
    _, slopes = evaluate("bucket", logp, ids, student)
    q = np.array(jax.nn.softmax(student))
    for index in np.ndindex(*SHAPE):
        outside = [v for v in range(WIDTH) if v not in ids[index]]
        ratio = slopes[1][index][outside] / q[index][outside]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_a_student_as_sure_as_its_teacher_keeps_a_correct_tail():
    student = np.zeros((1, 4), np.float32)
    student[0, 0] = 40.0  # 1 − q_0 rounds to 0
    logp, ids = np.log(np.float32([[0.9]])), np.int32([[0]])
    value, (_, slope) = evaluate("bucket", logp, ids, student)
    expected = 0.9 * np.log(0.9) + 0.1 * (np.log(0.1) - np.log(3) + 40)
    np.testing.assert_allclose(value, expected, rtol=SIMPLE)
    np.testing.assert_allclose(slope[0], [0.1, -0.1 / 3, -0.1 / 3, -0.1 / 3], atol=SIMPLE)


@every_tail
def test_several_teachers_average_to_the_gradient_of_their_mixture(tail):
    first, student, *cache = problem(7, kept=WIDTH)
    second, _, *other = problem(8, kept=WIDTH)
    _, slopes = evaluate(tail, *cache, student)
    _, other_slopes = evaluate(tail, *other, student)
    mixed = core.mix_teachers(np.stack([first, second]), np.float32([0.3, 0.7]))
    expected = jax.grad(lambda z: core.forward_kl(mixed, z).sum())(student)
    np.testing.assert_allclose(0.3 * slopes[1] + 0.7 * other_slopes[1], expected, atol=SIMPLE)


@every_tail
def test_rounded_probabilities_that_sum_above_one_are_divided_by_their_sum(tail):
    _, student, logp, ids = problem(9)
    logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True)) + np.float32(0.05)
    value, slopes = evaluate(tail, logp, ids, student)
    exact, exact_slopes = evaluate(tail, logp - np.float32(0.05), ids, student)
    np.testing.assert_allclose(value, exact, rtol=COMPOSED, atol=SIMPLE)
    np.testing.assert_allclose(slopes[1], exact_slopes[1], atol=SIMPLE)


@every_tail
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_masked_positions_have_no_value_and_no_gradient(tail, poison):
    _, student, logp, ids = problem(10)
    mask = np.array([[True, False, True], [False, False, True]])
    keep = mask[..., None]
    poisoned = (
        np.where(keep, logp, np.float32(poison)),
        np.where(keep, ids, -7),
        np.where(keep, student, np.float32(poison)),
    )
    value, slopes = evaluate(tail, *poisoned, mask)
    clean, clean_slopes = evaluate(tail, logp, ids, student)
    np.testing.assert_array_equal(value, np.where(mask, clean, 0))
    np.testing.assert_array_equal(slopes[1], np.where(keep, clean_slopes[1], 0))
    np.testing.assert_array_equal(slopes[0], np.where(keep, clean_slopes[0], 0))
    nothing = evaluate(tail, *poisoned, np.zeros(SHAPE, bool))
    assert all(not np.any(x) for x in jax.tree.leaves(nothing))


@every_tail
def test_an_empty_cache_asks_for_nothing(tail):
    _, student, logp, ids = problem(11)
    value, slopes = evaluate(tail, np.full_like(logp, -np.inf), ids, student)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slopes[1], 0, atol=1e-6)
    assert np.isfinite(slopes[0]).all()


@every_tail
def test_half_precision_caches_and_students_are_computed_in_float32(tail):
    _, student, logp, ids = problem(12)
    logp, student = logp.astype(np.float16), student.astype(jnp.bfloat16)
    value, slopes = evaluate(tail, logp, ids, student)
    wide, _ = evaluate(tail, logp.astype(np.float32), ids, student.astype(np.float32))
    assert value.dtype == np.float32 and slopes[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(value, wide, rtol=SIMPLE, atol=1e-6)


def test_mass_for_tokens_that_do_not_exist_costs_87_nats_and_no_gradient():
    # All tokens are kept and the teacher gives them 0.9: the bucket holds 0.1 and nothing else.
    _, student, logp, ids = problem(17, kept=WIDTH)
    logp = logp + np.log(np.float32(0.9))
    value, slopes = evaluate("bucket", logp, ids, student)
    kept, kept_slopes = evaluate("drop", logp, ids, student)
    np.testing.assert_allclose(value - kept, 0.1 * (np.log(0.1) + 87.3365), rtol=COMPOSED)
    np.testing.assert_allclose(slopes[1], kept_slopes[1], atol=SIMPLE)


@every_tail
def test_the_order_of_the_slots_does_not_matter(tail):
    _, student, logp, ids = problem(13)
    order = [2, 0, 1]
    value, slopes = evaluate(tail, logp, ids, student)
    permuted, permuted_slopes = evaluate(tail, logp[..., order], ids[..., order], student)
    np.testing.assert_allclose(permuted, value, rtol=SIMPLE, atol=1e-6)
    np.testing.assert_allclose(permuted_slopes[1], slopes[1], atol=1e-6)


def test_defaults_and_temperature_squared():
    _, student, logp, ids = problem(14)
    value, _ = evaluate("bucket", logp, ids, student, temperature=3.0, scale=True)
    plain, _ = evaluate("bucket", logp, ids, student, temperature=3.0)
    np.testing.assert_allclose(value, 9 * plain, rtol=SIMPLE)
    np.testing.assert_allclose(
        core.topk_forward_kl(logp, ids, student),
        evaluate("bucket", logp, ids, student)[0],
        rtol=SIMPLE,
    )
    np.testing.assert_allclose(
        core.topk_forward_kl(logp, ids, student, temperature=3.0), plain, rtol=SIMPLE
    )


def test_vmap_and_jit_agree():
    _, student, logp, ids = problem(15)
    value, _ = evaluate("bucket", logp, ids, student)
    mapped = jax.jit(jax.vmap(core.topk_forward_kl))(logp, ids, student)
    np.testing.assert_allclose(mapped, value, atol=1e-6)


def test_bad_settings_are_named():
    _, student, logp, ids = problem(16)
    with pytest.raises(ValueError, match="tail = 'cut'"):
        core.topk_forward_kl(logp, ids, student, tail="cut")  # type: ignore
    with pytest.raises(ValueError, match="temperature = 0"):
        core.topk_forward_kl(logp, ids, student, temperature=0)


@pytest.mark.parametrize("width", [1, 16, 17, 300, 5000])
@pytest.mark.parametrize("kept", [1, 5, 16])
def test_the_largest_are_those_of_a_sort_with_ties_in_order(width, kept):
    kept = min(kept, width)
    rng = np.random.default_rng(width)
    for scores in (
        rng.standard_normal((2, 3, width)),
        rng.integers(0, 3, (2, 3, width)),
        np.where(rng.random((2, 3, width)) < 2 / width, 1.0, -np.inf),
    ):
        values, ids = jax.jit(largest, static_argnums=1)(scores.astype(np.float32), kept)
        order = np.argsort(-scores, axis=-1, kind="stable")[..., :kept]
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_array_equal(
            values, np.take_along_axis(scores, order, -1).astype(np.float32)
        )


@pytest.mark.parametrize("kept", [1, 16, 300])
@pytest.mark.parametrize("scale", [0.0, 1.0, 40.0])
def test_what_is_kept_and_the_rest_are_the_whole(kept, scale):
    rng = np.random.default_rng(kept)
    scores = (scale * rng.standard_normal((4, 300))).astype(np.float32)
    scores[0, 7] += 120  # a teacher that is sure: the rest is far below one rounding of 1
    scores[1, :100] = -np.inf
    logp, ids, log_rest, plogp = (np.asarray(x) for x in topk_and_rest(jnp.asarray(scores), kept))
    wide = scores.astype(np.float64)
    whole = wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)
    np.testing.assert_allclose(logp, np.take_along_axis(whole, ids, -1), rtol=1e-5, atol=1e-5)
    others = whole.copy()
    np.put_along_axis(others, ids, -np.inf, axis=-1)
    np.testing.assert_allclose(log_rest, np.logaddexp.reduce(others, axis=-1), rtol=1e-5, atol=2e-5)
    finite = np.where(np.isneginf(others), 0, others)
    np.testing.assert_allclose(plogp, (np.exp(others) * finite).sum(axis=-1), rtol=1e-4, atol=1e-6)

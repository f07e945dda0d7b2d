"""Laws of the divergences: one test per sentence of their docstrings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from cotjax import core
from tests import oracles_distillation as oracle

SIMPLE, COMPOSED = 1e-5, 1e-4

CASES = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jensen_shannon", {"beta": 0.5}),
    ("jensen_shannon", {"beta": 0.1}),
    ("jensen_shannon", {"beta": 0.0}),
    ("jensen_shannon", {"beta": 1.0}),
    ("skew_forward_kl", {"alpha": 0.1}),
    ("skew_forward_kl", {"alpha": 0.0}),
    ("skew_reverse_kl", {"alpha": 0.7}),
    ("skew_reverse_kl", {"alpha": 0.0}),
    ("total_variation", {}),
]
IDS = ["-".join([kind, *(f"{value}" for value in knobs.values())]) for kind, knobs in CASES]
every_case = pytest.mark.parametrize(("kind", "knobs"), CASES, ids=IDS)
KINDS = sorted({kind for kind, _ in CASES})
SHAPE = (2, 3)
WIDTH = 6


@jax.jit
def _every_case(teacher, student, mask, temperature, teacher_temperature, scale):
    """Value and slopes of all cases in one program: compiling is what takes the time here."""

    def both(kind, knobs):
        def total(teacher, student):
            value = getattr(core, kind)(
                teacher,
                student,
                mask=mask,
                temperature=temperature,
                teacher_temperature=teacher_temperature,
                scale_by_temperature=True,
                **knobs,
            )
            value = value / jnp.where(scale, 1, temperature**2)
            return value.sum(), value

        (_, value), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(teacher, student)
        return value, slopes

    return [both(kind, knobs) for kind, knobs in CASES]


def evaluate(kind, knobs, teacher, student, mask=None, temperature=1.0, hot=None, scale=False):
    """The value [..., T] and its slopes by teacher and student; `hot` is the teacher's τ."""
    mask = np.ones(teacher.shape[:-1], bool) if mask is None else mask
    temperatures = np.float32(temperature), np.float32(temperature if hot is None else hot)
    answers = _every_case(teacher, student, mask, *temperatures, scale)
    value, slopes = answers[CASES.index((kind, knobs))]
    return np.asarray(value), [np.asarray(slope) for slope in slopes]


def logits_of(seed, shape, scale=2.0, ruled_out=0.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((*shape, WIDTH))).astype(np.float32)
    logits[..., 1:][rng.random((*shape, WIDTH - 1)) < ruled_out] = -np.inf
    return logits


def pair(seed=0, shape=SHAPE, scale=2.0, ruled_out=0.0):
    return logits_of(2 * seed, shape, scale, ruled_out), logits_of(2 * seed + 1, shape, scale)


@st.composite
def problems(draw):
    seed = draw(st.integers(0, 10_000))
    scale = draw(st.sampled_from([0.1, 2.0, 30.0]))
    teacher = logits_of(2 * seed, SHAPE, scale, ruled_out=draw(st.sampled_from([0.0, 0.4])))
    student = logits_of(2 * seed + 1, SHAPE, scale)
    mask = np.random.default_rng(seed).random(SHAPE) < draw(st.sampled_from([0.0, 0.6, 1.0]))
    return teacher, student, mask, draw(st.sampled_from([0.5, 1.0, 3.0]))


@every_case
@settings(max_examples=10, deadline=None)
@given(problem=problems())
def test_equals_the_loops(kind, knobs, problem):
    teacher, student, mask, temperature = problem
    expected = oracle.divergence(
        kind, teacher, student, mask=mask, temperature=temperature, **knobs
    )
    value, slopes = evaluate(kind, knobs, teacher, student, mask, temperature)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=SIMPLE)
    assert all(np.isfinite(slope).all() for slope in slopes)


@every_case
def test_slopes_equal_the_loops(kind, knobs):
    teacher, student = pair(3, ruled_out=0.3)
    _, slopes = evaluate(kind, knobs, teacher, student, temperature=2.0)
    teacher, student = teacher.astype(np.float64), student.astype(np.float64)
    options = {"temperature": 2.0, **knobs}
    expected = oracle.slopes(
        lambda x: oracle.divergence(kind, x, student, **options).sum(), teacher
    )
    np.testing.assert_allclose(slopes[0], expected, rtol=COMPOSED, atol=SIMPLE)
    expected = oracle.slopes(
        lambda x: oracle.divergence(kind, teacher, x, **options).sum(), student
    )
    np.testing.assert_allclose(slopes[1], expected, rtol=COMPOSED, atol=SIMPLE)


@every_case
def test_options_mean_the_same_everywhere(kind, knobs):
    teacher, student = pair(4)
    mask = np.array([[True, False, True], [False, True, True]])
    expected = oracle.divergence(
        kind,
        teacher,
        student,
        mask=mask,
        temperature=3.0,
        teacher_temperature=1.5,
        scale_by_temperature=True,
        **knobs,
    )
    value, _ = evaluate(kind, knobs, teacher, student, mask, 3.0, hot=1.5, scale=True)
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=SIMPLE)


def test_defaults_are_stated_and_the_same_by_name():
    teacher, student = pair(5)

    @jax.jit
    def every_kind(teacher, student):
        by_name = {kind: core.divergence(kind, teacher, student) for kind in KINDS}
        functions = {kind: getattr(core, kind) for kind in KINDS}
        named = {kind: function(teacher, student) for kind, function in functions.items()}
        # By default a temperature does not scale the value.
        hot = {
            kind: function(teacher, student, temperature=2) for kind, function in functions.items()
        }
        return by_name, named, hot

    by_name, named, hot = every_kind(teacher, student)
    for kind in KINDS:
        defaults = {"beta": 0.5, "alpha": 0.1}
        expected = oracle.divergence(kind, teacher, student, **defaults)
        np.testing.assert_allclose(named[kind], expected, rtol=COMPOSED, atol=SIMPLE)
        np.testing.assert_array_equal(by_name[kind], named[kind])
        expected = oracle.divergence(kind, teacher, student, temperature=2.0, **defaults)
        np.testing.assert_allclose(hot[kind], expected, rtol=COMPOSED, atol=SIMPLE)


@pytest.mark.parametrize("shape", [(4,), (2, 1), (2, 2, 3)])
def test_any_number_of_leading_axes_and_one_token(shape):
    teacher, student = pair(20, shape)
    expected = oracle.divergence("reverse_kl", teacher, student)
    np.testing.assert_allclose(core.reverse_kl(teacher, student), expected, rtol=COMPOSED)


@every_case
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_teacher_equal_to_student_gives_no_loss_and_no_gradient(kind, knobs, temperature):
    teacher, _ = pair(6)
    value, slopes = evaluate(kind, knobs, teacher, teacher, temperature=temperature)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(slopes, 0, atol=1e-6)


@every_case
def test_never_negative_and_bounded_where_stated(kind, knobs):
    values = [
        evaluate(kind, knobs, *pair(seed, scale=scale))[0]
        for seed in range(8)
        for scale in (0.01, 2.0, 50.0)
    ]
    assert np.min(values) >= -1e-6
    alpha, beta = knobs.get("alpha", 0), knobs.get("beta", 0)
    if alpha > 0:
        assert np.max(values) <= -np.log(alpha) + SIMPLE
    if 0 < beta < 1:
        assert np.max(values) <= -beta * np.log(beta) - (1 - beta) * np.log(1 - beta) + SIMPLE
    if kind == "total_variation":
        assert np.max(values) <= 1 + SIMPLE


@every_case
def test_columns_that_nobody_uses_change_nothing(kind, knobs):
    teacher, student = pair(8)
    teacher[..., [1, 4]] = student[..., [1, 4]] = -np.inf
    value, slopes = evaluate(kind, knobs, teacher, student)
    kept = [0, 2, 3, 5]
    expected = oracle.divergence(kind, teacher[..., kept], student[..., kept], **knobs)
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=SIMPLE)
    np.testing.assert_array_equal(np.asarray(slopes)[..., [1, 4]], 0)
    assert np.isfinite(slopes).all()


@every_case
def test_minus_infinity_on_either_side_stays_finite(kind, knobs):
    teacher, student = pair(9)
    teacher[..., 2] = -np.inf
    student[..., 3] = -np.inf
    value, slopes = evaluate(kind, knobs, teacher, student)
    np.testing.assert_allclose(
        value, oracle.divergence(kind, teacher, student, **knobs), rtol=COMPOSED
    )
    assert np.isfinite(slopes).all()


def test_a_forbidden_token_costs_87_nats_and_is_pushed_down():
    teacher, student = np.full((2, *SHAPE, WIDTH), -np.inf, np.float32)
    teacher[..., 0] = student[..., :2] = 0
    value, (_, slope) = evaluate("reverse_kl", {}, teacher, student)
    np.testing.assert_allclose(value, 0.5 * 87.3365 - np.log(2), rtol=SIMPLE)
    assert (slope[..., 1] > 1).all() and (slope[..., 0] < -1).all()
    swapped, _ = evaluate("forward_kl", {}, student, teacher)
    np.testing.assert_allclose(swapped, value, rtol=SIMPLE)


@every_case
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_masked_positions_have_no_value_and_no_gradient(kind, knobs, poison):
    teacher, student = pair(10)
    mask = np.array([[True, False, True], [False, False, True]])
    poisoned = [np.where(mask[..., None], x, np.float32(poison)) for x in (teacher, student)]
    value, slopes = evaluate(kind, knobs, *poisoned, mask)
    clean, clean_slopes = evaluate(kind, knobs, teacher, student)
    np.testing.assert_array_equal(value, np.where(mask, clean, 0))
    np.testing.assert_array_equal(slopes, np.where(mask[..., None], clean_slopes, 0))


@every_case
def test_an_empty_mask_gives_zero_and_a_finite_gradient(kind, knobs):
    nothing = np.full((2, 3, WIDTH), np.nan, np.float32)
    value, slopes = evaluate(kind, knobs, nothing, nothing, np.zeros((2, 3), bool))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(slopes, 0)


@every_case
def test_invariant_to_vocabulary_order_and_to_constants(kind, knobs):
    teacher, student = pair(11)
    value, slopes = evaluate(kind, knobs, teacher, student)
    order = np.random.default_rng(0).permutation(WIDTH)
    permuted = evaluate(kind, knobs, teacher[..., order], student[..., order])
    np.testing.assert_allclose(permuted[0], value, rtol=SIMPLE, atol=1e-6)
    np.testing.assert_allclose(
        permuted[1], np.asarray(slopes)[..., order], rtol=COMPOSED, atol=1e-6
    )
    shifted, _ = evaluate(kind, knobs, teacher + 3, student - 7)
    np.testing.assert_allclose(shifted, value, rtol=COMPOSED, atol=SIMPLE)


@every_case
def test_temperature_squared_keeps_the_size_of_the_gradient(kind, knobs):
    teacher, student = pair(19)
    value, _ = evaluate(kind, knobs, teacher, student, temperature=3.0)
    scaled, _ = evaluate(kind, knobs, teacher, student, temperature=3.0, scale=True)
    np.testing.assert_allclose(scaled, 9 * value, rtol=SIMPLE)


def test_half_precision_inputs_are_computed_in_float32():
    teacher, student = (x.astype(jnp.bfloat16) for x in pair(12))

    def total(student, teacher):
        values = [getattr(core, kind)(teacher, student) for kind in KINDS]
        return sum(value.sum() for value in values), values

    compiled = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, values), slope = compiled(student, teacher)
    (_, wide), wide_slope = compiled(student.astype(np.float32), teacher.astype(np.float32))
    for value, expected in zip(values, wide, strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=SIMPLE, atol=1e-6)
    assert slope.dtype == jnp.bfloat16
    # Six slopes are added in bfloat16: two units in its last place.
    np.testing.assert_allclose(slope.astype(np.float32), wide_slope, rtol=2**-6, atol=1e-6)


@every_case
def test_large_logits_stay_finite(kind, knobs):
    value, slopes = evaluate(kind, knobs, *pair(13, scale=1e4))
    assert np.isfinite(value).all() and np.isfinite(slopes).all()


def test_eager_jit_vmap_and_eight_devices_agree():
    teacher, student = pair(14, (8, 3))

    def every_kind(teacher, student):
        return [getattr(core, kind)(teacher, student) for kind in KINDS]

    expected = every_kind(teacher, student)
    compiled = jax.jit(every_kind)
    rows = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    sharded = compiled(*jax.device_put((teacher, student), rows))
    assert all(len(value.sharding.device_set) == 8 for value in sharded)
    for values in (compiled(teacher, student), jax.jit(jax.vmap(every_kind))(teacher, student)):
        np.testing.assert_allclose(values, expected, atol=1e-6)
    for value, reference in zip(sharded, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-6)


@pytest.mark.parametrize(
    ("skewed", "plain"), [("skew_forward_kl", "forward_kl"), ("skew_reverse_kl", "reverse_kl")]
)
def test_skew_divergences_tend_to_the_plain_ones(skewed, plain):
    teacher, student = pair(15, scale=0.5)
    limit = getattr(core, plain)(teacher, student)
    np.testing.assert_array_equal(getattr(core, skewed)(teacher, student, alpha=0.0), limit)
    gaps = [
        np.abs(getattr(core, skewed)(teacher, student, alpha=alpha) - limit).max()
        for alpha in (0.1, 1e-3, 1e-6)
    ]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < COMPOSED


def test_jensen_shannon_ends_and_limits():
    teacher, student = pair(16, scale=0.5)
    forward, reverse = core.forward_kl(teacher, student), core.reverse_kl(teacher, student)
    np.testing.assert_array_equal(core.jensen_shannon(teacher, student, beta=0.0), forward)
    np.testing.assert_array_equal(core.jensen_shannon(teacher, student, beta=1.0), reverse)
    for beta, limit in ((1e-3, forward), (1 - 1e-3, reverse)):
        near = core.jensen_shannon(teacher, student, beta=beta) / (beta * (1 - beta))
        np.testing.assert_allclose(near, limit, rtol=0.05, atol=1e-3)
    swapped = core.jensen_shannon(student, teacher, beta=0.7)
    np.testing.assert_allclose(
        swapped, core.jensen_shannon(teacher, student, beta=0.3), rtol=COMPOSED, atol=1e-6
    )


def test_total_variation_is_symmetric():
    teacher, student = pair(17)
    np.testing.assert_array_equal(
        core.total_variation(teacher, student), core.total_variation(student, teacher)
    )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("forward_kl", {"temperature": 0.0}, "temperature = 0.0"),
        ("forward_kl", {"temperature": -1}, "temperature = -1"),
        ("reverse_kl", {"teacher_temperature": 0.0}, "temperature = 0.0"),
        ("jensen_shannon", {"beta": -0.1}, "beta = -0.1"),
        ("jensen_shannon", {"beta": 1.1}, "beta = 1.1"),
        ("skew_forward_kl", {"alpha": 1.0}, "alpha = 1.0"),
        ("skew_reverse_kl", {"alpha": -0.1}, "alpha = -0.1"),
    ],
)
def test_bad_settings_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(core, kind)(*pair(), **options)


def test_logits_of_different_width_are_refused():
    teacher, student = pair()
    with pytest.raises(ValueError, match="the teacher has 6 logits, the student 5: .*common_vocab"):
        core.forward_kl(teacher, student[..., :5])


def test_an_unknown_kind_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'hellinger': there are forward_kl, reverse_kl, jensen"):
        core.divergence("hellinger", *pair())


def test_distillation_advantage_is_the_log_ratio_without_gradient():
    teacher, student = jnp.array([-1.0, -5.0]), jnp.array([-2.0, -2.0])
    np.testing.assert_array_equal(core.distillation_advantage(teacher, student), [1.0, -3.0])
    for argument in (0, 1):
        slope = jax.grad(lambda *x: core.distillation_advantage(*x).sum(), argument)(
            teacher, student
        )
        np.testing.assert_array_equal(slope, 0)


def test_distillation_advantage_descends_the_reverse_kl():
    teacher, student = pair(18)
    logp = jax.nn.log_softmax(teacher)

    def surrogate(student):
        # The expectation over the student's samples, by summing over the vocabulary.
        logq = jax.nn.log_softmax(student)
        advantage = core.distillation_advantage(logp, logq)
        chance = jax.lax.stop_gradient(jnp.exp(logq))
        return -(chance * advantage * logq).sum()

    value, (_, expected) = evaluate("reverse_kl", {}, teacher, student)
    np.testing.assert_allclose(jax.jit(jax.grad(surrogate))(student), expected, atol=SIMPLE)
    logq = jax.nn.log_softmax(student)
    mean = (jnp.exp(logq) * core.distillation_advantage(logp, logq)).sum(-1)
    np.testing.assert_allclose(mean, -value, atol=SIMPLE)

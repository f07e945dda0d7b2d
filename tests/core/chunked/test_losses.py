"""Laws of the divergences from hidden states: equal to the dense ones, without their arrays."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from cotjax import core

COMPOSED = 1e-4
KINDS = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jensen_shannon", {"beta": 0.3}),
    ("skew_forward_kl", {"alpha": 0.2}),
    ("skew_reverse_kl", {"alpha": 0.2}),
    ("total_variation", {}),
]
BATCH, LENGTH, VOCABULARY = 2, 7, 300
WIDTHS = (5, 4)


def arrays(seed=0, dtype=np.float32, batch=BATCH):
    """Student (hidden, unembed), two teachers of different width, a cotangent and a mask."""
    rng = np.random.default_rng(seed)

    def head(width):
        hidden = rng.standard_normal((batch, LENGTH, width)).astype(dtype)
        return hidden, rng.standard_normal((VOCABULARY, width)).astype(dtype)

    student, teachers = head(6), [head(width) for width in WIDTHS]
    cotangent = rng.standard_normal((batch, LENGTH)).astype(np.float32)
    return student, teachers, cotangent, rng.random((batch, LENGTH)) < 0.6


def product(hidden, matrix):
    return jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32)


def slopes_of(loss, *arguments):
    return jax.jit(jax.value_and_grad(loss, (0, 1)))(*arguments)


def assert_close(actual, expected, rtol=COMPOSED, atol=1e-5):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        x, y = (np.asarray(z).astype(np.float32) for z in (x, y))
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol * max(1, np.abs(y).max()))


SPACES = ["probability", "logit", "probability", "probability", "logit", "probability"]


@pytest.mark.parametrize(
    ("kind", "knobs", "space"),
    [(*case, space) for case, space in zip(KINDS, SPACES, strict=True)],
    ids=[kind for kind, _ in KINDS],
)
def test_equals_the_dense_divergence_of_mixed_teachers(kind, knobs, space):
    student, teachers, cotangent, mask = arrays()
    options = {"scale_by_temperature": True, "mask": mask, **knobs}

    def dense(hidden, matrix, teachers, weight, temperature):
        scores = jnp.stack([product(*teacher) for teacher in teachers])
        teacher = core.mix_teachers(scores, weight, space=space, temperature=temperature)
        value = core.divergence(
            kind,
            teacher,
            product(hidden, matrix),
            temperature=temperature,
            teacher_temperature=1.0,
            **options,
        )
        return (cotangent * value).sum()

    def chunked(hidden, matrix, teachers, weight, temperature):
        hiddens, matrices = zip(*teachers, strict=True)
        value = core.chunked_divergence(
            kind,
            hiddens,
            matrices,
            hidden,
            matrix,
            chunk_size=6,
            temperature=temperature,
            teacher_weight=weight,
            space=space,
            **options,
        )
        assert value.dtype == jnp.float32
        return (cotangent * value).sum()

    arguments = (*student, teachers, jnp.array([0.3, 0.7]), jnp.float32(2.0))
    assert_close(slopes_of(chunked, *arguments), slopes_of(dense, *arguments))


@functools.cache
def compiled(kind, chunk_size=None, vocab_size=None, size=None):
    """Value and slopes of one teacher's divergence; dense without a chunk_size."""

    def loss(hidden, matrix, teacher_hidden, teacher_matrix, cotangent, mask):
        if chunk_size is None:
            logits = [product(teacher_hidden, teacher_matrix), product(hidden, matrix)]
            value = core.divergence(kind, *(z[..., :size] for z in logits), mask=mask)
        else:
            value = core.chunked_divergence(
                kind,
                teacher_hidden,
                teacher_matrix,
                hidden,
                matrix,
                chunk_size=chunk_size,
                vocab_size=vocab_size,
                mask=mask,
            )
        return (cotangent * value).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


EVERYTHING = np.ones((BATCH, LENGTH), bool)


@pytest.mark.parametrize("chunk_size", [1, 5, 14, 1000])
def test_every_chunk_size_gives_the_same(chunk_size):
    student, teachers, cotangent, _ = arrays(1)
    arguments = (*student, *teachers[0], cotangent, EVERYTHING)
    actual = compiled("jensen_shannon", chunk_size)(*arguments)
    assert_close(actual, compiled("jensen_shannon")(*arguments))


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_any_number_of_leading_axes(lead):
    rng = np.random.default_rng(2)
    hidden, teacher = rng.standard_normal((2, *lead, 5, 4)).astype(np.float32)
    matrix, teacher_matrix = rng.standard_normal((2, 140, 4)).astype(np.float32)
    cotangent = rng.standard_normal((*lead, 5)).astype(np.float32)
    everything = np.ones((*lead, 5), bool)
    arguments = (hidden, matrix, teacher, teacher_matrix, cotangent, everything)
    assert_close(compiled("reverse_kl", 4)(*arguments), compiled("reverse_kl")(*arguments))


def test_settings_have_the_dense_defaults():
    student, teachers, _, _ = arrays(3)
    _, *cache, _, _ = topk_problem(3)

    @jax.jit
    def both(student, teacher):
        logits = product(*teacher), product(*student)
        chunked = [
            core.chunked_divergence(kind, *teacher, *student, chunk_size=8, temperature=t)
            for kind, _ in KINDS
            for t in (1, 2)
        ]
        dense = [core.divergence(kind, *logits, temperature=t) for kind, _ in KINDS for t in (1, 2)]
        hot = core.chunked_topk_forward_kl(*cache, *student, chunk_size=8, temperature=2)
        dense_hot = core.topk_forward_kl(*cache, logits[1], temperature=2)
        return [*chunked, hot], [*dense, dense_hot]

    assert_close(*both(student, teachers[0]))


def test_padded_vocabularies_compare_on_the_common_one():
    (hidden, matrix), teachers, cotangent, _ = arrays(4)
    teacher_matrix = np.concatenate([teachers[0][1], np.full((9, WIDTHS[0]), 50, np.float32)])
    arguments = (hidden, matrix, teachers[0][0], teacher_matrix, cotangent, EVERYTHING)
    actual = compiled("jensen_shannon", 5, vocab_size=290)(*arguments)
    assert_close(actual, compiled("jensen_shannon", size=290)(*arguments))
    np.testing.assert_array_equal(actual[1][1][290:], 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_masked_positions_have_no_value_and_no_gradient(poison):
    (hidden, matrix), teachers, cotangent, mask = arrays(5)
    keep = mask[..., None]
    poisoned = [np.where(keep, h, np.float32(poison)) for h in (hidden, teachers[0][0])]
    arguments = (poisoned[0], matrix, poisoned[1], teachers[0][1], cotangent)
    actual = compiled("jensen_shannon", 5)(*arguments, mask)
    clean = (hidden, matrix, *teachers[0], np.where(mask, cotangent, 0), EVERYTHING)
    assert_close(actual, compiled("jensen_shannon")(*clean))
    np.testing.assert_array_equal(np.asarray(actual[1][0])[~mask], 0)
    nothing = compiled("jensen_shannon", 5)(*arguments, np.zeros_like(mask))
    assert all(not np.any(x) for x in jax.tree.leaves(nothing))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_teacher_that_is_not_finite_is_never_hidden(poison):
    student, teachers, _, _ = arrays(6)
    hidden = teachers[1][0].copy()
    hidden[0, 0, 0] = poison
    heads = [teacher[1] for teacher in teachers]

    @jax.jit
    def values(hidden):
        both = [teachers[0][0], hidden]
        return [
            core.chunked_divergence(
                kind, both, heads, *student, chunk_size=4, teacher_weight=jnp.array([0.9, 0.1])
            )
            for kind, _ in KINDS
        ]

    for value in values(hidden):
        assert np.isnan(value[0, 0]) and np.isfinite(value).sum() == BATCH * LENGTH - 1


def test_a_teacher_of_weight_zero_contributes_exactly_nothing():
    student, teachers, cotangent, _ = arrays(6)
    (first, head), (second, other_head) = teachers

    @jax.jit
    def both(hiddens, matrices, weight):
        def loss(hidden, matrix):
            value = core.chunked_divergence(
                "reverse_kl",
                hiddens,
                matrices,
                hidden,
                matrix,
                chunk_size=4,
                teacher_weight=weight,
            )
            return (cotangent * value).sum()

        return jax.value_and_grad(loss, (0, 1))(*student)

    weight = jnp.array([1.0, 0.0])
    clean = both((first, second), (head, other_head), weight)
    poisoned = both((first, np.full_like(second, np.nan)), (head, other_head), weight)
    for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        np.testing.assert_array_equal(x, y)
    arguments = (*student, first, head, cotangent, EVERYTHING)
    assert_close(clean, compiled("reverse_kl")(*arguments))


def test_teachers_and_settings_get_no_gradient():
    student, teachers, cotangent, _ = arrays(7)

    def loss(teacher, weight, temperature):
        value = core.chunked_divergence(
            "forward_kl",
            [teacher[0]],
            [teacher[1]],
            *student,
            chunk_size=4,
            teacher_weight=weight,
            temperature=temperature,
            scale_by_temperature=True,
        )
        return (cotangent * value).sum()

    slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(teachers[0], jnp.ones(1), jnp.float32(2.0))
    assert all(not np.any(slope) for slope in jax.tree.leaves(slopes))


def test_a_loss_that_is_only_reported_gives_no_gradient():
    student, teachers, _, _ = arrays(14)

    def loss(hidden, matrix):
        value = core.chunked_divergence("forward_kl", *teachers[0], hidden, matrix, chunk_size=4)
        return (hidden**2).sum(), value

    slopes, _ = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*student)
    np.testing.assert_array_equal(slopes[0], 2 * student[0])
    np.testing.assert_array_equal(slopes[1], 0)


def test_half_precision_heads_accumulate_in_float32():
    student, teachers, cotangent, _ = arrays(8)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (*student, *teachers[0])]
    value, slopes = compiled("jensen_shannon", 5)(*narrow, cotangent, EVERYTHING)
    assert all(slope.dtype == jnp.bfloat16 for slope in slopes)
    wide = [x.astype(jnp.float32) for x in narrow]
    expected = compiled("jensen_shannon")(*wide, cotangent, EVERYTHING)
    assert_close((value, slopes), expected, rtol=0.02, atol=0.01)


def test_float64_states_stay_float64_whatever_the_weights_are():
    student, teachers, _, _ = arrays(15, dtype=np.float64)
    hiddens, matrices = zip(*teachers, strict=True)
    with jax.enable_x64(True):
        weight = jnp.array([0.25, 0.75], jnp.float32)
        value = core.chunked_divergence(
            "forward_kl", hiddens, matrices, *student, chunk_size=4, teacher_weight=weight
        )
        logits = [np.einsum("...d,vd->...v", *head) for head in (*teachers, student)]
        mixed = core.mix_teachers(jnp.stack(logits[:2]), weight)
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, core.forward_kl(mixed, logits[2]), rtol=1e-12)


def test_a_sum_of_many_small_terms_does_not_stop_growing():
    # As it would at 256 in a bfloat16 accumulator.
    hidden, everything = jnp.ones((1, 1024, 1), jnp.bfloat16), np.ones((1, 1024))
    matrix, teacher = jnp.zeros((2, 1), jnp.bfloat16), jnp.array([[20.0], [0.0]], jnp.bfloat16)
    _, (_, slope) = compiled("forward_kl", 8)(
        hidden, matrix, hidden, teacher, everything.astype(np.float32), everything.astype(bool)
    )
    np.testing.assert_allclose(slope.astype(np.float32)[:, 0], [-512, 512], rtol=0.01)


def test_matrices_in_float32_keep_their_dtype_under_half_precision_states():
    (hidden, matrix), teachers, cotangent, _ = arrays(9)
    hidden, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (hidden, teachers[0][0]))
    arguments = (hidden, matrix, teacher, teachers[0][1], cotangent, EVERYTHING)
    _, slopes = jax.eval_shape(compiled("jensen_shannon", 5), *arguments)
    assert slopes[0].dtype == jnp.bfloat16 and slopes[1].dtype == jnp.float32


def test_vmap_and_eight_devices_agree():
    (hidden, matrix), teachers, _, _ = arrays(10, batch=8)
    function = functools.partial(core.chunked_divergence, "jensen_shannon", chunk_size=16)
    teacher_hidden, teacher_matrix = teachers[0]

    def loss(hidden, teacher_hidden):
        value = function(teacher_hidden, teacher_matrix, hidden, matrix)
        return value.sum(), value

    def mapped(hidden, teacher_hidden):
        value = jax.vmap(lambda h, t: function(t, teacher_matrix, h, matrix))(
            hidden, teacher_hidden
        )
        return value.sum(), value

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected = compiled(hidden, teacher_hidden)
    assert_close(
        jax.jit(jax.value_and_grad(mapped, has_aux=True))(hidden, teacher_hidden), expected
    )
    rows = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    sharded = compiled(*jax.device_put((hidden, teacher_hidden), rows))
    assert len(sharded[1].sharding.device_set) == 8
    assert_close(sharded, expected)


TAILS = ["bucket", "renormalise", "drop"]


def topk_problem(seed):
    student, teachers, cotangent, mask = arrays(seed)
    logp, ids = jax.lax.top_k(jax.nn.log_softmax(product(*teachers[0])), 5)
    logp = logp.at[0, 0, 3].set(-jnp.inf)
    return student, logp, ids.at[0, 0, 3].set(ids[0, 0, 0]), cotangent, mask


@pytest.mark.parametrize("tail", TAILS)
def test_topk_equals_the_dense_function(tail):
    student, logp, ids, cotangent, mask = topk_problem(11)
    options = {"tail": tail, "scale_by_temperature": True, "mask": mask}

    def dense(hidden, matrix, temperature):
        value = core.topk_forward_kl(
            logp, ids, product(hidden, matrix), temperature=temperature, **options
        )
        return (cotangent * value).sum()

    def chunked(hidden, matrix, temperature):
        value = core.chunked_topk_forward_kl(
            logp, ids, hidden, matrix, chunk_size=4, temperature=temperature, **options
        )
        return (cotangent * value).sum()

    temperature = jnp.float32(2.0)
    assert_close(slopes_of(chunked, *student, temperature), slopes_of(dense, *student, temperature))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("tail", TAILS)
def test_topk_never_hides_what_is_not_finite(tail, poison):
    student, logp, ids, _, _ = topk_problem(14)
    value = core.chunked_topk_forward_kl(
        logp.at[0, 1, 4].set(poison), ids, *student, chunk_size=4, tail=tail
    )
    assert not np.isfinite(value[0, 1]) and np.isfinite(value).sum() == BATCH * LENGTH - 1


def test_topk_hides_masked_positions_and_padding_and_teacher():
    (hidden, matrix), logp, ids, cotangent, mask = topk_problem(12)
    keep = mask[..., None]

    def loss(hidden, matrix, logp, temperature, ids, mask, vocab_size=None):
        value = core.chunked_topk_forward_kl(
            logp,
            ids,
            hidden,
            matrix,
            chunk_size=4,
            temperature=temperature,
            scale_by_temperature=True,
            mask=mask,
            vocab_size=vocab_size,
        )
        return (cotangent * value).sum()

    poisoned = np.where(keep, hidden, np.nan), np.where(keep, logp, np.nan)
    every = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)), static_argnames="vocab_size")
    padded = np.concatenate([matrix, np.full((7, 6), 50, np.float32)])
    value, slopes = every(
        poisoned[0], padded, poisoned[1], jnp.float32(1), ids, mask, vocab_size=VOCABULARY
    )

    def dense(hidden, matrix):
        value = core.topk_forward_kl(logp, ids, product(hidden, matrix))
        return (np.where(mask, cotangent, 0) * value).sum()

    expected_value, expected = slopes_of(dense, hidden, matrix)
    assert_close((value, slopes[0], slopes[1][:VOCABULARY]), (expected_value, *expected))
    np.testing.assert_array_equal(slopes[1][VOCABULARY:], 0)
    assert not np.any(slopes[2]) and not np.any(slopes[3])


def sizes_of(jaxpr, primitive=None):
    """Sizes of all arrays that a program computes, or one primitive; loop bodies included."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        # A barrier returns its inputs.
        if name == primitive or primitive is None and name != "optimization_barrier":
            yield from (math.prod(var.aval.shape) for var in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from sizes_of(inner, primitive)


def programs():
    rng = np.random.default_rng(13)
    hidden, teacher = rng.standard_normal((2, 1, 64, 2)).astype(np.float32)
    matrix, teacher_matrix = rng.standard_normal((2, 1024, 2)).astype(np.float32)
    teacher, teacher_matrix = teacher[..., :1], teacher_matrix[:, :1]  # other sizes than dW
    ids = np.tile(np.arange(4, dtype=np.int32), (1, 64, 1))
    logp = np.full(ids.shape, -2.0, np.float32)

    def divergence(hidden, matrix, chunk_size):
        return core.chunked_divergence(
            "forward_kl", teacher, teacher_matrix, hidden, matrix, chunk_size=chunk_size
        ).sum()

    def topk(hidden, matrix, chunk_size):
        return core.chunked_topk_forward_kl(logp, ids, hidden, matrix, chunk_size=chunk_size).sum()

    return {"divergence": divergence, "topk": topk}, hidden, matrix


@pytest.mark.parametrize("name", ["divergence", "topk"])
def test_no_array_exceeds_chunk_size_rows_of_logits(name):
    losses, hidden, matrix = programs()
    gradient = jax.grad(losses[name], (0, 1))
    for chunk_size in (8, 16):
        program = jax.make_jaxpr(functools.partial(gradient, chunk_size=chunk_size))(hidden, matrix)
        assert max(sizes_of(program.jaxpr)) == chunk_size * 1024


@pytest.mark.parametrize(("chunk_size", "width"), [(1, 128), (8, 128), (16, 256), (31, 384)])
def test_blocks_are_as_wide_as_the_chunk_allows(chunk_size, width):
    # 64 tokens, 1,024 entries: chunk_size · 1024 / 64 columns, whole lanes of 128, at least one.
    losses, hidden, matrix = programs()
    gradient = jax.grad(functools.partial(losses["divergence"], chunk_size=chunk_size), (0, 1))
    program = jax.make_jaxpr(gradient)(hidden, matrix).jaxpr
    assert max(sizes_of(program, "dot_general")) == 64 * width


def test_one_token_takes_the_whole_vocabulary_at_once():
    hidden, matrix = jnp.ones((1, 2)), jnp.ones((1024, 2))
    loss = functools.partial(core.chunked_divergence, "forward_kl", hidden, matrix, chunk_size=1)
    program = jax.make_jaxpr(loss)(hidden, matrix).jaxpr
    assert max(sizes_of(program, "dot_general")) == 1024


@pytest.mark.parametrize("name", ["divergence", "topk"])
def test_a_frozen_unembedding_gets_no_gradient_array(name):
    losses, hidden, matrix = programs()
    loss = functools.partial(losses[name], chunk_size=8)
    trained = jax.make_jaxpr(jax.grad(loss, (0, 1)))(hidden, matrix).jaxpr
    frozen = jax.make_jaxpr(jax.grad(loss))(hidden, matrix).jaxpr
    assert 1024 * 2 in sizes_of(trained)
    assert 1024 * 2 not in sizes_of(frozen)
    np.testing.assert_allclose(
        jax.grad(loss)(hidden, matrix), jax.grad(loss, (0, 1))(hidden, matrix)[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 0}, "chunk_size = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"vocab_size": 301}, r"vocab_size = 301: .*\[300, 300\] rows"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"kind": "hellinger"}, "kind = 'hellinger'"),
        ({"beta": 2.0}, "beta = 2.0"),
        ({"alpha": 1.0}, "alpha = 1.0"),
        ({"space": "odds"}, "space = 'odds'"),
    ],
)
def test_bad_settings_are_named(change, message):
    student, teachers, _, _ = arrays()
    options = {"kind": "jensen_shannon", "chunk_size": 4, **change}
    with pytest.raises(ValueError, match=message):
        core.chunked_divergence(options.pop("kind"), *teachers[0], *student, **options)


def test_bad_combinations_are_named():
    student, teachers, _, _ = arrays()
    hiddens, matrices = zip(*teachers, strict=True)
    with pytest.raises(ValueError, match="2 teachers need teacher_weight"):
        core.chunked_divergence("forward_kl", hiddens, matrices, *student, chunk_size=4)
    with pytest.raises(ValueError, match=r"the unembeddings have \[299, 300\] rows"):
        core.chunked_divergence("forward_kl", hiddens[0], matrices[0][:-1], *student, chunk_size=4)
    with pytest.raises(ValueError, match=r"vocab_size = 300: .*\[299, 300\] rows"):
        core.chunked_divergence(
            "forward_kl", hiddens[0], matrices[0][:-1], *student, chunk_size=4, vocab_size=300
        )
    with pytest.raises(ValueError, match="tail = 'cut'"):
        _, logp, ids, _, _ = topk_problem(0)
        core.chunked_topk_forward_kl(logp, ids, *student, chunk_size=4, tail="cut")  # type: ignore
    with pytest.raises(ValueError, match="3 weights"):
        core.chunked_divergence(
            "forward_kl", hiddens, matrices, *student, chunk_size=4, teacher_weight=jnp.ones(3)
        )

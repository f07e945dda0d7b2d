"""Laws of the sums of divergences: those of the single numbers, with every product taken once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cotjax import core
from tests.core.chunked.test_losses import (
    KINDS,
    SPACES,
    TAILS,
    VOCABULARY,
    arrays,
    assert_close,
    product,
    programs,
    sizes_of,
    slopes_of,
    topk_problem,
)

FACTOR = 0.7  # of the sum, so that its cotangent is not 1


@pytest.mark.parametrize(
    ("kind", "knobs", "space"),
    [(*case, space) for case, space in zip(KINDS, SPACES, strict=True)],
    ids=[kind for kind, _ in KINDS],
)
def test_equals_the_dense_sum_of_mixed_teachers(kind, knobs, space):
    student, teachers, _, mask = arrays()
    options = {"scale_by_temperature": True, "mask": mask, **knobs}
    caps = 3.0, (None, 2.0)

    def dense(hidden, matrix, teachers, weight, temperature):
        spoken = [product(*teacher) for teacher in teachers]
        scores = jnp.stack([spoken[0], caps[1][1] * jnp.tanh(spoken[1] / caps[1][1])])
        teacher = core.mix_teachers(scores, weight, space=space, temperature=temperature)
        logits = caps[0] * jnp.tanh(product(hidden, matrix) / caps[0])
        value = core.divergence(
            kind, teacher, logits, temperature=temperature, teacher_temperature=1.0, **options
        )
        return FACTOR * value.sum()

    def summed(hidden, matrix, teachers, weight, temperature, parts):
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
            softcap=caps[0],
            teacher_softcap=caps[1],
            parts=parts,
            **options,
        )
        assert value.dtype == jnp.float32 and value.shape == ()
        return FACTOR * value

    arguments = (*student, teachers, jnp.array([0.3, 0.7]), jnp.float32(2.0))
    expected = slopes_of(dense, *arguments)
    for parts in (1, 2):
        actual = slopes_of(functools.partial(summed, parts=parts), *arguments)
        assert_close(actual, expected)
        assert_close(summed(*arguments, parts=parts), expected[0])


@pytest.mark.parametrize("tail", TAILS)
def test_topk_equals_the_dense_sum(tail):
    student, logp, ids, _, mask = topk_problem(11)
    options = {"tail": tail, "scale_by_temperature": True, "mask": mask}

    def dense(hidden, matrix, temperature):
        logits = product(hidden, matrix)
        value = core.topk_forward_kl(logp, ids, logits, temperature=temperature, **options)
        return FACTOR * value.sum()

    def summed(hidden, matrix, temperature):
        value = core.chunked_topk_forward_kl(
            logp, ids, hidden, matrix, chunk_size=4, temperature=temperature, parts=1, **options
        )
        return FACTOR * value

    temperature = jnp.float32(2.0)
    assert_close(slopes_of(summed, *student, temperature), slopes_of(dense, *student, temperature))


def total(kind="jensen_shannon", **options):
    """Value and slopes by student hidden states and unembedding; compiled."""

    def loss(hidden, matrix, teacher_hidden, teacher_matrix):
        return core.chunked_divergence(
            kind, teacher_hidden, teacher_matrix, hidden, matrix, **{"parts": 1, **options}
        ).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


@pytest.mark.parametrize("chunk_size", [1, 5, 14, 1000])
def test_every_chunk_size_gives_the_same(chunk_size):
    student, teachers, _, _ = arrays(1)
    expected = total(chunk_size=1000, parts=None)(*student, *teachers[0])
    assert_close(total(chunk_size=chunk_size)(*student, *teachers[0]), expected)


def test_rows_of_padding_get_no_gradient():
    student, teachers, _, _ = arrays(4)
    options = {"chunk_size": 5, "vocab_size": VOCABULARY - 10}
    actual = total(**options)(*student, *teachers[0])
    assert_close(actual, total(parts=None, **options)(*student, *teachers[0]))
    np.testing.assert_array_equal(actual[1][1][VOCABULARY - 10 :], 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_masked_positions_have_no_value_and_no_gradient(poison):
    (hidden, matrix), teachers, _, mask = arrays(5)
    poisoned = [np.where(mask[..., None], h, np.float32(poison)) for h in (hidden, teachers[0][0])]
    arguments = poisoned[0], matrix, poisoned[1], teachers[0][1]
    actual = total(chunk_size=5, mask=mask)(*arguments)
    assert_close(actual, total(chunk_size=5, mask=mask, parts=None)(*arguments))
    np.testing.assert_array_equal(np.asarray(actual[1][0])[~mask], 0)
    nothing = total(chunk_size=5, mask=np.zeros_like(mask))(*arguments)
    assert all(not np.any(x) for x in jax.tree.leaves(nothing))


def test_half_precision_heads_accumulate_in_float32():
    student, teachers, _, _ = arrays(8)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in (*student, *teachers[0])]
    value, slopes = total(chunk_size=5)(*narrow)
    assert all(slope.dtype == jnp.bfloat16 for slope in slopes)
    expected = total(chunk_size=5)(*(x.astype(jnp.float32) for x in narrow))
    assert_close((value, slopes), expected, rtol=0.02, atol=0.01)


def test_a_sum_that_is_only_reported_gives_no_gradient():
    student, teachers, _, _ = arrays(14)

    def loss(hidden, matrix):
        value = core.chunked_divergence(
            "forward_kl", *teachers[0], hidden, matrix, chunk_size=4, parts=1
        )
        return (hidden**2).sum(), value

    slopes, _ = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*student)
    np.testing.assert_array_equal(slopes[0], 2 * student[0])
    np.testing.assert_array_equal(slopes[1], 0)


def test_products_of_the_head_are_taken_once():
    # One teacher of width 1: its logits, the student's, and two products with the slopes.
    _, hidden, matrix = programs()
    teacher, teacher_matrix = hidden[..., :1], matrix[:, :1]
    loss = functools.partial(
        core.chunked_divergence, "forward_kl", teacher, teacher_matrix, chunk_size=8
    )
    for parts, count in ((1, 4), (None, 6)):
        gradient = jax.grad(lambda *x, parts=parts: loss(*x, parts=parts).sum(), (0, 1))
        program = jax.make_jaxpr(gradient)(hidden, matrix).jaxpr
        assert len(list(sizes_of(program, "dot_general"))) == count
        assert max(sizes_of(program)) == 8 * 1024
    frozen = jax.make_jaxpr(jax.grad(lambda h: loss(h, matrix, parts=1)))(hidden).jaxpr
    assert len(list(sizes_of(frozen, "dot_general"))) == 3
    assert 1024 * 2 not in [size for size in sizes_of(frozen, "dot_general")]


def test_eight_devices_agree_and_meet_once():
    (hidden, matrix), teachers, _, _ = arrays(10, batch=8)
    teacher_hidden, teacher_matrix = teachers[0]
    compiled = total(chunk_size=16, parts=8)
    expected = total(chunk_size=16)(hidden, matrix, teacher_hidden, teacher_matrix)
    mesh = jax.make_mesh((8,), ("data",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    places = rows, whole, rows, whole
    placed = jax.device_put((hidden, matrix, teacher_hidden, teacher_matrix), places)
    assert_close(compiled(*placed), expected)
    text = compiled.lower(*placed).compile().as_text()
    loops = [part for part in text.split("\n\n") if "all-reduce" in part]
    assert len(loops) == 1 and loops[0].lstrip().startswith("ENTRY")


@pytest.mark.parametrize("parts", [0, 3])
def test_parts_that_do_not_divide_the_rows(parts):
    student, teachers, _, _ = arrays()
    with pytest.raises(ValueError, match=f"parts = {parts}: does not divide"):
        core.chunked_divergence("forward_kl", *teachers[0], *student, chunk_size=4, parts=parts)

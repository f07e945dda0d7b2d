"""The student's loss against its teachers, beside the same from all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.config import CurriculumConfig, DistillConfig
from cotjax.core import chunked_token_logprobs, divergence, mix_teachers
from cotjax.core.topk import topk_and_rest
from cotjax.errors import InputError
from cotjax.models.head import Head
from cotjax.teachers.distill_loss import DistillLoss, TeacherOutputs
from tests.oracles import COMPOSED, assert_close

B, T, D, V, ROWS = 2, 5, 6, 20, 24  # the student's head has rows that no token has


def problem(teachers=2, temperature=1.0, weight=(0.25, 0.75), caps=(None, None)):
    """Outputs of teachers, the student's hidden states and head, tokens and a mask."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    outputs = TeacherOutputs(
        weight=jnp.array(weight[:teachers], jnp.float32),
        temperature=jnp.float32(temperature),
        hidden=tuple(draw(B, T, D) for _ in range(teachers)),
        head=tuple(Head(draw(V, D), caps[k]) for k in range(teachers)),
    )
    hidden, head = draw(B, T, D), Head(draw(ROWS, D))
    tokens = jnp.asarray(rng.integers(0, V, (B, T)))
    mask = jnp.asarray(rng.random((B, T)) < 0.7).at[0, 0].set(True)
    return outputs, hidden, head, tokens, mask


def make(mixing="probability", chunk=3, parts=1, **distill):
    return DistillLoss(
        DistillConfig(**distill), CurriculumConfig(mixing=mixing), "bucket", V, chunk, parts
    )


def mixture(outputs, mixing="probability"):
    logits = [head(hidden) for hidden, head in zip(outputs.hidden, outputs.head, strict=True)]
    temperature = float(outputs.temperature)
    return mix_teachers(jnp.stack(logits), outputs.weight, space=mixing, temperature=temperature)


@pytest.mark.parametrize("mixing", ["probability", "logit"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_the_divergence_is_the_dense_one_from_the_mixture(kind, mixing):
    outputs, hidden, head, _, mask = problem(temperature=2.0)
    loss = make(mixing, divergence=kind, beta=0.3)
    logits = head(hidden)[..., :V]
    dense = divergence(
        kind, mixture(outputs, mixing), logits, temperature=2.0, teacher_temperature=1.0,
        beta=0.3, mask=mask,
    )  # fmt: skip
    assert_close(loss.divergence(outputs, hidden, head, mask), dense, COMPOSED)
    assert_close(loss.total_divergence(outputs, hidden, head, mask), dense.sum(), COMPOSED)


@pytest.mark.parametrize("parts", [None, 1])
def test_the_sum_has_the_gradient_of_the_single_numbers(parts):
    outputs, hidden, head, _, mask = problem()
    loss = make(parts=parts)
    single = jax.grad(lambda h: loss.divergence(outputs, h, head, mask).sum())(hidden)
    total = jax.grad(lambda h: loss.total_divergence(outputs, h, head, mask))(hidden)
    assert_close(total, single, COMPOSED)


def test_a_teacher_of_weight_0_changes_nothing():
    outputs, hidden, head, _, mask = problem(weight=(1.0, 0.0))
    alone = TeacherOutputs(jnp.ones(1), outputs.temperature, outputs.hidden[:1], outputs.head[:1])
    both, one = (make().divergence(each, hidden, head, mask) for each in (outputs, alone))
    assert_close(both, one)


def test_cached_logits_of_all_tokens_are_the_live_teachers():
    outputs, hidden, head, _, mask = problem(temperature=2.0)
    cached = []
    for own, unembed in zip(outputs.hidden, outputs.head, strict=True):
        top, ids, *_ = topk_and_rest(unembed(own) / 2.0, V)
        cached.append((top, ids))
    stored = TeacherOutputs(
        outputs.weight,
        outputs.temperature,
        topk_logp=tuple(top for top, _ in cached),
        topk_ids=tuple(ids for _, ids in cached),
    )
    expected = 0
    for k in range(2):
        single = TeacherOutputs(jnp.ones(1), outputs.temperature, outputs.hidden[k : k + 1],
                                outputs.head[k : k + 1])  # fmt: skip
        expected += outputs.weight[k] * make().divergence(single, hidden, head, mask)
    found = make(parts=None).divergence(stored, hidden, head, mask)
    assert_close(found, expected, COMPOSED)
    assert_close(make().total_divergence(stored, hidden, head, mask), found.sum(), COMPOSED)


# Log-probabilities of the teachers.


@pytest.mark.parametrize("mixing", ["probability", "logit"])
def test_log_probabilities_are_those_of_the_mixture(mixing):
    outputs, _, _, tokens, mask = problem(temperature=2.0)
    logp = jax.nn.log_softmax(mixture(outputs, mixing))
    own = jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    found = make(mixing).teacher_logprobs(outputs, tokens, mask)
    assert_close(found, jnp.where(mask, own, 0), COMPOSED)


def test_a_teacher_equal_to_the_student_leaves_no_gap_in_bfloat16_at_any_temperature():
    rng = np.random.default_rng(1)
    hidden, matrix = (
        jnp.asarray(rng.normal(size=s) * 2, jnp.bfloat16) for s in ((2, 9, 16), (V, 16))
    )
    tokens, mask = jnp.asarray(rng.integers(0, V, (2, 9))), jnp.ones((2, 9), bool)
    one, temperature = jnp.ones(1), jnp.float32(0.7)
    outputs = TeacherOutputs(one, temperature, hidden=(hidden,), head=(Head(matrix),))
    own, _ = chunked_token_logprobs(hidden, matrix, tokens, chunk_size=4, temperature=0.7)
    found = jax.jit(make().teacher_logprobs)(outputs, tokens, mask)
    assert_close(found, own, COMPOSED)


def test_a_logit_mixture_of_capped_teachers_has_none():
    outputs, _, _, tokens, mask = problem(caps=(2.0, None))
    assert make().teacher_logprobs(outputs, tokens, mask).shape == mask.shape
    with pytest.raises(InputError, match='curriculum.mixing = "logit".*Set .* "probability"'):
        make("logit").teacher_logprobs(outputs, tokens, mask)


def test_the_policy_gradient_is_the_gap_times_the_score_and_leaves_the_gap_alone():
    outputs, hidden, head, tokens, mask = problem()
    loss = make()

    def chosen(hidden):
        logp = jax.nn.log_softmax(head(hidden)[..., :V])
        return jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]

    gap = loss.teacher_logprobs(outputs, tokens, mask) - chosen(hidden)
    value = loss.policy_gradient(outputs, hidden, head, tokens, mask)
    assert_close(value, jnp.where(mask, -gap * chosen(hidden), 0), COMPOSED)
    slope = jax.grad(lambda h: loss.policy_gradient(outputs, h, head, tokens, mask).sum())(hidden)
    expected = jax.grad(lambda h: jnp.where(mask, -gap * chosen(h), 0).sum())(hidden)
    assert_close(slope, expected, COMPOSED)

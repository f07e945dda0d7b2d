"""cotjax against optax where both have the same loss, value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax import core

SHAPE, WIDTH = (3, 5), 9


def problem(seed):
    rng = np.random.default_rng(seed)
    teacher, student = (2 * rng.standard_normal((2, *SHAPE, WIDTH))).astype(np.float32)
    return teacher, student, rng.integers(0, WIDTH, SHAPE).astype(np.int32)


def forward_kl(teacher, student, targets):
    return optax.losses.kl_divergence(jax.nn.log_softmax(student), jax.nn.softmax(teacher))


def forward_kl_of_logs(teacher, student, targets):
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    )


def reverse_kl(teacher, student, targets):
    return optax.losses.kl_divergence(jax.nn.log_softmax(teacher), jax.nn.softmax(student))


def cross_entropy(teacher, student, targets):
    return optax.losses.softmax_cross_entropy_with_integer_labels(student, targets)


def our_reconstruction(teacher, student, targets):
    return core.reconstruction_loss(student, targets, jnp.ones(SHAPE))


def our_token_logprobs(teacher, student, targets):
    return -core.token_logprobs(student, targets)


def without_targets(function, teacher, student, targets):
    return function(teacher, student)


PAIRS = {
    "forward_kl": (functools.partial(without_targets, core.forward_kl), forward_kl),
    "forward_kl_of_logs": (functools.partial(without_targets, core.forward_kl), forward_kl_of_logs),
    "reverse_kl": (functools.partial(without_targets, core.reverse_kl), reverse_kl),
    "reconstruction": (our_reconstruction, cross_entropy),
    "token_logprobs": (our_token_logprobs, cross_entropy),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_agree(name, seed):
    teacher, student, targets = problem(seed)
    cotangent = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    answers = []
    for function in PAIRS[name]:

        def total(student, function=function):
            value = function(teacher, student, targets)
            return (cotangent * value).sum(), value

        (_, value), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(student)
        answers.append((value, slope))
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers[0][1], answers[1][1], rtol=1e-5, atol=1e-5)

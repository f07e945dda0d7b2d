"""From hidden states to logits, on one device and where devices split the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np

from cotjax.models.head import Head
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement

RNG = np.random.default_rng(0)
HIDDEN = jnp.asarray(RNG.normal(size=(8, 4, 6)), jnp.float32)
MATRIX = jnp.asarray(RNG.normal(size=(16, 6)), jnp.float32)
LOGITS = np.asarray(HIDDEN) @ np.asarray(MATRIX).T


def test_logits_are_the_product_in_float32():
    np.testing.assert_allclose(Head(MATRIX)(HIDDEN), LOGITS, rtol=1e-5, atol=1e-5)
    half = Head(MATRIX.astype(jnp.bfloat16))(HIDDEN.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32 and Head(MATRIX).size == 16


def test_a_soft_cap_bounds_them():
    found = Head(MATRIX, 2.0)(HIDDEN)
    np.testing.assert_allclose(found, 2 * np.tanh(LOGITS / 2), rtol=1e-5, atol=1e-5)


def test_devices_that_split_the_vocabulary_give_the_same():
    place = placement(make_mesh(2, 2, 2))
    logits = jax.jit(lambda matrix, hidden: Head(matrix, 2.0, place)(hidden))(MATRIX, HIDDEN)
    np.testing.assert_allclose(logits, Head(MATRIX, 2.0)(HIDDEN), rtol=1e-5, atol=1e-5)


def test_another_matrix_keeps_the_cap_and_a_head_is_a_pytree():
    head = Head(MATRIX, 2.0).with_matrix(MATRIX[:5])
    assert (head.size, head.softcap, head.placement) == (5, 2.0, None)
    (leaf,) = jax.tree.leaves(Head(MATRIX, 2.0))
    assert leaf is MATRIX

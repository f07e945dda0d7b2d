"""A shape stands for the array that takes its place: what it compiles, the array finds."""

import jax
import numpy as np
import pytest

from cotjax.parallel import shapes, sharding
from cotjax.parallel.mesh import make_mesh
from cotjax.startup import counted


def put(tree, place):
    """Zeros of the shapes, where a run puts them."""
    return place(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(
    "make",
    [
        lambda mesh: (shapes.per_example(mesh, 8, 3), sharding.shard),
        lambda mesh: (shapes.whole(mesh, 3, dtype=np.int32), sharding.replicate),
        lambda mesh: (shapes.token_batch(mesh, 8, 5), sharding.shard),
        lambda mesh: (shapes.prompt_batch(mesh, 8, 5), sharding.shard),
        lambda mesh: (shapes.on_host(4, 2, dtype=np.bool_), lambda mesh, tree: tree),
    ],
    ids=["per_example", "whole", "token_batch", "prompt_batch", "on_host"],
)
def test_what_a_shape_compiles_is_what_its_array_needs(make, sizes):
    mesh = make_mesh(*sizes)
    like, place = make(mesh)

    @jax.jit
    def halved(tree):
        return jax.tree.map(lambda leaf: leaf / 2, tree)

    halved.lower(like).compile()
    real = put(like, lambda tree: place(mesh, tree))
    with counted() as asked:
        halved(real)
    assert "halved" not in asked.names
    assert jax.tree.map(lambda a, b: a.shape == b.shape, like, real)


@pytest.mark.parametrize("whole", [False, True])
def test_a_key_is_one_wherever_it_is(whole):
    mesh = make_mesh(2)
    like = shapes.whole_key(mesh) if whole else shapes.key()

    @jax.jit
    def drawn(key):
        return jax.random.uniform(key)

    drawn.lower(like).compile()
    key = jax.random.fold_in(jax.random.key(3), 1)
    key = sharding.replicate(mesh, key) if whole else key
    with counted() as asked:
        drawn(key)
    assert "drawn" not in asked.names

"""Sharded updates: any mesh computes what one device computes, and gathers no more than it must."""

import dataclasses
import math
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from cotjax.errors import InputError
from cotjax.models.policy import Policy
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import (
    check_heads,
    for_rollout,
    param_shardings,
    rollout_layout,
    shard,
    shard_params,
    spec_of,
)
from cotjax.training.update import init_state, make_update
from tests.parallel import sharded
from tests.tiny import make_model

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


@pytest.fixture(scope="module")
def alone():
    """Three steps on one device, by loss."""
    done = {}

    def run(kind):
        if kind not in done:
            done[kind] = sharded.three_steps(make_mesh(1), kind)
        return done[kind]

    return run


def assert_same_steps(one, other):
    numbers, gradient, params = other
    np.testing.assert_allclose(one[0], numbers, rtol=2e-5)
    for ours, theirs in ((one[1], gradient), (one[2], params)):
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("kind", ["grpo", "adapter", "distill"])
def test_every_mesh_takes_the_steps_of_one_device(alone, kind, shape):
    assert_same_steps(sharded.three_steps(make_mesh(*shape), kind), alone(kind))


@pytest.mark.slow
def test_two_processes_of_four_devices_take_the_steps_of_one_device(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    file = tmp_path / "steps.npz"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "tests.parallel.sharded"]
    processes = [
        subprocess.Popen([*command, str(i), port, str(file)], env=environment) for i in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    with np.load(file) as saved:
        numbers, *leaves = saved.values()
    expected = alone("grpo")
    trees = jax.tree.unflatten(jax.tree.structure(expected[1:]), leaves)
    assert_same_steps((numbers, *trees), expected)


# What a compiled update moves.


def open_update(shape, kind="grpo"):
    """(update, state, batch) on a mesh."""
    mesh = make_mesh(*shape)
    policy, params, frozen = sharded.open_policy(mesh, kind)
    optimizer = optax.adamw(1e-2)
    state = init_state(params, optimizer)
    loss = sharded.losses(policy)[kind]
    step = make_update(loss, optimizer, state, join=policy.join)
    update = lambda state, micros: step(state, micros, frozen)  # noqa: E731
    return update, state, shard(mesh, sharded.inputs())


def gathered(lowered):
    """Number of entries of every all-gather's result in the compiled program."""
    text = lowered.compile().as_text()
    shapes = re.findall(r"= \w+\[([\d,]*)\][^ ]* all-gather(?:-start)?\(", text)
    return [math.prod(map(int, shape.split(","))) for shape in shapes if shape]


@pytest.mark.parametrize("micros", [1, 2])
def test_parameters_are_gathered_layer_by_layer_and_logits_never(micros):
    update, state, batch = open_update((1, 8, 1))
    program = jax.jit(lambda state, batch: update(state, [batch] * micros))
    sizes = gathered(program.lower(state, batch))
    layer = max(leaf[0].size for leaf in jax.tree.leaves(state.params["layers"]))
    embedding = state.params["embed"]["embedding"].size
    stacks = {leaf.size for leaf in jax.tree.leaves(state.params["layers"]) if leaf.ndim == 3}
    assert sizes and not stacks & set(sizes)  # never a parameter of all layers at once
    assert max(size for size in sizes if size != embedding) <= max(
        layer, sharded.PROMPTS * sharded.GROUP * sharded.LENGTH * sharded.SHAPE.hidden_size
    )
    logits = sharded.PROMPTS * sharded.GROUP * sharded.LENGTH * sharded.SHAPE.vocab_size
    assert max(sizes) < logits


@pytest.mark.parametrize("shape", MESHES)
def test_a_batch_accumulated_twice_is_the_batch(shape):
    update, state, batch = open_update(shape)
    other = jax.tree.map(jnp.copy, state)
    once, twice = update(state, [batch])[0], update(other, [batch, batch])[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        sharded.whole(once.params),
        sharded.whole(twice.params),
    )


@pytest.mark.parametrize("shape", MESHES)
def test_the_state_stays_where_it_began(shape):
    update, state, batch = open_update(shape)
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, _ = update(state, [batch])
    after = jax.tree.map(lambda leaf: leaf.sharding, state)
    equal = jax.tree.map(lambda a, b, leaf: a.is_equivalent_to(b, leaf.ndim), before, after, state)
    assert all(jax.tree.leaves(equal))
    kernel = state.params["layers"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (shape[1] * shape[2])
    assert (
        state.opt_state[0]
        .mu["layers"]["gate"]["kernel"]
        .sharding.is_equivalent_to(kernel.sharding, 3)
    )


# The table.


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("layers.query.kernel", P(None, "fsdp", "tensor")),
        ("layers.down.kernel", P(None, "tensor", "fsdp")),
        ("embed.embedding", P("tensor", "fsdp")),
        ("layers.query_norm.scale", P()),
        ("final_norm.scale", P()),
    ],
)
def test_a_name_says_how_a_parameter_is_split(name, spec):
    assert spec_of(name) == spec


def test_a_parameter_that_no_rule_names():
    with pytest.raises(KeyError, match="no rule says how layers.router.kernel is split"):
        spec_of("layers.router.kernel")


def test_a_size_that_does_not_divide_names_the_parameter_and_what_fits():
    _, params = Policy.split(make_model())
    with pytest.raises(InputError, match=r"mesh.fsdp = 3: embed.embedding has shape \(432, 16\)"):
        param_shardings(make_mesh(1, 3), params)


def test_a_rollout_mesh_that_cuts_a_parameter_is_named_as_such():
    _, params = Policy.split(make_model(dataclasses.replace(sharded.SHAPE, vocab_size=433)))
    mesh, own = make_mesh(2), make_mesh(1, 1, 2)
    with pytest.raises(InputError, match="^mesh.rollout: tensor = 2: .* Set mesh.rollout: tensor "):
        rollout_layout(mesh, params, "float32", rollout=own)


def test_a_mesh_that_cuts_heads_names_what_fits():
    check_heads(make_mesh(1, 1, 2), 16, 2)
    with pytest.raises(InputError, match="16 query heads and 2 key heads.*one of 1, 2"):
        check_heads(make_mesh(1, 1, 4), 16, 2)


def test_axes_that_do_not_fit_the_devices():
    with pytest.raises(InputError, match="mesh.tensor = 1: 8 devices are not a multiple"):
        make_mesh(-1, 3)


def test_decoding_reads_parameters_that_are_whole_but_for_the_tensor_axis():
    mesh = make_mesh(2, 2, 2)
    _, params = Policy.split(make_model(sharded.SHAPE))
    placed = for_rollout(mesh, shard_params(mesh, params), "float32")
    gate = placed["layers"]["gate"]["kernel"]
    assert gate.sharding.spec == P(None, None, "tensor")
    jax.tree.map(np.testing.assert_array_equal, placed, params)

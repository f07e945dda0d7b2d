"""A sharded rollout: any mesh writes what one device writes, and sends no more than it must."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.config import MeshConfig
from cotjax.core.sampling import BLOCK
from cotjax.interfaces import PromptBatch
from cotjax.models.policy import Policy
from cotjax.models.transformer import Transformer
from cotjax.parallel.mesh import make_mesh, rollout_mesh, run_mesh
from cotjax.parallel.sharding import (
    for_rollout,
    placement,
    rollout_layout,
    shard,
    shard_params,
)
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from tests.parallel import sharded
from tests.tiny import make_model

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]
SHAPE = dataclasses.replace(sharded.SHAPE, num_layers=2, tie_embeddings=False)
PROMPTS, GROUP, PROMPT, NEW = 8, 4, 5, 6
WHOLE = Sampling(GROUP, NEW, eos_id=0, pad_id=1, temperature=1.3)
MODES = {
    "static": WHOLE,
    "refill": dataclasses.replace(WHOLE, rows=16, share=1),
    "one greedy": dataclasses.replace(WHOLE, greedy_first=True, top_p=0.9),
}


def inputs():
    """Prompts of 1 to 5 tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, SHAPE.vocab_size, (PROMPTS, PROMPT)).astype(np.int32)
    mask = np.arange(PROMPT) >= (np.arange(PROMPTS) % PROMPT)[:, None]
    return PromptBatch(np.where(mask, tokens, 1), mask, np.arange(PROMPTS, dtype=np.int32))


def open_rollout(shape):
    """(policy, parameters, prompts, key) on a mesh; rows end at many lengths."""
    mesh = make_mesh(*shape)
    policy, params = Policy.split(make_model(SHAPE))
    params["unembed_weight"] = params["unembed_weight"].at[0].multiply(4)
    policy = dataclasses.replace(policy, placement=placement(mesh))
    params = for_rollout(mesh, shard_params(mesh, params), "float32")
    return policy, params, shard(mesh, inputs()), jax.random.key(7)


@pytest.fixture(scope="module")
def alone():
    """Completions of one device, by mode."""
    one = open_rollout((1, 1, 1))
    return {name: jax.device_get(generate(*one, settings=MODES[name])) for name in MODES}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", MESHES)
def test_every_mesh_writes_what_one_device_writes(alone, shape, mode):
    rollout = jax.device_get(generate(*open_rollout(shape), settings=MODES[mode]))
    assert len(np.unique(alone[mode].mask.sum(axis=-1))) > 2
    for name in ("tokens", "mask", "end"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(alone[mode], name), name)
    for name in ("logp", "entropy"):
        ours, theirs = getattr(rollout, name), getattr(alone[mode], name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "sizes",
    [
        {"fsdp": 8, "rollout": "tensor=4"},
        {"data": 2, "fsdp": 2, "tensor": 2, "rollout": "tensor=8"},
        {"fsdp": -1, "rollout_devices": 4, "rollout": "tensor=2"},
    ],
)
def test_axes_and_devices_of_its_own_write_the_same(alone, sizes):
    sizes = MeshConfig(**{"data": 1, **sizes})
    mesh = run_mesh(sizes)
    sampling = rollout_mesh(mesh, sizes)
    policy, params, _, key = open_rollout((1, 1, 1))
    policy = dataclasses.replace(policy, placement=placement(sampling))
    split = shard_params(mesh, jax.device_get(params))
    with jax.transfer_guard_device_to_host("disallow"):
        moved = for_rollout(mesh, split, "float32", rollout=sampling)
    shapes = rollout_layout(mesh, split, "float32", rollout=sampling).shapes
    jax.tree.map(lambda leaf, like: leaf.sharding == like.sharding or 1 / 0, moved, shapes)
    jax.tree.map(np.testing.assert_array_equal, moved, params)
    rollout = generate(policy, moved, shard(sampling, inputs()), key, settings=WHOLE)
    for name in ("tokens", "mask", "end"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(alone["static"], name))


def test_parameters_go_straight_to_their_new_devices():
    """All-to-all and all-gather over the copies alone: no parameter is whole on any device."""
    sizes = MeshConfig(data=1, fsdp=8, rollout="tensor=8")
    mesh = run_mesh(sizes)
    split = shard_params(mesh, Policy.split(make_model(SHAPE))[1])
    layout = rollout_layout(mesh, split, "float32", rollout=rollout_mesh(mesh, sizes))
    assert layout.program is not None
    program = layout.program.lower(layout.changing(split)).compile().as_text()
    assert results("all-to-all", program)
    assert max(results("all-gather", program), default=0) <= SHAPE.hidden_size * SHAPE.num_layers


# What a compiled rollout sends.


def results(kind, text):
    """Entries of every result of a collective, whole ones of those that come in parts."""
    lines = re.findall(rf"= (.*) {kind}(?:-start)?\(", text)
    shapes = [re.findall(r"\w+\[([\d,]*)\]", line) for line in lines]
    return [sum(math.prod(map(int, filter(None, s.split(",")))) for s in parts) for parts in shapes]


@pytest.mark.parametrize("mode", ["static", "refill"])
@pytest.mark.parametrize("shape", MESHES)
def test_no_cache_no_weight_and_no_logits_are_gathered(shape, mode):
    data, fsdp, tensor = shape
    program = generate.lower(*open_rollout(shape), settings=MODES[mode]).compile().as_text()
    rows = PROMPTS * GROUP // (data * fsdp)  # of a lane
    assert max(results("all-gather", program), default=0) <= 3 * rows
    # Residual streams are summed, of a prefill's tokens or of one token of every row; a row that
    # devices cannot share is drawn by one of them, and goes with its sum. Without heads apart only
    # yes and no is left.
    hidden = max(PROMPTS // (data * fsdp) * PROMPT, rows) * SHAPE.hidden_size
    one_row = -(-SHAPE.vocab_size // BLOCK) * BLOCK
    most = max(hidden, one_row + 1) if tensor > 1 else 8
    assert max(results("all-reduce", program), default=0) <= most < rows * SHAPE.vocab_size
    # Logits change hands, so that each device draws for whole rows, but are nowhere put together.
    exchanged = results("all-to-all", program)
    assert max(exchanged, default=0) <= rows * SHAPE.vocab_size // tensor
    assert bool(exchanged) == (tensor > 1)


def test_weights_are_rounded_once_to_what_every_use_would_round_them_to():
    shape = dataclasses.replace(SHAPE, offset_norms=True)
    policy, params = Policy.split(Transformer(shape, rngs=nnx.Rngs(0), dtype="bfloat16"))
    mesh = make_mesh(1)
    placed = for_rollout(mesh, params, "bfloat16")
    formats = {str(leaf.dtype) for leaf in jax.tree.leaves(placed)}
    assert formats == {"bfloat16", "float32"}  # a norm's weight may count from 1
    assert placed["layers"]["attention_norm"]["scale"].dtype == np.float32
    assert (
        placed["layers"]["attention_norm"]["scale"] is params["layers"]["attention_norm"]["scale"]
    )
    same = {"settings": WHOLE}
    rounded = generate(policy, placed, inputs(), jax.random.key(7), **same)
    original = generate(policy, params, inputs(), jax.random.key(7), **same)
    jax.tree.map(np.testing.assert_array_equal, rounded, original)


def test_parameters_that_are_right_are_no_copies_beside_an_adapter_that_is_rounded():
    mesh = make_mesh(1)
    model = Transformer(SHAPE, rngs=nnx.Rngs(0), dtype="bfloat16", param_dtype="bfloat16")
    params = dict(Policy.split(model)[1])
    adapter = {"lora_a": jnp.full((SHAPE.num_layers, 8, 2), 1 / 3)}
    params["layers"] = {**params["layers"], "query": {**params["layers"]["query"], **adapter}}
    placed = for_rollout(mesh, params, "bfloat16")
    assert placed["layers"]["query"]["lora_a"].dtype == jnp.bfloat16
    changed = [
        path
        for (path, one), other in zip(
            jax.tree_util.tree_leaves_with_path(placed), jax.tree.leaves(params), strict=True
        )
        if one is not other
    ]
    assert [jax.tree_util.keystr(path) for path in changed] == ["['layers']['query']['lora_a']"]

"""The plan of a tiny GRPO run against what its sizes say."""

import dataclasses
import types

import jax
import pytest

from cotjax.config import load
from cotjax.planning.compiling import bytes_of
from cotjax.planning.stage_plan import _tokens
from tests.planning.conftest import CHIP, SHAPE, SIZES

DEVICES, FLOAT = 8, 4


def parameters():
    width, mlp, vocab = (SHAPE[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    head = width // SHAPE["num_attention_heads"]
    kv = SHAPE["num_key_value_heads"] * head
    attention = 2 * width * width + 2 * width * kv + width + 2 * kv  # and biases
    layer = attention + 3 * width * mlp + 2 * width
    return SHAPE["num_hidden_layers"] * layer + vocab * width + width


def test_parameters_and_optimizer_lie_where_fsdp_splits_them(plan):
    (stage,) = plan.stages
    update = next(one for one in stage.memory if one.program == "update")
    split = parameters() * FLOAT / 4  # data copies, fsdp splits
    assert update.parts["parameters"] == pytest.approx(split, rel=0.1)  # norms are whole
    assert update.parts["optimizer"] == pytest.approx(2 * split, rel=0.1)
    assert update.parts["gradients"] <= update.parts["parameters"]


def test_the_cache_of_the_sampler(plan):
    (stage,) = plan.stages
    rollout = next(one for one in stage.memory if one.program == "rollout")
    width = SHAPE["hidden_size"] // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    tokens = SIZES["prompts"] * (SIZES["prompt_tokens"] + SIZES["group"] * SIZES["new_tokens"])
    size = 2 * SHAPE["num_hidden_layers"] * tokens * width * FLOAT // DEVICES
    assert rollout.parts["KV cache"] == pytest.approx(size, rel=0.05)


def test_operations_of_the_update(plan):
    phase = plan.stages[0].phases["update"]
    row = SIZES["prompt_tokens"] + SIZES["group"] * SIZES["new_tokens"]
    tokens = SIZES["prompts"] * row
    assert phase.tokens == tokens
    # 2 per parameter forward, 4 backward; the chunked head computes its logits once more, scores
    # [S, S] come on top, and of the prompt no logits are needed.
    least = 6 * (parameters() - SHAPE["vocab_size"] * SHAPE["hidden_size"]) * tokens / DEVICES
    assert least < phase.cost.flops < 6 * least


def test_parameters_are_gathered_and_gradients_summed_over_their_axes(plan):
    moved = plan.stages[0].phases["update"].cost.moved
    assert any(kind == "all-gather" and "fsdp" in axes for kind, axes in moved)
    assert any(kind in ("all-reduce", "reduce-scatter") for kind, _ in moved)


def test_the_rollout_counts_a_turn_for_every_token(plan):
    rollout = plan.stages[0].phases["rollout"]
    assert rollout.tokens == SIZES["prompts"] * SIZES["group"] * SIZES["new_tokens"]
    projections = parameters() - SHAPE["hidden_size"]  # per token, the head among them
    rows = SIZES["prompts"] * SIZES["group"] / DEVICES
    least = 2 * 0.9 * projections * rows * SIZES["new_tokens"]
    assert least < rollout.cost.flops < 5 * least


def test_times_add_up(plan):
    (stage,) = plan.stages
    assert stage.steps == SIZES["steps"] and stage.beside > 0
    assert stage.seconds == stage.steps * stage.step_seconds + stage.beside
    assert stage.peak.total == max(one.total for one in stage.memory)
    assert set(stage.compile_seconds) == {one.program for one in stage.memory}
    assert stage.fits(CHIP)


def test_a_step_that_samples_the_next_one_beside_it_takes_the_longer_of_the_two(plan):
    (stage,) = plan.stages
    sampling = stage.phases["rollout"].time.seconds
    rest = stage.step_seconds - sampling
    assert rest > 0

    def seconds(steps, devices):
        rollout = dataclasses.replace(stage.config.rollout, off_policy_steps=steps)
        mesh = dataclasses.replace(stage.config.mesh, rollout_devices=devices)
        config = dataclasses.replace(stage.config, rollout=rollout, mesh=mesh)
        return dataclasses.replace(stage, config=config).step_seconds

    assert seconds(1, 4) == pytest.approx(max(sampling, rest))
    assert seconds(0, 4) == seconds(0, 0) == stage.step_seconds  # each waits for the other


def test_tokens_are_those_of_the_share_of_steps_that_samples(plan):
    phases = {"rollout": plan.stages[0].phases["rollout"]}
    stage = types.SimpleNamespace(sampling=types.SimpleNamespace(group_size=1))
    flags = "--rollout.prompts=8", "--rollout.max-new-tokens=16", "--distill.on-policy=0.25"
    config = load(["--stage=distill", "--name=plan", "--teachers.paths=a", *flags])
    assert _tokens(stage, config, phases)["rollout"].tokens == 8 * 16 / 4


def test_bytes_of_a_shape_are_those_of_a_device():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    assert bytes_of(jax.ShapeDtypeStruct((16, 4), "bfloat16", sharding=split)) == 2 * 4 * 2
    assert bytes_of(jax.ShapeDtypeStruct((16, 4), "float32")) == 16 * 4 * 4

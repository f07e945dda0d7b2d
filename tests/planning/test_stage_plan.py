"""The plan of a tiny GRPO run against what its sizes say."""

import dataclasses
import json
import types

import jax
import pytest

from cotjax.config import load
from cotjax.planning.compiling import bytes_of
from cotjax.planning.depth import Compiler
from cotjax.planning.opening import opened
from cotjax.planning.stage_plan import _tokens
from cotjax.planning.topologies import mesh_of, parse_topology
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


WIDE = SHAPE | {"model_type": "llama", "hidden_size": 128, "intermediate_size": 384}
SFT = ("--stage=sft", "--batch.size=16", "--batch.sequence-length=64")
PROMPT, ANSWER, PROMPTS, GROUP = 96, 32, 8, 8


def compiled_flops(flags, program, folder):
    """Operations of a program of a run of WIDE, on all devices of the CPU together."""
    (folder / "config.json").write_text(json.dumps(WIDE))
    evaluation = "--eval.max-new-tokens=16", "--eval.problems=8", "--eval.samples=0"
    own = f"--model.path={folder}", "--name=plan", "--steps=3", "--optimizer.warmup-steps=0"
    config = load([*flags, *own, *evaluation])
    mesh = mesh_of(parse_topology(f"cpu:{DEVICES}"), config.mesh)
    with opened(config, mesh) as stage:
        (found,) = [one for one in stage.programs() if one.name == program]
    cost = Compiler(config, mesh, island=0, dumped=False, exact=True)(found).cost
    return cost.with_turns(ANSWER).flops * DEVICES


def weights():
    """Of WIDE, those of all its layers that are multiplied, and its head's."""
    width, mlp, vocab = (WIDE[key] for key in ("hidden_size", "intermediate_size", "vocab_size"))
    attention = 3 * width * width  # q and o, and k and v of half as many heads
    return WIDE["num_hidden_layers"] * (attention + 3 * width * mlp), vocab * width


def scores(tokens, seen):
    """Operations of `tokens` that see `seen` each: to score these and to sum their values."""
    return 4 * WIDE["num_hidden_layers"] * WIDE["hidden_size"] * tokens * seen


@pytest.mark.parametrize("remat", [False, True])
def test_operations_of_an_update_are_those_counted_by_hand(remat, tmp_path):
    """Forward 1, backward 2 for each product, and 1 more of a layer that is computed again."""
    split = ("--mesh.data=1", "--mesh.fsdp=-1", "--model.remat=full") if remat else ()
    layers, head = weights()
    tokens, length = 16 * 64, 64
    times = 4 if remat else 3
    by_hand = 2 * tokens * (times * layers + 3 * head) + times * scores(tokens, length)
    assert compiled_flops((*SFT, *split), "update", tmp_path) == pytest.approx(by_hand, rel=0.15)


def test_operations_of_a_rollout_are_those_counted_by_hand(tmp_path):
    """Each prompt is read once for its group, and each token of a completion is one row's turn."""
    flags = (
        *("--stage=grpo", f"--rollout.prompts={PROMPTS}", f"--rollout.group-size={GROUP}"),
        *(f"--rollout.max-new-tokens={ANSWER}", f"--rollout.max-prompt-tokens={PROMPT}"),
    )
    layers, head = weights()
    read, written = PROMPTS * PROMPT, PROMPTS * GROUP * ANSWER
    by_hand = 2 * (read * layers + written * (layers + head))
    by_hand += scores(read, PROMPT) + scores(written, PROMPT + ANSWER)
    assert compiled_flops(flags, "rollout", tmp_path) == pytest.approx(by_hand, rel=0.15)

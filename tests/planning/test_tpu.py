"""What the TPU compiler makes of a run, on machines without a TPU (needs libtpu)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 10,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
# In a process of its own, since libtpu reads its environment when JAX starts.
SCRIPT = """
import json, re, sys
from cotjax.config import load
from cotjax.planning.topologies import parse_topology, set_up
topology = parse_topology(sys.argv[1])
set_up(topology)
import jax
from cotjax.planning import opening, steps
from cotjax.planning.collectives import MeshShape
from cotjax.planning.compiling import compile_program
from cotjax.planning.run_plan import chip_of
from cotjax.planning.topologies import mesh_of
name, *flags = sys.argv[2:]
(config,) = opening.stages_of(load(flags))
mesh = mesh_of(topology, config.mesh)
with opening.opened(config, mesh) as stage:
    (program,) = (one for one in steps.usual_programs(stage.programs()) if one.name == name)
    asked = program.function.lower(*program.args, **program.kwargs).as_text()
    shape = MeshShape(dict(mesh.shape), topology.island)
    found = compile_program(program, shape, dumped=True)
    trained = sum(one.size * 4 for one in jax.tree.leaves(stage.state_shapes.params))
loop = found.cost.longest
row = config.rollout.max_prompt_tokens + config.rollout.group_size * config.rollout.max_new_tokens
print(json.dumps({
    "kernels": asked.count("@tpu_custom_call"),
    "score_arrays": len(re.findall(rf"tensor<(?:\\\\d+x)*{row}x{row}x", asked)),
    "memory": found.arguments + found.outputs - found.reused + found.temporary,
    "temporary": found.temporary, "outputs": found.outputs,
    "hbm": chip_of(topology).hbm, "flops": found.cost.flops,
    "read": loop.hbm, "copies": loop.copies,
    "moved": [[kind, axes, one.bytes] for (kind, axes), one in loop.moved.items()],
    "whole": [[kind, axes, one.bytes] for (kind, axes), one in found.cost.moved.items()],
    "trained": trained,
}))
"""


def compiled(folder, program, *flags, topology="v5e:2x2", **shape):
    """The numbers of a program for a slice of four chips, or another topology."""
    pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'cotjax[plan]'")
    (folder / "config.json").write_text(json.dumps(SHAPE | shape))
    command = ["-c", SCRIPT, topology, program, "--stage=grpo", f"--model.path={folder}"]
    return run([*command, "--model.compute-dtype=bfloat16", "--model.remat=full", *flags])


def run(words):
    """What a process of Python prints last, as JSON."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


MESHES = """
import json
from cotjax.config import MeshConfig
from cotjax.planning.topologies import mesh_of, parse_topology, set_up
set_up(parse_topology("v5e:4x4"))
names = "v4:2x2x2", "v5e:4x4", "v5p:2x2x2", "v6e:4x4", "v6e:8x8"
print(json.dumps([
    dict(mesh_of(parse_topology(name), MeshConfig(data=1, fsdp=-1, tensor=tensor)).shape)["fsdp"]
    for name in names for tensor in (2, 4)
]))
"""


def test_every_chip_s_slices_take_an_axis_of_2_and_of_4():
    pytest.importorskip("libtpu", reason="makes meshes of TPUs: pip install 'cotjax[plan]'")
    assert run(["-c", MESHES]) == [4, 2, 8, 4, 4, 2, 8, 4, 32, 16]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--lora.rank=8"]], ids=["full", "lora"])
def test_a_shared_prompt_compiles_to_the_flash_kernel_without_scores(tmp_path, flags):
    lengths = "--rollout.max-prompt-tokens=192", "--rollout.max-new-tokens=128"
    more = "--mesh.data=1", "--mesh.fsdp=-1", "--policy.micro-batch=1"
    numbers = compiled(tmp_path, "update", *lengths, *more, *flags)
    assert numbers["kernels"] >= 2 and numbers["score_arrays"] == 0
    assert 0 < numbers["memory"] < numbers["hbm"]


@pytest.mark.slow
def test_parameters_are_gathered_one_after_the_other(tmp_path):
    numbers = compiled(tmp_path, "rollout: parameters", "--mesh.data=1", "--mesh.fsdp=4")
    assert numbers["outputs"] > 13 * 10**6  # whole, in bfloat16
    assert numbers["temporary"] < numbers["outputs"] / 3  # the largest is a sixth of them


@pytest.mark.slow
def test_a_token_copies_no_cache_and_exchanges_parts_of_logits(tmp_path):
    prompts, group, length, heads = 8, 4, 512, 2
    flags = f"--rollout.prompts={prompts}", f"--rollout.group-size={group}"
    flags += "--rollout.max-prompt-tokens=128", f"--rollout.max-new-tokens={length}"
    numbers = compiled(tmp_path, "rollout", "--mesh.data=2", "--mesh.tensor=2", *flags)
    rows, width = prompts * group // 2, SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    layer = 2 * rows * length * heads // 2 * width * 2  # keys and values of a device
    assert numbers["copies"] < layer * SHAPE["num_hidden_layers"] / 4
    moved = {}
    for kind, axes, size in numbers["moved"]:
        assert axes == "tensor" or size < 100, (kind, axes)  # whether any row goes on
        moved[kind] = moved.get(kind, 0) + size
    assert moved["all-to-all"] <= rows * SHAPE["vocab_size"] / 2 * 4
    residuals = (2 * SHAPE["num_hidden_layers"] + 1) * rows * SHAPE["hidden_size"] * 4
    assert moved["all-reduce"] <= 1.1 * residuals
    assert moved.get("all-gather", 0) < 0.01 * 2**20
    assert 0 < numbers["memory"] < numbers["hbm"]


@pytest.mark.slow
def test_gradients_are_reduced_within_a_slice_before_they_cross_the_network(tmp_path):
    """What leaves a slice is the part of the gradients that fsdp has left to each device."""
    flags = "--mesh.data=1", "--mesh.fsdp=-1", "--policy.micro-batch=0", "--rollout.prompts=8"
    lengths = "--rollout.max-prompt-tokens=128", "--rollout.max-new-tokens=128"
    numbers = compiled(tmp_path, "update", *flags, *lengths, topology="v5e:2x2*2")
    beyond, within = {}, 0.0
    for kind, axes, size in numbers["whole"]:
        if "(network)" in axes:
            beyond[kind, axes] = size
        elif (kind, axes) == ("reduce-scatter", "fsdp"):
            within = size
    part = numbers["trained"] / 4
    assert list(beyond) == [("all-reduce", "replica (network)")]
    assert part < beyond["all-reduce", "replica (network)"] < 1.5 * part
    assert within == pytest.approx(part, rel=0.15)


@pytest.mark.slow
def test_a_token_reads_each_matrix_once_and_in_int8_as_integers(tmp_path):
    hidden, keys, inner, layers, vocab = 2048, 2 * 512, 4096, 4, SHAPE["vocab_size"]
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    flags = "--rollout.prompts=4", "--rollout.group-size=2", "--rollout.max-new-tokens=32"
    whole = compiled(tmp_path, "rollout", *flags, **sizes)["read"]
    numbers = layers * hidden * (2 * hidden + 2 * keys + 3 * inner)
    least = 2 * (numbers + vocab * hidden)
    assert 0.6 * least < whole < 1.3 * least  # some of them may stay on the chip
    more = "--rollout.weights-dtype=int8", "--policy.sampler-correction=2"
    found = compiled(tmp_path, "rollout", *flags, *more, **sizes)["read"]
    assert found < 0.75 * whole

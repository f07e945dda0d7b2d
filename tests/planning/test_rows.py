"""A device that has one row does the work of one row, also where `tensor` splits the model."""

import json

import pytest

from cotjax.config import load
from cotjax.planning.collectives import MeshShape
from cotjax.planning.compiling import compile_program
from cotjax.planning.opening import opened, stages_of
from cotjax.planning.topologies import mesh_of, parse_topology
from tests.planning.conftest import SHAPE


def update(folder, *flags):
    topology = parse_topology("cpu:8")
    common = "--stage=sft", "--name=plan", f"--model.path={folder}", "--batch.sequence-length=256"
    (config,) = stages_of(load([*common, "--model.remat=full", "--mesh.data=1", *flags]))
    mesh = mesh_of(topology, config.mesh)
    with opened(config, mesh) as stage:
        (program,) = (one for one in stage.programs() if one.name == "update")
        return compile_program(program, MeshShape(dict(mesh.shape)), dumped=False).cost


@pytest.mark.parametrize("lora", [0, 4])
def test_two_rows_are_twice_the_work_of_one(tmp_path, lora):
    wider = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4,
             "num_key_value_heads": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(SHAPE | wider))
    mesh = "--mesh.fsdp=4", "--mesh.tensor=2", f"--lora.rank={lora}"
    one, two = (update(tmp_path, f"--batch.size={size}", *mesh) for size in (4, 8))
    assert 2 * one.flops == pytest.approx(two.flops, rel=0.02)
    # What is gathered over fsdp are weights, however many rows there are.
    gathered = [cost.moved["all-gather", "fsdp"].bytes for cost in (one, two)]
    assert gathered[0] == pytest.approx(gathered[1], rel=0.02)

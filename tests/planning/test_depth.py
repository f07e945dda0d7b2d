"""A deep sampler from two shallow ones, against the deep one itself."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from cotjax.config import change
from cotjax.models.architecture import Architecture
from cotjax.planning import depth
from cotjax.planning.collectives import Traffic
from cotjax.planning.compiling import Compiled
from cotjax.planning.cost import Cost
from cotjax.planning.depth import Compiler, depths_of, extended
from cotjax.planning.opening import opened
from cotjax.planning.topologies import mesh_of, parse_topology
from tests.planning.conftest import SHAPE as BARE
from tests.tiny import SHAPE


def shape(layers, types=()):
    return dataclasses.replace(
        SHAPE, num_layers=layers, layer_types=types, sliding_window=4 if types else 0
    )


@pytest.mark.parametrize(
    ("own", "depths"),
    [
        (shape(8), None),
        (shape(9), (2, 4)),
        (shape(36), (2, 4)),
        (shape(12, ("sliding_attention", "full_attention") * 6), (2, 4)),
        (shape(18, (*("sliding_attention",) * 5, "full_attention") * 3), (6, 12)),
        (shape(12, (*("sliding_attention",) * 11, "full_attention")), None),
    ],
)
def test_both_depths_hold_every_kind_of_layer_in_its_share(own, depths):
    assert depths_of(own) == depths


def test_the_first_layers_of_a_decoder():
    own = dataclasses.replace(
        shape(4, ("sliding_attention", "full_attention") * 2), nope_layers=(1, 3)
    )
    first = own.first_layers(2)
    assert isinstance(first, Architecture) and first.kinds == own.kinds[:2]
    assert own.first_layers(4) is own


def at(layers, **more):
    moved = {("all-gather", "tensor"): Traffic(layers, 10 * layers, 5 * layers)}
    loop = Cost(7.0 + 3 * layers, 2.0 * layers, 0.0, moved)
    cost = Cost(100.0 + layers, 10.0, 1.0, {}, {f"while.{layers}": loop})
    return Compiled(None, 10 + layers, 5, 0, 3 * layers, cost, 1.0, **more)


def test_each_further_layer_adds_the_same():
    found = extended(at(2), at(4), (2, 4), 36)
    whole = at(36)
    assert (found.arguments, found.outputs, found.temporary) == (46, 5, 108)
    assert found.cost.with_turns(9) == whole.cost.with_turns(9)
    assert found.seconds == 2.0 and not found.refused


@pytest.mark.parametrize(("layer", "whole"), [(depth.VMEM // 2 - 1, True), (depth.VMEM, False)])
def test_what_a_tpu_s_fast_memory_holds_is_compiled_whole(monkeypatch, layer, whole):
    compiled = []

    def compile_(program):
        compiled.append(program.layers)
        return at(program.layers)

    def of(layers):
        return SimpleNamespace(name="rollout", layers=layers)

    monkeypatch.setattr(depth, "_sampler", lambda program: shape(36))
    monkeypatch.setattr(depth, "arguments_of", lambda program: 7 + program.layers * layer)
    for dumped in (True, False):
        compiler = Compiler(None, None, island=0, dumped=dumped, exact=False)
        compiler._shallow = lambda layers: {"rollout": of(layers)}
        compiler._compile = compile_
        assert compiler(of(36)).arguments == at(36).arguments
    assert compiled == ([36, 2, 4] if whole else [2, 4, 2, 4])


def test_what_does_not_fit_with_few_layers_fits_with_none():
    assert extended(at(2), at(4, refused=True), (2, 4), 36).refused


@pytest.mark.slow
def test_a_deep_sampler_compiled_whole_needs_what_two_shallow_ones_say(grpo, tmp_path):
    """On 8 CPU devices: operations to the last one, memory traffic and temporaries nearly."""
    (tmp_path / "config.json").write_text(json.dumps({**BARE, "num_hidden_layers": 12}))
    config = change(grpo, {"model": {"path": str(tmp_path), "remat": "full"}}, "a test")
    mesh = mesh_of(parse_topology("cpu:8"), config.mesh)
    with opened(config, mesh) as stage:
        (program,) = [one for one in stage.programs() if one.name == "rollout"]
    whole, quick = (
        Compiler(config, mesh, island=0, dumped=False, exact=exact)(program)
        for exact in (True, False)
    )
    ours, theirs = quick.cost.with_turns(8), whole.cost.with_turns(8)
    assert ours.flops == pytest.approx(theirs.flops, rel=1e-6)
    assert ours.hbm == pytest.approx(theirs.hbm, rel=0.1)
    assert ours.sent == pytest.approx(theirs.sent, rel=0.05)
    assert quick.arguments == pytest.approx(whole.arguments, rel=0.01)
    assert quick.temporary == pytest.approx(whole.temporary, rel=0.15)

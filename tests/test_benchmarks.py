"""The tables beside other systems, what compiled programs tell, and how tiny teachers begin."""

import importlib
import pathlib
import runpy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.data.packing import pack_in_order
from cotjax.models.formats.load import load_model
from cotjax.models.policy import Policy

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return runpy.run_path(str(BENCHMARKS / "peers.py"))


def test_table_has_medians_and_the_ratio_to_the_best_peer(peers):
    def runs(system, speeds, seconds):
        return [
            {"shape": "tiny", "system": system, "rollout_tok_s": speed, "step_s": second}
            for speed, second in zip(speeds, seconds, strict=True)
        ]

    records = (
        runs("ours", [500, 600, 9000], [1, 2, 3])
        + runs("trl", [100, 200, 150], [8, 9, 7])
        + runs("tunix", [300, 300, 1], [4, 5, 6])
    )
    lines = peers["table"](records).splitlines()
    assert lines[0] == "| shape | | cotjax | TRL | Tunix | ratio |"
    assert lines[2:] == [
        "| tiny | rollout, tokens/s | 600 | 150 | 300 | 2.00× |",
        "| tiny | whole step, s | 2 | 8 | 5 | 2.50× |",
    ]


def test_ragged_sizes_differ_from_the_shape_only_in_prompts_and_length(peers):
    static = peers["sizes"]("tiny", steps=3, ragged=False)
    ragged = peers["sizes"]("tiny", steps=3, ragged=True)
    changed = {key: ragged[key] for key in static if static[key] != ragged[key]}
    assert changed == {"prompts": 64, "new_tokens": 256, "ragged": True}


def test_our_update_is_the_step_without_its_rollout(peers):
    size = {"prompts": 2, "group": 3, "prompt_tokens": 4, "new_tokens": 6}
    numbers = {"step_s": 5.0, "rollout_s": 2.0, "update_tok_s": 99.0}
    assert peers["same_update"](numbers, size) == {**numbers, "update_tok_s": 2 * 3 * (4 + 6) / 3}


# What a compiled program does and how often.


@pytest.fixture
def hlo(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("hlo")


def compiled(function, *sizes):
    return jax.jit(function).lower(*(jnp.ones(size) for size in sizes)).compile().as_text()


def test_products_in_a_loop_count_as_often_as_it_turns(hlo):
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    program = hlo.Program.parse(compiled(layers, (4, 8), (5, 8, 8)))
    assert hlo.products(program) == {"": 5 * 2 * 4 * 8 * 8}


def test_products_in_a_loop_without_a_known_end_are_told_apart(hlo):
    def until_large(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x @ w)

    program = hlo.Program.parse(compiled(until_large, (4, 8), (8, 8)))
    assert sorted(hlo.products(program).values()) == [2 * 4 * 8 * 8] * 2


def test_a_batch_of_products_as_a_tpu_writes_it(hlo):
    text = """
ENTRY %main (a: bf16[4,2,64,128], b: bf16[4,2,128,512]) -> f32[4,2,64,512] {
  %a = bf16[4,2,64,128]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[4,2,128,512]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = f32[4,2,64,512]{3,2,1,0:T(8,128)} convolution(%a, %b), window={size=4x2 stride=3x1 \
lhs_dilate=4x2}, dim_labels=01bf_01io->01bf
}
"""
    assert hlo.products(hlo.Program.parse(text)) == {"": 2 * 4 * 2 * 64 * 128 * 512}


def test_copies_are_arrays_in_another_order(hlo):
    text = """
ENTRY %main (a: bf16[4,2]) -> bf16[4,2] {
  %a = bf16[4,2]{1,0} parameter(0)
  ROOT %b = bf16[4,2]{0,1} copy(%a)
}
"""
    assert hlo.copies(hlo.Program.parse(text)) == {"": 4 * 2 * 2}


def test_collectives_by_kind_with_their_results(hlo):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))

    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    shapes = [jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=split)]
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "x"))
    shapes.append(jax.ShapeDtypeStruct((5, 8, 8), jnp.float32, sharding=rows))
    text = jax.jit(layers).lower(*shapes).compile().as_text()
    moved = hlo.collectives(hlo.Program.parse(text))[""]
    assert moved == {"all-gather": (5, 5 * 8 * 8 * 4), "all-reduce": (1, 4)}


def test_a_grown_student_says_what_the_student_says(tmp_path):
    runpy.run_path(str(BENCHMARKS / "tiny_teachers.py"))["grow"](4, tmp_path / "grown")
    ids = np.arange(20, 60, dtype=np.int32)
    row = {"tokens": ids, "targets": ids, "weight": np.ones(40, np.float32)}
    batch, _ = pack_in_order([(0, row)], 1, 64)
    spoken = []
    for path, layers in (("tiny", 2), (str(tmp_path / "grown"), 4)):
        loaded = load_model(
            path, init="pretrained", param_dtype=jnp.float32, compute_dtype=jnp.float32, seed=0
        )
        assert loaded.model.shape.num_layers == layers
        policy, params = Policy.split(loaded.model)
        spoken.append(policy.rows(params, batch) @ policy.unembed(params).T)
    np.testing.assert_array_equal(spoken[1][:, :40], spoken[0][:, :40])


def test_the_table_of_distillation_has_ratios_above_1_where_ours_is_better(peers, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    table = runpy.run_path(str(BENCHMARKS / "distill_peers.py"))["table"]
    speeds = {"ours": (300, 2.0), "dense": (100, 5.0), "trl": (200, 1.0)}
    records = [
        {"shape": "s", "system": system, "step_tok_s": speed, "peak_rss_gib": memory}
        | {"start_to_first_step_s": 1.0}
        for system, (speed, memory) in speeds.items()
    ]
    lines = table(records).splitlines()
    assert lines[2] == "| s | whole step, tokens/s | 300 | 100 | 200 | 3.00× | 1.50× |"
    assert lines[4] == "| s | peak RSS, GiB | 2 | 5 | 1 | 2.50× | 0.50× |"

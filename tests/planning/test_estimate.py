"""A plan that compiles nothing, beside the compiled one; and what it counts of known programs."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.interfaces import Program
from cotjax.planning.collectives import MeshShape, Traffic, over_axis
from cotjax.planning.estimate import estimate_program
from cotjax.planning.opening import stages_of
from cotjax.planning.run_plan import plan_run
from cotjax.planning.show import as_json, lines
from cotjax.planning.topologies import parse_topology
from tests.planning.conftest import CHIP

SIZES = {"replica": 1, "data": 1, "fsdp": 4, "tensor": 2}
MESH = jax.make_mesh(tuple(SIZES.values()), tuple(SIZES), axis_types=(AxisType.Auto,) * 4)
SHAPE = MeshShape(SIZES)
ROWS, WIDTH, INNER, LAYERS = 16, 8, 32, 3


def placed(size, *axes):
    return jax.ShapeDtypeStruct(size, jnp.float32, sharding=NamedSharding(MESH, P(*axes)))


PARAMS = {
    "layers": {
        "up": {"kernel": placed((LAYERS, WIDTH, INNER), None, "fsdp", "tensor")},
        "down": {"kernel": placed((LAYERS, INNER, WIDTH), None, "tensor", "fsdp")},
    }
}
X = placed((ROWS, WIDTH), ("replica", "data", "fsdp"))


def layers(params, x, remat=False):
    def layer(x, own):
        inner = jax.nn.relu(x @ own["up"]["kernel"])
        return x + inner @ own["down"]["kernel"], None

    return jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, params["layers"])[0]


def counted(function, *args, **kwargs):
    return estimate_program(Program("a", jax.jit(function), args, kwargs), SHAPE)


def test_products_count_as_often_as_a_loop_turns_and_are_shared_by_all_devices():
    found = counted(layers, PARAMS, X).cost
    assert found.flops == LAYERS * 2 * 2 * ROWS * WIDTH * INNER / 8
    # Factors and results; a weight is read whole but for tensor.
    weights, rows, inner = 4 * WIDTH * INNER / 2, 4 * ROWS * WIDTH / 8, 4 * ROWS * INNER / 8
    assert found.hbm == LAYERS * (2 * weights + 2 * (rows + inner))


def test_weights_are_gathered_once_a_layer_and_partial_sums_reduced():
    moved = counted(layers, PARAMS, X).cost.moved
    gathered = 2 * LAYERS * 4 * WIDTH * INNER / 2
    assert moved["all-gather", "fsdp"] == Traffic(2 * LAYERS, gathered, gathered * 3 / 4)
    reduced = LAYERS * 4 * ROWS // 4 * WIDTH  # of down, on each lane
    assert moved["all-reduce", "tensor"] == Traffic(LAYERS, reduced, reduced)


def test_backward_adds_the_products_of_both_gradients_and_gathers_again():
    def loss(params, x, remat=False):
        return layers(params, x, remat).sum()

    forward, both = counted(layers, PARAMS, X).cost, counted(jax.grad(loss), PARAMS, X).cost
    assert both.flops == pytest.approx(3 * forward.flops, rel=0.1)
    gathers = both.moved["all-gather", "fsdp"].count / forward.moved["all-gather", "fsdp"].count
    assert gathers == pytest.approx(2)
    remat = counted(jax.grad(lambda params, x: loss(params, x, True)), PARAMS, X).cost
    assert remat.flops == pytest.approx(both.flops + forward.flops / 2)  # up, once more


@pytest.mark.parametrize(("tensor", "part"), [("tensor", 3 / 4), (None, 7 / 8)])
def test_parameters_laid_out_for_sampling_are_what_a_device_lacks_of_them(tensor, part):
    to = NamedSharding(MESH, P(None, tensor))
    kernel = placed((WIDTH, INNER), "fsdp", "tensor")
    program = jax.jit(lambda one: [x.astype(jnp.bfloat16) for x in one], out_shardings=[to])
    found = estimate_program(Program("rollout: parameters", program, ([kernel],)), SHAPE).cost
    whole = 2 * WIDTH * INNER / (2 if tensor else 1)
    sent = 2 * WIDTH * INNER * (1 / 2 - 1 / 8 if tensor else 1 - 1 / 8)
    assert sent == part * whole
    assert found.moved == {("all-gather", "fsdp"): Traffic(1, whole, sent)}
    assert found.hbm == 4 * WIDTH * INNER / 8 + whole


def test_a_loop_without_a_known_end_is_told_apart():
    def until(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x @ w)

    found = counted(until, X, placed((WIDTH, WIDTH))).cost
    once = 2 * ROWS * WIDTH * WIDTH / 8
    assert found.flops == once and found.longest.flops == once


def test_what_no_output_needs_is_not_counted():
    def half(x):
        return jax.jit(lambda x: (x @ x.T, x.T @ x))(x)[0]

    assert counted(half, X).cost.flops == 2 * ROWS * WIDTH * ROWS / 8


def test_over_an_axis_is_what_rings_send_and_what_leaves_an_island_is_said():
    two = MeshShape({"replica": 2, "data": 1, "fsdp": 4, "tensor": 1}, island=4)
    assert over_axis("all-reduce", "data", 8, two) is None
    assert over_axis("all-reduce", "replica", 8.0, two, 3) == (
        ("all-reduce", "replica (network)"), Traffic(3, 8, 8),
    )  # fmt: skip
    assert over_axis("reduce-scatter", "fsdp", 8.0, two) == (
        ("reduce-scatter", "fsdp"), Traffic(1, 8, 24),
    )  # fmt: skip


@pytest.fixture(scope="module")
def estimate(grpo):
    """The plan of the folder's tiny run, without a compiler."""
    return plan_run(stages_of(grpo), parse_topology("cpu:8"), chip=CHIP, price=2.0, estimate=True)


def test_an_estimate_says_that_it_is_one(estimate, plan):
    assert estimate.estimated and as_json(estimate)["estimated"]
    text = "\n".join(lines(estimate))
    assert "counted in" in text and "note: Nothing was compiled" in text
    assert not as_json(plan)["estimated"]


def test_an_estimate_has_the_programs_and_what_a_run_holds(estimate, plan):
    ours, theirs = ({one.program: one.parts for one in own.stages[0].memory}
                    for own in (estimate, plan))  # fmt: skip
    assert set(ours) == set(theirs)
    for name, parts in theirs.items():
        for kind in ("parameters", "optimizer", "reference", "sampling weights", "batch"):
            assert ours[name].get(kind) == parts.get(kind), (name, kind)
    assert ours["rollout"]["KV cache"] >= theirs["rollout"]["KV cache"]


def test_an_estimate_counts_about_what_the_compiler_makes(estimate, plan):
    for name, phase in plan.stages[0].phases.items():
        own = estimate.stages[0].phases[name]
        assert own.tokens == phase.tokens
        # A compiler drops what a prefill's last layer need not compute, here one of two.
        near = 0.35 if name == "rollout" else 0.15
        if phase.cost.flops:
            assert own.cost.flops == pytest.approx(phase.cost.flops, rel=near), name


def test_gradients_are_summed_within_a_slice_first(grpo):
    mesh = dataclasses.replace(grpo.mesh, replica=2, data=1, fsdp=4)
    config = dataclasses.replace(grpo, mesh=mesh)
    found = plan_run(stages_of(config), parse_topology("cpu:8"), chip=CHIP, estimate=True)
    moved = found.stages[0].phases["update"].cost.moved
    within, beyond = moved["reduce-scatter", "fsdp"], moved["all-reduce", "replica"]
    assert beyond.bytes == within.bytes  # of each part, not of the whole gradient


def test_parameters_that_are_multiplied_in_a_narrower_format_are_rounded_once():
    def narrow(params, x):
        return layers(jax.tree.map(lambda one: one.astype(jnp.bfloat16), params), x)

    bf16 = x_of(jnp.bfloat16)
    shards = 2 * LAYERS * 2 * WIDTH * INNER // 8  # of both kernels, in bfloat16
    wide = counted(layers, PARAMS, X).temporary
    found = counted(narrow, PARAMS, bf16)
    again = counted(layers, jax.tree.map(halved, PARAMS), bf16)
    assert found.temporary == again.temporary + shards and again.temporary < wide


def x_of(dtype):
    return jax.ShapeDtypeStruct(X.shape, dtype, sharding=X.sharding)


def halved(one):
    return jax.ShapeDtypeStruct(one.shape, jnp.bfloat16, sharding=one.sharding)

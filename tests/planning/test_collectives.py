"""Collectives over known axes, in each way in which XLA writes their groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.planning.collectives import MeshShape, Traffic, collective
from cotjax.planning.cost import count
from cotjax.planning.hlo import HloModule

MESH = MeshShape({"data": 2, "fsdp": 2, "tensor": 2})


def moved(line, mesh=MESH):
    text = f"ENTRY %main (a: f32[8]) -> f32[8] {{\n  %a = f32[8]{{0}} parameter(0)\n  {line}\n}}"
    module = HloModule.parse(text)
    return collective(module.root("main"), mesh)


def line(opcode, groups, size=8, more=""):
    return f"ROOT %b = f32[{size}]{{0}} {opcode}(%a), channel_id=1, {groups}{more}"


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("replica_groups=[4,2]<=[8]", "tensor"),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", "fsdp"),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", "fsdp"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[2,4]<=[8]", "fsdp+tensor"),
        ("replica_groups={}", "data+fsdp+tensor"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", "fsdp+tensor"),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", "data+fsdp+tensor"),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", "fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(2)2}", "tensor"),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]<=[4,2]T(1,0)) {'a'}", "tensor"),
        ("replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", "fsdp+tensor"),
    ],
)
def test_a_group_says_its_axes(groups, axes):
    (kind, found), _ = moved(line("all-reduce", groups))
    assert (kind, found) == ("all-reduce", axes)


def test_what_a_ring_sends():
    groups, size = "replica_groups=[2,4]<=[8]", 8 * 4
    part = 3 / 4
    sent = {
        "all-gather": part * size,
        "all-reduce": 2 * part * size,
        "reduce-scatter": 3 * size,
        "all-to-all": part * size,
    }
    for kind, expected in sent.items():
        _, traffic = moved(line(kind, groups))
        assert (traffic.count, traffic.bytes, traffic.sent) == (1, size, expected), kind
    _, traffic = moved(line("collective-permute", "source_target_pairs={{0,1},{1,0}}"))
    assert traffic.sent == size


def test_what_starts_counts_once_and_what_goes_on_not_at_all():
    started = "ROOT %b = (f32[2]{0}, f32[8]{0}) all-gather-start(%a), replica_groups=[2,4]<=[8]"
    (kind, _), traffic = moved(started)
    assert (kind, traffic.bytes) == ("all-gather", 32)
    goes_on = line("all-gather", "replica_groups=[2,4]<=[8]", more=', x={"flag_start":"3"}')
    assert moved(goes_on) is None
    assert moved(line("add", "replica_groups=[2,4]<=[8]")) is None
    assert moved(line("all-reduce", "replica_groups=[8,1]<=[8]")) is None


def test_several_arrays_that_start_together_count_all_as_if_they_did_not():
    """As XLA writes the types of what starts: operands before results, sums their results alone."""
    groups = "replica_groups=[2,4]<=[8]"
    for kind, given, taken in (
        ("all-gather", "(f32[32], bf16[16])", "((f32[8], bf16[4]), (f32[32], bf16[16]))"),
        ("reduce-scatter", "(f32[2], bf16[1])", "((f32[8], bf16[4]), (f32[2], bf16[1]))"),
        ("all-reduce", "(f32[8], bf16[4])", "(f32[8], bf16[4])"),
        ("collective-permute", "f32[8]", "(f32[8], f32[8], u32[], u32[])"),
    ):
        if kind == "collective-permute":
            groups, operands = "source_target_pairs={{0,1},{1,0}}", "%a"
        else:
            operands = "%a, %c"
        at_once = moved(f"ROOT %b = {given} {kind}({operands}), {groups}")
        started = moved(f"ROOT %b = {taken} {kind}-start({operands}), {groups}")
        assert at_once == started and at_once is not None, kind


def test_what_leaves_a_slice_is_told_apart():
    two = MeshShape(MESH.sizes, island=4)
    (_, axes), _ = moved(line("all-reduce", "replica_groups=[4,2]<=[2,4]T(1,0)"), two)
    assert axes == "data (network)"
    (_, axes), _ = moved(line("all-reduce", "replica_groups=[4,2]<=[8]"), two)
    assert axes == "tensor"
    assert two.axes(np.arange(8)[None]) == "data+fsdp+tensor (network)"


def test_a_transfer_between_slices_is_what_it_says():
    """As libtpu 0.0.42 writes the sum of a gradient's parts over two slices."""
    sent = (
        "ROOT %b = (f32[16,8]{1,0}, u32[]{:S(2)}, token[]) send(%a, %after), "
        'is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    two = MeshShape({"replica": 2, "data": 1, "fsdp": 4, "tensor": 1}, island=4)
    assert moved(sent, two) == (("all-reduce", "replica (network)"), Traffic(1, 512, 512))
    assert moved(sent.replace("ALL_REDUCE", "ONE_TO_ONE"), two)[0][0] == "collective-permute"
    assert moved(sent) is None  # one slice
    assert moved("ROOT %b = (f32[8]{0}, u32[], token[]) send(%a, %after)", two) is None


def test_an_all_gather_over_a_known_axis_in_a_loop():
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    turns, size = 5, 64

    def gathered(x):
        def turn(total, _):  # what is gathered changes, so that it stays in the loop
            whole = jax.lax.all_gather(x + total, "fsdp", tiled=True)
            return jnp.sin(whole).sum(), None

        total = jax.lax.scan(turn, jnp.float32(0), None, length=turns)[0]
        return jax.lax.psum(total, "data")

    program = jax.shard_map(gathered, mesh=mesh, in_specs=P("fsdp"), out_specs=P(), check_vma=False)
    shape = jax.ShapeDtypeStruct((size,), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    module = HloModule.parse(jax.jit(program).lower(shape).compile().as_text())
    found = count(module, MeshShape(dict(mesh.shape))).moved
    assert found["all-gather", "fsdp"] == Traffic(turns, turns * size * 4, turns * size * 4 / 2)
    assert found["all-reduce", "data"] == Traffic(1, 4, 2 * 3 / 4 * 4)

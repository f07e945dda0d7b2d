"""Operations and bytes against closed forms, with the turns of loops."""

import jax
import jax.numpy as jnp
import pytest

from cotjax.planning.collectives import MeshShape, Traffic
from cotjax.planning.cost import Cost, count, count_loops
from cotjax.planning.hlo import HloModule

ONE = MeshShape({"data": 1})


def cost_of(function, *sizes):
    text = jax.jit(function).lower(*(jnp.ones(size) for size in sizes)).compile().as_text()
    return count(HloModule.parse(text), ONE)


def layers(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def test_products_in_a_loop_count_as_often_as_it_turns():
    assert cost_of(layers, (4, 8), (5, 8, 8)).flops == 5 * 2 * 4 * 8 * 8


def test_loops_in_loops():
    def twice(x, weights):
        return jax.lax.fori_loop(0, 3, lambda _, x: layers(x, weights), x)

    assert cost_of(twice, (4, 8), (5, 8, 8)).flops == 3 * 5 * 2 * 4 * 8 * 8


def test_a_loop_without_a_known_end_is_told_apart():
    def until_large(x, w):
        return jax.lax.while_loop(lambda x: x.sum() < 1e6, lambda x: x @ w, x @ w)

    found = cost_of(until_large, (4, 8), (8, 8))
    once = 2 * 4 * 8 * 8
    assert found.flops == once and found.longest.flops == once
    assert found.with_turns(10).flops == 11 * once
    assert not found.outside.loops


def test_a_loop_reads_the_slices_of_stacked_weights_and_not_all_of_them():
    turns, width = 64, 128
    found = cost_of(layers, (1, width), (turns, width, width))
    weights = turns * width * width * 4
    assert weights < found.hbm < 4 * weights  # all of them in each turn: 64 times


def test_a_product_reads_its_factors_and_writes_its_result():
    found = cost_of(lambda x, y: x @ y, (256, 128), (128, 512))
    assert found.hbm == pytest.approx((256 * 128 + 128 * 512 + 256 * 512) * 4, rel=0.01)


def test_of_a_conditional_the_costliest_branch_counts():
    def either(flag, x):
        return jax.lax.cond(flag[0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert cost_of(either, (1,), (16, 16)).flops == 2 * 2 * 16**3


def test_a_write_into_a_large_array_costs_what_is_written():
    text = """
ENTRY %main (a: f32[1000], b: f32[10], i: s32[]) -> f32[1000] {
  %a = f32[1000]{0} parameter(0)
  %b = f32[10]{0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %c = f32[1000]{0} dynamic-update-slice(%a, %b, %i)
}
"""
    assert count(HloModule.parse(text), ONE).hbm == 10 * 4 + 10 * 4 + 4


def test_a_fusion_moves_what_goes_in_and_comes_out_of_the_main_memory():
    text = """
%inside (p: f32[64,8], q: s32[]) -> f32[1,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[1,8]{1,0} dynamic-slice(%p, %q, %z), dynamic_slice_sizes={1,8}
  ROOT %n = f32[1,8]{1,0} negate(%s)
}

ENTRY %main (a: f32[64,8], i: s32[]) -> f32[1,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %fast = f32[1,8]{1,0:S(1)} fusion(%a, %i), kind=kLoop, calls=%inside
  ROOT %f = f32[1,8]{1,0} fusion(%a, %i), kind=kLoop, calls=%inside
}
"""
    read = 8 * 4 + 4
    assert count(HloModule.parse(text), ONE).hbm == 2 * read + 8 * 4


def test_a_slice_in_a_fusion_inside_of_a_fusion_is_a_slice():
    """As a TPU's decoding loop cuts a layer out of stacked weights where it multiplies them."""
    text = """
%cut (p: f32[64,8,4]) -> f32[8,4] {
  %p = f32[64,8,4]{2,1,0} parameter(0)
  %s = f32[1,8,4]{2,1,0} slice(%p), slice={[3:4], [0:8], [0:4]}
  ROOT %b = f32[8,4]{1,0} bitcast(%s)
}

%same (p.1: f32[4,4]) -> f32[4,4] {
  %p.1 = f32[4,4]{1,0} parameter(0)
  ROOT %b.1 = f32[4,4]{0,1} bitcast(%p.1)
}

%inside (x: f32[2,8], w: f32[64,8,4], v: f32[4,4]) -> f32[2,4] {
  %x = f32[2,8]{1,0} parameter(0)
  %w = f32[64,8,4]{2,1,0} parameter(1)
  %v = f32[4,4]{1,0} parameter(2)
  %c = f32[8,4]{1,0} fusion(%w), kind=kLoop, calls=%cut
  %d = f32[4,4]{0,1} fusion(%v), kind=kLoop, calls=%same
  %y = f32[2,4]{1,0} dot(%x, %c), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %z = f32[2,4]{1,0} dot(%y, %d), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[2,8], b: f32[64,8,4], c: f32[4,4]) -> f32[2,4] {
  %a = f32[2,8]{1,0} parameter(0)
  %b.2 = f32[64,8,4]{2,1,0} parameter(1)
  %c.2 = f32[4,4]{1,0} parameter(2)
  ROOT %f = f32[2,4]{1,0} fusion(%a, %b.2, %c.2), kind=kOutput, calls=%inside
}
"""
    found = count(HloModule.parse(text), ONE)
    assert found.hbm == 4 * (2 * 8 + 8 * 4 + 4 * 4 + 2 * 4)


def test_what_starts_is_counted_where_it_starts():
    text = """
ENTRY %main (a: f32[64,8]) -> f32[1,8] {
  %a = f32[64,8]{1,0} parameter(0)
  %c = (f32[64,8]{1,0:S(1)}, f32[64,8]{1,0}, u32[]) copy-start(%a)
  %d = f32[64,8]{1,0:S(1)} copy-done(%c)
  %s = ((f32[64,8]{1,0}), f32[1,8]{1,0}, u32[]) slice-start(%a), slice={[0:1], [0:8]}
  ROOT %t = f32[1,8]{1,0} slice-done(%s)
}
"""
    assert count(HloModule.parse(text), ONE).hbm == 64 * 8 * 4 + 2 * 8 * 4


def test_a_started_gather_writes_all_of_its_results():
    text = """
ENTRY %main (a: f32[8], b: f32[4]) -> (f32[32], f32[16]) {
  %a = f32[8]{0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %s = ((f32[8]{0}, f32[4]{0}), (f32[32]{0}, f32[16]{0})) all-gather-start(%a, %b), dimensions={0}
  ROOT %t = (f32[32]{0}, f32[16]{0}) all-gather-done(%s)
}
"""
    assert count(HloModule.parse(text), ONE).hbm == 4 * (8 + 4 + 32 + 16)


def test_copies_are_arrays_in_another_order():
    text = """
ENTRY %main (a: bf16[4,2]) -> bf16[4,2] {
  %a = bf16[4,2]{1,0} parameter(0)
  ROOT %b = bf16[4,2]{0,1} copy(%a)
}
"""
    assert count(HloModule.parse(text), ONE).copies == 4 * 2 * 2


def test_costs_add_up_and_repeat():
    key = ("all-gather", "fsdp")
    one = Cost(1.0, 2.0, 0.0, {key: Traffic(1, 8, 4)}, {"w": Cost(flops=5.0)})
    both = one + one.outside.times(2)
    assert (both.flops, both.hbm, both.moved[key], both.sent) == (3, 6, Traffic(3, 24, 12), 12)
    assert both.with_turns(2).flops == 3 + 10
    assert one.times(3).loops["w"].flops == 15


def test_a_reduction_of_which_each_keeps_a_part_is_a_scatter():
    """As a TPU's program has it."""
    text = """
%all-reduce-scatter.1 (p: f32[64,8]) -> f32[16,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %r = f32[64,8]{1,0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %z = s32[] constant(0)
  ROOT %d = f32[16,8]{1,0} dynamic-slice(%r, %z, %z), dynamic_slice_sizes={16,8}
}

ENTRY %main (a: f32[64,8]) -> f32[16,8] {
  %a = f32[64,8]{1,0} parameter(0)
  ROOT %f = f32[16,8]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
    found = count(HloModule.parse(text), MeshShape({"fsdp": 4})).moved
    part = 16 * 8 * 4
    assert found == {("reduce-scatter", "fsdp"): Traffic(1, part, 3 * part)}


def test_loops_of_a_model_s_depth_are_told_from_what_stands_around_them():
    def steps(x, weights, head):
        return jax.lax.fori_loop(0, 3, lambda _, x: layers(x, weights) @ head, x)

    sizes = (4, 8), (5, 8, 8), (8, 8)
    text = jax.jit(steps).lower(*map(jnp.ones, sizes)).compile().as_text()
    found = count_loops(HloModule.parse(text), ONE, 5)
    assert found.flops == 3 * 5 * 2 * 4 * 8 * 8 < count(HloModule.parse(text), ONE).flops
    assert count_loops(HloModule.parse(text), ONE, 7) == Cost()


def test_a_collective_that_goes_on_in_several_fusions_counts_where_it_starts():
    """As a TPU's compiler hides a gather behind the products of a loop's turns."""
    gather = "all-gather(%p), channel_id=1, replica_groups={{0,1}}, dimensions={0}"
    chained = f'%g = f32[32]{{0}} {gather}, frontend_attributes={{chain_id="0"}}'
    text = """
%start (p: f32[16]) -> (f32[16], f32[32]) {
  %p = f32[16]{0} parameter(0)
  CHAINED
  ROOT %r = (f32[16]{0}, f32[32]{0}) tuple(%p, %g)
}

%goes_on (p: f32[16], q: f32[32], x: f32[4,8], w: f32[8,4]) -> (f32[4,4], f32[16], f32[32]) {
  %p = f32[16]{0} parameter(0)
  %q = f32[32]{0} parameter(1)
  %x = f32[4,8]{1,0} parameter(2)
  %w = f32[8,4]{1,0} parameter(3)
  CHAINED
  %d = f32[4,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %r = (f32[4,4]{1,0}, f32[16]{0}, f32[32]{0}) tuple(%d, %p, %q)
}

%done (p: f32[16], q: f32[32]) -> f32[32] {
  %p = f32[16]{0} parameter(0)
  %q = f32[32]{0} parameter(1)
  CHAINED
  ROOT %b = f32[32]{0} bitcast(%g)
}

ENTRY %main (a: f32[16], x.1: f32[4,8], w.1: f32[8,4]) -> f32[32] {
  %a = f32[16]{0} parameter(0)
  %x.1 = f32[4,8]{1,0} parameter(1)
  %w.1 = f32[8,4]{1,0} parameter(2)
  %async-collective-start = (f32[16]{0}, f32[32]{0}) fusion(%a), kind=kCustom, calls=%start
  %e = f32[16]{0} get-tuple-element(%async-collective-start), index=0
  %f = f32[32]{0} get-tuple-element(%async-collective-start), index=1
  %h = (f32[4,4]{1,0}, f32[16]{0}, f32[32]{0}) fusion(%e, %f, %x.1, %w.1), calls=%goes_on
  %i = f32[16]{0} get-tuple-element(%h), index=1
  %j = f32[32]{0} get-tuple-element(%h), index=2
  ROOT %async-collective-done = f32[32]{0} fusion(%i, %j), kind=kCustom, calls=%done
}
""".replace("CHAINED", chained)
    found = count(HloModule.parse(text), MeshShape({"fsdp": 2}))
    assert found.flops == 2 * 4 * 8 * 4
    assert found.moved == {("all-gather", "fsdp"): Traffic(1, 4 * 32, 4 * 16)}
    assert found.hbm == 4 * (16 + 32) + 4 * (4 * 8 + 8 * 4 + 4 * 4)

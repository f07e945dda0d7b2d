"""XLA's text, read: arrays and where they lie, what calls what, how often a loop turns."""

import re

import jax
import jax.numpy as jnp
import pytest

from cotjax.planning.hlo import ArrayType, HloModule

TEXT = """
HloModule jit_f

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(2)
  %next = s32[] add(%i, %one)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  ROOT %r = (s32[], f32[4]{0}) tuple(%next, %x)
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(7)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: bf16[8,128]) -> f32[4] {
  %a = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0), sharding={devices=[2,1]<=[2]}
  %t = (s32[], f32[4]{0}) custom-call(%a), custom_call_target="x"
  %w = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body
  ROOT %out = f32[4]{0} get-tuple-element(%w), index=1
}
"""


def test_an_array_has_its_format_its_sizes_and_its_memory():
    module = HloModule.parse(TEXT)
    (array,) = module.computations["main"]["a"].arrays
    assert array == ArrayType("bf16", (8, 128), space=1) and array.bytes == 8 * 128 * 2
    assert [one.bytes for one in module.computations["main"]["w"].arrays] == [4, 16]


def test_the_entry_and_the_roots_are_found():
    module = HloModule.parse(TEXT)
    assert module.entry == "main" and module.root("main").name == "out"
    assert len(list(module.instructions())) == 14


def test_a_counter_says_how_often_a_loop_turns():
    module = HloModule.parse(TEXT)
    loop = module.computations["main"]["w"]
    assert module.turns(loop) == 4  # 0, 2, 4, 6
    assert loop.attribute("body") == "body"
    with pytest.raises(KeyError):
        loop.attribute("nothing")


def test_elements_of_tuples_are_found_where_they_have_no_line_of_their_own():
    """A dump of JAX 0.12 names them `%p#0`."""
    short = TEXT.replace("(s32[], f32[4]{0}) ", "(s32[]{:T(128)}, /*index=1*/f32[4]{0:T(2,1)}) ")
    for name, place in (("i", 0), ("x", 1), ("out", 1)):
        short = re.sub(rf"  %{name} = \S+ get-tuple-element\(\S+\), index={place}\n", "", short)
        short = short.replace(f"(%{name}, ", f"(%p#{place}, ").replace(
            f", %{name})", f", %p#{place})"
        )
    assert "get-tuple-element(%p)" not in short
    module = HloModule.parse(short)
    body = module.computations["body"]
    assert module.turns(module.computations["main"]["w"]) == 4
    assert body["p#0"].arrays == (ArrayType("s32", ()),)
    assert body["p#1"].arrays == (ArrayType("f32", (4,)),)
    assert body["r"].operands == ("next", "p#1") and body["p#1"].operands == ("p",)


def test_a_counter_that_the_program_changes_is_not_known():
    text = TEXT.replace("%one = s32[] constant(2)", "%one = s32[] get-tuple-element(%p), index=0")
    module = HloModule.parse(text)
    assert module.turns(module.computations["main"]["w"]) == 0


def test_what_the_compiler_knows_counts_first():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"9"}}'
    module = HloModule.parse(TEXT.replace("body=%body", known))
    assert module.turns(module.computations["main"]["w"]) == 9


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        HloModule.parse("nothing")


def test_a_program_of_jax_is_read():
    text = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile().as_text()
    module = HloModule.parse(text)
    assert any(one.opcode in ("dot", "fusion", "custom-call") for one in module.instructions())

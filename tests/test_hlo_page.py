"""The page of compiled programs beside the least possible: closed forms and their reasons."""

import importlib.util
from pathlib import Path

import pytest

from cotjax.planning.collectives import MeshShape

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("hlo_tables", ROOT / "docs" / "hlo_tables.py")
assert SPEC and SPEC.loader
hlo = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(hlo)
SIZES = hlo.Sizes(
    layers=3, hidden=4, heads=8, keys=2, mlp=5, vocabulary=11, devices=2,
    prompts=2, group=3, prompt_tokens=6, new_tokens=7, micros=2, references=1,
)  # fmt: skip
SHAPES = ((4, 8), (4, 2), (4, 2), (8, 4), (4, 5), (4, 5), (5, 4))  # q k v o gate up down


def test_the_least_of_an_update_is_what_plain_loops_count():
    flops = traffic = 0.0
    for _ in range(2):  # micro-batches
        tokens = sum(6 + 3 * 7 for _ in range(2))
        for _ in range(3):
            for rows, columns in SHAPES:
                one = 2 * tokens * rows * columns
                flops += one + one + 2 * one  # the reference, forward, backward for both factors
                for _ in range(3):  # passes: written as gathered in bfloat16, read, from a half
                    traffic += rows * columns * (2 + 2 + 4 / 2)
                traffic += rows * columns * (2 + 2)  # its gradient
            traffic += 2 * tokens * 4 * 2  # a layer's input, written and read
        scored = 2 * 3 * 7
        flops += 4 * 2 * scored * 11 * 4
        traffic += 3 * 11 * 4 * (2 + 2 + 4 / 2) + 11 * 4 * (2 + 2)
    numbers = 3 * sum(a * b for a, b in SHAPES) + 11 * 4
    traffic += 6 * 4 * numbers / 2  # the state, read and written
    traffic += 2 * 2 * 4 * numbers / 2  # the sum of gradients
    found, trained = hlo.least_update(SIZES), 2 * 2 * (6 + 3 * 7)
    assert found[hlo.OPERATIONS] == pytest.approx(flops / trained / 1e9)
    assert found[hlo.MEMORY] == pytest.approx(traffic / trained / 1e6)
    layer = sum(a * b for a, b in SHAPES)
    assert found[hlo.SENT] == pytest.approx((3 * 2 + 2) * layer / 2 / 1e6)


def test_the_least_of_a_turn_is_what_plain_loops_count():
    layer = sum(a * b for a, b in SHAPES)
    flops, numbers = 0.0, 3 * layer + 11 * 4
    for _ in range(2 * 3):  # completions
        flops += 2 * numbers
        for _ in range(3):
            for _ in range(6 + 7):
                flops += 2 * 8 + 2 * 8  # scores, and the values that they weigh
    cached = 3 * 2 * 2 * (2 * 6 + 2 * 3 * 7)
    found = hlo.least_turn(SIZES)
    assert found[hlo.OPERATIONS] == pytest.approx(flops / 6 / 1e9)
    assert found[hlo.MEMORY] == pytest.approx(2 * (numbers + cached) / 6 / 1e6)
    assert found[hlo.SENT] == 0


TURN = """
%body (p: (f32[4,8], f32[8,8])) -> (f32[4,8], f32[8,8]) {{
  %p = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) parameter(0)
  %x = f32[4,8]{{1,0}} get-tuple-element(%p), index=0
  %w = f32[8,8]{{1,0}} get-tuple-element(%p), index=1
{products}
  ROOT %t = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) tuple(%d{last}, %w)
}}

%condition (q: (f32[4,8], f32[8,8])) -> pred[] {{
  %q = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) parameter(0)
  ROOT %go = pred[] constant(true)
}}

ENTRY %main (a: f32[4,8], b: f32[8,8]) -> (f32[4,8], f32[8,8]) {{
  %a = f32[4,8]{{1,0}} parameter(0)
  %b = f32[8,8]{{1,0}} parameter(1)
  %s = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) tuple(%a, %b)
  ROOT %loop = (f32[4,8]{{1,0}}, f32[8,8]{{1,0}}) while(%s), condition=%condition, body=%body
}}
"""
DIMENSIONS = "lhs_contracting_dims={1}, rhs_contracting_dims={0}"


def test_a_turn_of_all_layers_is_extended_from_two_depths():
    def text(layers):
        products = [
            f"  %d{n} = f32[4,8]{{1,0}} dot(%{f'd{n - 1}' if n else 'x'}, %w), {DIMENSIONS}"
            for n in range(layers + 1)
        ]  # and one for the head
        return TURN.format(products="\n".join(products), last=layers)

    found = hlo.turn_numbers([text(2), text(4)], MeshShape({"data": 1}), SIZES)
    one = 2 * 4 * 8 * 8
    assert found[hlo.OPERATIONS] == pytest.approx((3 + 1) * one / 6 / 1e9)
    assert found[hlo.SENT] == 0


def test_the_page_is_that_of_the_results():
    assert hlo.PAGE.read_text("utf-8") == hlo.page(hlo.read())


def test_every_large_ratio_has_its_reason_and_no_other_one():
    large = {hlo.key(row) for row in hlo.read() if hlo.ratio(row) > hlo.LARGE}
    assert large == set(hlo.REASONS)
    expected = len(hlo.TOPOLOGIES) * 2 * len(hlo.least_turn(SIZES))
    assert len(hlo.read()) == expected

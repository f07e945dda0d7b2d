"""Reasoning tags: what stands between them is not said."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot.thinking import TAG, open_tag, spoken
from tests.cot.samples import FUZZ, any_text

NAMES = ("think", "thinking", "Thought", "REASONING", "reflection", "scratchpad", "seed:think")


@pytest.mark.parametrize("name", NAMES)
def test_every_tag_hides_what_it_holds(name):
    assert spoken(f"a<{name}>b</{name}>c") == "ac"
    assert spoken(f'a<{name} x="1">b</{name}>c') == "ac"
    assert spoken(f"a<{name}>b") is None
    assert spoken(f"b</{name}>c") == "c"
    assert spoken(f"a<{name}/>c") == f"a<{name}/>c"


@FUZZ
@given(any_text)
def test_text_without_tags_is_as_it_was(text):
    if not TAG.search(text):
        assert spoken(text) == text


@FUZZ
@given(st.lists(st.sampled_from(["<think>", "</think>", "<reasoning>", "</reasoning>", "x"])))
def test_any_nesting_gives_only_what_is_outside(pieces):
    said = spoken("".join(pieces))
    assert said is None or set(said) <= {"x"}


def test_it_is_linear_in_the_number_of_tags():
    seconds = []
    for count in (20_000, 80_000):
        began = time.process_time()
        assert spoken("<think>" * count + "</think>" * count + "x") == "x"
        seconds.append(time.process_time() - began)
    assert seconds[1] < 12 * max(seconds[0], 0.01)


@pytest.mark.parametrize(
    ("prompt", "tag"),
    [
        ("How many?<|assistant|><think>\n", "<think>"),
        ("How many?<think>\n\n</think>\n\n", ""),
        ("How many?", ""),
        ("<think>a</think>b<reasoning effort='low'>", "<reasoning effort='low'>"),
        ("How many?[THINK]", "[THINK]"),
    ],
)
def test_a_prompt_that_leaves_a_tag_open_is_seen(prompt, tag):
    assert open_tag(prompt) == tag
    if tag:
        assert spoken(tag + "Answer: 24") is None

"""Rationales: nothing is lost between text and steps."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotjax.cot import Rationale, normalize_rationale, parse_rationale, render_rationale
from cotjax.errors import InputError
from tests.cot.samples import (
    FUZZ,
    MEGABYTE_UNITS,
    any_text,
    marked_text,
    megabyte,
    piece_text,
    records,
)

KINDS = ("auto", "numbered", "lines", "sentences")


def check_laws(text: str, kind) -> None:
    """Asserts both laws of `parse_rationale` for one text."""
    rationale = parse_rationale(text, kind=kind)
    assert render_rationale(rationale) == text
    assert parse_rationale(render_rationale(normalize_rationale(rationale))) == rationale


@settings(FUZZ, max_examples=800)
@given(st.one_of(any_text, marked_text), st.sampled_from(KINDS))
@example("a \\] \\) \\] $$ \\]", "auto")
@example("1. a \\[\n2. b \\]", "auto")
@example("<think>Step 1: a</think>Answer: 5", "auto")
@example("a </think> b </think> Step 1: c", "numbered")
@example("Answer: 3\nAnswer:", "lines")
@example("\x85Step 1: a", "numbered")
@example("Answer: \x85", "numbered")
def test_parsing_loses_nothing_of_any_text(text, kind):
    check_laws(text, kind)


@FUZZ
@given(st.one_of(st.just(""), piece_text), st.lists(piece_text, min_size=1, max_size=5), piece_text)
def test_rendering_loses_nothing_of_any_pieces(thinking, steps, answer):
    white = " \t\r\n"
    steps = tuple(step.strip(white) for step in steps)
    rationale = Rationale(thinking.strip(white), steps, answer.strip(white))
    assert parse_rationale(render_rationale(rationale)) == rationale


def test_the_canonical_layout():
    text = "<think>\nhm\n</think>\nStep 1: a\n\\[ x \\]\nStep 2: b\nAnswer: 42"
    rationale = Rationale("hm", ("a\n\\[ x \\]", "b"), "42")
    assert render_rationale(rationale) == text
    assert parse_rationale(text) == rationale
    assert render_rationale(normalize_rationale(parse_rationale(text))) == text
    assert render_rationale(Rationale()) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Step 1: a\nStep 2: b\n\nFinal Answer: 5", Rationale("", ("a", "b"), "5")),
        ("Hm.\n\nStep 1: a Answer: 5", Rationale("Hm.", ("a",), "5")),
        ("**Step 1:** a\n### Step 2: b\nstep 3. c", Rationale("", ("a", "b", "c"), "")),
        ("Step 1: a\n1. b\n2. c", Rationale("", ("a\n1. b\n2. c",), "")),
        ("Step 1:\nStep 2: b", Rationale("", ("", "b"), "")),
        ("Step 3: a\nStep 3: b", Rationale("", ("a", "b"), "")),
        ("see Step 1: a", Rationale("", ("see Step 1: a",), "")),
        ("Plan\n1. a\n2) b\n**Answer:** 5", Rationale("Plan", ("a", "b"), "5")),
        ("1. a\n3. b\n2. c", Rationale("", ("a\n3. b", "c"), "")),
        ("1.5 a\n2.5 b", Rationale("", ("1.5 a", "2.5 b"), "")),
        ("a\n\n b \n#### 1,040", Rationale("", ("a", "b"), "1,040")),
        ("#### Plan\na", Rationale("", ("#### Plan", "a"), "")),
        ("so the answer: is near\nAnswer: 5", Rationale("", ("so the answer: is near",), "5")),
        ("answer: 5", Rationale("", (), "5")),
        ("Answer:\n\n5\nQuestion: next", Rationale("", (), "5")),
        ("Step 1: a\nAnswer: 5\nStep 2: b", Rationale("", ("a\nAnswer: 5", "b"), "")),
        ("Answer: 1\nStep 1: a\nAnswer: 2", Rationale("Answer: 1", ("a",), "2")),
        ("<think>t</think>\nStep 1: a\nAnswer: 5", Rationale("t", ("a",), "5")),
        ("t\n</think>Step 1: a", Rationale("t", ("a",), "")),
        ("</think>Step 1: a", Rationale("", ("a",), "")),
        ("<think>Step 1: a\nAnswer: 5", Rationale("Step 1: a\nAnswer: 5", (), "")),
        ("<think></think>a", Rationale("", ("a",), "")),
        ("a\n\\[ x \n= 1 \\]\nb", Rationale("", ("a", "\\[ x \n= 1 \\]", "b"), "")),
        ("a\n\\[ x\nb", Rationale("", ("a", "\\[ x", "b"), "")),
        ("$$ x\ny $$\nz", Rationale("", ("$$ x\ny $$", "z"), "")),
        ("", Rationale()),
        (" \n ", Rationale()),
    ],
)
def test_auto(text, expected):
    assert parse_rationale(text) == expected
    check_laws(text, "auto")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("He has $7.50. He pays $3. So $4.50 is left.", 3),
        ("Mr. Smith buys 5 vs. Ann's 3. Done", 2),
        ("About 5 approx. two. Yes! No? Maybe", 4),
        ("It is \\( 3. A \\) big.\nNext line", 2),
    ],
)
def test_sentences(text, steps):
    assert len(parse_rationale(text, kind="sentences").steps) == steps
    check_laws(text, "sentences")


def test_a_kind_is_obeyed():
    text = "Step 1: a. B\nc"
    assert parse_rationale(text, kind="numbered").steps == ("a. B\nc",)
    assert parse_rationale(text, kind="lines").steps == ("Step 1: a. B", "c")
    assert parse_rationale(text, kind="sentences").steps == ("Step 1: a.", "B", "c")
    assert parse_rationale("a\nb", kind="numbered") == Rationale("a\nb")


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match='kind = "words"'):
        parse_rationale("a", kind="words")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="2 layout strings for 1 steps; 4 are needed"):
        Rationale(steps=("a",), layout=("", ""))


def test_a_rationale_is_a_value():
    rationale = parse_rationale("Step 1:   a")
    assert rationale == Rationale(steps=("a",))
    assert hash(rationale) == hash(Rationale(steps=("a",)))
    assert repr(rationale) == "Rationale(thinking='', steps=('a',), answer='')"


@pytest.mark.parametrize("name", MEGABYTE_UNITS)
def test_a_megabyte_is_split_in_linear_time(name):
    text = megabyte(name)
    assert render_rationale(parse_rationale(text)) == text


def test_published_teacher_rationales():
    samples = records("bridge", "stage3_error_samples.json")
    assert len(samples) == 568
    for sample in samples:
        text = sample["teacher_cot"]
        rationale = parse_rationale(text)
        assert len(rationale.steps) == text.count("\nStep ")
        assert rationale.thinking.startswith("Thinking…")
        assert rationale.answer == sample["gold_answer"]
        for kind in KINDS:
            check_laws(text, kind)
            check_laws(sample["response"], kind)


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8k_solutions(split):
    for record in records("gsm8k", f"{split}.jsonl"):
        check_laws(record["answer"], "auto")
        rationale = parse_rationale(record["answer"], kind="lines")
        *lines, last = record["answer"].split("\n")
        assert rationale.steps == tuple(line.strip() for line in lines if line.strip())
        assert last == f"#### {rationale.answer}"

"""Answers: every way to write a number, one canonical string, no surprises."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax.cot import answers_equal, extract_answer, gold_answer
from cotjax.cot.numbers import canonical_number, read_number
from tests.cot.samples import (
    FUZZ,
    HOSTILE,
    MEGABYTE_UNITS,
    any_text,
    marked_text,
    megabyte,
    records,
)

FORMS = ("#### {}", "The answer is {}.", "\\boxed{{{}}}", "Final Answer: ${}", "Answer: {}")

WRITTEN = [
    ("42", "42"), ("042", "42"), ("0", "0"), ("-0", "0"), ("42.", "42"), ("42.0", "42"),
    ("42.50", "42.5"), (".5", "0.5"), ("0.05", "0.05"), ("-0.05", "-0.05"),
    ("+7", "7"), ("-7", "-7"), ("−7", "-7"), ("–7", "-7"), ("－７", "-7"), ("４２", "42"),
    ("1,234", "1234"), ("1,234,567.89", "1234567.89"), ("-1,234", "-1234"), ("1,00,000", "100000"),
    ("1{,}234", "1234"), ("1\\,234", "1234"), ("1,\\!234", "1234"), ("1\u202f234", "1234"),
    ("$5", "5"), ("\\$5", "5"), ("-$5", "-5"), ("$-5", "-5"), ("$ 5", "5"), ("£5.20", "5.2"),
    ("€5", "5"), ("5€", "5"), ("5 $", "5"), ("US$5", "5"), ("5 dollars", "5"), ("＄５", "5"),
    ("50%", "50"), ("50\\%", "50"), ("50 percent", "50"),
    ("3/4", "0.75"), ("-3/4", "-0.75"), ("1/3", "1/3"), ("2/6", "1/3"), ("-6/4", "-1.5"),
    ("\\frac{3}{4}", "0.75"), ("\\dfrac{3}{4}", "0.75"), ("\\frac34", "0.75"),
    ("-\\frac{1}{3}", "-1/3"), ("\\frac{-3}{4}", "-0.75"), ("\\frac{\\$3}{4}", "0.75"),
    ("½", "0.5"),
    ("3 1/2", "3.5"), ("3 and 1/2", "3.5"), ("3½", "3.5"), ("3\\frac{1}{2}", "3.5"),
    ("-3 1/2", "-3.5"), ("3 ⅓", "10/3"),
    ("1e3", "1000"), ("1.5E+3", "1500"), ("1.5e-3", "0.0015"), ("1.5 × 10^3", "1500"),
    ("1.5 \\times 10^{3}", "1500"), ("1.5 x 10^-3", "0.0015"), ("10^6", "1000000"),
    ("3×10⁶", "3000000"), ("2·10^{-1}", "0.2"), ("5 million", "5000000"),
    ("1.5 billion", "1500000000"),
    ("2 thousand", "2000"), ("1 trillion", "1000000000000"), ("5 millionaires", "5"),
    ("**42**", "42"), ("__42__", "42"), ("*42*", "42"), ("\\(42\\)", "42"), ("$42$", "42"),
    ("\\text{42 apples}", "42"), ("42\\text{ cm}", "42"), ("42 cm²", "42"), ("90^\\circ", "90"),
    ("42 apples", "42"), ("42km", "42"), ("5-year", "5"), ("5th", "5"), ("5/hour", "5"),
    ("x = 5", "5"), ("3 + 4 = 7", "7"), ("3+4=7", "7"), ("5 apples × 2 = 10 apples", "10"),
    ("6 * 7 = **42**", "42"),
    ("3 × (4 + 1) = 15", "15"), ("20 / 4 = 5", "5"), ("1/2 = 0.5", "0.5"), ("2/3 ≈ 0.67", "0.67"),
    ("7 (since 3 + 5 = 8)", "7"), ("7; 3 + 5 = 8", "7"), ("5 = x", "5"),
    ("Ann has 42 apples", "42"), ("42 - that is all", "42"),
    ("1,234, so", "1234"), ("- 7", "-7"), ("minus 7", "-7"), ("negative 7", "-7"),
    ("\\frac{7}{-2}", "-3.5"), ("\\displaystyle\\frac{1}{2}", "0.5"), ("\\cfrac{1}{2}", "0.5"),
    ("1.234,50", "1234.5"), ("1.234.567", "1234567"), ("1.234", "1.234"), ("1 234", "1234"),
    ("1'234", "1234"), ("1’234.5", "1234.5"), ("1_000", "1000"), ("1 234,5", "1234.5"),
    ("1\u2009234", "1234"), ("$ - 5", "-5"), ("- 3 1/2", "-3.5"), ("about 24", "24"),
    ("24 (not 25)", "24"),
]  # fmt: skip

REFUSED = [
    "", "none", "nan", "NaN", "inf", "-inf", "Infinity", "1e999", "1e-999", "1e101", "9" * 101,
    "1/0", "0/0", "3 1/0", "\\frac{3}{0}", "3,50", "1,2", "1,23,4", "1,2345", "1.2.3", "10-15",
    "10 - 15", "3:30", "3 + 4", "3 × 4", "3 * (4", "2^10", "1/2/3", "2020-01-31", "H2O", "x2",
    "[number]", "Monday", "٣", "v2", "3, 4", "3, 5 and 7", "\\frac{x}{3}", "2^{3}",
    "2^3", "\\sqrt{16}", "3x", "5\\pi", "\\pm 3", "5 ± 2", "x - 7", "5!", "5 6", "not 24",
    "isn't 24", "24 or 25", "either 3 or 4", "between 3 and 5", "3 to 5", "more than 3", "maybe 24",
    "24 or so", "3 + 4 = seven", "=", "$", "\\frac{a}{b}", "0x10",
]  # fmt: skip


@pytest.mark.parametrize(("written", "canonical"), WRITTEN)
def test_every_way_to_write_a_number_in_every_form(written, canonical):
    assert gold_answer(written) == canonical
    for form in FORMS:
        assert extract_answer("Step 1: 3 + 4 = 7\n" + form.format(written)) == canonical, form


@pytest.mark.parametrize("written", REFUSED)
def test_what_is_no_number_is_no_answer(written):
    assert gold_answer(written) is None
    assert not answers_equal(written, written)
    for form in FORMS:
        assert extract_answer(form.format(written)) is None, form


def test_the_size_limit_is_100_characters():
    assert gold_answer("9" * 100) == "9" * 100
    assert gold_answer("1e99") == "1" + "0" * 99
    assert gold_answer("1e100") is None
    assert gold_answer("1e-98") == "0." + "0" * 97 + "1"
    assert gold_answer("1e-99") is None
    assert gold_answer("9" * 100 + "/7") == "9" * 100 + "/7"
    assert gold_answer("9" * 99 + " million") is None
    assert gold_answer("9" * 100 + " 1/3") is None
    assert gold_answer("0.1e100") == "1" + "0" * 99


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 1\n#### 2\n\\boxed{3} Final Answer: 4\nAnswer: 5", "5"),
        ("Answer: 5\nFinal Answer: 4\n\\boxed{1} \\boxed{3}", "3"),
        ("Answer: 5\nFinal Answer: 1\nFinal Answer: 4", "4"),
        ("Answer: 1\nThe answer is 5", "5"),
        ("The answer is 1. Answer: 5", "5"),
        ("we get 1 and 5", None),
        ("Answer: 5\n#### 2. Add", "5"),
        ("#### 1) Add\n#### none", None),
        ("#### 5.", "5"),
        ("Answer: 5\nFinal Answer: [number]", "5"),
        ("Answer: 5\nAnswer: none", "5"),
        ("Answer:\nStep 1: 5", None),
        ("Answer:\n\n5\n6", "5"),
        ("Answer: \n**5**", "5"),
        ("### Final Answer\n5", "5"),
        ("**Final Answer:** 5", "5"),
        ("**Answer**: 5", "5"),
        ("ANSWER: 5", "5"),
        ("Answer = 5", "5"),
        ("So the final answer is: 5 apples", "5"),
        ("答案：5", "5"),
        ("the answers: 5", None),
        ("final answer 5", None),
        ("myanswer: 5", None),
        ("\\boxed 5", "5"),
        ("\\fbox{5}", "5"),
        ("\\boxed{x \\in \\{5\\}} 6", None),
        ("\\boxed{\\frac{1}{3}} 6", "1/3"),
        ("\\boxed{\\text{Ann: 5}}", "5"),
        ("\\boxed{5", "5"),
        ("\\boxed{} 5", None),
        ("\\boxedx{5}", None),
        ("Answer: 7. As 3 + 5 = 8", "7"),
        ("####5", "5"),
        ("### 5", None),
    ],
)
def test_priority_and_markers(text, expected):
    assert extract_answer(text) == expected


def test_a_marker_reads_at_most_300_characters():
    assert extract_answer("Answer:" + " " * 299 + "5") == "5"
    assert extract_answer("Answer:" + " " * 300 + "5") is None


def test_the_last_64_markers_are_tried():
    assert extract_answer("Answer: 5" + " Answer: none\n" * 63) == "5"
    assert extract_answer("Answer: 5\n" + "Answer: none\n" * 64) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Answer: 24</think>", None),
        ("<think>Answer: 24</think>\nAnswer: 7", "7"),
        ("<think>Answer: 24", None),
        ("Answer: 7 <think>or 24?", None),
        ("Answer: 24</think>Answer: 7", "7"),
        ("<THINK budget='9'>Answer: 24</THINK> Answer: 7", "7"),
        ("<think><reasoning>#### 1</reasoning> #### 2</think>#### 3", "3"),
        ("<think>#### 1 <think>#### 2</think> #### 3", None),
        ("<think/>#### 3", "3"),
        ("<|begin_of_thought|>#### 1<|end_of_thought|>#### 3", "3"),
        ("[THINK]#### 1[/THINK]#### 3", "3"),
        ("<answer>42</answer>", "42"),
        ("<answer>42</answer> or so; #### 5", "5"),
        ("#### 5 <answer>\\boxed{42}</answer>", "42"),
        ("<ANSWER>\n42\n</ANSWER>", "42"),
        ("<answer>Answer: 42</answer>", "42"),
        ("Answer: 42<|im_end|>", "42"),
        ("Answer: 24\nAnswer: not 24", None),
        ("Answer: " + "so " * 98 + "123456", None),
        ("Answer: " + "so " * 90 + "123456", "123456"),
        ("\\boxed{24 \\text{ or } 25}", None),
        ("\\boxed{24\\text{ and }25}", None),
        ("$\\boxed{24}$ or $\\boxed{25}$", None),
        ("$\\boxed{24}$. So $\\boxed{25}$", "25"),
        ("Answer: 5x = 25", None),
        ("Answer: x = - 5", "-5"),
        ("Answer: -(5)", "-5"),
        ("Answer: ±5", None),
        ("Answer: \\pm 5", None),
        ("Answer: > 5", None),
        ("Answer: ≥5", None),
        ("Answer: 5+", None),
        ("Answer: <24>", "24"),
        ("Answer: ~5", "5"),
        ("Answer: 5 and a half", None),
        ("Answer: 24k", None),
        ("Answer: $5M", None),
        ("Answer: 24 hundred", "2400"),
        ("Answer: 2 dozen eggs", "24"),
        ("Answer: √16", None),
        ("Answer: sqrt(16)", None),
        ("Answer: square root of 16", None),
        ("Answer: half of 24", None),
        ("Answer: twice 24", None),
        ("Answer: 24 plus 25", None),
        ("Answer: 24 squared", None),
        ("Answer: 24 k", None),
        ("Answer: 24 is wrong", None),
        ("Answer: 24 is not correct", None),
        ("Answer: 24 - no, 25", None),
        ("Answer: 24, no wait, 25", None),
        ("Answer: at least 24", None),
        ("The answer is probably 5", None),
        ("Answer: 24 is the number of apples", "24"),
        ("Answer: she runs 3 times a week", "3"),
        ("Answer: 5 hours 30 minutes", None),
        ("Answer: 5h30", None),
        ("Answer: 6 feet, 3 inches", None),
        ("Answer: 42 apples in 3 days", "42"),
        ("Answer: 5 hours a day", "5"),
        ("Answer: 24 and 25", None),
        ("Answer: 24 dollars and 50 cents", None),
        ("Answer: x = 2 or x = 3", None),
        ("Answer: between 3 and 5", None),
        ("Answer: 1..2", None),
        ("Answer: 24, not 25", "24"),
        ("#### 24\nThe answer is 24 or 25", None),
        ("\\boxed{24}\nAnswer: 7", "7"),
        ("\\boxed{- 7}", "-7"),
    ],
)
def test_where_an_answer_may_stand(text, expected):
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("at 3 o'clock #### 5:30", None),
        ("3 + 4 = 7\n#### five", None),
        ("3 and 4\n#### 10-15", None),
        ("we pay 3\n#### 3,50", None),
        ("3 + 4 = 7\n####", None),
        ("#### 3\n#### five", None),
        ("#### 3\n#### 4", "4"),
        ("Step 1: 1\nStep 2: 2", None),
        ("Step 1: 1\nAnswer: 5", "5"),
        ("She has 5 pens.\nThen 3.", None),
        ("5" + " and so on" * 40, None),
        ("#### 48/2", "24"),
        ("", None),
    ],
)
def test_a_gold_is_read_from_one_place(text, gold):
    assert gold_answer(text) == gold


def test_a_quotient_that_comes_out_even_is_read_only_on_demand():
    for written in ("48/2", "4/2", "1,000/8", "\\frac{4}{2}", "-6/3"):
        assert extract_answer(f"Answer: {written}") is None
    assert extract_answer("Answer: 48/2", evaluate=True) == "24"
    assert extract_answer("Answer: 7/2") == "3.5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("we get 1 and 1,234.50 dollars.", "1234.5"),
        ("it is 3/4", "0.75"),
        ("\\frac{3}{4} it is", "0.75"),
        ("Answer: 1. Then 2", "1"),
        ("5, later 1/0", "5"),
        ("x5", None),
        ("no number", None),
        ("7 " + "word " * 500, "7"),
    ],
)
def test_flexible_takes_the_last_number(text, expected):
    assert extract_answer(text, flexible=True) == expected


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("5", "5", True), ("5.0099", "5", True), ("5.01", "5", False), ("4.9901", "5", True),
        ("4.99", "5", False), ("-5", "5", False), ("1/3", "0.3333", True), ("0.75", "3/4", True),
        ("1,000", "1000", True), ("72.00", "72", True), (None, None, False), ("5", None, False),
        (None, "5", False), ("nan", "nan", False), ("inf", "inf", False), ("a", "a", False),
        ("1" + "0" * 99, "1" + "0" * 99, True), ("0", "0.005", False), ("0.00501", "0.005", True),
        ("0", "0", True), ("0.001", "0", False), ("24", "48/2", True),
    ],
)  # fmt: skip
def test_equal_means_closer_than_the_tolerance(a, b, equal):
    assert answers_equal(a, b) is equal


def test_tolerance_is_a_setting():
    assert answers_equal("5.4", "5", tolerance=0.5)
    assert not answers_equal("5.5", "5", tolerance=0.5)
    assert not answers_equal("5", "5", tolerance=0.0)


def grouped(digits, separator):
    """Digits in groups of three."""
    first = len(digits) % 3
    groups = [digits[:first]] * bool(first) + [
        digits[i : i + 3] for i in range(first, len(digits), 3)
    ]
    return separator.join(groups)


# Separator of groups, and the decimal mark beside it.
SPELLINGS = [("", "."), (",", "."), (".", ","), (" ", "."), (" ", ","), ("\u2009", "."), ("'", "."),
             ("’", "."), ("_", "."), ("\\,", "."), ("{,}", ".")]  # fmt: skip
SIGNS = ["", "-", "- ", "−", "minus ", "negative "]
AROUND = [
    "{}",
    "${}",
    "{} apples",
    "**{}**",
    "\\boxed{{{}}}",
    "{}%",
    "\\text{{{} cm}}",
    "= {}",
    "({})",
]


@settings(FUZZ, max_examples=1000)
@given(
    st.integers(0, 10**12),
    st.text("0123456789", max_size=6),
    st.sampled_from(SPELLINGS),
    st.sampled_from(SIGNS),
    st.sampled_from(AROUND),
)
def test_a_number_in_any_spelling_reads_back_exactly(whole, places, spelling, sign, around):
    separator, mark = spelling
    digits = str(whole)
    if mark == "," and places and len(digits) < 4:
        return  # 3,50 has no group that would tell its comma from one of thousands
    written = sign + grouped(digits, separator) + (mark + places) * bool(places)
    if separator == "." and not places and len(digits) < 7 and len(digits) > 3:
        return  # 1.234 is a decimal
    value = Fraction(f"{digits}.{places or 0}") * (-1 if sign else 1)
    text = around.format(written)
    if "$" in text and sign in ("minus ", "negative "):
        return
    assert extract_answer(f"Answer: {text}") == canonical_number(value), text


@settings(FUZZ, max_examples=500)
@given(
    st.integers(-(10**6), 10**6),
    st.integers(1, 10**6),
    st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}"]),
)
def test_a_fraction_reads_back_exactly(over, under, form):
    text, value = form.format(over, under), Fraction(over, under)
    assert read_number(text, evaluate=True) == value
    whole = value.denominator == 1 and over != 0
    assert read_number(text) == (None if whole else value)


@FUZZ
@given(st.fractions())
def test_canonical_strings_read_back(value):
    text = canonical_number(value)
    if max(map(len, text.lstrip("-").split("/"))) <= 100:
        assert read_number(text) == value
    assert Fraction(text) == value
    assert canonical_number(Fraction(text)) == text


@FUZZ
@given(st.one_of(any_text, marked_text), st.booleans())
def test_any_text_gives_a_canonical_number_or_none(text, flexible):
    answer = extract_answer(text, flexible=flexible)
    if answer is not None:
        assert re.fullmatch(r"-?[0-9]+(\.[0-9]*[1-9]|/[0-9]+)?", answer)
        assert gold_answer(answer) == answer
        assert answers_equal(answer, answer)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_do_not_raise(text):
    for form in ("{}", *FORMS):
        extract_answer(form.replace("{}", text), flexible=True)
    answers_equal(text, "5")
    gold_answer(text)


@pytest.mark.parametrize("name", MEGABYTE_UNITS)
def test_a_megabyte_is_searched_in_linear_time(name):
    text = megabyte(name)
    assert extract_answer(text + "\nAnswer: 42") in ("42", "1", "5", "0.5")
    extract_answer(text, flexible=True)
    answers_equal(text, "5")


@pytest.mark.parametrize(("split", "size"), [("test", 1319), ("train", 7473)])
def test_every_gsm8k_gold_is_recovered(split, size):
    rows = records("gsm8k", f"{split}.jsonl")
    assert len(rows) == size
    for row in rows:
        gold = row["answer"].split("#### ")[1]
        expected = gold.replace(",", "")
        assert extract_answer(row["answer"]) == gold_answer(gold) == expected
        for form in FORMS if split == "test" else FORMS[:1]:
            assert extract_answer("Step 1: 3 + 4 = 7\n" + form.format(gold)) == expected


def test_the_released_gold_pattern_misreads_16():
    """The reason for a gold check: commas and signs, in 14 and 2 of the 1,319 answers."""
    misread = []
    for row in records("gsm8k", "test.jsonl"):
        released = re.search(r"####\s*(\d+)", row["answer"])
        if released is None or released[1] != extract_answer(row["answer"]):
            misread.append(row["answer"].split("#### ")[1])
    assert len(misread) == 16
    assert sum("," in gold for gold in misread) == 14
    assert sum("-" in gold for gold in misread) == 2


def test_published_failures_against_the_problems_own_golds():
    """Two published golds are misread teacher answers; 12 published failures are right."""
    golds = {row["question"]: gold_answer(row["answer"]) for row in records("gsm8k", "train.jsonl")}
    wrong_golds, right = [], 0
    for sample in records("bridge", "stage3_error_samples.json"):
        gold = golds[sample["question"]]
        if not answers_equal(sample["gold_answer"], gold):
            wrong_golds.append((sample["gold_answer"], gold))
        right += answers_equal(extract_answer(sample["response"]), gold)
    assert wrong_golds == [("27", "27200"), ("00", "7")]
    assert right == 12


@pytest.mark.parametrize(
    "text",
    [
        "<think>maybe #### 4</think>\nfive it is",
        "<think>#### 4</think>",
        "<think>#### 4",
        "4</think>",
    ],
)
def test_no_gold_is_read_in_the_thinking(text):
    assert gold_answer(text) is None
    assert gold_answer("<think>#### 4</think>\n#### 5") == "5"

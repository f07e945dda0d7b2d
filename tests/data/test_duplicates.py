"""Questions in both parts: found whatever their case and marks, told apart from other numbers."""

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.data.duplicates import find_duplicates, normal_text, without_duplicates
from cotjax.interfaces import Record


def records(name, *questions):
    return [Record(f"{name}:{i}", q, "1", (), 1) for i, q in enumerate(questions, 1)]


@pytest.mark.parametrize(
    "written",
    [
        "tom has 3 pens",
        "Tom  has\n3 pens!",
        "TOM HAS 3 PENS.",
        "“Tom has 3\u00a0pens.”",
        "**Tom** has 3 pens",
    ],
)
def test_case_white_space_and_marks_do_not_hide_a_question(written):
    found = find_duplicates(records("a", "x", "Tom has 3 pens."), records("b", written))
    assert found.same == (("b:1", "a:2"),) and found.but_for_numbers == ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2+3", "2-3"),
        ("3.5", "35"),
        ("x<3", "x>3"),
        ("a b", "ab"),
        ("3%", "3"),
        ("(2+3)*4", "2+(3*4)"),
        ("1*23", "12*3"),
        ("2³", "23"),
        ("5!", "5"),
        ("3:4", "34"),
        ("x_1", "x1"),
        ("a*b", "ab"),
    ],
)
def test_what_changes_a_question_is_kept(one, other):
    assert normal_text(one) != normal_text(other)


def test_other_numbers_are_the_weaker_sign():
    train = records("a", "Tom has 3 pens.", "Tom has 1,200 pens.")
    found = find_duplicates(train, records("b", "Tom has 4 pens.", "Tom has 3 pens.", "Ana?"))
    assert found.same == (("b:2", "a:1"),) and found.but_for_numbers == (("b:1", "a:1"),)
    assert str(found) == (
        "1 held-out question (b:2 = a:1) is trained on too; 1 more held-out question (b:1 = a:1) is"
        " trained on with other numbers, as problems made from a template are by design"
    )
    assert not str(find_duplicates(train, records("b", "Ana?")))


def test_many_are_counted_and_a_few_named():
    train = records("a", *(f"Tom has {i} pens and no {'x' * i}" for i in range(9)))
    held_out = [Record(f"b:{i}", one.question, "1", (), 1) for i, one in enumerate(train)]
    told = str(find_duplicates(train, held_out))
    assert told == "9 held-out questions (b:0 = a:1, b:1 = a:2, b:2 = a:3, …) are trained on too"


@given(st.lists(st.text(max_size=4), max_size=8), st.lists(st.text(max_size=4), max_size=8))
def test_without_duplicates_none_is_found(ours, theirs):
    train, held_out = records("a", *ours), records("b", *theirs)
    left = without_duplicates(train, held_out)
    assert find_duplicates(left, held_out).same == ()
    texts = {normal_text(text) for text in theirs}
    assert [one for one in train if normal_text(one.question) not in texts] == left


def test_what_is_kept_of_a_long_training_part_is_what_is_held_out():
    """The rest is looked at one by one, so that millions of records need no second copy."""
    held_out = records("b", "Question 5 of many", "How many pens?", "How many pens?")
    tracemalloc.start()
    train = (record for n in range(20_000) for record in records(f"a{n}", f"Question {n} of many"))
    found = find_duplicates(train, held_out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.same == (("b:1", "a5:1"),) and found.but_for_numbers == () and peak < 2**18


def test_8000_questions_take_less_than_a_second():
    texts = [
        f"Mia number {i} has {i} pens and buys {i * 7} more. How many? " * 3 for i in range(8000)
    ]
    train, held_out = records("a", *texts), records("b", *texts[:1300])
    began = time.process_time()
    assert len(find_duplicates(train, held_out).same) == 1300
    assert time.process_time() - began < 1

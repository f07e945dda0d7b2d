"""Every layout of a row gives the same record, and a row that cannot serve says why."""

import dataclasses
import functools
import time

import pytest

from cotjax.cot import NUMERIC, VERIFIERS, answers_equal, gold_of, parse_rationale
from cotjax.data.layouts import RecordReader
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.student.records import record_reader

READER = RecordReader(functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal)
ROWS = [
    {"question": f"{i} and 1?", "answer": f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}
    for i in range(6)
]
BRIDGE = {
    "input": "Question: How many?",
    "target": "Thinking…\nFirst, add.\n\nStep 1: Add \\[ 1+1 = 2 \\]\nStep 2: so 2\n\nAnswer: 2",
}
FAILURE = {
    "idx": 3,
    "question": "How many?",
    "gold_answer": "2",
    "teacher_cot": BRIDGE["target"],
    "response": "Step 1: 3\n\nFinal Answer: 3",
}


def record_of(row, **settings):
    reader = RecordReader(
        functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal, **settings
    )
    return reader.record(row, "file:1")


@pytest.mark.parametrize("row", [BRIDGE, FAILURE], ids=["bridge", "failures"])
def test_rationales_become_thinking_steps_and_answer(row):
    assert record_of(row) == Record(
        "file:1", "How many?", "2", ("Add \\[ 1+1 = 2 \\]", "so 2"), 2, thinking="First, add."
    )


def test_calculator_marks_go_or_stay():
    assert record_of(ROWS[1]).steps == ("1+1 = 2",)
    assert record_of(ROWS[1], keep_calculator=True).steps == ("1+1 = <<1+1=2>>2",)


def test_a_teacher_that_is_wrong_is_refused_unless_told_otherwise():
    wrong = FAILURE | {"gold_answer": "3"}
    with pytest.raises(InputError, match="rationale's answer is 2, the gold answer 3"):
        record_of(wrong)
    assert record_of(wrong, filter_teacher=False).answer == "3"
    assert record_of(FAILURE | {"gold_answer": "2.00"}).answer == "2"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (BRIDGE | {"target": "no answer"}, 'file:1: "target" has no line "Answer: <number>"'),
        (FAILURE | {"gold_answer": "two"}, 'file:1: "gold_answer" = "two" is no number'),
        (FAILURE | {"teacher_cot": "Answer: 2"}, "file:1: the rationale has no steps"),
        (FAILURE | {"gold_answer": 2}, 'file:1: needs a text under "gold_answer"'),
    ],
)
def test_a_row_that_cannot_serve_says_why(row, complaint):
    with pytest.raises(InputError, match=complaint):
        record_of(row)


def test_a_layout_that_is_named_is_not_guessed():
    row = {"question": "2+2?", "answer": "4"}
    with pytest.raises(InputError, match='"answer" has no line "#### <number>"'):
        record_of(row)
    assert record_of(row, layout="gym") == Record("file:1", "2+2?", "4", (), 1)
    with pytest.raises(InputError, match='needs a text under "target"'):
        record_of(ROWS[0], layout="bridge")


MATH = {
    "problem": "Solve $x^2 = 4$ for positive $x$.",
    "level": "Level 1",
    "solution": r"We take roots. Then $x = \pm 2$. The positive one is $x = \boxed{2}$.",
}
CHOICE = {"question": "Capital of France?", "choices": ["Rome", "Paris"], "answer": 1}
MESSAGES = {
    "messages": [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "<think>hm</think>\nStep 1: 1+1\nAnswer: 2"},
    ]
}


def read(row, verifier="numeric", **settings):
    reader = record_reader(VERIFIERS[verifier]())
    return dataclasses.replace(reader, **settings).record(row, "file:1")


def test_a_row_of_math_has_sentences_as_steps_and_its_box_as_gold():
    record = read(MATH)
    assert (record.question, record.answer, record.difficulty) == (MATH["problem"], "2", 3)
    assert record.steps[0] == "We take roots."
    assert read(MATH | {"answer": "2.0"}).answer == "2"
    renamed = {"question": MATH["problem"], "solution": MATH["solution"]}
    assert read(renamed) == record == read(renamed, layout="math")


@pytest.mark.parametrize("gold", [r"\frac{x}{3}", r"(1, 2]", r"\{1, 2\}", r"x \in [0, \infty)"])
def test_a_gold_that_is_no_number_is_the_math_verifiers(gold):
    row = {"problem": "?", "solution": f"So it is. Hence $\\boxed{{{gold}}}$."}
    assert read(row, "math").answer == gold
    assert read(row | {"answer": gold}, "math").answer == gold
    for layout in ("math", "auto"):
        with pytest.raises(InputError, match="file:1: .*number"):
            read(row, layout=layout)


def test_a_solution_of_math_that_ends_in_another_answer_is_refused():
    with pytest.raises(InputError, match="rationale's answer is 2, the gold answer 3"):
        read(MATH | {"answer": 3})
    assert read(MATH | {"answer": 3}, filter_teacher=False).answer == "3"
    assert read(MATH | {"solution": "It is two."} | {"answer": 2}).steps == ("It is two.",)


def test_options_stand_in_the_question_and_the_gold_is_a_letter():
    record = read(CHOICE, "choice")
    assert record.question == "Capital of France?\nA) Rome\nB) Paris"
    assert (record.answer, record.steps, record.difficulty) == ("B", (), 1)
    assert read(CHOICE, "exact").answer == "B"
    other = {"question": "Capital of France?", "options": ["A)Rome", "B)Paris"], "correct": "B"}
    solved = read(other | {"rationale": "Rome is in Italy.\nSo not A.\nAnswer: B"}, "choice")
    assert (solved.question, solved.answer) == (record.question, "B")
    assert solved.steps == ("Rome is in Italy.", "So not A.")
    with pytest.raises(InputError, match="rationale's answer is A, the gold answer B"):
        read(other | {"rationale": "Italy.\nAnswer: A"}, "choice")


def test_the_numeric_verifier_reads_no_letters():
    with pytest.raises(InputError, match='"answer" = "B" is no number. Set reward.verifier to'):
        read(CHOICE)


def test_messages_are_a_question_and_a_rationale():
    record = read(MESSAGES)
    assert record == Record("file:1", "How many?", "2", ("1+1",), 1, thinking="hm")
    turns = MESSAGES["messages"]
    system = {"role": "system", "content": "Be brief."}
    assert read({"messages": [system, *turns]}).question == "Be brief.\n\nHow many?"
    shared = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "1+1\nAnswer: 2"}]
    assert read({"conversations": shared}).steps == ("1+1",)
    parts = [{"type": "text", "text": "How many?"}]
    assert read({"messages": [{"role": "user", "content": parts}, turns[1]]}).answer == "2"
    boxed = {"role": "assistant", "content": "1+1\n\\boxed{2}"}
    assert read({"messages": [turns[0], boxed]}).answer == "2"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], '"messages" are none; one question'),
        (MESSAGES["messages"] * 2, "are user, assistant, user, assistant; one question"),
        (MESSAGES["messages"][::-1], "are assistant, user; one question"),
        (MESSAGES["messages"][:1], "are user; one question"),
        ([{"role": "user", "content": None}], 'needs texts under "role" and "content"'),
        ([{"role": "user", "content": [{"type": "image"}]}], "needs texts under"),
        (["hello"], "needs texts under"),
        ([MESSAGES["messages"][0], {"role": "assistant", "content": "hm"}], "has no line"),
    ],
)
def test_messages_that_cannot_serve_say_why(messages, complaint):
    with pytest.raises(InputError, match=complaint):
        read({"messages": messages})


def test_a_bridge_row_without_an_answer_line_has_no_gold():
    for target in ("Step 1: 1\nStep 2: 2", "Step 1: so \\boxed{5}", "Step 1: it is 5"):
        with pytest.raises(InputError, match='"target" has no line'):
            read({"input": "?", "target": target})


def test_a_row_with_two_answers_has_the_last_and_no_number_of_its_text():
    row = {"question": "?", "answer": "a\n#### 3\nb\n#### 4"}
    assert (read(row).answer, read(row).steps) == ("4", ("a", "b"))
    for last in ("", " ", "five", "5:30", "10-15", "3,50"):
        with pytest.raises(InputError, match='"answer" has no line'):
            read({"question": "?", "answer": f"at 3\n#### 3\n#### {last}"})


def test_a_step_keeps_separators_that_are_no_line_ends():
    row = {"question": "?", "answer": "a\u2028b\x85c\x0bd\r\ne\rf\n#### 4"}
    assert read(row).steps == ("a\u2028b\x85c\x0bd", "e", "f")


def test_an_answer_of_10_megabytes_is_read_in_its_time():
    text = "1+1=2 " * 1_700_000
    began = time.process_time()
    record = read({"question": "?", "answer": f"{text}\n#### 2"})
    assert record.answer == "2" and time.process_time() - began < 5
    with pytest.raises(InputError, match='"answer" has no line'):
        read({"question": "?", "answer": f"#### {text}"})
    began = time.process_time()
    with pytest.raises(InputError) as error:
        read({"question": "?", "answer": text}, layout="gym")
    assert len(str(error.value)) < 300 and time.process_time() - began < 5


def test_columns_may_be_nested():
    row = {"q": {"text": "Capital?"}, "c": {"text": ["Rome", "Paris"]}, "a": [{"key": "B"}]}
    columns = {"question": "q.text", "choices": "c.text", "answer": "a.0.key"}
    record = read(row, "choice", layout="choice", columns=columns)
    assert record.question == "Capital?\nA) Rome\nB) Paris" and record.answer == "B"
    for wrong in ("q.no", "a.1.key", "a.x", "q.text.more"):
        with pytest.raises(InputError, match=f'has no column "{wrong}"'):
            read(row, "choice", layout="choice", columns=columns | {"answer": wrong})
    assert read({"p.q": "2+2?", "a": "#### 4"}, columns={"question": "p.q", "answer": "a"})


def test_a_layouts_own_key_goes_before_its_other_names():
    row = {"correct": "no", "explanation": "Answer: C", **CHOICE, "rationale": "Italy.\nAnswer: B"}
    record = read(row, "exact")
    assert (record.answer, record.steps) == ("B", ("Italy.",))
    named = read(CHOICE | {"answerKey": "A"}, "choice", columns={"answer": "answer"})
    assert named.answer == "B"
    labelled = {"question": "?", "choices": ["Rome", "Paris"], "answerKey": "A", "label": "B"}
    assert read(labelled, "choice", columns={"answer": "label"}).answer == "B"
    both = MATH | {"text": "How many?"}
    assert read(both, columns={"question": "text"}).question == "How many?"


def test_messages_that_are_named_one_by_one_are_not_read_as_a_conversation():
    turns = [{"content": text} for text in ("Be brief.", "How many?", "1+1\n#### 2")]
    columns = {"question": "messages.1.content", "answer": "messages.2.content"}
    record = read({"messages": turns}, columns=columns)
    assert (record.question, record.answer, record.steps) == ("How many?", "2", ("1+1",))
    whole = {"data": {"messages": MESSAGES["messages"]}}
    assert read(whole, columns={"messages": "data.messages"}).answer == "2"


@pytest.mark.parametrize("row", [MATH, MESSAGES], ids=["math", "messages"])
@pytest.mark.parametrize("answer", [["2"], {"value": "2"}, True])
def test_an_answer_that_may_be_missing_is_no_list(row, answer):
    for verifier in ("exact", "math", "numeric"):
        with pytest.raises(InputError) as error:
            read(row | {"answer": answer}, verifier)
        assert str(error.value) == (
            f'file:1: needs a text or a number under "answer". It is {answer!r}. Write one, or '
            "name another column in data.columns."
        )
    assert read(row | {"answer": None}).answer == read(row).answer == "2"


def test_a_question_with_a_solution_and_an_answer_is_a_row_of_math():
    row = {"question": "2+2?", "solution": "We add. So 2+2=4.", "answer": 4}
    assert read(row) == Record("file:1", "2+2?", "4", ("We add.", "So 2+2=4."), 2)
    assert read(row | {"answer": "Add.\n#### 4"}).steps == ("Add.",)


def test_calls_of_tools_are_not_dropped_in_silence():
    asked, told = MESSAGES["messages"]
    for key in ("tool_calls", "function_call"):
        with pytest.raises(InputError, match=f'file:1: a message has "{key}", and calls of tools'):
            read({"messages": [asked, told | {key: [{"name": "add"}]}]})
        assert read({"messages": [asked, told | {key: None}]}) == read(MESSAGES)


@pytest.mark.parametrize(
    ("row", "instead"),
    [
        ({"prompt": "?", "completion": "4"}, 'It has "prompt", "completion". Name its columns in'),
        ({"question": "?", "answer": 4}, 'It is 4. Set data.layout = "gym" if that is the answer'),
        ({"question": "?", "answer": ["4"]}, "It is ['4']. Write one, or name another column in"),
        ({"question": "?", "answer": "4"}, 'Set data.layout = "gym" if that is the answer alone.'),
        ([1], "It is no object with keys. Name its columns in data.columns, or set data.layout."),
    ],
)
def test_a_row_of_no_layout_says_what_it_has_and_which_setting_reads_it(row, instead):
    with pytest.raises(InputError) as error:
        read(row)
    assert instead in str(error.value)


def test_who_reads_no_settings_of_data_names_none():
    for row in ({"messages": []}, {"question": "?", "answer": 4}, {"question": "?", "answer": "4"}):
        with pytest.raises(InputError, match=r'"answer".* Do this\.') as error:
            read(row | {"question": "?"}, layout="gsm8k", instead="Do this.")
        assert "data." not in str(error.value)


def test_a_number_may_be_a_gold():
    assert read({"question": "?", "answer": 4}, layout="gym").answer == "4"
    with pytest.raises(InputError, match='needs a text or a number under "answer"'):
        read({"question": "?", "answer": True}, layout="gym")
    for answer, said in ((float("nan"), "It is nan."), (None, "It is null.")):
        with pytest.raises(InputError, match=f'needs a text or a number under "answer". {said}'):
            read({"question": "?", "answer": answer}, "exact", layout="gym")

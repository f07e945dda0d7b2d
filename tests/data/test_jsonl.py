"""Records from a file: GSM8K's layout, and every unusable line with its number and the fix."""

import functools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data import sources
from cotjax.data.layouts import RecordReader
from cotjax.errors import InputError
from cotjax.interfaces import Record

GOOD = '{"question": "How many?", "answer": "1+1 = <<1+1=2>>2\\n#### 2"}'
FIX = ' Fix the line or set data.on_bad_record = "skip".'


READER = RecordReader(functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal)


def read_records(path, **settings):
    return sources.read_records(path, READER, **settings)


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines):
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    return write_lines


def refused(path, **settings):
    with pytest.raises(InputError) as error:
        read_records(path, **settings)
    return str(error.value)


def test_gsm8k_becomes_a_record(write):
    answer = (
        "In May she sold 48/2 = <<48/2=24>>24 clips.\n"
        "Altogether she sold 48+24 = <<48+24=72>>72 clips.\n"
        "#### 1,072"
    )
    path = write(json.dumps({"question": " How many clips? \n", "answer": answer, "other": 1}))
    assert read_records(path) == [
        Record(
            id="train.jsonl:1",
            question="How many clips?",
            answer="1072",
            steps=(
                "In May she sold 48/2 = 24 clips.",
                "Altogether she sold 48+24 = 72 clips.",
            ),
            difficulty=2,
        )
    ]


@pytest.mark.parametrize(
    ("gold", "canonical"), [("1,234", "1234"), ("-5", "-5"), ("$3.50", "3.5"), ("0", "0")]
)
def test_gold_numbers_are_read_as_they_are_written(write, gold, canonical):
    (record,) = read_records(write(json.dumps({"question": "?", "answer": f"x\n#### {gold}"})))
    assert record.answer == canonical


def test_records_keep_the_file_order_and_their_line_numbers(write):
    path = write(GOOD, "", GOOD, "  ", GOOD, "")
    assert [r.id for r in read_records(path)] == [
        "train.jsonl:1",
        "train.jsonl:3",
        "train.jsonl:5",
    ]


def test_a_line_ends_where_json_lines_end(write):
    # A raw line separator (U+2028) or next-line character may stand inside a JSON string.
    question = "one\u2028two\x85three\x0cfour"
    row = json.dumps({"question": question, "answer": "#### 1"}, ensure_ascii=False)
    (record,) = read_records(write(row + "\r"))
    assert record.question == question


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"question": "How', "not JSON (Unterminated string starting at, column 14)."),
        ("How many?", "not JSON (Expecting value, column 1)."),
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"question": ' + "1" * 5000 + "}", "JSON that cannot be read"),
        ('{"answer": "#### 2"}', 'needs a text under "question".'),
        ('{"question": "?"}', 'needs a text under "answer".'),
        ('{"question": "?", "answer": 2}', 'needs a text under "answer".'),
        ('["question", "answer"]', 'needs a text under "question".'),
        ("null", 'needs a text under "question".'),
        ('{"question": "?", "answer": "two"}', '"answer" has no line "#### <number>".'),
        ('{"question": "?", "answer": "#### two"}', '"answer" has no line "#### <number>".'),
        ('{"question": "?", "answer": "2"}', '"answer" has no line "#### <number>".'),
    ],
    ids=lambda text: text[:40],
)
def test_an_unusable_line_is_named_with_its_number(write, line, complaint):
    path = write(GOOD, "", line, GOOD)
    message = refused(path)
    assert message.startswith(f"train.jsonl:3: {complaint}") and message.endswith(FIX)
    kept = read_records(path, on_bad_record="skip")
    assert [record.id for record in kept] == ["train.jsonl:1", "train.jsonl:4"]


def test_one_object_over_several_lines_says_what_is_needed(write):
    path = write("{", ' "data": [],', ' "version": 1', "}")
    assert refused(path).startswith(
        "train.jsonl: is one object over several lines; an object a line is needed, or one array. "
        'It has "data", "version".'
    )
    assert refused(write("{", '"data": [')).startswith("train.jsonl:1: not JSON")


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (
            ["[", '{"question": "?", "answer": "#### 2"},', "]"],
            "train.jsonl:2: not JSON (a comma before the end of a list or object, column 38)",
        ),
        (['{"question": "?", "answer": "#### 2",}'], "train.jsonl:1: not JSON (a comma before"),
        (["[", '{"question": "?" "answer"}', "]"], "train.jsonl:2: not JSON (Expecting ','"),
    ],
)
def test_a_mistake_in_an_array_is_named_with_its_line(write, lines, complaint):
    assert refused(write(*lines)).startswith(complaint)


def test_texts_that_no_tokenizer_takes_are_repaired(write):
    half = json.dumps({"question": "a\ud800b", "answer": "#### 2"})
    null = json.dumps({"question": "a\x00b\u2028c", "answer": "#### 2"})
    first, second = read_records(write(half, null))
    assert first.question == "a\ufffdb" and second.question == "a\x00b\u2028c"


@given(st.text(st.characters(exclude_characters="\n")))
def test_no_line_crashes(tmp_path_factory, line):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(f"{GOOD}\n{line}".encode())
    assert len(read_records(str(path), on_bad_record="skip")) == 1


@pytest.mark.parametrize("lines", [[], ["", "  "], ["no", "JSON"]])
def test_a_file_without_a_usable_record(write, lines):
    path = write(*lines)
    message = refused(path, on_bad_record="skip")
    empty = f'data.path = "{path}": is empty. Set data.path to a file with records.'
    assert message == empty if not lines else "Name a .jsonl file" in message
    assert message.startswith(f'data.path = "{path}": ')


def test_a_file_that_cannot_be_read_is_named_with_its_key_and_the_fix(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    for name, reason in (("none.jsonl", "No such file"), ("latin.jsonl", "line 1 is not UTF-8")):
        path = str(tmp_path / name)
        for key in ("data.path", "data.eval_path"):
            message = refused(path, key=key)
            assert message.startswith(f'{key} = "{path}": cannot be read') and reason in message
            assert message.endswith(("that can be read.", "Save it as UTF-8."))


def test_every_gold_of_gsm8k_is_recovered():
    path = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "test.jsonl"
    if not path.exists():
        pytest.skip("no gsm8k/test.jsonl: this test reads the published data set")
    assert len(read_records(str(path))) == 1319

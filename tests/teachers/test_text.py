"""Teachers by their texts: files by question, models only where they come to an end."""

import json

import jax
import pytest

from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.teachers.text import TextTeachers
from tests.tiny import make_config

RECORDS = [Record(f"r/{i}", f"Mia has 7 pens. Tom has {i}.", "7", ("7",), 1) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    make_config(folder)
    return folder


def write_file(folder, name="a.jsonl", answers=("7", "8", "7"), questions=None):
    """Texts about the first records; an answer that is not 7 is wrong."""
    questions = [record.question for record in RECORDS] if questions is None else questions
    rows = [
        {"question": question, "answer": f"so {answer}\n#### {answer}"}
        for question, answer in zip(questions, answers, strict=False)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def opened(folder, *names, more=()):
    flags = "--stage=distill", "--distill.target=text", "--rollout.prompts=4", *more
    config = make_config(folder, *flags, "--teachers.paths", *names)
    return TextTeachers(config, make_mesh(1), RECORDS)


KEY = jax.random.key(0)


def test_a_file_gives_the_right_texts_of_its_questions_and_no_others(folder):
    teachers = opened(folder, write_file(folder))
    text = "Step 1: so 7\nAnswer: 7"
    assert teachers.write(0, RECORDS, key=KEY) == [text, None, text, None]
    assert teachers.models is None, "no model is opened for files alone"


def test_a_file_of_another_layout_is_told_how_it_is_written(folder):
    path = folder / "chat.jsonl"
    path.write_text('{"messages": []}\n')
    with pytest.raises(InputError, match=r"chat.jsonl:1: .* Write it as python -m cotjax.rational"):
        opened(folder, str(path))


def test_wrong_texts_are_kept_where_one_wants_them(folder):
    teachers = opened(folder, write_file(folder), more=["--distill.no-filter-texts"])
    assert teachers.write(0, RECORDS[:2], key=KEY)[1] == "Step 1: so 8\nAnswer: 8"


def test_a_file_that_solves_nothing_of_the_run_is_refused(folder):
    wrong = write_file(folder, "wrong.jsonl", answers=("8", "9"))
    other = write_file(folder, "other.jsonl", questions=["What else?"] * 3)
    for path in (wrong, other):
        with pytest.raises(InputError, match="solves none of the 4 questions of this run"):
            opened(folder, path)


def test_no_name_is_no_teacher(folder):
    with pytest.raises(InputError, match="there is no teacher"):
        opened(folder)


def test_a_model_s_text_counts_if_it_ended_and_is_right(folder):
    student = str(folder / "student")
    kept = opened(folder, student).write(0, RECORDS, key=KEY)
    free = opened(folder, student, more=["--distill.no-filter-texts"]).write(0, RECORDS, key=KEY)
    assert all(text is None or "7" in text for text in kept)
    assert [text for text in free if text and "7" in text] == [text for text in kept if text]


def test_random_numbers_are_those_of_the_key_and_the_record_s_number(folder):
    teachers = opened(folder, str(folder / "student"), more=["--distill.no-filter-texts"])
    whole = teachers.write(0, RECORDS, key=KEY)
    assert teachers.write(0, RECORDS, key=KEY) == whole
    assert teachers.write(0, RECORDS[2:], key=KEY, first=2) == whole[2:]


def test_files_and_models_may_be_mixed_and_models_are_dropped(folder):
    teachers = opened(folder, write_file(folder), str(folder / "student"))
    teachers.keep_only([0, 1])
    assert teachers.models is not None and teachers.models.resident == {0}
    teachers.keep_only([0])
    assert teachers.models.resident == set()

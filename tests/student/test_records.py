"""The records of a run: which are trained on, which are held out, and whose prompt fits."""

import dataclasses
import json
import re

import numpy as np
import pytest

from cotjax.data.sources import Mixture, RecordList
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.student.records import (
    check_rows,
    in_order,
    load_held_out,
    load_records,
    own_ids,
    part_of,
    prompt_batch,
    prompt_tokens,
    solution,
    with_steps,
)
from tests.tiny import STUDENT, TOKENIZER, make_config, with_section, write_sevens

RECORDS = RecordList(Record(f"r/{i}", f"{i}?", "7", ("7*1=7",), 1) for i in range(6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def open_records(config):
    return load_records(config, STUDENT.tokenizer, STUDENT.prompts)


def ids(records):
    return [record.id for record in records]


def test_the_last_records_of_a_file_are_held_out(folder):
    train, held_out = open_records(make_config(folder))
    assert ids(train) == [f"sevens.jsonl:{i}" for i in range(1, 21)]
    assert ids(held_out) == [f"sevens.jsonl:{i}" for i in range(21, 25)]


def test_a_file_of_its_own_is_held_out_from_its_beginning(folder):
    other = write_sevens(folder / "other.jsonl", count=9)
    train, held_out = open_records(make_config(folder, f"--data.eval-path={other}"))
    assert len(train) == 24
    assert ids(held_out) == [f"other.jsonl:{i}" for i in range(1, 5)]


def test_built_in_problems_are_held_out_from_the_test_split(folder):
    config = with_section(make_config(folder), "data", source="problems", path="")
    for seed in (3, 4):
        train, held_out = open_records(dataclasses.replace(config, seed=seed))
        assert train[0].id == f"problems/train/{seed}/0"
        assert ids(held_out) == [f"problems/test/0/{i}" for i in range(4)]


def test_too_few_records_to_hold_any_out(folder):
    with pytest.raises(
        InputError, match=r"24 records, .* eval.problems = 24 .* Set eval.problems < 24"
    ):
        open_records(make_config(folder, "--eval.problems=24"))


def test_a_long_prompt_is_an_error_or_left_out_and_told(folder, capsys):
    path = folder / "long.jsonl"
    texts = ["short", "much too long " * 20, "short"]
    rows = [json.dumps({"question": text, "answer": "#### 7"}) for text in texts]
    path.write_text("\n".join(rows))
    flags = f"--data.path={path}", "--eval.problems=1"
    with pytest.raises(InputError) as error:
        open_records(make_config(folder, *flags))
    assert str(error.value).startswith("long.jsonl:2: the prompt has ")
    assert "rollout.max_prompt_tokens >= " in str(error.value)
    skip = make_config(folder, *flags, "--data.on-bad-record=skip")
    train, held_out = open_records(skip)
    assert ids([*train, *held_out]) == ["long.jsonl:1", "long.jsonl:3"]
    assert re.match(
        r"note: 1 of 3 records skipped for their prompt: rollout.max_prompt_tokens = 32; the "
        r"first, long.jsonl:2, has \d+ tokens.\n",
        capsys.readouterr().err,
    )


ASKED = "--rollout.max-prompt-tokens=200", "--eval.max-prompt-tokens=32", "--eval.problems=2"


def write_questions(path, *texts):
    rows = [json.dumps({"question": text, "answer": "#### 7"}) for text in texts]
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("apart", [False, True])
def test_a_held_out_question_has_to_fit_what_evaluations_are_padded_to(folder, capsys, apart):
    long = "much too long " * 8
    path = write_questions(folder / "asked.jsonl", long, "a", "b", "c", long, "d")
    flags = [f"--data.path={path}", *ASKED]
    if apart:
        other = write_questions(folder / "apart.jsonl", "e", long, "f", "g")
        flags.append(f"--data.eval-path={other}")
    with pytest.raises(InputError) as error:
        open_records(make_config(folder, *flags))
    assert str(error.value).startswith(f"{'apart.jsonl:2' if apart else 'asked.jsonl:5'}: the pro")
    assert "the limit is 32. Set eval.max_prompt_tokens >= " in str(error.value)
    skip = make_config(folder, *flags, "--data.on-bad-record=skip")
    train, held_out = open_records(skip)
    if apart:
        assert len(train) == 6 and ids(held_out) == ["apart.jsonl:1", "apart.jsonl:3"]
    else:
        assert ids(train) == [f"asked.jsonl:{i}" for i in (1, 2, 3)], "a long one is trained on"
        assert ids(held_out) == ["asked.jsonl:4", "asked.jsonl:6"]
    assert "skipped for their prompt: eval.max_prompt_tokens = 32; the" in capsys.readouterr().err
    assert load_held_out(skip, STUDENT.tokenizer, STUDENT.prompts) == held_out


def test_a_held_out_question_may_be_longer_than_those_of_training(folder):
    other = write_questions(folder / "longer.jsonl", "much too long " * 8, "f")
    limits = "--rollout.max-prompt-tokens=32", "--eval.max-prompt-tokens=200", "--eval.problems=2"
    _, held_out = open_records(make_config(folder, f"--data.eval-path={other}", *limits))
    assert ids(held_out) == ["longer.jsonl:1", "longer.jsonl:2"]


def test_a_long_row_is_an_error_or_left_out_and_told(folder, capsys):
    limited = with_section(make_config(folder), "batch", sequence_length=9)
    with pytest.raises(InputError, match=r"r/4: its row has up to 10 tokens, .* >= 10 or data"):
        check_rows(RECORDS, limited, lambda record: int(record.id[-1]) + 6)
    skip = with_section(limited, "data", on_bad_record="skip")
    kept = check_rows(RECORDS, skip, lambda record: int(record.id[-1]) + 6)
    assert ids(kept) == ["r/0", "r/1", "r/2", "r/3"]
    assert (
        "note: 2 of 6 records skipped for their row: batch.sequence_length = 9; the first, r/4, "
        "has 10 tokens."
    ) in capsys.readouterr().err
    assert check_rows(kept, skip, lambda record: 9) == kept
    assert "skipped" not in capsys.readouterr().err


# Parts, order, and single records.


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(0, 0, [0, 1, 2, 3, 4, 5]), (2, 0, [2, 3, 4, 5]), (1, 3, [1, 2])],
)
def test_a_part_has_the_records_between_start_and_stop(folder, start, stop, expected):
    config = with_section(make_config(folder), "data", start=start, stop=stop)
    assert ids(part_of(config, RECORDS)) == [f"r/{i}" for i in expected]


def test_a_part_without_a_record_is_refused(folder):
    config = with_section(make_config(folder), "data", start=6)
    with pytest.raises(InputError, match="data.start = 6, .* Set data.start < 6"):
        part_of(config, RECORDS)


def test_a_mixture_has_no_order_and_everything_else_has():
    assert in_order(RECORDS, "key = 1", "key = 0") is RECORDS
    mixture = Mixture((RECORDS, RECORDS), (1.0, 2.0))
    with pytest.raises(InputError, match="^key = 1: .* no order .* Set key = 0.$"):
        in_order(mixture, "key = 1", "key = 0")


def test_a_solution_is_written_as_the_student_should_write_it():
    assert solution(RECORDS[0]) == "Step 1: 7*1=7\nAnswer: 7"


def test_prompts_are_padded_on_the_left_and_keep_their_numbers():
    texts = [STUDENT.prompts.solve(record.question) for record in RECORDS[:2]]
    batch = prompt_batch(TOKENIZER, [8, 9], RECORDS[:2], texts, 16)
    np.testing.assert_array_equal(batch.ids, [8, 9])
    for tokens, mask, text in zip(batch.tokens, batch.mask, texts, strict=True):
        assert TOKENIZER.decode(tokens[mask]) == text and not mask[0] and mask[-1]


def test_the_tokens_of_prompts_are_those_of_each_asked_alone():
    prompts = STUDENT.prompts
    sizes = [len(TOKENIZER.encode(prompts.solve(record.question))) for record in RECORDS]
    assert prompt_tokens(TOKENIZER, prompts, RECORDS) == sum(sizes) > 0


def test_records_without_a_rationale_are_counted_and_all_of_them_refused():
    made = [Record(f"r{n}", "?", "1", steps, 1) for n, steps in enumerate([("a",), (), ("b",)])]
    assert with_steps(made, "none") == ([made[0], made[2]], 1)
    with pytest.raises(InputError, match="^none$"):
        with_steps(made[1:2], "none")


def write_rows(path, texts):
    rows = [json.dumps({"question": text, "answer": "7*1=7\n#### 7"}) for text in texts]
    path.write_text("\n".join(rows))
    return f"--data.path={path}"


def test_a_question_that_is_held_out_too_is_told_dropped_or_refused(folder, capsys):
    data = write_rows(
        folder / "twice.jsonl", ["Mia has 7?", "Tom has 7?", "Ana?", "mia has 7", "Tom has 8?"]
    )
    flags = data, "--eval.problems=2"
    train, held_out = open_records(make_config(folder, *flags))
    told = capsys.readouterr().err
    assert told == (
        "note: 1 held-out question (twice.jsonl:4 = twice.jsonl:1) is trained on too; 1 more "
        "held-out question (twice.jsonl:5 = twice.jsonl:2) is trained on with other numbers, as "
        'problems made from a template are by design. Set data.on_duplicate = "drop" to leave them '
        "out of training.\n"
    )
    assert len(train) == 3 and len(held_out) == 2
    train, _ = open_records(make_config(folder, *flags, "--data.on-duplicate=drop"))
    assert ids(train) == ["twice.jsonl:2", "twice.jsonl:3"]
    assert "They are left out of training." in capsys.readouterr().err
    with pytest.raises(InputError, match='^data.on_duplicate = "error": 1 held-out question'):
        open_records(make_config(folder, *flags, "--data.on-duplicate=error"))
    part = make_config(folder, *flags, "--data.start=1", "--data.on-duplicate=error")
    assert ids(open_records(part)[0]) == ["twice.jsonl:2", "twice.jsonl:3"]


def test_a_file_that_is_held_out_from_itself_leaves_nothing(folder):
    data = write_rows(folder / "same.jsonl", ["Mia?", "Tom?"])
    both = data, f"--data.eval-path={folder / 'same.jsonl'}", "--data.on-duplicate=drop"
    with pytest.raises(InputError, match="nothing else is trained on"):
        open_records(make_config(folder, *both))


def test_a_mixture_is_looked_through_and_built_in_problems_are_not(folder, capsys):
    write_rows(folder / "mixed.jsonl", ["Mia?", "Tom?"])
    config = with_section(
        make_config(folder), "data", source="problems", path="", on_duplicate="error",
        mixture=f"problems=1, jsonl:{folder / 'mixed.jsonl'}=1",
    )  # fmt: skip
    assert len(open_records(config)[0].parts) == 2
    assert capsys.readouterr().err == ""
    own = with_section(config, "data", eval_path=str(folder / "mixed.jsonl"))
    with pytest.raises(InputError, match="2 held-out questions .* are trained on too"):
        open_records(own)


def test_a_record_that_comes_again_has_another_id_and_all_others_their_number():
    ids = own_ids([3, 1, 3, 3, 0], 10)
    assert ids == [3, 1, 13, 23, 0] and len(set(ids)) == len(ids)

"""Sheets of answers in pairs: by question, against counts by hand; other questions are refused."""

import json

import pytest

from cotjax.errors import InputError
from cotjax.report.paired import (
    GradedAnswer,
    Sheet,
    check_same_questions,
    compare_sheets,
    read_sheet,
    shown_interval,
)
from cotjax.report.statistics import Interval, bootstrap_interval, mcnemar


def sheet(rights, tokens=None, levels=None, label="a", first=0):
    tokens, levels = tokens or [10] * len(rights), levels or [None] * len(rights)
    graded = [GradedAnswer(bool(right), size, level)
              for right, size, level in zip(rights, tokens, levels, strict=True)]  # fmt: skip
    return Sheet(label, "", {(f"q{n}", "?"): one for n, one in enumerate(graded, first)})


def row(step, kind, name, correct=1.0, **more):
    parts = {"correct": correct}
    return {"step": step, "kind": kind, "id": name, "question": "?", "gold": "4",
            "completion": "4", "tokens": 3, "parts": parts, "difficulty": 2, **more}  # fmt: skip


def write(folder, rows, config='stage = "grpo"\n'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(config)
    (folder / "completions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


def test_all_questions_are_counted_in_pairs():
    one, other = [1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1]
    lengths = [8, 9, 10, 11, 12, 13], [4, 9, 9, 9, 9, 9]
    (found,) = compare_sheets(sheet(one, lengths[0]), sheet(other, lengths[1]))
    assert (found.questions, found.gained, found.lost) == (6, 3, 1)
    assert found.right == (3 / 6, 5 / 6) and found.p_value == mcnemar(one, other)
    points = bootstrap_interval([100 * (b - a) for a, b in zip(one, other, strict=True)])
    assert found.points == points and found.points.mean == pytest.approx(200 / 6)
    assert found.tokens == (63 / 6, 49 / 6) and found.token_change.mean == pytest.approx(-14 / 6)


def test_the_order_of_the_questions_does_not_matter():
    first = sheet([1, 0, 0], [1, 2, 3])
    turned = Sheet("b", "", dict(reversed(first.answers.items())))
    (found,) = compare_sheets(first, turned)
    assert (found.gained, found.lost, found.token_change.mean) == (0, 0, 0)


def test_each_difficulty_is_counted_apart():
    levels = [2, 2, 3, 3, 3, 5]
    found = compare_sheets(
        sheet([1, 0, 0, 0, 0, 1], levels=levels), sheet([1, 1, 1, 0, 0, 0], levels=levels)
    )
    assert [(one.level, one.questions, one.gained, one.lost) for one in found] == [
        *(("", 6, 2, 1), ("2", 2, 1, 0), ("3", 3, 1, 0), ("5", 1, 0, 1)),
    ]


@pytest.mark.parametrize("levels", [[2, 2, 2, None], [2, 2, 2, 2], [None] * 4])
def test_without_several_difficulties_there_is_one_line(levels):
    assert len(compare_sheets(sheet([1] * 4, levels=levels), sheet([1] * 4, levels=levels))) == 1


def test_many_difficulties_are_joined_and_none_is_lost():
    levels = [n % 17 for n in range(200)]
    overall, *found = compare_sheets(sheet([1] * 200, levels=levels), sheet([0] * 200))
    assert 2 <= len(found) <= 6 and sum(one.questions for one in found) == overall.questions
    assert found[0].level.startswith("0–") and found[-1].level.endswith("–16")


@pytest.mark.parametrize("other", [sheet([1, 0]), sheet([1, 0, 1], first=1), sheet([1] * 4)])
def test_other_questions_are_refused(other):
    with pytest.raises(InputError, match="were tested on different questions .*evaluate"):
        check_same_questions(sheet([1, 0, 1]), other)


def test_equal_ids_of_other_texts_are_other_questions():
    with pytest.raises(InputError, match="1 and 1, 0 of them the same"):
        compare_sheets(sheet([1]), Sheet("b", "", {("q0", "another?"): GradedAnswer(True, 1, 2)}))


def test_of_a_run_the_last_evaluation_counts(tmp_path):
    rows = [row(0, "before", "a", 0.0), row(5, "eval", "a", 0.0), row(9, "train", "z")]
    run = write(tmp_path / "run", [*rows, row(9, "after", "a")])
    found = read_sheet(run)
    assert (found.label, found.when) == ("run", "step 9")
    assert found.answers == {("a", "?"): GradedAnswer(True, 3, 2)}
    assert read_sheet(write(run, rows[:1])).when == "before training"


def test_of_a_list_its_last_stage_counts(tmp_path):
    whole = write(tmp_path / "list", [], 'stage = "list"\n[[stages]]\nstage = "grpo"\n')
    write(whole / "2-grpo", [row(4, "after", "a", 0.0)])
    write(whole / "1-sft", [row(7, "after", "a")])
    found = read_sheet(whole)
    assert found.label == "list" and found.when == "2-grpo, step 4"
    assert not found.answers["a", "?"].right


def test_a_file_of_completions_is_a_sheet(tmp_path):
    line = {key: one for key, one in row(0, "x", "a").items() if key not in ("step", "kind")}
    (tmp_path / "base.jsonl").write_text(json.dumps(line) + "\n\n")
    assert read_sheet(tmp_path / "base.jsonl") == Sheet(
        "base", "", {("a", "?"): GradedAnswer(True, 3, 2)}
    )


@pytest.mark.parametrize("text", ["", "[]\n", '{"id": "a"}\n', '{"id": "a", "parts": {}}\n'])
def test_a_file_without_answers_is_refused(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match="holds no answers"):
        read_sheet(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON Lines"):
        read_sheet(tmp_path / "x.jsonl")


def test_values_of_a_wrong_type_do_no_harm(tmp_path):
    line = row(0, "x", ["a"], tokens="many", difficulty=[2])
    (tmp_path / "x.jsonl").write_text(json.dumps(line))
    (found,) = read_sheet(tmp_path / "x.jsonl").answers.values()
    assert found == GradedAnswer(True, 0.0, None)


def test_a_run_before_its_first_evaluation_is_refused(tmp_path):
    run = write(tmp_path / "run", [row(1, "train", "a")])
    with pytest.raises(InputError, match="holds no answers to held-out questions"):
        read_sheet(run)
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        read_sheet(tmp_path / "nowhere")


def test_nothing_has_no_minus():
    assert shown_interval(Interval(-0.04, -0.06, 0.01)) == "+0.0 (-0.1 to +0.0)"

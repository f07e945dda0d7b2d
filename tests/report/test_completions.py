"""The completions of a page: every one that fits, else some evenly spaced, and counted."""

import json

import pytest

from cotjax.report import completions
from cotjax.report.completions import completions_data, part_means, sides_of
from cotjax.report.embed import dumped
from cotjax.report.run_folder import read_run
from tests.report.pages import completion, json_lines


def given(folder, rows):
    json_lines(folder / "completions.jsonl", rows)
    return read_run(folder)


def test_each_evaluation_is_a_side_in_the_order_of_steps(folder):
    rows = [completion("after", "a"), completion("before", "a"), completion("train", "a")]
    rows.insert(1, completion("train", "a") | {"kind": "eval", "step": 7})
    sides = sides_of([given(folder, rows)])
    assert [side.label for side in sides] == ["before", "step 7", "after, step 20"]
    assert all(list(side.rows) == [("a", "Question a?")] for side in sides)


def test_a_question_that_one_side_lacks_has_none_there(folder):
    found = completions_data([given(folder, [completion("before", "a"), completion("after", "b")])])
    assert [[one is None for one in q["answers"]] for q in found["questions"]] == [
        *([False, True], [True, False]),
    ]


def test_a_group_has_its_completions_its_prompt_and_their_tokens(folder):
    tokens = {"letters": [8, 2, 0], "logp": [-0.1, None, -2.0], "advantage": 0.51234567}
    rows = [
        completion("train", "a", "Answer: 4.", prompt="2+2?", difficulty=2, **tokens),
        completion("train", "a", "no", letters=[9], logp=[0.0]),  # more letters than the text has
        completion("train", "b", "no", letters=[1, 1], logp=[0.0]),
    ]
    (first, second) = completions_data([given(folder, rows)])["groups"]
    assert (first["prompt"], first["difficulty"], first["step"]) == ("2+2?", 2, 20)
    one, other = first["answers"]
    assert (one["l"], one["lp"], one["a"]) == ([8, 2, 0], [-0.1, None, -2.0], 0.5123)
    assert "l" not in other and "l" not in second["answers"][0]


@pytest.mark.parametrize("room", [30_000, 8_000, 2_000])
def test_what_does_not_fit_is_thinned_evenly_and_told(folder, room, monkeypatch):
    monkeypatch.setattr(completions, "BUDGET", room)
    kinds = ("before", "eval", "eval", "after")
    rows = [
        completion("after", f"q{n}", "x" * 40) | {"kind": kind, "step": step}
        for n in range(50)
        for step, kind in enumerate(kinds)
    ]
    rows += [completion("train", f"t{n}", "x" * 40, step=n) for n in range(30)]
    found = completions_data([given(folder, rows)])
    assert len(dumped([found["questions"], found["groups"]])) <= room
    assert (found["ofQuestions"], found["ofGroups"]) == (50, 30)
    assert found["leftSides"] in (0, 2) and len(found["sides"]) == 4 - found["leftSides"]
    numbers = [int(one["id"][1:]) for one in found["questions"]]
    gaps = {b - a for a, b in zip(numbers, numbers[1:], strict=False)}
    assert numbers[0] == 0 and (len(numbers) < 2 or numbers[-1] == 49)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_parts_are_those_that_add_up(folder):
    parts = {"outcome": 1.0, "length": 9.0, "correct": 1.0, "mine": float("nan"), "x" * 99: 1.0}
    found = completions_data([given(folder, [completion("before", "a", parts=parts)])])
    assert found["parts"] == ["outcome", "mine"]
    assert found["questions"][0]["answers"][0]["p"] == [1.0, None]
    json.dumps(found, allow_nan=False)


def test_means_of_parts_are_over_the_rows_that_have_them():
    rows = [{"parts": {"a": 1.0}}, {"parts": {"a": 3.0, "b": None}}, {}]
    assert part_means(rows, ["a", "b"]) == [2.0, None]

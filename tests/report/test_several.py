"""Several runs on one page: paired with the first, and no page without a word on what is not."""

import dataclasses
import json

from cotjax.report.page import render
from cotjax.report.run_folder import read_run
from cotjax.report.several import named_apart, paired_tests
from tests.report.pages import checked, completion, data, json_lines, make_run


def pair(tmp_path, rights, others=None):
    """Two runs whose last answers are right or wrong as given."""
    runs = []
    for name, marks in (("a", rights), ("b", others or rights)):
        folder = make_run(tmp_path / name)
        rows = [completion("after", f"q{n}", parts={"correct": mark, "outcome": mark - 2.0})
                for n, mark in enumerate(marks)]  # fmt: skip
        json_lines(folder / "completions.jsonl", rows)
        runs.append(read_run(folder))
    return runs


def test_each_is_compared_with_the_first_by_question(tmp_path):
    told, table = paired_tests(pair(tmp_path, [0.0] * 8, [1.0] * 6 + [0.0] * 2))
    assert told[0].startswith("b has 75.0% right instead of 0.0%: 6 of 8 questions gained and 0 ")
    assert "more than chance would give (p\xa0=\xa00.031); equally long answers." in told[0]
    assert "0.0% → 75.0%" in table and "number good" in table


def test_as_many_right_are_not_told_twice(tmp_path):
    told, _ = paired_tests(pair(tmp_path, [0.0, 1.0], [1.0, 0.0]))
    assert told[0].startswith("b has 50.0% right, as a has: 1 of 2 questions gained and 1 lost,")


def test_other_questions_are_told_and_the_page_is_there(tmp_path):
    runs = pair(tmp_path, [1.0] * 3, [1.0] * 4)
    source, text, _ = checked(render(*runs))
    assert "Not paired: a and b: were tested on different questions (3 and 4, 3 of" in text
    assert 'id="paired"' not in source and len(data(source)["questions"]) == 4


def test_what_to_do_about_other_questions_is_said_once(tmp_path):
    first, second = pair(tmp_path, [1.0] * 3, [1.0] * 4)
    more = [dataclasses.replace(second, name=name) for name in "cd"]
    told, _ = paired_tests([first, second, *more])
    assert len(told) == 2 and told[0].startswith("Not paired: a and b: were tested on different")
    assert told[1] == "On other questions than a, too: c, d."


def test_answers_of_both_stand_side_by_side_and_curves_in_one_chart(tmp_path):
    found = data(render(*pair(tmp_path, [1.0, 0.0], [0.0, 1.0])))
    assert [side["label"] for side in found["sides"]] == [
        "a · after, step 20",
        "b · after, step 20",
    ]
    assert [[one["c"] for one in question["answers"]] for question in found["questions"]] == [
        *([1, 0], [0, 1]),
    ]
    curves = [chart for chart in found["charts"] if chart["kind"] == "curve"]
    assert curves and all([one["run"] for one in chart["series"]] == [0, 1] for chart in curves)


def test_settings_that_differ_are_a_table(tmp_path):
    first, second = (make_run(tmp_path / name) for name in ("a", "b"))
    (second / "config.toml").write_text(
        (second / "config.toml").read_text().replace("seed = 0", "seed = 7")
    )
    _, text, _ = checked(render(read_run(first), read_run(second)))
    assert "What differs between the runs. Setting a b seed 0 7" in text
    _, text, _ = checked(render(read_run(first), read_run(first)))
    assert "All settings are equal." in text


def test_runs_of_one_name_take_their_paths(tmp_path):
    (tmp_path / "x").mkdir()
    runs = [read_run(make_run(one)) for one in (tmp_path / "x" / "demo", tmp_path / "demo")]
    assert [run.name for run in named_apart(runs)] == [run.path for run in runs]


def test_a_list_shows_its_stages_answers_one_after_the_other(tmp_path):
    whole = tmp_path / "list"
    whole.mkdir()
    (whole / "config.toml").write_text('stage = "list"\n[[stages]]\nstage = "grpo"\n')
    (whole / "result.json").write_text(json.dumps({"stages": [{"name": "base"}, {"name": "1-a"}]}))
    for name in ("1-a", "2-b"):
        make_run(whole / name)
    source, text, _ = checked(render(read_run(whole)))
    labels = [side["label"] for side in data(source)["sides"]]
    assert labels == ["before", "1-a · after, step 20", "2-b · after, step 20"]
    assert data(source)["groups"][-1]["stage"] == "2-b"
    assert data(source)["runs"][0]["replay"]["1-a"] == f"cotjax replay {whole}/1-a --step N"
    assert "in stages: 1-a." in text

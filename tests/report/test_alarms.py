"""The list of alarms: each name once, with its steps and newest words; what is damaged is left."""

import json

from cotjax.report.alarms import LETTERS, alarms
from cotjax.report.page import render
from cotjax.report.run_folder import RunFiles, read_run


def run(*rows):
    return RunFiles("x", "", {}, [], [], {}, [], [], list(rows))


def alarm(step, name="truncation", says="much is cut off."):
    return {"step": step, "kind": "alarm", "name": name, "says": says}


def test_each_alarm_is_named_once_with_its_steps_and_newest_words():
    page = alarms(run(alarm(5), alarm(25, says="more is."), alarm(1025), alarm(7, "no signal")))
    assert page.count("<li>") == 2
    assert "truncation</b> <span" in page and "at 3 steps, from 5 to 1,025" in page
    assert "much is cut off." in page and "more is." not in page
    assert "no signal</b>" in page and "at step 7<" in page


def test_a_run_without_alarms_has_no_list():
    assert alarms(run()) == ""


def test_words_are_text_and_short():
    page = alarms(run(alarm(1, "<b>", "<script>\x1b" + "a" * LETTERS)))
    assert "<script>" not in page and "\x1b" not in page and "&lt;b&gt;" in page
    assert "a" * LETTERS not in page


def test_the_page_has_them_and_passes_damaged_lines_over(tmp_path):
    rows = [alarm(5), {"step": 6, "kind": "alarm"}, alarm("x"), [], alarm(7, 3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "alarms.jsonl").write_text(f"{lines}{{")
    (tmp_path / "config.toml").write_text('stage = "grpo"\n')
    found = read_run(tmp_path)
    assert found.alarms == [alarm(5)]
    assert "What to look at" in render(found)

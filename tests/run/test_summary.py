"""The tables at the end of a run."""

import json

from cotjax.run.folder import console
from cotjax.run.summary import print_stages, print_summary

NUMBERS = {"accuracy": 0.25, "accuracy_low": 0.1, "accuracy_high": 0.4, "tokens": 90.04}


def test_a_list_has_a_line_for_the_base_and_each_stage(capsys):
    rows = [{"name": "base", **NUMBERS}, {"name": "1-sft", **NUMBERS, "accuracy": 0.5}]
    print_stages(console(), rows)
    head, base, stage = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["Held-out", "problems", "greedy", "tokens"]
    assert base.split() == ["base", "25.0%", "90.0", "(10.0%", "to", "40.0%)"]
    assert stage.split()[:2] == ["1-sft", "50.0%"]


def test_a_stage_shows_two_completions_and_its_numbers(tmp_path, capsys):
    row = {"question": "2+2?", "completion": "Answer: 4", "tokens": 5, "parts": {"correct": 1.0}}
    rows = [row | {"kind": kind} for kind in ("before", "before", "before", "after")]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    result = {"before": NUMBERS, "after": NUMBERS | {"accuracy": 0.5}, "seconds": 61.2}
    print_summary(console(), tmp_path, tmp_path / "report.html", result)
    shown = capsys.readouterr().out
    assert shown.count("2+2?") == 3 and "(5 tokens, right)" in shown
    assert ["accuracy", "25.0%", "50.0%"] in [line.split() for line in shown.splitlines()]
    assert f"61 seconds. Everything is in {tmp_path}; open {tmp_path / 'report.html'}" in shown


def test_control_characters_of_a_completion_are_shown_and_not_sent(tmp_path, capsys):
    text = "[b]a\x1b[2J\x00\ud800\u2028"
    row = {"question": text, "completion": text, "tokens": 5, "parts": {"correct": 1.0}}
    rows = [row | {"kind": kind} for kind in ("before", "after")]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    result = {"before": NUMBERS, "after": NUMBERS, "seconds": 61.2}
    print_summary(console(), tmp_path, tmp_path / "report.html", result)
    assert capsys.readouterr().out.count(r"[b]a\x1b[2J\x00\ud800\u2028") == 4

"""The tables at the end of a run."""

import json

from cotjax.run.folder import console
from cotjax.run.summary import print_samples, print_stages, say_end
from cotjax.training.printer import Printer, QuietPrinter

NUMBERS = {"accuracy": 0.25, "accuracy_low": 0.1, "accuracy_high": 0.4, "tokens": 90.04}


def test_a_list_has_a_line_for_the_base_and_each_stage(capsys):
    rows = [{"name": "base", **NUMBERS}, {"name": "1-sft", **NUMBERS, "accuracy": 0.5}]
    print_stages(console(), rows)
    head, base, stage = capsys.readouterr().out.splitlines()[1:]
    assert head.split() == ["Held-out", "problems", "greedy", "tokens"]
    assert base.split() == ["base", "25.0%", "90.0", "(10.0%", "to", "40.0%)"]
    assert stage.split()[:2] == ["1-sft", "50.0%"]


def write(folder, text="Answer: 4", question="2+2?"):
    row = {"step": 1, "id": "a", "gold": "4", "question": question, "completion": text, "tokens": 5}
    row |= {"parts": {"correct": 1.0}}
    rows = [row | {"kind": kind} for kind in ("before", "before", "before", "after")]
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / "completions.jsonl").write_text(lines)
    result = {"before": NUMBERS, "after": NUMBERS | {"accuracy": 0.5}, "seconds": 61.2}
    (folder / "result.json").write_text(json.dumps(result))
    return result


MOVED = (
    "Held-out accuracy rose from 25.0% to 50.0%, and answers are as long as before (90\xa0→\xa090 "
    "tokens)."
)


def test_answers_to_a_question_stand_together(tmp_path, capsys):
    write(tmp_path)
    rows = [*map(json.loads, (tmp_path / "completions.jsonl").read_text().splitlines())]
    rows[3] |= {"completion": "Answer: 5", "parts": {"correct": 0.0}, "tokens": 6}
    text = "".join(json.dumps(row) + "\n" for row in rows[1:])
    (tmp_path / "completions.jsonl").write_text(text)
    print_samples(console(), tmp_path)
    said = "2+2?\nbefore: right, 5 tokens\nAnswer: 4\nafter: wrong, 6 tokens\nAnswer: 5\n"
    assert capsys.readouterr().out == f"\nTwo questions, before and after:\n{said}{said}"


def test_a_text_of_many_lines_is_cut(tmp_path, capsys):
    write(tmp_path, "a\n\nb" + "\n" * 300)
    print_samples(console(), tmp_path)
    assert "\na\n\nb\nafter: the same\n" in capsys.readouterr().out
    write(tmp_path, "x\n" * 30)
    print_samples(console(), tmp_path)
    assert "x\n" * 20 + "… 10 lines more, in completions.jsonl\nafter" in capsys.readouterr().out


def test_a_stage_shows_two_questions_its_numbers_and_what_changed_last(tmp_path, capsys):
    result = write(tmp_path)
    say_end(Printer(console()), tmp_path, tmp_path / "report.html", result)
    shown = capsys.readouterr().out
    assert shown.count("2+2?") == 2 and shown.count("before: right, 5 tokens\nAnswer: 4") == 2
    assert shown.count("after: the same\n") == 2
    assert ["accuracy", "25.0%", "50.0%"] in [line.split() for line in shown.splitlines()]
    assert "This run trained a student for 0 steps in 1 min 1 s." in shown
    last = f"{MOVED} Everything is in {tmp_path}; open {tmp_path / 'report.html'}"
    assert shown.splitlines()[-1] == last and shown.count(MOVED) == 1


def test_a_quiet_run_says_the_last_line_alone(tmp_path, capsys):
    say_end(QuietPrinter(console()), tmp_path, tmp_path / "report.html", write(tmp_path))
    last = f"{MOVED} Everything is in {tmp_path}; open {tmp_path / 'report.html'}\n"
    assert capsys.readouterr().out == last


def test_control_characters_of_a_completion_are_shown_and_not_sent(tmp_path, capsys):
    text = "[b]a\x1b[2J\x00\ud800\u2028"
    write(tmp_path, text, text)
    print_samples(console(), tmp_path)
    assert capsys.readouterr().out.count(r"[b]a\x1b[2J\x00\ud800\u2028") == 4

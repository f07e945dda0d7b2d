"""What a run says: plain lines that are never broken, little, or JSON and nothing else."""

import io
import json
import math
import os
import subprocess
import sys

import pytest
from rich.console import Console

from cotjax.errors import InputError
from cotjax.interfaces import Column
from cotjax.progress import Progress
from cotjax.training.printer import JsonPrinter, Printer, QuietPrinter

COLUMNS = (Column("loss", "nats", "loss", "{:.4f}", 8),)
NUMBERS = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "tokens": 9.0, "problems": 4}
RESULT = {"steps": 2, "after": NUMBERS}


def tell(printer):
    """A run of two steps."""
    with printer.running():
        printer.summary(lambda console: console.print("trains the student"), {"name": "a"})
        printer.heading("stage 1 of 1")
        with printer.stage():
            printer.columns(COLUMNS, 2)
            printer.note("note: few records")
            printer.evaluation(0, "before", NUMBERS, new=False)
            printer.step(1, {"loss": 1.5, "more": math.nan})
            printer.evaluation(1, "eval", NUMBERS | {"sampled_accuracy": 0.25, "solve_loss": 2.0})
            printer.alarm(2, "no signal", "all are wrong\x1b[2J")
            printer.warn("a tracker is away")
        printer.end(
            RESULT, lambda console: console.print("two completions"), "It rose.", "See runs/a"
        )


def said(make):
    out = io.StringIO()
    printer = make(Console(file=out, width=20, soft_wrap=True, highlight=False))
    tell(printer)
    return out.getvalue()


def test_plain_lines_say_everything_in_order_and_are_not_broken():
    assert said(Printer).splitlines() == [
        *("trains the student", "stage 1 of 1", "note: few records"),
        "before: accuracy 50.0% (40.0% to 60.0%), 9.0 tokens, on 4 held-out problems",
        *("step      loss", "          nats", " 1/2    1.5000"),
        "step 1: accuracy 50.0% (40.0% to 60.0%), sampled 25.0%, loss 2.000, 9.0 tokens, on 4 "
        "held-out problems",
        r"step 2, no signal: all are wrong\x1b[2J",
        *("a tracker is away", "two completions", "", "It rose. See runs/a"),
    ]


def test_a_quiet_run_says_alarms_warnings_and_the_last_line():
    assert said(QuietPrinter).splitlines() == [
        r"step 2, no signal: all are wrong\x1b[2J",
        *("a tracker is away", "It rose. See runs/a"),
    ]


def test_a_quiet_run_says_nothing_of_how_far_it_is():
    with QuietPrinter(Console(file=io.StringIO())).running():
        assert Progress("evaluation", 4, "problems")._quiet
    assert not Progress("evaluation", 4, "problems")._quiet


def events(run, errors=None):
    out = io.StringIO()
    run(JsonPrinter(out, Console(file=errors or io.StringIO(), width=200)))
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_is_one_object_a_line_with_the_numbers_of_the_files():
    errors = io.StringIO()
    start, step, evaluation, alarm, end = events(tell, errors)
    assert start == {"event": "start", "name": "a"}
    assert step == {"event": "step", "step": 1, "kind": "train", "loss": 1.5, "more": None}
    numbers = NUMBERS | {"sampled_accuracy": 0.25, "solve_loss": 2.0}
    assert evaluation == {"event": "eval", "step": 1, "kind": "eval", **numbers}
    assert alarm == {"event": "alarm", "step": 2, "kind": "alarm", "name": "no signal",
                     "says": "all are wrong\x1b[2J"}  # fmt: skip
    assert end == {"event": "end", "says": "It rose.", **RESULT}
    assert errors.getvalue().splitlines() == [
        *("stage 1 of 1", "note: few records", "a tracker is away"),
    ]


def test_a_stage_of_a_list_is_named_in_each_event():
    def run(printer):
        with printer.stage("2-grpo"):
            printer.step(1, {"loss": 1.0})
        printer.end({}, lambda console: None, "", "")

    step, end = events(run)
    assert step["in"] == "2-grpo" and "in" not in end


def test_what_others_print_is_no_part_of_the_json(capsys):
    def run(printer):
        with printer.running():
            print("a reward says something")
            printer.step(1, {"loss": 1.0})

    assert [one["event"] for one in events(run)] == ["step"]
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a reward says something\n")
    assert sys.stdout is not sys.stderr


CHILDREN = """
import os
from cotjax.training.printer import JsonPrinter
printer = JsonPrinter()
with printer.running():
    print("noise")
    os.system("echo noise")
    printer.step(1, {"loss": 1.0})
os.system("echo afterwards")
"""


def test_what_child_processes_print_is_no_part_of_the_json_either():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILDREN]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    line, after = done.stdout.splitlines()
    assert json.loads(line)["loss"] == 1.0 and after == "afterwards"
    assert done.stderr.split() == ["noise", "noise"]


def test_an_error_is_the_last_event_and_goes_on():
    def run(printer):
        with pytest.raises(InputError, match="steps = 0"), printer.running():
            error = InputError("steps = 0: too few.")
            error.add_note("Set more.")
            raise error

    assert events(run) == [{"event": "end", "error": "steps = 0: too few. Set more."}]

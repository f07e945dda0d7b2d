"""`cotjax generate`: one completion streams, several are numbered, and wrong input stops."""

import io
import json
import sys

import pytest

from cotjax.generate import main
from cotjax.progress import Progress
from cotjax.run.chat import chat
from tests.tiny import write_student


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return write_student(tmp_path_factory.mktemp("generate"))


def said(capsys, *argv, status=0):
    assert main(list(argv)) == status
    shown = capsys.readouterr()
    return shown.err if status else shown.out


def test_one_completion_streams_and_several_are_numbered(student, capsys, monkeypatch, tmp_path):
    flags = [f"--checkpoint={student}", "--max-new-tokens=6", "--seed=1"]
    one = said(capsys, "Why?", *flags)
    assert one.startswith("Answer:")
    (tmp_path / "prompt").write_text("Why?")
    assert said(capsys, f"--file={tmp_path / 'prompt'}", *flags) == one
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?"))
    assert said(capsys, *flags) == one
    two = said(capsys, "Why?", "--n=2", *flags)
    assert two.startswith(f"[1] {one.rstrip()}") and "[2] Answer:" in two
    flags[1] = "--max-new-tokens=2"
    assert one.startswith(said(capsys, "Why?", *flags).rstrip("\n"))
    flags[1] = "--max-new-tokens=6"
    stopped = said(capsys, "Why?", "--stop=swer", "--stop=zzz", *flags)
    assert stopped == "Answer\n"


def test_control_characters_are_shown_and_not_sent(student, capsys, monkeypatch):
    texts = lambda *args: iter([["a"], ["a\x1b[2J\0"]])  # noqa: E731
    monkeypatch.setattr(sys.modules[main.__module__], "stream_texts", texts)
    assert said(capsys, "Why?", f"--checkpoint={student}") == "a\\x1b[2J\\x00\n"


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--max-new-tokens=0"], "--max-new-tokens = 0: out of range"),
        (["--n=0"], "--n = 0"),
        (["--max-new-tokens=9999"], "the model's context of 2048"),
        (["--stop="], '--stop: "" is in every text'),
        (["--chat"], "no chat template"),
        (["--file=nowhere"], "a prompt is given too"),
        (["--checkpoint=nowhere"], "--checkpoint nowhere: there is no such run or model. Name ru"),
    ],
)
def test_wrong_input_stops(student, capsys, flags, word):
    error = said(capsys, "Why?", f"--checkpoint={student}", *flags, status=2)
    assert error.startswith("error: ") and word in error


def test_a_folder_in_the_prompts_place_is_refused(capsys, tmp_path):
    assert f"Write --checkpoint {tmp_path} and" in said(capsys, str(tmp_path), status=2)


def test_a_folder_that_is_neither_run_nor_model_says_so(capsys, tmp_path):
    flag = f"--checkpoint={tmp_path}"
    assert "holds neither a run (config.toml) nor a model" in said(capsys, "Why?", flag, status=2)
    (tmp_path / "config.toml").touch()
    assert "this run has saved no checkpoint" in said(capsys, "Why?", flag, status=2)


def test_lines_of_the_standard_input_are_questions(student, capsys, monkeypatch):
    flags = [f"--checkpoint={student}", "--max-new-tokens=2", "--temperature=0"]
    one = said(capsys, "Why?", *flags)
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n\n  \nHow many pens?\n"))
    assert said(capsys, *flags) == f"{one}\n{one}"
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert "the prompt is empty" in said(capsys, *flags, status=2)


def test_json_is_one_object_a_line_of_each_model_and_prompt(student, capsys, monkeypatch, tmp_path):
    flags = [f"--checkpoint={student}", "--max-new-tokens=3", "--temperature=0"]
    text = said(capsys, "Why?", *flags)
    shown = said(capsys, "Why?", "--n=2", "--json", *flags)
    (line,) = [json.loads(one) for one in shown.splitlines()]
    assert (line["model"], line["prompt"]) == (student, "Why?")
    first, second = line["completions"]
    assert first["completion"] == text.removesuffix("\n") and second.keys() == first.keys()
    assert first["tokens"] <= 3 and first["end"] in ("eos", "length")
    monkeypatch.setattr("sys.stdin", io.StringIO("Why?\n\nHow?\n"))
    prompts = [json.loads(one)["prompt"] for one in said(capsys, "--json", *flags).splitlines()]
    assert prompts == ["Why?", "How?"]
    other = write_student(tmp_path / "other")
    two = said(capsys, "Why?", "--json", "--compare", student, other, *flags[1:]).splitlines()
    assert [json.loads(one)["model"] for one in two] == [student, other]


def test_json_at_a_terminal_needs_a_prompt_and_quiet_leaves_the_times_out(
    student, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", Terminal())
    flags = [f"--checkpoint={student}", "--max-new-tokens=2"]
    assert "--json: at a terminal it needs a prompt" in said(capsys, "--json", *flags, status=2)
    lines, hidden = iter(["Why?"]), []

    def read(prompt):
        hidden.append(Progress("loading", 4, "tensors")._quiet)
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr(
        sys.modules[main.__module__], "chat", lambda ask, console: chat(ask, console, read)
    )
    shown = said(capsys, "--quiet", *flags)
    assert "Answer:" in shown and "first token" not in shown and hidden == [True, True]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_prompt_a_session_opens(student, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", Terminal())
    lines = iter(["Why?", "How?"])

    def read(prompt):
        print(prompt, end="")
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    asked = sys.modules[main.__module__]
    monkeypatch.setattr(asked, "chat", lambda ask, console: chat(ask, console, read))
    shown = said(capsys, f"--checkpoint={student}", "--max-new-tokens=2")
    assert shown.count("> Answer:") == 2 and shown.count("first token ") == 2
    assert "Ctrl-D" in shown and shown.endswith("> \n")


def test_two_models_answer_side_by_side_in_60_columns(student, capsys, monkeypatch, tmp_path):
    write_student(tmp_path / "other")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(tmp_path)
    flags = ["--compare", "other", student, "--max-new-tokens=2"]
    shown = said(capsys, "Why?", *flags).splitlines()
    assert max(map(len, shown)) <= 60 and shown[0].startswith("other ")
    assert any(line.split() == ["Answer:", "Answer:"] for line in shown)
    assert "names one twice" in said(capsys, "Why?", "--compare", student, student, status=2)
    assert "Leave --n out" in said(capsys, "Why?", *flags, "--n=2", status=2)
    both = said(capsys, "Why?", *flags, "--checkpoint=x", status=2)
    assert "Leave --checkpoint out" in both

"""`cotjax compare`: words first, a table per difficulty, and any terminal's width."""

import json

import pytest
from rich.console import Console

from cotjax.compare import main, print_compared
from cotjax.report.paired import compare_sheets
from tests.report.test_paired import row, sheet, write

LEVELS = [2, 2, 3, 3, 3, 4, 4, 6, 6, 6]
FIRST = sheet([1, 1, 0, 0, 0, 1, 0, 0, 0, 0], [40] * 10, LEVELS, label="first")
SECOND = sheet([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], list(range(20, 30)), LEVELS, label="second")


def shown(width, first=FIRST, second=SECOND, capsys=None):
    console = Console(width=width, highlight=False, markup=False, record=True, quiet=False)
    print_compared(console, first, second, compare_sheets(first, second))
    return console.export_text()


def test_it_says_what_became_of_the_questions():
    text = " ".join(shown(100).split())
    assert "second beside first The same 10 held-out questions, answered greedily." in text
    assert "Right: 30.0% → 80.0%, +50.0 (+20.0 to +80.0) points." in text
    assert "5 questions gained, 0 lost: no more than chance would give" in text
    assert "(McNemar, exact: p = 0.062)" in text
    assert "Tokens: 40.0 → 24.5, -38.7%; -15.5 (" in text
    assert "steps n right gained lost p tokens 2 2 100% → 100% 0 0 1.000 -19.5" in text


@pytest.mark.parametrize("width", [100, 80, 60])
def test_a_row_of_the_table_is_one_line_as_wide_as_the_terminal(width):
    lines = [line.rstrip() for line in shown(width).splitlines()]
    assert max(map(len, lines)) <= width
    rows = lines[next(n for n, line in enumerate(lines) if line.startswith("steps")) + 1 :]
    assert [line.split()[0] for line in rows if line] == ["2", "3", "4", "6"]


def test_a_terminal_of_20_columns_is_wrapped_and_no_error():
    lines = [line.rstrip() for line in shown(20).splitlines()]
    assert max(map(len, lines)) <= 20
    assert "4: 50% → 100%, 1 gained, 0 lost, -14.5 tokens" in " ".join(" ".join(lines).split())


def test_equal_answers_are_called_equal():
    assert "No question gained or lost." in shown(80, FIRST, FIRST)


def test_each_further_run_is_compared_with_the_first(tmp_path, capsys):
    for name, right in (("a", 0.0), ("b", 1.0), ("c", 0.0)):
        write(tmp_path / name, [row(3, "after", f"q{n}", right) for n in range(4)])
    out = tmp_path / "numbers.json"
    paths = [str(tmp_path / name) for name in "abc"]
    assert main([*paths, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "b beside a" in said and "c beside a" in said and "a: step 3" in said
    numbers = json.loads(out.read_text())
    assert numbers["b"][0]["gained"] == 4 and numbers["c"][0]["points"]["mean"] == 0


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path, capsys):
    for name in ("x", "y"):
        write(tmp_path / name / "grpo-0", [row(3, "after", "q", 1.0)])
    assert main([str(tmp_path / name / "grpo-0") for name in ("x", "y")]) == 0
    assert f"{tmp_path}/y/grpo-0 beside".replace("\n", "") in capsys.readouterr().out.replace(
        "\n", ""
    )


def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys):
    write(tmp_path / "a", [row(3, "after", "q", 1.0)])
    write(tmp_path / "b", [row(3, "after", "p", 1.0)])
    for paths, says in (
        ([tmp_path / "a"], "needs two runs or more"),
        ([tmp_path / "a", tmp_path / "b"], "a and b: were tested on different questions"),
        ([tmp_path / "a", tmp_path / "c"], "holds none of config.toml"),
        ([tmp_path / "a", tmp_path / "a", "--out", tmp_path], "cannot write there"),
    ):
        assert main([*map(str, paths)]) == 2
        said = capsys.readouterr()
        assert says in said.err and said.err.count("\n") == 1 and not said.out

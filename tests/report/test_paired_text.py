"""A comparison in the terminal: words first, a table per difficulty, and any width."""

import pytest
from rich.console import Console

from cotjax.report.paired import compare_sheets
from cotjax.report.paired_text import print_compared
from tests.report.test_paired import sheet

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
    assert "5 questions gained, 0 lost, which chance alone could give" in text
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

"""Lines of results.jsonl: read again as they were written, the last of a cell counts."""

import pytest

from cotjax.errors import InputError
from cotjax.experiment.results import append, read_rows


def test_rows_come_back(row, tmp_path):
    path = tmp_path / "results.jsonl"
    rows = [row("a", 0), row("a", 1, error="é")]
    append(path, rows[0])
    append(path, rows[1])
    again = read_rows(path)
    assert [(one.arm, one.seed, one.numbers, one.error) for one in again] == [
        (one.arm, one.seed, one.numbers, one.error) for one in rows
    ]
    assert again[0].tokens == 1000 and read_rows(tmp_path / "none.jsonl") == []


def test_a_run_that_was_tried_again_counts_once(row, tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, row("a", 0, status="failed"), row("a", 0))
    assert [one.status for one in read_rows(path)] == ["done"]


@pytest.mark.parametrize("line", ["{", "[]", '{"arm": 1}', '{"no": 1}'])
def test_other_lines_are_named(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"results\.jsonl:1: not a line of an experiment"):
        read_rows(path)

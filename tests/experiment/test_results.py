"""Lines of results.jsonl: read again as they were written, the last of a cell counts."""

import dataclasses

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


@pytest.mark.parametrize("changes, words", [
    ({"arm": ["a"]}, "arm and seed"),
    ({"seed": "0"}, "arm and seed"),
    ({"numbers": {"tokens": 1.0}}, "numbers has no accuracy"),
    ({"right": "1"}, "right and lengths are not of the same questions"),
    ({"right": "", "lengths": []}, "right and lengths are not of the same questions"),
])  # fmt: skip
def test_a_row_that_the_tables_cannot_count_with_is_named(row, tmp_path, changes, words):
    path = tmp_path / "results.jsonl"
    append(path, row("a", 1), dataclasses.replace(row("a"), **changes))
    with pytest.raises(InputError, match=rf"results\.jsonl:2: not a line of an .*\({words}"):
        read_rows(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read .*Name a results.jsonl"):
        read_rows(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot be read .*Name a results.jsonl"):
        read_rows(tmp_path / "bytes")


def test_of_several_bases_the_one_that_most_runs_began_from_counts(row, tmp_path):
    """Files of several machines are joined; an arm that asks in other words was first on one."""
    path = tmp_path / "results.jsonl"
    common, other = row("base", right="11110000", began="x"), row("base", began="y")
    runs = [row("a", 0, began="x"), row("a", 1, began="x"), row("told", 0, began="y")]
    for lines in ([common, other, *runs], [other, common, *runs], [common, *runs, other]):
        path.unlink(missing_ok=True)
        append(path, *lines)
        (base,) = [one for one in read_rows(path) if one.arm == "base"]
        assert base.began == "x" and base.right == "11110000"

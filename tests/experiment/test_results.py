"""Lines of results.jsonl: read again as they were written, the last of a cell counts."""

import dataclasses
import json

import pytest

from cotjax.errors import InputError
from cotjax.experiment.cells import cells
from cotjax.experiment.plan import read_experiment
from cotjax.experiment.results import append, collect, read_rows


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


def test_what_a_stage_mined_that_then_had_nothing_to_do_is_counted_and_said(write, tmp_path):
    """A list leaves such a stage out of its results; its tokens are spent all the same."""
    text = (
        'budget = { tokens = 100 }\n[arms.base]\n[[arms.list.stages]]\nstage = "grpo"\n'
        '[[arms.list.stages]]\nstage = "rewrite"\nbudget = { tokens = 20 }\n'
    )
    experiment = read_experiment(write(text))
    cell = next(cell for cell in cells(experiment) if cell.trains)
    folder, own = tmp_path / "list-0", tmp_path / "list-0" / "1-grpo"
    own.mkdir(parents=True)
    (folder / "2-rewrite").mkdir()
    mined = [{"index": n, "tokens": 7} for n in range(2)]
    numbers = {"accuracy": 1.0, "tokens": 3.0}
    metrics = [
        {"step": 0, "kind": "eval", **numbers},
        {"step": 1, "kind": "train", "used_tokens": 80.0},
        {"step": 1, "kind": "eval", **numbers},
    ]
    answer = {"question": "q", "completion": "c", "gold": "1", "id": "a", "tokens": 3}
    answers = [
        {"step": step, "kind": kind, "parts": {"correct": 1}, **answer}
        for step, kind in enumerate(("before", "after"))
    ]
    used = {"trained": 40, "sampled": 40, "mined": 0}
    result = {"steps": 1, "seconds": 1.0, "parts": [{"commit": "c", "version": "0"}]}
    own_result, whole = (
        result | {"used_tokens": used},
        result | {"stages": [{"name": "base"}, {"name": "1-grpo"}]},
    )
    for path, lines in {
        own / "metrics.jsonl": metrics,
        own / "completions.jsonl": answers,
        own / "result.json": [own_result],
        folder / "result.json": [whole],
        folder / "2-rewrite" / "mined.jsonl": mined,
    }.items():
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, row = collect(experiment, cell, folder)
    assert row.used_tokens == {"trained": 40, "sampled": 40, "mined": 14}
    assert row.left_out == ["2-rewrite"] and row.right == "1"
    assert row.texts and row.texts != row.questions, "of what is asked, not of its names"

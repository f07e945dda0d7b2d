"""Training and held-out records by the names of a run's [data] section; never one in both."""

import json

import pytest

from cotjax.config import load
from cotjax.data.sources import Mixture
from cotjax.data.splits import open_split
from cotjax.errors import InputError
from tests.data.test_layouts import READER, ROWS


def write_jsonl(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def split(*flags):
    return open_split(load([*flags, "--eval.problems=2"]), READER, lambda records, path: records)


def test_a_run_opens_its_mixture(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path)
    train, held_out = split(f"--data.mixture=problems=1, jsonl:{path}=3")
    assert isinstance(train, Mixture) and train.weights == (1, 3) and len(train.sources[1]) == 6
    assert [record.id for record in held_out] == ["problems/test/0/0", "problems/test/0/1"]
    _, held_out = split(f"--data.mixture=jsonl:{path}=3", f"--data.eval-path={path}")
    assert [record.id for record in held_out] == ["rows.jsonl:1", "rows.jsonl:2"]
    with pytest.raises(InputError, match="Set data.eval_path"):
        split(f"--data.mixture=jsonl:{path}=3")
    with pytest.raises(InputError, match='source "nowhere" is unknown'):
        split("--data.mixture=nowhere:x=3")
    with pytest.raises(InputError, match="Leave data.path or data.mixture empty"):
        split("--data.mixture=problems=3", "--data.path=x")


def test_the_end_of_a_file_is_held_out_and_no_record_is_in_both(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    train, held_out = split("--data.source=jsonl", f"--data.path={path}")
    ids = [train[index].id for index in range(len(train))], [record.id for record in held_out]
    assert ids == ([f"rows.jsonl:{i}" for i in range(1, 5)], ["rows.jsonl:5", "rows.jsonl:6"])


def test_built_in_problems_are_held_out_the_same_whatever_the_seed():
    (first, held_out), (second, same) = (split(f"--seed={seed}") for seed in (1, 2))
    assert held_out == same and first[0] != second[0]


def test_what_is_kept_of_a_file_is_decided_by_its_caller(tmp_path):
    path, seen = write_jsonl(tmp_path / "rows.jsonl"), []

    def keep(records, name):
        seen.append(name)
        return records[1:]

    config = load(["--data.source=jsonl", f"--data.path={path}", "--eval.problems=2"])
    train, held_out = open_split(config, READER, keep)
    assert seen == [str(path)] and len(train) + len(held_out) == len(ROWS) - 1


def test_too_few_records_to_hold_any_out(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS[:2])
    with pytest.raises(InputError, match="2 records, .* Set eval.problems < 2 or data.eval_path"):
        split("--data.source=jsonl", f"--data.path={path}")

"""Training and held-out records by the names of a run's [data] section; never one in both."""

import json

import pytest

from cotjax.config import load
from cotjax.data.sources import Mixture
from cotjax.data.splits import open_held_out, open_split
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


def test_files_of_one_name_in_a_mixture_have_ids_of_their_own(tmp_path):
    paths = [tmp_path / name / "rows.jsonl" for name in ("easy", "hard")]
    for path in paths:
        path.parent.mkdir()
        write_jsonl(path)
    other = write_jsonl(tmp_path / "other.jsonl")
    parts = ", ".join(f"jsonl:{path}=1" for path in (*paths, other, paths[1].parent))
    train, _ = split(f"--data.mixture={parts}", f"--data.eval-path={other}")
    assert isinstance(train, Mixture)
    easy, hard, alone, whole = train.sources
    assert [one[0].id for one in (easy, hard)] == [f"{path}:1" for path in paths]
    assert alone[0].id == "other.jsonl:1"
    assert whole[0] == hard[0]  # the same file once more
    assert len({record.id for one in (easy, hard, alone) for record in one}) == 3 * len(ROWS)


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


# What an evaluation reads.


def held_out(*flags, problems=2, keep=lambda records, path: records):
    return open_held_out(load([*flags, f"--eval.problems={problems}"]), READER, keep)


@pytest.mark.parametrize("problems", [1, 2, 5])
def test_alone_the_held_out_records_are_those_of_the_split(tmp_path, problems):
    path = write_jsonl(tmp_path / "rows.jsonl")
    for flags in (
        ["--data.source=jsonl", f"--data.path={path}"],
        ["--data.source=jsonl", f"--data.path={path}", f"--data.eval-path={path}"],
        ["--data.mixture=problems=1"],
        [],
    ):
        config = load([*flags, f"--eval.problems={problems}"])
        _, expected = open_split(config, READER, lambda records, path: records)
        assert held_out(*flags, problems=problems) == expected


def test_training_records_are_not_looked_at(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    path.write_text("no JSON\n" * 3 + path.read_text())
    flags = "--data.source=jsonl", f"--data.path={path}"
    assert [record.id for record in held_out(*flags)] == ["rows.jsonl:8", "rows.jsonl:9"]
    elsewhere = "--data.source=jsonl", "--data.path=nowhere.jsonl", f"--data.eval-path={path}"
    with pytest.raises(InputError, match="rows.jsonl:1: not JSON"):
        held_out(*elsewhere)
    write_jsonl(path)
    assert [record.id for record in held_out(*elsewhere)] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_a_small_file_is_held_out_as_a_whole(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    assert len(held_out("--data.source=jsonl", f"--data.path={path}", problems=99)) == len(ROWS)


def test_a_record_that_does_not_fit_makes_room_for_one_before(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    flags = "--data.source=jsonl", f"--data.path={path}"
    fits = lambda records, path: [one for one in records if one.id != "rows.jsonl:5"]  # noqa: E731
    assert [one.id for one in held_out(*flags, keep=fits)] == ["rows.jsonl:4", "rows.jsonl:6"]
    none = lambda records, path: records[:0]  # noqa: E731
    assert held_out(*flags, keep=none) == []


def test_nothing_is_held_out_of_a_mixture_of_files(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="Set data.eval_path"):
        held_out(f"--data.mixture=jsonl:{path}=3")

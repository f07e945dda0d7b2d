"""A model's numbers: on its held-out problems, on files, and as far as Ctrl-C let it come."""

import json

import pytest

import cotjax
from cotjax.errors import InputError
from cotjax.run.measure import measure, measure_files
from cotjax.run.opened import config_from_flags, open_model
from cotjax.student import generate
from tests.tiny import write_sevens


@pytest.fixture
def opened(trained):
    return open_model(str(trained.folder), config_from_flags(str(trained.folder), []))


def test_a_run_is_measured_without_its_training_records(trained, world, opened, monkeypatch):
    from cotjax.data import splits

    monkeypatch.setattr(splits, "open_split", None)
    assert measure(opened) == {"step": 2} | trained.result["after"]


def test_records_are_read_before_weights(trained, tmp_path, opened):
    object.__setattr__(opened, "read", None)
    with pytest.raises(InputError, match='--files = ".*nowhere.jsonl": cannot be read'):
        measure_files(opened, [str(tmp_path / "nowhere.jsonl")])


def test_files_are_measured_one_by_one_and_named(trained, tmp_path):
    names = [write_sevens(tmp_path / f"{count}.jsonl", count) for count in (3, 5)]
    found = cotjax.evaluate(trained, files=names)
    assert list(found) == names
    assert [one["problems"] for one in found.values()] == [3, 5]
    assert all(one["step"] == 2 and 0 <= one["accuracy"] <= 1 for one in found.values())
    fewer = cotjax.evaluate(trained, files=names, eval={"problems": 2})
    assert [one["problems"] for one in fewer.values()] == [2, 2]


def test_a_file_is_what_its_ending_says(trained, tmp_path, opened):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow")
    write_sevens(tmp_path / "a.jsonl", 3)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    parquet.write_table(table.Table.from_pylist(rows), tmp_path / "a.parquet")
    names = [str(tmp_path / name) for name in ("a.jsonl", "a.parquet")]
    first, second = measure_files(opened, names).values()
    assert first == second


def test_a_file_is_named_once(opened, tmp_path):
    name = write_sevens(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="names one file twice"):
        measure_files(opened, [name, name])


@pytest.fixture
def stopped_in_call(monkeypatch):
    """Ctrl-C in one of the sampler's calls."""
    write, calls = generate.generate, []

    def stop_in(number):
        def counting(*args, **more):
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return write(*args, **more)

        monkeypatch.setattr(generate, "generate", counting)

    return stop_in


def test_ctrl_c_keeps_what_is_done_and_says_how_much_is_left(opened, tmp_path, stopped_in_call):
    small, large = (write_sevens(tmp_path / f"{count}.jsonl", count) for count in (3, 8))
    stopped_in_call(4)  # the batch of 16 holds three problems: one call, then three
    found = measure_files(opened, [small, large, write_sevens(tmp_path / "c.jsonl")])
    assert list(found) == [small, large]
    assert "problems_left" not in found[small]
    assert (found[large]["problems"], found[large]["problems_left"]) == (6, 2)


def test_a_file_that_was_not_begun_is_left_out(opened, tmp_path, stopped_in_call):
    small, large = (write_sevens(tmp_path / f"{count}.jsonl", count) for count in (3, 8))
    stopped_in_call(2)
    assert list(measure_files(opened, [small, large])) == [small]


def test_without_any_number_ctrl_c_is_ctrl_c(opened, tmp_path, stopped_in_call):
    stopped_in_call(1)
    with pytest.raises(KeyboardInterrupt):
        measure_files(opened, [write_sevens(tmp_path / "a.jsonl")])

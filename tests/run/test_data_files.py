"""Files of records have digests, so that a changed one is known."""

import pytest

from cotjax.config import load
from cotjax.run import data_files
from cotjax.run.data_files import changed_files, changed_since, data_digests


def config(*more, stage="sft"):
    return load([f"--stage={stage}", "--name=x", *more])


def test_files_of_training_and_held_out_records_count(tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_text("1\n")
    other.write_text("2\n")
    flags = ["--data.source=jsonl", f"--data.path={one}", f"--data.eval-path={other}"]
    first = data_digests(config(*flags))
    assert list(first) == [str(one), str(other)] and first[str(one)] != first[str(other)]
    assert data_digests(config(*flags)) == first
    other.write_text("3\n")
    second = data_digests(config(*flags))
    assert first[str(one)] == second[str(one)] and first[str(other)] != second[str(other)]
    (told,) = changed_files(first, second)
    assert told.startswith(f"{other}: the file of records was changed since: its digest was ")
    assert changed_files(first, {str(one): first[str(one)]}) == [
        f"{other}: the file of records is gone."
    ]


def test_a_mixture_a_folder_and_built_in_problems(tmp_path):
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "a").write_text("1")
    mixture = f"--data.mixture=problems=1, array_record:{folder}=1"
    first = data_digests(config(mixture))
    assert list(first) == [str(folder)]
    (folder / "a").rename(folder / "b")
    assert data_digests(config(mixture)) != first
    assert data_digests(config()) == {}


def test_a_large_file_counts_by_its_size_and_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "WHOLE", 8)
    monkeypatch.setattr(data_files, "ENDS", 2)
    path = tmp_path / "a.jsonl"
    found = []
    for text in ("0123456789", "0129456789", "0123456780", "01234567890"):
        path.write_text(text)
        found.append(data_digests(config("--data.source=jsonl", f"--data.path={path}")))
    assert found[0] == found[1] and len({str(one) for one in found}) == 3


@pytest.mark.parametrize("path", ["texts.jsonl"])
def test_texts_of_teachers_count_too(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / path).write_text("1")
    flags = [f"--teachers.paths={path}", "--distill.target=text"]
    assert list(data_digests(config(*flags, stage="distill"))) == [path]


def test_a_run_goes_on_with_the_files_that_it_began_with(tmp_path):
    parts = [{"data": {"a.jsonl": "1", "b.jsonl": "2"}}, {"last_step": 3}]
    assert changed_since(tmp_path, [], {"a.jsonl": "1"}) == ""
    assert changed_since(tmp_path, parts, {"a.jsonl": "1", "c.jsonl": "3"}) == "", "one has moved"
    told = changed_since(tmp_path, parts, {"a.jsonl": "1", "b.jsonl": "3"})
    assert told.startswith("--resume: b.jsonl: the file of records was changed since")
    assert told.endswith(f"--name NEW --model.path {tmp_path}.")

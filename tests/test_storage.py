"""Files are whole or as they were, also where the disk is full; damaged lines are left out."""

import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax import storage
from cotjax.errors import InputError
from cotjax.storage import append_whole, read_json, rows_of, whole_rows, write_whole


def full_after(monkeypatch, count):
    """A disk that takes `count` more bytes, the last of them in a short write."""
    left, write = [count], os.write

    def limited(file, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, bytes(data)[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(storage.os, "write", limited)


def test_a_file_is_written_in_one_piece(tmp_path):
    write_whole(tmp_path / "a.json", "old")
    write_whole(tmp_path / "a.json", "né\ud800w")
    assert (tmp_path / "a.json").read_bytes() == "né\\ud800w".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path, monkeypatch, count):
    path = tmp_path / "a.json"
    write_whole(path, "the old")
    full_after(monkeypatch, count)
    with pytest.raises(InputError) as error:
        write_whole(path, "the new one")
    assert str(error.value).startswith(f"{path}: cannot be written (No space left on device).")
    assert "Make space there and go on with --resume" in str(error.value)
    assert path.read_text() == "the old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_short_write_is_taken_back(tmp_path, monkeypatch, count):
    path = tmp_path / "a.jsonl"
    append_whole(path, "one\n")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left"):
        full_after(patch, count)
        append_whole(path, "second\n")
    assert path.read_text() == "one\n"
    append_whole(path, "third\n")
    assert path.read_text() == "one\nthird\n"


def test_a_write_in_two_pieces_is_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(storage.os, "write", lambda file, data: write(file, bytes(data)[:2]))
    append_whole(tmp_path / "a", "12345")
    assert (tmp_path / "a").read_text() == "12345"


def test_a_damaged_file_of_json_names_itself_and_the_fix(tmp_path):
    path = tmp_path / "a.json"
    for data in (b'{"a": 1', b"\xff\xfe", b""):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a.json: is damaged \(.*\). Bring it back"):
            read_json(path, fix="Bring it back.")
    path.write_text("[1]")
    assert read_json(path, fix="") == [1]


ROWS = [{"step": n, "kind": "train", "text": "é\u2028" * n} for n in range(5)]
DATA = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@given(st.integers(0, len(DATA)))
def test_what_is_left_of_a_cut_file_is_its_whole_lines(end):
    found = [row for _, row in whole_rows(DATA[:end])]
    assert found == ROWS[: len(found)] and len(found) == DATA[:end].count(b"\n")


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_costs_two_lines_at_most(place, change):
    damaged = bytearray(DATA)
    damaged[place] ^= change
    found = [row for _, row in whole_rows(bytes(damaged))]
    assert sum(row in found for row in ROWS) >= len(ROWS) - 2


def test_lines_of_anything_else_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'3\n[1]\n{"kind": "train"}\n\x00\x00\n{"step": 1, "kind": "eval"}\nnull\n')
    assert rows_of(path) == [{"step": 1, "kind": "eval"}]
    assert rows_of(path, needs=()) == [{"kind": "train"}, {"step": 1, "kind": "eval"}]
    assert rows_of(tmp_path / "nowhere") == []


def test_a_step_that_is_no_number_and_a_nest_without_end_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": "1", "kind": "a"}\n{"step": 2, "kind": "a"}\n' + "[" * 100_000 + "\n")
    assert rows_of(path) == [{"step": 2, "kind": "a"}]

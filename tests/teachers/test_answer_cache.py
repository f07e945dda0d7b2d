"""Answers on disk: none is lost, a damaged line harms no other, and one run writes at a time."""

import errno
import os

import pytest

from cotjax.errors import InputError
from cotjax.teachers.answer_cache import Answer, AnswerCache, request_key


def test_an_answer_is_on_the_disk_when_it_was_put(tmp_path):
    path = tmp_path / "folder" / "cache.jsonl"
    with AnswerCache(path) as cache:
        assert cache.get("one") is None and len(cache) == 0
        cache.put("one", Answer("ü\n1"))
        assert path.read_text("utf-8").count("\n") == 1 and cache.get("one") == Answer("ü\n1")
    with AnswerCache(path) as cache:
        assert cache.get("one") == Answer("ü\n1") and len(cache) == 1


@pytest.mark.parametrize("damage", [b'{"key": "x"', b"\xff\xfe\n", b'{"answer": 1}\n', b"[]\n"])
def test_a_damaged_line_is_counted_and_the_others_serve(tmp_path, damage):
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path) as cache:
        cache.put("one", Answer("1"))
    with path.open("ab") as file:
        file.write(damage)
    with AnswerCache(path) as cache:
        assert cache.damaged == 1 and cache.get("one") == Answer("1")
        cache.put("two", Answer("2", cut=True))
    assert damage.strip() in path.with_suffix(".damaged").read_bytes()
    with AnswerCache(path) as cache:
        assert (
            cache.damaged == 0
            and cache.get("one") == Answer("1")
            and cache.get("two") == Answer("2", cut=True)
        )


def test_a_changed_byte_of_an_answer_is_found(tmp_path):
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path) as cache:
        cache.put("one", Answer("Step 1: 48/2=24"))
    path.write_bytes(path.read_bytes().replace(b"=24", b"=26"))
    with AnswerCache(path) as cache:
        assert cache.get("one") is None and cache.damaged == 1


def test_an_answer_of_an_earlier_version_serves(tmp_path):
    path = tmp_path / "cache.jsonl"
    path.write_text('{"key": "one", "answer": "1"}\n')
    with AnswerCache(path) as cache:
        assert cache.get("one") == Answer("1") and cache.damaged == 0


def test_half_a_surrogate_pair_is_kept(tmp_path):
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path) as cache:
        cache.put("one", Answer("\ud800"))
    with AnswerCache(path) as cache:
        assert cache.get("one") == Answer("\ud800")


def test_two_runs_on_one_cache_are_told_apart(tmp_path):
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path), pytest.raises(InputError, match="another run is using it"):
        AnswerCache(path)
    with AnswerCache(path):
        pass


def test_a_cache_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"rationales.cache = .* cannot be written"):
        AnswerCache(tmp_path)


def test_the_key_is_the_requests_content():
    assert request_key({"a": 1}) != request_key({"a": 2})


def test_the_order_of_a_requests_parts_changes_nothing():
    assert request_key({"a": 1, "b": "ü"}) == request_key({"b": "ü", "a": 1})


def test_a_full_disk_is_told_and_takes_no_answer(tmp_path, monkeypatch):
    path, write = tmp_path / "cache.jsonl", os.write
    with AnswerCache(path) as cache:
        cache.put("one", Answer("1"))
        before, left = path.read_bytes(), [20]

        def limited(file, data):
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done = write(file, bytes(data)[: left[0]])
            left[0] -= done
            return done

        with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left") as e:
            patch.setattr(os, "write", limited)
            cache.put("two", Answer("2"))
        assert "run the same command again" in str(e.value) and path.read_bytes() == before
        assert cache.get("two") is None
        cache.put("two", Answer("2"))
    with AnswerCache(path) as cache:
        assert cache.damaged == 0 and len(cache) == 2

"""Answers on disk: none is lost, a damaged line harms no other, and one run writes at a time."""

import pytest

from cotjax.errors import InputError
from cotjax.teachers.answer_cache import AnswerCache, request_key


def test_an_answer_is_on_the_disk_when_it_was_put(tmp_path):
    path = tmp_path / "folder" / "cache.jsonl"
    with AnswerCache(path) as cache:
        assert cache.get("one") is None and len(cache) == 0
        cache.put("one", "ü\n1")
        assert path.read_text("utf-8").count("\n") == 1 and cache.get("one") == "ü\n1"
    with AnswerCache(path) as cache:
        assert cache.get("one") == "ü\n1" and len(cache) == 1


@pytest.mark.parametrize("damage", [b'{"key": "x"', b"\xff\xfe\n", b'{"answer": 1}\n', b"[]\n"])
def test_a_damaged_line_is_counted_and_the_others_serve(tmp_path, damage):
    path = tmp_path / "cache.jsonl"
    with AnswerCache(path) as cache:
        cache.put("one", "1")
    with path.open("ab") as file:
        file.write(damage)
    with AnswerCache(path) as cache:
        assert cache.damaged == 1 and cache.get("one") == "1"
        cache.put("two", "2")
    assert damage.strip() in path.with_suffix(".damaged").read_bytes()
    with AnswerCache(path) as cache:
        assert cache.damaged == 0 and cache.get("one") == "1" and cache.get("two") == "2"


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

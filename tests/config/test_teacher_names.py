"""Entries of teachers.paths: what is a name, and what is said of the rationale."""

import pytest

from cotjax.config import TeacherName, parse_teacher
from cotjax.errors import InputError


@pytest.mark.parametrize(
    "name",
    ["runs/a", "owner/name", "owner/name@main", "owner/name@v1.0", "a@", "@1", "a@1e-1", "a@0.5b",
     "a@nan", "a@1/2", "self", "texts.jsonl", "a@0/b", "owner/name@3f5a"],
)  # fmt: skip
def test_without_a_number_behind_the_last_at_all_of_it_is_the_name(name):
    assert parse_teacher(name) == TeacherName(name, 0.0, is_shown=False)


@pytest.mark.parametrize(
    ("name", "path", "share"),
    [
        ("runs/a@0", "runs/a", 0.0),
        ("runs/a@0.5", "runs/a", 0.5),
        ("runs/a@.25", "runs/a", 0.25),
        ("runs/a@1.", "runs/a", 1.0),
        ("owner/name@main@1", "owner/name@main", 1.0),
        ("owner/name@2@0", "owner/name@2", 0.0),
        ("a@0.5@0", "a@0.5", 0.0),
        ("./self@1", "./self", 1.0),
    ],
)
def test_the_number_behind_the_last_at_is_the_share(name, path, share):
    assert parse_teacher(name) == TeacherName(path, share, is_shown=True)


def test_self_is_the_student_only_with_a_share():
    assert parse_teacher("self@0.5").is_self and not parse_teacher("self").is_self


@pytest.mark.parametrize("name", ["a@2", "a@1.01", "a@-0.5", "owner/name@2", "self@7"])
def test_a_number_that_is_no_share_names_the_range_and_both_ways_out(name):
    with pytest.raises(InputError, match="a number from 0 to 1") as error:
        parse_teacher(name)
    path = name.rpartition("@")[0]
    assert f'"{path}@1"' in str(error.value) and f'"{name}@0"' in str(error.value)


def test_nothing_can_be_shown_to_the_writer_of_a_file():
    assert parse_teacher("a.jsonl").is_file
    with pytest.raises(InputError, match="a file holds texts that were written already"):
        parse_teacher("a.jsonl@0.5")


def test_steps_are_counted_to_the_nearest_whole_one_and_never_fewer_for_more():
    counts = [parse_teacher(f"a@{share / 100}").count(7) for share in range(101)]
    assert counts[0] == 0 and counts[-1] == 7 and counts == sorted(counts)
    assert all(abs(count - 7 * share / 100) <= 0.5 for share, count in enumerate(counts))

"""parts.json counts every part of a run, also one that was killed; idle ones do not count."""

import datetime
import json
import os
import time

import pytest

import cotjax
from cotjax.errors import InputError
from cotjax.run.commit import commit_of
from cotjax.run.parts import Parts, earlier_parts, part_of


def begun(seconds_ago=0.0):
    return time.monotonic() - seconds_ago


def read(folder):
    return json.loads((folder / "parts.json").read_text())


def test_a_part_says_when_how_far_and_with_what(tmp_path):
    parts = Parts(tmp_path, began=begun(5.0))
    parts.write(0, 3)
    parts.end()
    (part,) = read(tmp_path)
    assert set(part) == {
        *("started", "first_step", "last_step", "seconds", "ended", "version", "jax", "machine"),
        *("commit", "python", "xla_flags"),
    }
    assert (part["first_step"], part["last_step"], part["ended"]) == (0, 3, True)
    assert 5.0 <= part["seconds"] < 6.0 and parts.seconds == part["seconds"]
    assert part["version"] == cotjax.__version__ and part["commit"] == commit_of()
    ago = datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(part["started"])
    assert 5.0 <= ago.total_seconds() < 6.0


def test_it_is_there_from_the_beginning_and_after_each_checkpoint(tmp_path):
    parts = Parts(tmp_path, began=begun())
    assert read(tmp_path)[0]["last_step"] == 0 and not read(tmp_path)[0]["ended"]
    parts.write(0, 2)
    assert read(tmp_path)[0]["last_step"] == 2
    assert not (tmp_path / "parts.json.tmp").exists()


def test_seconds_of_parts_add_up(tmp_path):
    first = Parts(tmp_path, began=begun(10.0))
    first.write(0, 2)
    first.end()
    second = Parts(tmp_path, began=begun(5.0))
    second.write(2, 4)
    second.end()
    assert len(second.all) == 2 and 15.0 <= second.seconds < 16.5
    assert second.all == read(tmp_path)


def test_a_killed_part_ends_with_the_last_change_of_the_metrics(tmp_path):
    killed = Parts(tmp_path, began=begun(100.0))
    killed.write(0, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "kind": "train"}\n{"step": 3, "kind": "train"}\n{"step": 4, "ki')
    started = datetime.datetime.fromisoformat(read(tmp_path)[0]["started"]).timestamp()
    os.utime(path, (started + 130.0, started + 130.0))
    (part,) = earlier_parts(tmp_path)
    assert part["seconds"] == 130.0 and part["last_step"] == 3
    resumed = Parts(tmp_path, began=begun(1.0))
    resumed.write(2, 4)
    resumed.end()
    assert 131.0 <= resumed.seconds < 132.0


def test_a_part_that_ended_keeps_its_seconds_whatever_is_touched(tmp_path):
    parts = Parts(tmp_path, began=begun(3.0))
    parts.write(0, 2)
    parts.end()
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "kind": "train"}\n')
    after = time.time() + 1000
    os.utime(tmp_path / "metrics.jsonl", (after, after))
    assert earlier_parts(tmp_path)[0]["seconds"] < 4.0


def test_resuming_a_finished_run_adds_nothing(tmp_path):
    parts = Parts(tmp_path, began=begun(3.0))
    parts.write(0, 2)
    parts.end()
    again = Parts(tmp_path, began=begun(7.0))
    again.write(2, 2)
    again.end()
    assert again.all == parts.all == read(tmp_path)


def test_a_part_says_what_it_changed(tmp_path):
    Parts(tmp_path, began=begun()).write(0, 3)
    again = Parts(tmp_path, began=begun(), changed={"steps": (3, 5)})
    again.write(3, 5)
    assert read(tmp_path)[1]["changed"] == {"steps": [3, 5]} and "changed" not in read(tmp_path)[0]


def test_damaged_files_are_named_or_read_as_far_as_they_are_whole(tmp_path):
    Parts(tmp_path, began=begun()).write(0, 1)
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "kind": "train"}\n\x00\xff{"st\n{"step": 2, "kind": "train"}\n{"st'
    )
    assert earlier_parts(tmp_path)[0]["last_step"] == 2
    (tmp_path / "parts.json").write_text('[{"started": ')
    with pytest.raises(InputError, match="parts.json: is damaged .* Remove it to go on"):
        earlier_parts(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ended", None), ("started", "now"), ("seconds", "1"), ("last_step", None), ("hub", [])],
)
def test_a_changed_byte_of_a_name_or_value_is_told(tmp_path, name, value):
    Parts(tmp_path, began=begun()).write(0, 1)
    (part,) = read(tmp_path)
    part.pop(name, None)
    part |= {name: value} if value is not None else {}
    (tmp_path / "parts.json").write_text(json.dumps([part]))
    with pytest.raises(InputError, match="parts.json: is damaged. Remove it to go on"):
        earlier_parts(tmp_path)


def test_the_part_of_a_step_is_the_last_that_took_it():
    killed, resumed = {"first_step": 0, "last_step": 7}, {"first_step": 5, "last_step": 9}
    assert part_of([killed, resumed], 5) is killed
    assert part_of([killed, resumed], 6) is part_of([killed, resumed], 9) is resumed
    assert part_of([], 1) == {}


def test_it_notes_the_files_of_records(tmp_path):
    Parts(tmp_path, began=begun(), data={"a.jsonl": "0123"}).write(0, 1)
    assert read(tmp_path)[0]["data"] == {"a.jsonl": "0123"}


def test_other_processes_write_nothing(tmp_path):
    parts = Parts(tmp_path, began=begun(), silent=True)
    parts.write(0, 1)
    parts.end()
    assert not list(tmp_path.iterdir())

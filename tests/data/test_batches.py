"""Batches cut from blocks: nothing is lost at the seams, and a place is a block and a row."""

import dataclasses
import signal
import subprocess
import sys
import textwrap

import grain
import pytest

from cotjax.data.batches import Batches, Cutting
from cotjax.data.sources import RecordList
from cotjax.interfaces import Record
from tests.processes import outlive

SOURCE = RecordList(Record(f"n/{i}", str(i), "", (), 1) for i in range(3))
BLOCK = 5  # rows a block; a batch of 3 ends inside of one


def blocks(source):
    assert source is SOURCE
    return grain.MapDataset.range(2**30).map(lambda i: list(range(BLOCK * i, BLOCK * (i + 1))))


CUTTING = Cutting(
    3,
    rows=len,
    cut=lambda block, start, stop: block[start:stop],
    join=lambda parts: [row for part in parts for row in part],
)


def batches(size=3, place=None):
    return Batches(SOURCE, blocks, dataclasses.replace(CUTTING, size=size), place=place)


def take(stream, count):
    return [row for _ in range(count) for row in next(stream)]


@pytest.mark.parametrize("size", [1, 3, 5, 12])
def test_every_row_comes_once_and_in_order(size):
    assert take(batches(size), 7) == list(range(7 * size))


def test_the_state_is_the_block_and_the_row_behind_the_last_batch():
    stream = batches()
    assert stream.get_state() == {"block": 0, "row": 0}
    next(stream)
    assert stream.get_state() == {"block": 0, "row": 3}
    next(stream)
    assert stream.get_state() == {"block": 1, "row": 1}
    take(stream, 3)
    assert stream.get_state() == {"block": 3, "row": 0}, "a block that is used up is left"


@pytest.mark.parametrize("taken", range(6))
def test_a_stream_goes_on_from_a_place_of_another(taken):
    first, second = batches(), batches()
    take(first, taken)
    next(second)
    second.set_state(first.get_state())
    assert take(second, 4) == take(first, 4)


@pytest.mark.parametrize("place", [None, lambda batch: batch])
def test_a_closed_stream_starts_again_where_it_stood(place):
    stream = batches(place=place)
    take(stream, 2)
    state = stream.get_state()
    stream.close()
    stream.set_state(state)
    assert take(stream, 2) == list(range(6, 12))
    stream.close()


def test_what_is_made_ahead_is_not_yet_given():
    made = []
    stream = batches(place=lambda batch: made.append(batch) or batch)
    assert next(stream) == [0, 1, 2]
    assert stream.get_state() == {"block": 0, "row": 3}
    assert next(stream) == [3, 4, 5] and [3, 4, 5] in made
    stream.close()


def test_workers_end_with_their_parent_however_it_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, time
            import grain
            from cotjax.data.batches import Batches, Cutting
            if __name__ == "__main__":
                cutting = Cutting(1, rows=len, cut=lambda block, start, stop: block, join=list)
                batches = Batches(
                    [], lambda source: grain.MapDataset.range(99).batch(1), cutting, workers=1
                )
                next(batches)
                print(*(one.pid for one in multiprocessing.active_children()), flush=True)
                time.sleep(60)
        """),
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        (worker,) = map(int, run.stdout.readline().split())
        run.send_signal(signal.SIGKILL)
    assert not outlive([worker]), "the worker outlived its parent"

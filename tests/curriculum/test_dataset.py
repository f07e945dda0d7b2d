"""The examples of a distillation: what is learned from, what is measured on, what a cache is of."""

import dataclasses

import numpy as np
import pytest

from cotjax.curriculum.dataset import DistillDataset, split_monitor
from cotjax.data.sources import RecordList
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel.mesh import make_mesh
from cotjax.student.load import load_policy
from cotjax.teachers.pool import TeacherPool
from tests.tiny import END, TOKENIZER, make_config, with_section, write_teachers

RECORDS = RecordList(Record(f"r/{i}", f"{i}?", "7", ("7*1=7",), 1) for i in range(10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    write_teachers(folder)
    return folder


def config_of(folder, *more):
    flags = "--stage=distill", "--steps=4", "--curriculum.buckets=2", "--curriculum.num-monitor=4"
    both = [str(folder / name) for name in ("weak", "strong")]
    return make_config(folder, *flags, "--teachers.paths", *both, *more)


def opened(config):
    mesh = make_mesh(1)
    return DistillDataset(config, mesh, load_policy(config, mesh))


def ids(records):
    return [record.id for record in records]


def split(folder, **changes):
    return split_monitor(RECORDS, with_section(config_of(folder), "curriculum", **changes))


def test_examples_come_first_and_monitored_records_behind_them(folder):
    records, monitor = split(folder)
    assert ids(records) == [f"r/{i}" for i in range(6)]
    assert ids(monitor) == [f"r/{i}" for i in range(6, 10)]
    records, monitor = split(folder, examples=3)
    assert ids(records) == ["r/0", "r/1", "r/2"] and ids(monitor) == [f"r/{i}" for i in range(3, 7)]


def test_more_buckets_than_examples_are_refused(folder):
    with pytest.raises(InputError, match="buckets = 7: more buckets than the 6 examples"):
        split(folder, buckets=7)


def test_an_example_is_the_question_and_its_own_solution(folder):
    dataset = opened(config_of(folder))
    row, record = dataset.encode(0), dataset.records[0]
    text = dataset.student.prompts.solve(record.question) + "Step 1: 7*1=7\nAnswer: 7"
    assert TOKENIZER.decode(row["tokens"]) == text and row["targets"][-1] == END
    np.testing.assert_array_equal(row["targets"][:-1], row["tokens"][1:])
    assert TOKENIZER.decode(row["targets"][row["weight"] > 0][:-1]) == "Step 1: 7*1=7\nAnswer: 7"


def test_the_pass_rate_is_that_of_the_monitored_records(folder):
    dataset = opened(config_of(folder))
    assert dataset.pass_rate(dataset.student.params) in (0, 0.25, 0.5, 0.75, 1)


def test_a_manifest_changes_with_whatever_a_cache_depends_on(folder):
    def manifest(*more):
        config = config_of(folder, *more)
        dataset = opened(config)
        dataset.curriculum.prepare(dataset.student.params, 0)
        teachers = TeacherPool(config, make_mesh(1), TOKENIZER, slots=1)
        return dataclasses.asdict(dataset.manifest(teachers))

    base = manifest()
    assert base == manifest("--steps=9"), "when a teacher is asked changes nothing that it says"
    for flag, changed in (
        ("--teachers.top-k=8", {"top_k"}),
        ("--distill.temperature=2", {"temperature"}),
        ("--teachers.cache-dtype=uint8", {"dtype"}),
        ("--seed=4", {"data"}),
        ("--curriculum.examples=8", {"data"}),
    ):
        other = manifest(flag)
        assert {name for name in base if other[name] != base[name]} == changed, flag


def test_what_the_student_samples_for_the_order_is_counted_in_the_step_that_asks(folder):
    more = "--curriculum.difficulty=pass_rate", "--curriculum.samples=2"
    dataset = opened(config_of(folder, *more, "--batch.sequence-length=64"))
    params = dataset.student.params
    dataset.curriculum.prepare(params, 0)
    state = dataset.curriculum.get_state()
    tokens = dataset.mined_tokens(0)
    assert tokens > 2 * len(dataset.records) and dataset.mined_tokens(0) == 0
    dataset.curriculum.prepare(params, 1)
    assert dataset.mined_tokens(1) == 0, "nothing is measured again"
    dataset.pass_rate(params)
    asked = [TOKENIZER.encode(dataset.student.prompts.solve(r.question)) for r in dataset.monitor]
    least = sum(map(len, asked)) + len(asked)
    assert least <= dataset.mined_tokens(1) <= least + 8 * len(asked)

    resumed = opened(config_of(folder, *more, "--batch.sequence-length=64"))
    resumed.curriculum.prepare(params, 0)  # as a cache of logits asks for before it goes on
    resumed.curriculum.set_state(state)
    resumed.curriculum.prepare(params, 2)
    assert resumed.mined_tokens(2) == 0, "counted in the first part of the run"

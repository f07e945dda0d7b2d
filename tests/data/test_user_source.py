"""A user's own records: by an object or a function; few are checked at once, many one by one."""

import functools
import pathlib
import pickle

import pytest

from cotjax.config import Config, DataConfig, Plugin
from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data import user_source
from cotjax.data.layouts import RecordReader
from cotjax.data.splits import open_split
from cotjax.data.user_source import (
    UserSource,
    last_user_records,
    record_mistake,
    user_records,
)  # fmt: skip
from cotjax.errors import InputError, PluginError
from cotjax.interfaces import Record

READER = RecordReader(functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal)


def record(i, **changes):
    whole = {"id": f"r/{i}", "question": f"{i} + 7?", "answer": str(i + 7), "steps": ("add",)}
    return Record(**(whole | {"difficulty": 1} | changes))


RECORDS = [record(i) for i in range(6)]


def records_of(found, **data):
    return user_records(Plugin("data.source", found), DataConfig(source=found, **data))


class Many:
    """More records than are read at once, once `SMALL` is."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return record(index)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(user_source, "SMALL", 4)


@pytest.mark.parametrize(
    "source",
    [RECORDS, tuple(RECORDS), lambda: RECORDS, lambda data: [record(i) for i in range(data.size)]],
    ids=["list", "tuple", "function", "of the data section"],
)
def test_records_come_from_an_object_or_a_function(source):
    assert list(records_of(source, size=6)) == RECORDS


def test_a_class_is_made_an_object():
    assert list(records_of(Many)) == [record(i) for i in range(10)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (None, "returned None on record 1: it is NoneType, and no Record."),
        ({"question": "?"}, "it is dict, and no Record."),
        (Record, "it is Record, and no Record."),
        (record(1, question=" "), "its question is ' ', and needs to be a text that is not empty"),
        (record(1, answer=""), "its answer is ''"),
        (record(1, answer=8), "its answer is 8"),
        (record(1, id=""), "its id is ''"),
        (record(1, steps=["add"]), "its steps are ['add'], and need to be a tuple of texts"),
        (record(1, difficulty=-1), "its difficulty is -1"),
        (
            record(1, question="a\ud800"),
            r"half a surrogate pair, '\ud800', stands in its question. Leave it out.",
        ),
        (record(1, steps=("a", "\udfff")), "stands in its steps"),
        (record(0), 'records 0 and 1 have one id, "r/0". Give each an id of its own'),
    ],
)
def test_an_entry_that_is_no_usable_record_is_named(entry, said):
    with pytest.raises(PluginError) as error:
        records_of([record(0), entry])
    assert said in str(error.value)


def test_a_record_is_right_as_it_should_be():
    assert record_mistake(record(0)) == record_mistake(record(0, steps=())) == ""


def test_nothing_is_no_source():
    with pytest.raises(InputError, match="holds no record. Give at least one."):
        records_of([])


@pytest.mark.parametrize("gives", [None, 3, Record])
def test_a_function_that_gives_no_records_is_refused(gives):
    with pytest.raises(PluginError, match="it needs to give records with __len__ and __getitem__"):
        records_of(lambda: gives)


def test_a_function_that_raises_names_the_line():
    def source(data):
        raise OSError("no disk")

    with pytest.raises(PluginError, match=r"raised OSError: no disk \(test_user_source\.py, line"):
        records_of(source)


def test_a_large_source_is_read_as_it_is_needed(few):
    class Holes(Many):
        def __getitem__(self, index):
            return record(index) if index < 8 else {}[index]

    source = records_of(Holes())
    assert isinstance(source, UserSource) and len(source) == 10 and source[3] == record(3)
    with pytest.raises(PluginError, match="raised KeyError: 9 on record 9"):
        source[9]
    assert source.part([2, 1])[0] == record(2)


def test_a_large_source_goes_to_a_worker_by_its_name(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own.py").write_text(
        "from cotjax.interfaces import Record\n"
        "class Many:\n"
        "    lock = None\n"
        "    def __init__(self): self.lock = lambda: 0\n"  # which no pickle holds
        "    def __len__(self): return 10\n"
        "    def __getitem__(self, i): return Record(f'r/{i}', '?', '7', (), 1)\n"
    )
    source = records_of("./own.py:Many", workers=1)
    assert source[0].id == "r/0"
    assert pickle.loads(pickle.dumps(source))[3].id == "r/3"


def test_a_large_source_that_cannot_be_sent_says_what_is_needed(few):
    class Locked(Many):
        def __reduce__(self):
            raise TypeError("cannot pickle a lock")

    with pytest.raises(InputError) as error:
        records_of(Locked(), workers=2)
    assert str(error.value).startswith("data.workers = 2, data.source = ")
    assert "cannot pickle a lock" in str(error.value) and "data.workers = 0" in str(error.value)
    assert len(records_of(Locked(), workers=0)) == 10


# Held out.


def split(source, keep=lambda records, path: records, **settings):
    data = {"source": source, **settings}
    config = Config.for_stage("sft", name="r", data=data, eval={"problems": 2})
    return open_split(config, READER, keep)


def test_the_last_records_are_held_out():
    train, held_out = split(RECORDS)
    assert list(train) == RECORDS[:4] and held_out == RECORDS[4:]


def test_the_last_records_of_a_large_source_are_held_out(few):
    train, held_out = split(Many())
    assert len(train) == 8 and held_out == [record(8), record(9)]


def test_a_file_may_be_held_out_instead(tmp_path):
    path = tmp_path / "held.jsonl"
    path.write_text('{"question": "1+1?", "answer": "#### 2"}\n' * 3)
    train, held_out = split(RECORDS, eval_path=str(path))
    assert len(train) == 6 and [one.answer for one in held_out] == ["2", "2"]


def test_only_what_fits_is_kept():
    train, held_out = split(RECORDS, lambda records, path: records[1:])
    assert list(train) + held_out == RECORDS[1:]


def test_too_few_to_hold_any_out_names_the_source():
    with pytest.raises(InputError, match=r'data.source = "python:list": 2 records, and the last'):
        split(RECORDS[:2])


def test_only_the_last_records_are_asked_for():
    class Counting(Many):
        asked = []

        def __getitem__(self, index):
            self.asked.append(index)
            return record(index)

    own = Plugin("data.source", Counting())
    assert last_user_records(own, DataConfig(), 3) == [record(i) for i in (7, 8, 9)]
    assert Counting.asked == [7, 8, 9]
    assert len(last_user_records(own, DataConfig(), 99)) == 10
    with pytest.raises(InputError, match="holds no record"):
        last_user_records(Plugin("data.source", []), DataConfig(), 3)

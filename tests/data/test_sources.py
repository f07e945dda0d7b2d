"""Every source gives the same records, names what it cannot read, and mixes by weight."""

import dataclasses
import functools
import importlib.util
import json
import os
import pickle
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data.layouts import RecordReader
from cotjax.data.problems import ProblemSource
from cotjax.data.sources import (
    Mapped,
    Mixture,
    RecordList,
    Subset,
    _text,
    parse_mixture,
    read_records,
)
from cotjax.errors import InputError
from tests.data.test_layouts import FAILURE, READER, ROWS


def needs(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: its extra names it")


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_array(path, rows):
    path.write_text(json.dumps(rows, indent=1))


def write_parquet(path, rows):
    needs("pyarrow")
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist(rows), path)


def write_array_record(path, rows):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(json.dumps(row).encode())
    writer.close()


def write_tfds(path, rows):
    needs("tensorflow_datasets")
    needs("importlib_resources")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                texts = {"question": tfds.features.Text(), "answer": tfds.features.Text()}
                features = tfds.features.FeaturesDict(texts)
                return tfds.core.DatasetInfo(
                    builder=self, features=features, disable_shuffling=True
                )

            def _split_generators(self, dl_manager):
                return {"train": enumerate(rows)}

            def _generate_examples(self):
                raise NotImplementedError

        Tiny(data_dir=path, file_format="array_record").download_and_prepare()


WRITERS = {
    "jsonl": ("jsonl", write_jsonl, "{}"),
    "array": ("jsonl", write_array, "{}"),
    "parquet": ("parquet", write_parquet, "{}"),
    "array_record": ("array_record", write_array_record, "{}"),
    "tfds": ("tfds", write_tfds, "{}/tiny/1.0.0"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_records(tmp_path, kind):
    source, write, name = WRITERS[kind]
    write(tmp_path / "data", ROWS)
    records = read_records(name.format(tmp_path / "data"), READER, source=source)
    assert [(r.question, r.answer, r.steps) for r in records] == [
        (f"{i} and 1?", str(i + 1), (f"{i}+1 = {i + 1}",)) for i in range(6)
    ]
    assert len({record.id for record in records}) == 6 and records[2].id.endswith(":3")


def test_decimals_and_numpys_values_are_as_json_has_them(tmp_path):
    row = {"n": np.int64(3), "texts": np.array([b"a", b"b"], object), "nested": {"x": [b"c"]}}
    assert _text(row) == {"n": 3, "texts": ["a", "b"], "nested": {"x": ["c"]}}
    assert isinstance(_text(row)["n"], int)
    needs("pyarrow")
    write_parquet(tmp_path / "d.parquet", [{"question": "?", "answer": Decimal("2.50")}])
    reader = dataclasses.replace(READER, layout="gym")
    assert read_records(str(tmp_path / "d.parquet"), reader, source="parquet")[0].answer == "2.5"


@pytest.mark.parametrize("source", ["parquet", "array_record", "tfds"])
def test_a_file_that_is_not_of_the_format_is_named_with_the_fix(tmp_path, source):
    needs({"parquet": "pyarrow", "array_record": "grain", "tfds": "tensorflow_datasets"}[source])
    path = tmp_path / "data"
    for _ in range(2):  # missing, then of another format
        with pytest.raises(InputError) as error:
            read_records(str(path), READER, source=source)
        assert f'data.path = "{path}": cannot be read' in str(error.value)
        assert "Set data.path to a" in str(error.value)
        path.write_text("neither")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"pip install \"cotjax\[reasoning-gym\]\""):
        read_records("chain_sum", READER, source="reasoning_gym")


@pytest.mark.filterwarnings("ignore")
def test_reasoning_gym_makes_its_problems_from_the_seed():
    needs("reasoning_gym")
    gym = RecordReader(
        functools.partial(gold_of, NUMERIC), parse_rationale, answers_equal, layout="gym"
    )
    make = lambda seed: read_records(  # noqa: E731
        "chain_sum", gym, source="reasoning_gym", size=5, seed=seed
    )
    assert make(0) == make(0) != make(1) and len(make(0)) == 5
    assert all(record.answer.lstrip("-").isdigit() for record in make(0))
    with pytest.raises(InputError, match='data.path = "no_such": .* reasoning-gym data set'):
        read_records("no_such", gym, source="reasoning_gym")


def test_what_is_skipped_is_counted(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", [FAILURE, FAILURE | {"gold_answer": "3"}, FAILURE])
    kept = read_records(str(tmp_path / "rows.jsonl"), READER, on_bad_record="skip")
    assert [record.id for record in kept] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert "data.path: 1 of 3 records skipped, the first: rows.jsonl:2" in capsys.readouterr().err


def test_the_published_failures_are_read():
    path = Path(__file__).parents[3] / "shared" / "data" / "bridge" / "stage3_error_samples.json"
    if not path.exists():
        pytest.skip("no bridge/stage3_error_samples.json: this test reads the published file")
    records = read_records(str(path), READER, on_bad_record="skip")
    assert len(records) >= 560 and min(len(record.steps) for record in records) >= 1
    assert all(record.thinking for record in records[:3])


# Mixtures.


@pytest.mark.parametrize("text", ["", "problems", "problems=0", "problems=-1", "=1", "problems=x"])
def test_a_mixture_entry_needs_a_source_and_a_weight(text):
    with pytest.raises(InputError, match="needs a source and a weight > 0"):
        parse_mixture(text)


@pytest.mark.parametrize("weights", [(0.0,), (1.0, 1.0), (float("inf"),), (float("nan"),)])
def test_nothing_to_draw_is_an_error(weights):
    with pytest.raises(InputError, match="data.mixture"):
        Mixture((ProblemSource("train", 0, 2, 3),), weights)
    with pytest.raises(InputError, match="data.mixture"):
        Mixture(((),), (1.0,))
    with pytest.raises(InputError, match="data.mixture"):
        Mixture((), ())


# What a stage may ask of a source.


def problems():
    return ProblemSource("train", 0, 2, 3)


def test_a_part_has_the_chosen_records_in_their_order():
    listed = RecordList(problems()[index] for index in range(6))
    for source in (listed, problems(), Subset(problems(), np.arange(6))):
        part = source.part([4, 1])
        assert len(part) == 2 and [part[0], part[1]] == [source[4], source[1]]
        assert [one for one, _ in source.parts] == [source] and part.part([1])[0] == source[1]


def test_a_part_that_is_a_range_takes_no_memory_of_its_own():
    part = ProblemSource("train", 0, 2, 3, size=10**9).part(range(10, 10**9 - 10))
    assert len(part) == 10**9 - 20 and part[0] == problems()[10]
    assert len(pickle.dumps(part)) < 1000 and part.part(range(5, 7))[1] == problems()[16]


def test_records_of_a_file_are_checked_and_those_that_are_made_are_not():
    listed = RecordList(problems()[index] for index in range(6))
    assert listed.checked(lambda records: records[::2]) == listed[::2]

    def never(records):
        raise AssertionError("there are too many to look at")

    endless = problems()
    assert endless.checked(never) is endless


def test_a_mixture_has_its_sources_as_parts_and_numbers_them_one_after_the_other():
    one, other = (RecordList(problems()[index] for index in part) for part in (range(2), range(3)))
    mixture = Mixture((one, other), (1.0, 3.0))
    assert mixture.parts == ((one, 1.0), (other, 3.0)) and len(mixture) == 5
    assert [mixture[index] for index in range(5)] == [*one, *other]
    with pytest.raises(IndexError):
        mixture[5]


def test_parquet_holds_messages_bytes_and_lists_in_a_folder_of_shards(tmp_path):
    needs("pyarrow")
    from pyarrow import Table, parquet

    turns = lambda i: [  # noqa: E731
        {"role": "user", "content": f"{i} and 1?"},
        {"role": "assistant", "content": f"Step 1: {i}+1\nAnswer: {i + 1}"},
    ]
    shards = tmp_path / "train"
    shards.mkdir()
    for name in range(2):
        rows = [{"messages": turns(i)} for i in (2 * name, 2 * name + 1)]
        parquet.write_table(Table.from_pylist(rows), shards / f"{name}.parquet")
    records = read_records(str(shards), READER, source="parquet")
    assert [(r.question, r.answer, r.steps) for r in records] == [
        (f"{i} and 1?", str(i + 1), (f"{i}+1",)) for i in range(4)
    ]
    raw = [{name: text.encode() for name, text in row.items()} for row in ROWS]
    parquet.write_table(Table.from_pylist(raw), tmp_path / "raw.parquet")
    assert read_records(str(tmp_path / "raw.parquet"), READER, source="parquet")[0].answer == "1"


@pytest.mark.parametrize("source", ["parquet", "array_record", "tfds"])
def test_a_pipe_is_not_waited_for(tmp_path, source):
    needs({"parquet": "pyarrow", "array_record": "grain", "tfds": "tensorflow_datasets"}[source])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read_records(str(tmp_path / "pipe"), READER, source=source)


def test_a_mixture_is_checked_source_by_source(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    rows = RecordList(read_records(str(tmp_path / "rows.jsonl"), READER))
    problems = ProblemSource("train", 0, 1, 2)
    mixed = Mixture((rows, problems), (1, 2)).checked(lambda records: records[:2])
    assert len(mixed.sources[0]) == 2 and mixed.sources[1] is problems and mixed.weights == (1, 2)


def test_what_is_skipped_is_shown_without_its_control_characters(tmp_path, capsys):
    bad = {"question": "?", "gold_answer": "\x1b[J\x00", "teacher_cot": "x"}
    write_jsonl(tmp_path / "rows.jsonl", [FAILURE, bad])
    read_records(str(tmp_path / "rows.jsonl"), READER, on_bad_record="skip")
    assert '"gold_answer" = "\\x1b[J\\x00" is no number' in capsys.readouterr().err


def longer(record):
    return dataclasses.replace(record, question=f"{record.question}!")


def test_records_are_changed_when_they_are_asked_for_and_a_mixture_stays_one():
    made = ProblemSource("train", 0, 2, 3)
    listed = RecordList([ProblemSource("test", 0, 2, 3)[n] for n in range(4)])
    changed = made.mapped(longer)
    assert isinstance(changed, Mapped) and len(changed) == len(made)
    assert changed[5] == longer(made[5]) and changed.part([7])[0] == longer(made[7])
    assert listed.mapped(longer) == [longer(one) for one in listed]
    assert listed.mapped(longer).checked(lambda records: records[:1]) == [longer(listed[0])]
    mixed = Mixture((made, listed), (1.0, 2.0)).mapped(longer)
    assert len(mixed.parts) == 2 and [weight for _, weight in mixed.parts] == [1.0, 2.0]
    assert mixed[2] == longer(made[2]) and mixed[len(made) + 1] == longer(listed[1])

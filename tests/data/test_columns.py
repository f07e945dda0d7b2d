"""`data.columns`: a file's own names for what a layout reads, in every kind of file."""

import dataclasses
import functools

import pytest

from cotjax.config import ROW_KEYS
from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data.layouts import _LAYOUTS, OPTIONAL, RecordReader
from cotjax.data.sources import read_records
from cotjax.errors import InputError

READER = RecordReader(
    functools.partial(gold_of, NUMERIC),
    parse_rationale,
    answers_equal,
    columns={"question": "prompt", "answer": "solution"},
)
ROW = {"prompt": "2+2?", "solution": "2+2=4\n#### 4"}


def test_a_row_is_read_under_the_layouts_keys():
    record = READER.record(ROW, "f:1")
    assert (record.question, record.answer, record.steps) == ("2+2?", "4", ("2+2=4",))


def test_the_layout_is_found_by_the_new_names():
    reader = dataclasses.replace(READER, columns={"input": "prompt", "target": "solution"})
    row = {"prompt": "2+2?", "solution": "Step 1: 2+2=4\nAnswer: 4"}
    assert reader.record(row, "f:1").steps == ("2+2=4",)


def test_two_columns_may_change_places():
    reader = dataclasses.replace(READER, columns={"question": "answer", "answer": "question"})
    row = {"answer": "2+2?", "question": "2+2=4\n#### 4"}
    assert reader.record(row, "f:1") == READER.record(ROW, "f:1")


def test_a_column_that_a_row_lacks_is_named_with_its_key():
    with pytest.raises(InputError) as error:
        READER.record({"prompt": "2+2?", "answer": "#### 4"}, "f:3")
    assert str(error.value) == (
        'f:3: has no column "solution", which data.columns names for "answer". It has "prompt", '
        '"answer". Set data.columns to what is there.'
    )


def test_the_keys_of_the_config_are_those_of_the_layouts():
    needed = {key for keys, _ in _LAYOUTS.values() for key in keys}
    assert set(ROW_KEYS) == needed | set(OPTIONAL)


def test_parquet_has_columns_too(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({name: [text] for name, text in ROW.items()}), path)
    (record,) = read_records(str(path), READER, source="parquet")
    assert record.answer == "4"

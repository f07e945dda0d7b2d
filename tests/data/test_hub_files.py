"""A data set of the hub: its converted files, or its own, by config and split."""

import io
import json

import pytest
from huggingface_hub import constants

from cotjax.config import load
from cotjax.data.hub_files import chosen, place_of, split_files
from cotjax.data.sources import read_records
from cotjax.data.splits import open_held_out, open_split
from cotjax.errors import InputError
from cotjax.hub import CONVERTED
from tests.data.test_layouts import READER
from tests.fake_hub import FakeHub, point_at, serving

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def table(*answers):
    """GSM8K's two columns as a Parquet file."""
    rows = [{"question": f"Q{n}?", "answer": f"{n}*1={n}\n#### {n}"} for n in answers]
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A data set as GSM8K is on the hub, and one that nobody converted."""
    hub = FakeHub()
    own = {"main/train-00000-of-00001.parquet": table(1, 2, 3), "README.md": b"#"}
    hub.add("openai/gsm8k", own, kind="datasets")
    hub.add("openai/gsm8k", {"old/train.parquet": table(9)}, kind="datasets", revision="v0")
    converted = {
        "main/train/0000.parquet": table(1, 2), "main/train/0001.parquet": table(3),
        "main/test/0000.parquet": table(4, 5), "socratic/train/0000.parquet": table(6),
    }  # fmt: skip
    hub.add("openai/gsm8k", converted, kind="datasets", revision=CONVERTED)
    hub.add("one/own", {"data/train-00000-of-00001.parquet": table(7)}, kind="datasets")
    hub.add("one/none", {"train.csv": b"a,b"}, kind="datasets")
    with serving(hub) as address:
        point_at(monkeypatch, address, tmp_path / "cache")
        yield hub


def answers(path, config="", split="train"):
    found = read_records(path, READER, source="hub", split=split, config=config)
    return [record.answer for record in found]


def refused(*args):
    with pytest.raises(InputError) as error:
        answers(*args)
    return str(error.value)


def test_a_config_and_a_split_in_all_their_files(hub):
    assert answers("openai/gsm8k", "main") == ["1", "2", "3"]
    assert answers("openai/gsm8k", "main", "test") == ["4", "5"]
    assert answers("openai/gsm8k", "socratic") == ["6"]
    fetched = [path for path in hub.asked if "/resolve/" in path]
    assert len({path for path in fetched}) == 4, "only the files that are read"


def test_a_record_is_named_by_data_set_split_and_row(hub):
    found = read_records("openai/gsm8k", READER, source="hub", split="test", config="main")
    assert [record.id for record in found] == ["openai/gsm8k/test:1", "openai/gsm8k/test:2"]
    both = read_records("openai/gsm8k", READER, source="hub", split="train", config="main")
    assert len({record.id for record in both}) == 3


def test_a_data_set_that_is_not_converted_is_read_from_its_own_files(hub):
    assert answers("one/own") == ["7"]


def test_a_revision_is_read_from_its_own_files(hub):
    assert answers("openai/gsm8k@v0") == ["9"]


def test_what_is_missing_lists_what_there_is(hub):
    assert "Set data.config to one of main, socratic" in refused("openai/gsm8k")
    assert 'data.config = "mian": ' in refused("openai/gsm8k", "mian")
    said = refused("openai/gsm8k", "main", "validation")
    assert "data.split" in said and "test, train" in said
    assert "has no Parquet files" in refused("one/none")
    assert "has no such data set" in refused("one/nothing")
    assert "no name of the Hugging Face Hub, such as openai/gsm8k" in refused("gsm8k")


def test_offline_it_comes_from_the_cache(hub, monkeypatch):
    before = answers("openai/gsm8k", "main"), answers("one/own")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (answers("openai/gsm8k", "main"), answers("one/own")) == before
    assert "HF_HUB_OFFLINE" in refused("one/other")


def test_a_local_folder_of_that_name_wins(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "openai" / "gsm8k" / "main"
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(table(8))
    assert answers("openai/gsm8k") == ["8"] and not hub.asked
    assert split_files("openai/gsm8k", "main", "train", "k")[0].name == "train.parquet"


def test_a_split_is_held_out_by_its_name(hub):
    flags = ["--data.source=hub", "--data.path=openai/gsm8k", "--data.config=main"]
    keep = lambda records, path: records  # noqa: E731
    config = load([*flags, "--data.eval-split=test", "--eval.problems=1"])
    train, held_out = open_split(config, READER, keep)
    assert [train[i].answer for i in range(len(train))] == ["1", "2", "3"]
    assert [record.answer for record in held_out] == ["4"]
    hub.asked.clear()
    assert open_held_out(config, READER, keep) == held_out
    _, rest = open_split(load([*flags, "--eval.problems=1"]), READER, keep)
    assert [record.answer for record in rest] == ["3"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("main/train/0000.parquet", ("main", "train")),
        ("main/partial-train/0003.parquet", ("main", "train")),
        ("data/train-00000-of-00002.parquet", ("default", "train")),
        ("data/main/test-00000-of-00001.parquet", ("main", "test")),
        ("en/deep/validation.parquet", ("en/deep", "validation")),
        ("train.parquet", ("default", "train")),
        ("train/0000.parquet", ("default", "train")),
        ("test_0.parquet", ("default", "test")),
    ],
)
def test_a_file_s_name_tells_its_config_and_split(name, place):
    assert place_of(name) == place


def test_a_config_called_default_is_the_default():
    names = ["default/train/0000.parquet", "other/train/0000.parquet"]
    assert chosen(names, "", "train", "k", "p") == names[:1]
    many = [f"c{i}/train/0000.parquet" for i in range(20)]
    with pytest.raises(InputError, match="c11 and 8 others"):
        chosen(many, "", "train", "k", "p")


def test_rows_of_another_layout_say_so(hub):
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist([{"text": json.dumps("x")}]), file)
    hub.add("one/text", {"train.parquet": file.getvalue()}, kind="datasets")
    assert "one/text" in refused("one/text")

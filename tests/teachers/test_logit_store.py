"""The store of top logits: what a record says, and what must not be read."""

import dataclasses
import json

import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.teachers.logit_store import (
    LogitStore,
    Manifest,
    StoreWriter,
    TopKLogits,
    decode_logp,
    encode_logp,
    from_bytes,
    shard_name,
    to_bytes,
)

MANIFEST = Manifest("tok", "template", "data", 50_000, 16, 1.0, "float16", ("a", "b"))


def said(length, k=16, vocab_size=50_000, seed=0):
    """A teacher's top K of random logits."""
    logits = np.random.default_rng(seed).normal(0, 3, (length, vocab_size))
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    ids = np.argsort(-logp, axis=-1)[:, :k]
    top = np.take_along_axis(logp, ids, axis=-1)
    return TopKLogits(ids, top, np.log1p(-np.exp(top).sum(axis=-1)))


@pytest.mark.parametrize(("dtype", "error"), [("float16", 5e-3), ("uint8", 8e-2)])
@pytest.mark.parametrize("vocab_size", [50_000, 151_936])
def test_a_record_comes_back_and_is_small(dtype, error, vocab_size):
    one = said(7, vocab_size=vocab_size)
    record = to_bytes(5, one, vocab_size=vocab_size, dtype=dtype)
    assert len(record) - 8 <= 7 * 100
    example, back = from_bytes(record, vocab_size=vocab_size, top_k=16, dtype=dtype)
    assert example == 5
    np.testing.assert_array_equal(back.ids, one.ids)
    np.testing.assert_allclose(back.logp, one.logp, atol=error)
    total = np.exp(back.logp).sum(axis=-1) + np.exp(back.log_rest)
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_one_byte_is_finest_where_tokens_are_likely():
    logp = np.linspace(0, -24, 1000)
    error = np.abs(decode_logp(encode_logp(logp, "uint8")) - logp)
    assert error[logp > -0.7].max() < 0.04 and error.max() < 0.1
    assert error[:20].max() < error[-20:].max() / 3


@pytest.fixture
def store(tmp_path):
    writer = StoreWriter(tmp_path, MANIFEST)
    for teacher, bucket in ((0, 0), (1, 1)):
        examples = ((10 * bucket + i, said(3 + i, seed=i)) for i in range(4))
        writer.write(shard_name(teacher, bucket, 0), examples, {"kl": 0.5})
    return tmp_path


def test_what_was_written_is_read(store):
    reader = LogitStore(store, MANIFEST, [(0, 0), (1, 1)])
    np.testing.assert_array_equal(reader.read(0, 2).ids, said(5, seed=2).ids)
    np.testing.assert_array_equal(reader.read(1, 13).ids, said(6, seed=3).ids)
    assert [entry["positions"] for entry in reader.entries] == [18, 18]
    # 8 bytes of each record say whose it is; the format's own blocks are the rest.
    assert reader.entries[0]["bytes"] > 18 * 66


def test_a_begun_store_is_continued_and_a_broken_shard_is_not_there(store):
    writer = StoreWriter(store, MANIFEST)
    assert writer.has(shard_name(0, 0, 0)) and not writer.has(shard_name(0, 1, 0))

    def broken():
        yield 0, said(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        writer.write(shard_name(0, 1, 0), broken(), {})
    assert not writer.has(shard_name(0, 1, 0))
    with pytest.raises(InputError, match="holds no logits of teacher 1 for bucket 2"):
        LogitStore(store, MANIFEST, [(1, 0)])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tokenizer", "other", "Take the student whose tokenizer"),
        ("template", "other", "Set data.prompt"),
        ("top_k", 32, "was made with top_k = 16, this run has 32. Set teachers.top_k"),
        ("temperature", 2.0, "Set distill.temperature"),
        ("data", "other", r"Set \[data\]"),
        ("teachers", ("a",), "Set teachers.paths"),
    ],
)
def test_a_store_of_something_else(store, name, value, words):
    expected = dataclasses.replace(MANIFEST, **{name: value})
    with pytest.raises(InputError, match=words):
        LogitStore(store, expected, [(0, 0)])
    with pytest.raises(InputError, match=words):
        StoreWriter(store, expected)


def test_a_shard_that_was_cut_off(store):
    file = store / "t0-b0-00000.array_record"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="so it was cut off"):
        LogitStore(store, MANIFEST, [(0, 0)])


@pytest.mark.parametrize("text", ["", '{"examples"', "[]", '{"bytes": 3, "examples": 1}'])
def test_a_damaged_list_of_examples(store, text):
    (store / "t0-b0-00000.json").write_text(text)
    with pytest.raises(InputError, match="t0-b0-00000.json: is damaged.*cache_logits again"):
        LogitStore(store, MANIFEST, [(0, 0)])


def test_a_changed_byte_is_found_where_it_is_read(store):
    file = store / "t0-b0-00000.array_record"
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    reader = LogitStore(store, MANIFEST, [(0, 0)])
    with pytest.raises(InputError, match="hash mismatch") as error:
        for example in reader.entries[0]["examples"]:
            reader.read(0, example)
    assert "remove that and t0-b0-00000.json" in str(error.value)


def test_a_full_disk_is_told_and_leaves_no_shard(store, monkeypatch):
    class Full:
        def __init__(self, *_):
            pass

        def write(self, record):
            pass

        def close(self):
            raise RuntimeError("write() failed: No space left on device")

    monkeypatch.setattr("cotjax.teachers.logit_store.array_record.ArrayRecordWriter", Full)
    writer, name = StoreWriter(store, MANIFEST), shard_name(0, 1, 0)
    with pytest.raises(InputError, match="No space left.*run the same command again"):
        writer.write(name, iter([(0, said(3))]), {})
    assert not writer.has(name)


@pytest.mark.parametrize("text", ["[]", "3", "{"])
def test_a_damaged_manifest(store, text):
    (store / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="no manifest.json that can be read"):
        LogitStore(store, MANIFEST, [(0, 0)])


def test_no_store(tmp_path):
    with pytest.raises(InputError, match="no manifest.json"):
        LogitStore(tmp_path, MANIFEST, [(0, 0)])
    (tmp_path / "manifest.json").write_text(json.dumps({})[:-1])
    with pytest.raises(InputError, match="no manifest.json that can be read"):
        LogitStore(tmp_path, MANIFEST, [(0, 0)])

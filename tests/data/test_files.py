"""Lines of files as people have them: the same text, whatever it is wrapped in."""

import gzip
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.data.files import read_lines
from cotjax.errors import InputError

TEXT = '{"a": "é\u2028x"}\n\n{"b": 1}\n'
LINES = ['{"a": "é\u2028x"}', "", '{"b": 1}', ""]
WRAPPED = {
    "plain.jsonl": TEXT.encode(),
    "bom.jsonl": TEXT.encode("utf-8-sig"),
    "utf16.jsonl": TEXT.encode("utf-16"),
    "utf16be.jsonl": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "utf32.jsonl": TEXT.encode("utf-32"),
    "crlf.jsonl": TEXT.replace("\n", "\r\n").encode(),
    "cr.jsonl": TEXT.replace("\n", "\r").encode(),
    "packed.jsonl.gz": gzip.compress(TEXT.encode()),
    "misnamed.jsonl": gzip.compress(TEXT.encode("utf-16")),
}


def refused(path):
    with pytest.raises(InputError) as error:
        read_lines(str(path), "data.path")
    return str(error.value)


@pytest.mark.parametrize("name", WRAPPED)
def test_the_lines_are_those_of_the_text(tmp_path, name):
    (tmp_path / name).write_bytes(WRAPPED[name])
    assert read_lines(str(tmp_path / name), "data.path") == [(name, LINES)]


def test_zstandard_is_read_too(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="needs the extra [zst]")
    file = tmp_path / "packed.jsonl.zst"
    first, second = (zstandard.ZstdCompressor().compress(part.encode()) for part in (TEXT, "x"))
    file.write_bytes(first)
    assert read_lines(str(file), "data.path") == [(file.name, LINES)]
    file.write_bytes(first + second)
    assert read_lines(str(file), "data.path") == [(file.name, [*LINES[:-1], "x"])]
    file.write_bytes(first[:-3])
    assert "ended before its end marker" in refused(file)
    file.write_bytes(first[:4] + b"garbage")
    assert "a damaged Zstandard file" in refused(file)


def test_zstandard_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    file = tmp_path / "packed.jsonl.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfdx")
    assert refused(file).endswith('is compressed by Zstandard. Run pip install "cotjax[zst]".')


def test_a_folder_is_its_shards_by_name(tmp_path):
    for name in ("b.jsonl", "a.jsonl.gz", "notes.txt"):
        packed = gzip.compress(TEXT.encode()) if name.endswith("gz") else TEXT.encode()
        (tmp_path / name).write_bytes(packed)
    assert [name for name, _ in read_lines(str(tmp_path), "data.path")] == ["a.jsonl.gz", "b.jsonl"]


def test_json_beside_json_lines_and_hidden_files_are_no_shards(tmp_path):
    for name in ("info.json", "._a.jsonl", ".b.jsonl"):
        (tmp_path / name).write_text(TEXT)
    assert [name for name, _ in read_lines(str(tmp_path), "data.path")] == ["info.json"]
    (tmp_path / "a.ndjson").write_text(TEXT)
    assert [name for name, _ in read_lines(str(tmp_path), "data.path")] == ["a.ndjson"]


def test_a_folder_without_shards_says_what_it_holds(tmp_path):
    assert "it holds nothing" in refused(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    message = refused(tmp_path)
    assert message.startswith(f'data.path = "{tmp_path}": is a folder without')
    assert "it holds notes.txt" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b'{"a": "\xe9"}\n', "line 1 is not UTF-8"),
        (b'{}\n{"a": "\xe9"}\n', "line 2 is not UTF-8"),
        (b"\x00\x01bin\x00\x00ary", "holds NUL bytes"),
        (TEXT.encode("utf-16-le"), "holds NUL bytes"),
        (gzip.compress(TEXT.encode(), mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8bgarbage", "cannot be read"),
        (b"PAR1\x00", 'is a Parquet file. Set data.source = "parquet".'),
        (b"PK\x03\x04x", "is a zip archive"),
        (b"BZh9x", "is compressed by bzip2"),
    ],
)
def test_what_is_no_text_is_named_with_the_fix(tmp_path, content, says):
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    message = refused(file)
    assert message.startswith('data.path = "') and says in message


def test_a_pipe_is_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is no regular file" in refused(pipe)


def test_nothing_there(tmp_path):
    assert "No such file" in refused(tmp_path / "none.jsonl")
    assert "No such file" in refused("")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1))
def test_a_line_stays_whole_in_every_encoding(tmp_path_factory, line):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        file.write_bytes(f"{line}\nend".encode(encoding))
        assert read_lines(str(file), "data.path") == [("any.jsonl", [line, "end"])]

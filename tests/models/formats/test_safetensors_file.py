"""A safetensors file, read tensor by tensor: what the package writes, and every kind of damage."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cotjax.errors import InputError
from cotjax.models.formats.safetensors_file import SafetensorsFile

RNG = np.random.default_rng(0)
TENSORS = {
    "b": RNG.normal(size=(3, 4)).astype(np.float32),
    "a": RNG.normal(size=(5,)).astype(np.float16),
    "empty": np.zeros((0, 2), np.float32),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "m.safetensors", metadata={"format": "pt"})
    return tmp_path / "m.safetensors"


def test_it_reads_what_the_package_reads(path: Path) -> None:
    file, expected = SafetensorsFile(path), load_file(path)
    assert file.shapes == {name: values.shape for name, values in TENSORS.items()}
    for name, values in expected.items():
        np.testing.assert_array_equal(file.read(name), values)
        assert file.read(name).dtype == values.dtype


def test_views_stay_valid_while_others_are_read_and_cannot_be_written(path: Path) -> None:
    file = SafetensorsFile(path)
    first = file.read("b")
    for name in TENSORS:
        file.read(name)
    np.testing.assert_array_equal(first, TENSORS["b"])
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


def changed(content: bytes, **entry: object) -> bytes:
    """The file with the header's entry of "b" changed."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["b"] |= entry
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "not a complete safetensors file"),
        (lambda content: content[:4], "header should end"),
        (lambda content: content[:-1], "its header names"),
        (lambda content: content + b"x", "its header names"),
        (lambda content: content[:8] + b"x" + content[9:], "header cannot be read"),
        (lambda content: (2**40).to_bytes(8, "little") + content[8:], "header should end"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(path: Path, damage, words: str) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"m.safetensors: not a complete.*{words}|{words}"):
        SafetensorsFile(path)


def test_a_tensor_of_another_size_or_format_is_named(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(changed(content, shape=[3, 5]))
    with pytest.raises(InputError, match=r"tensor b \(3, 5\) has 48 bytes"):
        SafetensorsFile(path).read("b")
    path.write_bytes(changed(content, dtype="I64"))
    with pytest.raises(InputError, match="tensor b is stored as I64, which is not supported"):
        SafetensorsFile(path).read("b")

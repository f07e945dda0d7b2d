"""A safetensors file, read tensor by tensor: what the package writes, and every kind of damage."""

import json
from pathlib import Path

import jax.numpy as jnp
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


def test_every_format_has_its_place_and_notes_are_read(tmp_path: Path) -> None:
    kinds = [np.bool_, np.uint8, np.int16, np.int64, np.complex64, jnp.float8_e5m2, jnp.bfloat16]
    tensors = {f"{kind.__name__}": np.ones(3, kind) for kind in kinds} | {"last": TENSORS["b"]}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(file.read("last"), TENSORS["b"])
    np.testing.assert_array_equal(file.read("bfloat16"), tensors["bfloat16"])
    assert file.notes == {"format": "pt"}


def changed(content: bytes, **entry: object) -> bytes:
    """The file with the header's entry of "b" changed."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["b"] |= entry
    header["b"] = {key: value for key, value in header["b"].items() if value is not None}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:4],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:8] + b"x" + content[9:],
        lambda content: (2**40).to_bytes(8, "little") + content[8:],
        lambda content: (2**64 - 1).to_bytes(8, "little") + content[8:],
        *(lambda content, key=key: changed(content, **{key: None})
          for key in ("dtype", "shape", "data_offsets")),
        *(lambda content, shape=shape: changed(content, shape=shape)
          for shape in ([3, 5], [-3, -4], [2**32, 2**32], [2**62, 4], 12, "12", [3.0, 4.0])),
        *(lambda content, place=place: changed(content, data_offsets=place)
          for place in ([4, 52], [2, 50], [58, 10], [10, 2**63], [-48, 0], [10], "10")),
        lambda content: changed(content, dtype="F99"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_what_is_wrong(path: Path, damage) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"m.safetensors: not a complete .* \(.+\)\. Download"):
        SafetensorsFile(path)


def test_a_header_is_bounded_before_it_is_read(path: Path) -> None:
    with path.open("r+b") as file:
        file.write((17 * 2**20).to_bytes(8, "little"))
        file.truncate(40 * 2**20)  # of zeros, which take no space
    with pytest.raises(InputError, match="a header of 17,825,792 bytes"):
        SafetensorsFile(path)


def test_a_tensor_without_numbers_has_sizes_in_reach(path: Path) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["empty"]["shape"] = [0, 2**63]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(InputError, match="tensor empty has the shape"):
        SafetensorsFile(path)


def test_a_tensor_of_another_format_is_named(path: Path) -> None:
    path.write_bytes(changed(path.read_bytes(), dtype="I32"))
    with pytest.raises(InputError, match="tensor b is stored as I32, which is not supported"):
        SafetensorsFile(path).read("b")

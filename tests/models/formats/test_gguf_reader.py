"""The package's reader in larger bites: lists in one part, matrices expanded together."""

from pathlib import Path

import numpy as np
import pytest

ggml = pytest.importorskip("gguf")

from cotjax.errors import InputError  # noqa: E402
from cotjax.models.formats.gguf_reader import FastReader, expanded  # noqa: E402

RNG = np.random.default_rng(0)


def write(path: Path) -> str:
    writer = ggml.GGUFWriter(path, "llama")
    writer.add_array("words", ["one", "", "drei", "ünf"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_uint32("single", 7)
    writer.add_tensor("matrix", RNG.normal(size=(96, 64)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_fields_have_the_packages_contents(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    ours, theirs = FastReader(path), ggml.GGUFReader(path)
    for name in ("words", "numbers", "single"):
        assert ours.fields[name].contents() == theirs.fields[name].contents()
    assert len(ours.fields["numbers"].parts) < len(theirs.fields["numbers"].parts)


def test_a_list_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "m.gguf"))
    content = path.read_bytes()
    place = content.index(b"words") + len("words") + 8  # behind two types: the count
    path.write_bytes(content[:place] + (2**40).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises((ValueError, IndexError)):
        FastReader(str(path))


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_expanded_values_are_the_packages_own(kind: str, tmp_path: Path) -> None:
    values = RNG.normal(size=(96, 64)).astype(np.float32)
    quantised = getattr(ggml.GGMLQuantizationType, kind)
    writer = ggml.GGUFWriter(tmp_path / "m.gguf", "llama")
    packed = ggml.quants.quantize(values, quantised)
    writer.add_tensor("matrix", packed, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tensor,) = FastReader(str(tmp_path / "m.gguf")).tensors
    expected = ggml.quants.dequantize(packed, quantised)
    np.testing.assert_array_equal(expanded(tensor, "m.gguf").reshape(96, 64), expected)


def test_a_format_that_the_package_cannot_expand_is_named() -> None:
    class Tensor:
        data, name = np.zeros((16, 32), np.uint8), "matrix"
        tensor_type = ggml.GGMLQuantizationType.Q8_1

    with pytest.raises(InputError, match="m.gguf: tensor matrix is stored as Q8_1"):
        expanded(Tensor(), "m.gguf")  # pyright: ignore[reportArgumentType]

"""GGUF files, written here as llama.cpp's converter writes them, give the folder's model back."""

import dataclasses
import functools
import math
import sys
from pathlib import Path
from typing import Any

import gguf as ggml
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gguf.quants import dequantize
from safetensors.numpy import load_file
from tokenizers import pre_tokenizers

from cotjax.errors import InputError
from cotjax.models import formats
from cotjax.models.formats import gguf, huggingface
from cotjax.models.formats.gguf_reader import FastReader, expanded
from cotjax.models.formats.load import load_model
from cotjax.models.rope import Rope
from cotjax.models.transformer import Architecture, Transformer
from tests.models.formats.test_huggingface import SHAPES, assert_same_model
from tests.models.test_parity import needs_smollm2

# Hugging Face name -> llama.cpp name, as its converter has them.
RENAMED = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers.", "blk."),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|begin|>", "<|end|>"]
TOKENS = [*SPECIAL, *BYTES, "Ġa", "<tool>", "ab"]
TYPES = [3, 3, *[1] * len(BYTES), 1, 4, 1]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Row i of a head's first half and of its second become neighbours, as the converter does."""
    rows = weight.reshape(heads, -1, weight.shape[-1])
    half = rows.shape[1] // 2
    out = [row for head in rows for i in range(half) for row in (head[i], head[half + i])]
    return np.stack(out)


def rope_divisors(rope: Rope, width: int) -> np.ndarray:
    """What llama.cpp's converter stores of Llama 3's rotary settings, as its code computes it."""
    found = []
    for i in range(0, width, 2):
        wavelength = 2 * math.pi * rope.theta ** (i / width)
        if wavelength < rope.original_positions / rope.high_frequency:
            found.append(1.0)
        elif wavelength > rope.original_positions / rope.low_frequency:
            found.append(rope.factor)
        else:
            smooth = (rope.original_positions / wavelength - rope.low_frequency) / (
                rope.high_frequency - rope.low_frequency
            )
            found.append(1 / ((1 - smooth) / rope.factor + smooth))
    return np.array(found, np.float32)


def write(path: Path, model: Transformer, kind: ggml.GGMLQuantizationType, **options: Any) -> None:
    """A GGUF file of the model; matrices stored as `kind`. Options are extra metadata."""
    shape, divisors = model.shape, options.pop("divisors", None)
    huggingface.save(model, path.parent / "folder")
    writer = ggml.GGUFWriter(path, shape.family)
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.mlp_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope.theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    tokenizer = {"pre": "smollm", "kind_of_tokenizer": "gpt2", "types": TYPES, "add_bos": False}
    tokenizer |= {key: options.pop(key) for key in tokenizer.keys() & options.keys()}
    if shape.family == "granite":
        writer.add_embedding_scale(shape.embedding_multiplier)
        writer.add_attention_scale(shape.attention_multiplier)
        writer.add_residual_scale(shape.residual_multiplier)
        writer.add_logit_scale(shape.logits_scaling)
    writer.add_tokenizer_model(tokenizer["kind_of_tokenizer"])
    if tokenizer["pre"]:
        writer.add_tokenizer_pre(tokenizer["pre"])
    writer.add_token_list([options.pop("first", TOKENS[0]), *TOKENS[1:]])
    writer.add_token_types(tokenizer["types"])
    writer.add_token_merges(["Ġ a", "a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(tokenizer["add_bos"])
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for key, value in options.items():
        key = key.replace("__", ".")
        if key in writer.kv_data[0]:
            del writer.kv_data[0][key]
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    tensors = load_file(path.parent / "folder" / "model.safetensors")
    for name, values in tensors.items():
        if shape.family in ("llama", "smollm3", "granite") and (
            "q_proj" in name or "k_proj" in name
        ):
            values = interleaved(values, shape.num_heads if "q_" in name else shape.num_kv_heads)
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        stored = kind if values.ndim == 2 else ggml.GGMLQuantizationType.F32
        writer.add_tensor(name, ggml.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@functools.cache
def make_model(family: str) -> Transformer:
    options = SHAPES[family]
    if family == "smollm3":  # a file does not say which layers they are
        options = {**options, "nope_layers": (3,)}
    layers = 4 if family == "smollm3" else 2
    shape = Architecture(family, len(TOKENS), 32, layers, 4, 2, 8, 64, **options)
    return Transformer(shape, rngs=nnx.Rngs(0))


def load(path: Path) -> Transformer:
    return gguf.File(path).load(param_dtype=jnp.float32, dtype=jnp.float32)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm3", "granite"])
def test_unquantised_file_is_the_folder_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = make_model(family)
    write(tmp_path / "m.gguf", model, ggml.GGMLQuantizationType.F32)
    assert_same_model(load(tmp_path / "m.gguf"), model)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_rotary_divisors_are_llama_3_s_settings(factor: float, tmp_path: Path) -> None:
    rope = Rope(500_000.0, "llama3", factor, original_positions=8192)
    shape = dataclasses.replace(make_model("llama").shape, rope=rope, head_dim=64)
    model = Transformer(shape, rngs=nnx.Rngs(0))
    divisors = rope_divisors(rope, 64)
    assert len(set(divisors.tolist())) > 3  # some are between 1 and the factor
    kind = ggml.GGMLQuantizationType.F32
    write(tmp_path / "m.gguf", model, kind, divisors=divisors)
    assert_same_model(load(tmp_path / "m.gguf"), model)
    for wrong in (divisors * 2, divisors[:-1], np.full_like(divisors, 3.0)):
        write(tmp_path / "m.gguf", model, kind, divisors=wrong)
        with pytest.raises(InputError, match="rope_freqs.weight divides rotary frequencies"):
            load(tmp_path / "m.gguf")


def test_every_end_token_of_a_file_ends_a_completion(tmp_path: Path) -> None:
    formats = {"param_dtype": jnp.float32, "compute_dtype": jnp.float32}

    def stops(**options: Any) -> tuple[int, ...]:
        write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32, **options)
        student = load_model(str(tmp_path / "m.gguf"), init="random", seed=0, **formats)
        return student.eos_id, *student.stop_ids

    assert stops() == (1,)
    assert stops(tokenizer__ggml__eot_token_id=5, tokenizer__ggml__eom_token_id=6) == (1, 5, 6)
    assert stops(first="<|im_end|>") == (1, 0)  # an older file, whose control tokens say it
    with pytest.raises(InputError, match=r"eot_token_id = 999: 999 is not a token"):
        stops(tokenizer__ggml__eot_token_id=999)
    for role in ("padding", "bos", "eos", "unknown"):
        with pytest.raises(InputError, match=f"{role}_token_id = 999, but the file has 261 tokens"):
            stops(**{f"tokenizer__ggml__{role}_token_id": 999})


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_quantised_file_is_near(kind: str, tmp_path: Path) -> None:
    model = make_model("llama")
    write(tmp_path / "m.gguf", model, ggml.GGMLQuantizationType[kind])
    bits = {"F16": 11, "BF16": 8, "Q8_0": 7, "Q5_1": 4, "Q4_0": 3}[kind]

    def check(exact: jax.Array, found: jax.Array) -> None:
        np.testing.assert_allclose(found, exact, atol=float(jnp.abs(exact).max()) * 2.0**-bits)

    jax.tree.map(check, nnx.state(model), nnx.state(load(tmp_path / "m.gguf")))


@pytest.mark.parametrize("endian", ggml.GGUFEndian)
def test_fields_are_the_packages_own(endian: ggml.GGUFEndian, tmp_path: Path) -> None:
    writer = ggml.GGUFWriter(tmp_path / "m.gguf", "llama", endianess=endian)
    lists: dict[str, Any] = {"words": ["", "é", "a b"], "bits": [True, False], "reals": [0.5, -2.0]}
    for key, value in (lists | {"integers": list(range(300))}).items():
        writer.add_array(key, value)
    writer.add_string("text", "abc")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = (reader(tmp_path / "m.gguf") for reader in (FastReader, ggml.GGUFReader))
    assert {key: field.contents() for key, field in ours.fields.items()} == {
        key: field.contents() for key, field in theirs.fields.items()
    }
    assert ours.data_offset == theirs.data_offset


@pytest.mark.parametrize("rows", [1, 7, 16, 37, 96, 4096])
def test_rows_that_are_expanded_together_have_the_packages_values(rows: int) -> None:
    values = np.random.default_rng(rows).standard_normal((rows, 256), np.float32)
    for kind in ("Q4_1", "Q8_0", "Q6_K", "F16", "F32"):
        kind = ggml.GGMLQuantizationType[kind]
        packed = np.zeros((rows, 210), np.uint8) if kind.name == "Q6_K" else None  # no writer of it
        packed = ggml.quantize(values, kind) if packed is None else packed
        tensor = ggml.ReaderTensor("x", kind, values.shape, values.size, 0, 0, packed, None)  # type: ignore[arg-type]
        found = expanded(tensor, "m.gguf").reshape(values.shape)
        np.testing.assert_array_equal(found, dequantize(packed, kind))


def test_tokenizer_is_rebuilt(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32)
    tokenizer = gguf.File(tmp_path / "m.gguf").tokenizer()
    text = "ab a 12<tool><|end|>é"
    assert tokenizer.tokenize(text) == ["ab", "Ġa", "Ġ", "1", "2", "<tool>", "<|end|>", "Ã", "©"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab a 12<tool>é"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin|>", "<|end|>")
    assert tokenizer.pad_token is None
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    )
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(len(TOKENS))] == TOKENS


def test_begin_token_is_added_if_the_file_says_so(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32, add_bos=True)
    tokenizer = gguf.File(tmp_path / "m.gguf").tokenizer()
    assert tokenizer.tokenize("ab", add_special_tokens=True) == ["<|begin|>", "ab"]
    assert tokenizer.tokenize("ab", add_special_tokens=False) == ["ab"]


def test_student_from_a_file_says_that_the_end_token_pads(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32)
    formats = {"param_dtype": jnp.float32, "compute_dtype": jnp.float32}
    student = load_model(str(tmp_path / "m.gguf"), init="random", seed=3, **formats)
    assert student.eos_id == student.pad_id == 1
    assert any("<|end|>" in note and "pads" in note for note in student.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pre": "chameleon"}, r'pre = "chameleon" is not known.*smollm'),
        ({"pre": ""}, r'pre = "None" is not known'),
        ({"kind_of_tokenizer": "llama"}, r'tokenizer\.ggml\.model = "llama"; only byte-level'),
    ],
)
def test_unknown_tokenizer_is_named(options: dict, message: str, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32, **options)
    with pytest.raises(InputError, match=message):
        gguf.File(tmp_path / "m.gguf").tokenizer()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llama__rope__scaling__type": "linear"}, r"llama\.rope\.scaling\.type = 'linear'"),
        ({"llama__expert_count": 8}, r"llama\.expert_count = 8"),
        ({"llama__attention__sliding_window": 64}, "sliding_window = 64"),
        ({"llama__rope__dimension_count": 4}, "rope.dimension_count = 4 differs"),
        ({"llama__attention__head_count_kv": 3}, "head_count = 4, head_count_kv = 3.*must divide"),
        ({"llama__block_count": 2**31}, r"block_count = 2147483648; 10,000 at most is read"),
        ({"llama__block_count": "two"}, "llama.block_count = 'two'; a positive integer is needed"),
        ({"llama__rope__freq_base": "x"}, "llama.rope.freq_base = 'x'; a positive number"),
        ({"llama__attention__head_count": 0}, "head_count = 0; a positive integer is needed"),
    ],
)
def test_options_that_are_not_honoured_are_refused(
    options: dict, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32, **options)
    with pytest.raises(InputError, match=message):
        gguf.File(tmp_path / "m.gguf").architecture()


def test_options_that_are_off_are_accepted(tmp_path: Path) -> None:
    options = {"llama__rope__scaling__type": "none", "llama__expert_count": 0}
    write(tmp_path / "m.gguf", make_model("llama"), ggml.GGMLQuantizationType.F32, **options)
    gguf.File(tmp_path / "m.gguf").architecture()


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = ggml.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match='general.architecture = "mamba".*llama'):
        gguf.File(path).architecture()


def test_tensors_that_overlap_or_leave_a_hole_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, make_model("llama"), ggml.GGMLQuantizationType.F32)
    whole = path.read_bytes()
    second = whole.index(b"output_norm.weight")
    place = second + len(b"output_norm.weight") + 4 + 8 + 4  # dimensions, the one, its format
    offset = int.from_bytes(whole[place : place + 8], "little")
    for wrong in (0, offset - 32, offset + 32, 2**63, 2**64 - 1):
        path.write_bytes(whole[:place] + wrong.to_bytes(8, "little") + whole[place + 8 :])
        if wrong != offset:
            with pytest.raises(InputError, match="not a complete GGUF file"):
                gguf.File(path)


@pytest.mark.parametrize("keep", [0, 3, *range(20, 4_000, 97), 5_000, -1000])
def test_truncated_file_is_named(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write(path, make_model("llama"), ggml.GGMLQuantizationType.F32)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="m.gguf: not a complete GGUF file"):
        gguf.File(path).load(param_dtype=jnp.float32, dtype=jnp.float32)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "cotjax.models.formats.gguf_reader")
    monkeypatch.delattr(formats, "gguf_reader")
    with pytest.raises(InputError, match=r"pip install 'cotjax\[gguf\]'"):
        gguf.File(tmp_path / "m.gguf")


@needs_smollm2
def test_smollm2_counts_digits_one_by_one() -> None:
    student = load_model(
        "smollm2-135m",
        init="random",
        param_dtype=jnp.float32,
        compute_dtype=jnp.float32,
        seed=0,
    )
    tokenizer = student.tokenizer
    assert (student.eos_id, student.pad_id) == (2, 2)
    expected = {
        "The sum 12345": ["The", "Ġsum", "Ġ", "1", "2", "3", "4", "5"],
        "a  5": ["a", "ĠĠ", "5"],  # a plain byte-level cut gives a, Ġ, Ġ, 5
        r"\frac{12}{7}": ["\\", "frac", "{", "1", "2", "}{", "7", "}"],
        "é½": ["Ã©", "Â½"],
        "<|im_end|>\n": ["<|im_end|>", "Ċ"],
    }
    assert {text: tokenizer.tokenize(text) for text in expected} == expected
    for text in expected:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_student_from_a_file_is_saved_as_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", make_model("qwen2"), ggml.GGMLQuantizationType.Q8_0)
    formats = {"param_dtype": jnp.float32, "compute_dtype": jnp.float32}
    student = load_model(str(tmp_path / "m.gguf"), init="pretrained", seed=0, **formats)
    huggingface.save(student.model, tmp_path / "saved", tokenizer=student.tokenizer)
    again = load_model(str(tmp_path / "saved"), init="pretrained", seed=0, **formats)
    assert_same_model(again.model, student.model)
    assert again.tokenizer.get_vocab() == student.tokenizer.get_vocab()
    assert again.tokenizer.tokenize("ab a  12<tool>é") == student.tokenizer.tokenize(
        "ab a  12<tool>é"
    )
    assert again.tokenizer.chat_template == student.tokenizer.chat_template
    assert (again.eos_id, again.pad_id) == (student.eos_id, student.pad_id)

"""Gemma 2 and 3 in GGUF, written here as llama.cpp's converter writes them."""

import dataclasses
import functools

import gguf as ggml
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from cotjax.errors import InputError
from cotjax.models.formats import huggingface
from cotjax.models.formats.families import FAMILIES
from cotjax.models.formats.gguf_gemma import open_gguf, sentencepiece_bpe
from cotjax.models.formats.load import load_model
from cotjax.models.rope import Rope
from cotjax.models.transformer import Architecture, Transformer

RENAMED = [
    ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"),
    ("model.layers.", "blk."), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
    ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
]  # fmt: skip
# A SentencePiece vocabulary: control tokens, a user's, bytes, letters and pieces with scores.
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
PIECES = ["▁the", "▁th", "the", "he", "th", "▁t", "▁", "▁▁", "t", "h", "e", "1", "2", "\n"]
TOKENS = [*SPECIAL, "\n\n", *BYTES, *PIECES]
KINDS = [3, 3, 3, 2, 3, 3, 4, *[6] * 256, *[1] * len(PIECES)]
SCORES = [*[-1000.0] * (7 + 256), *(-float(i) for i in range(len(PIECES)))]
SIZES = {"gemma2": "gemma2", "gemma3": "gemma3_text"}
WINDOWS = {
    "gemma2": ("sliding_attention", "full_attention") * 2,
    "gemma3": (*["sliding_attention"] * 5, "full_attention", "sliding_attention"),
}
OWN = {
    "gemma2": {"attention_softcap": 50.0, "logit_softcap": 30.0},
    "gemma3": {"local_rope": Rope(10_000.0), "rope": Rope(1e6, "linear", 8.0)},
}


@functools.cache
def make_model(kind, **more):
    """A Gemma in which every parameter is random, its norms included."""
    types = WINDOWS[kind]
    shape = Architecture(SIZES[kind], len(TOKENS), 32, len(types), 4, 2, 8, 64,
                         **FAMILIES[SIZES[kind]].fixed, **OWN[kind], layer_types=types,
                         sliding_window=3, norm_eps=1e-6)  # fmt: skip
    shape = dataclasses.replace(shape, **more)
    definition, params = nnx.split(Transformer(shape, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), params)
    return nnx.merge(definition, noisy)


def write(path, model, kind, **options):
    """A GGUF file of the model; options are extra metadata, and None leaves one out."""
    shape = model.shape
    huggingface.save(model, path.parent / "folder")
    writer = ggml.GGUFWriter(path, kind)
    numbers = {
        "context_length": shape.max_positions, "block_count": shape.num_layers,
        "embedding_length": shape.hidden_size, "feed_forward_length": shape.mlp_size,
        "attention.head_count": shape.num_heads, "attention.head_count_kv": shape.num_kv_heads,
        "attention.key_length": shape.head_dim, "attention.value_length": shape.head_dim,
        "attention.sliding_window": shape.sliding_window,
        "attention.layer_norm_rms_epsilon": shape.norm_eps,
    }  # fmt: skip
    if kind == "gemma2":
        numbers |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    else:
        numbers |= {"rope.freq_base": 1e6, "rope.scaling.type": "linear"}
        numbers |= {"rope.scaling.factor": 8.0}
    for key, value in (numbers | options).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        if isinstance(value, list):
            writer.add_array(f"{kind}.{key}", value)
        elif value is not None:
            add[type(value)](f"{kind}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(TOKENS)
    writer.add_token_scores(SCORES)
    writer.add_token_types(KINDS)
    for role, number in (("bos", 2), ("eos", 1), ("pad", 0), ("unk", 3)):
        getattr(writer, f"add_{role}_token_id")(number)
    writer.add_add_bos_token(True)
    writer.add_chat_template("<start_of_turn>{{ messages[0]['content'] }}<end_of_turn>")
    for name, values in load_file(path.parent / "folder" / "model.safetensors").items():
        values = values + 1 if name.endswith("norm.weight") else values
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path):
    return open_gguf(path).load(param_dtype=jnp.float32, dtype=jnp.float32)


@pytest.mark.parametrize("kind", SIZES)
def test_a_file_is_the_folder_but_for_the_rounding_of_norms(kind, tmp_path):
    model = make_model(kind)
    found = load(write(tmp_path / "m.gguf", model, kind))
    (definition, params), (other, expected) = nnx.split(found), nnx.split(model)
    assert definition == other
    for (path, one), (_, its) in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree_util.tree_leaves_with_path(expected),
        strict=True,
    ):
        norm = "norm" in jax.tree_util.keystr(path)
        np.testing.assert_allclose(one, its, rtol=0, atol=1.2e-7 if norm else 0)


def test_scores_of_the_largest_models_are_scaled_by_hidden_over_heads(tmp_path):
    types = ("sliding_attention", "full_attention") * 23
    model = make_model("gemma2", num_layers=46, layer_types=types, num_heads=2, num_kv_heads=1)
    path = write(tmp_path / "m.gguf", model, "gemma2")
    assert open_gguf(path).architecture().query_scalar == 16


def test_the_pattern_of_windows_may_be_a_number_or_a_list(tmp_path):
    model = make_model("gemma3")
    numbers = {"attention.sliding_window_pattern": 3, "rope.freq_base_swa": 500.0}
    shape = open_gguf(write(tmp_path / "m.gguf", model, "gemma3", **numbers)).architecture()
    assert [one == "full_attention" for one in shape.layer_types] == [0, 0, 1, 0, 0, 1, 0]
    assert shape.local_rope == Rope(500.0)
    listed = {"attention.sliding_window_pattern": [False, *[True] * 6], "rope.scaling.type": None}
    shape = open_gguf(write(tmp_path / "m.gguf", model, "gemma3", **listed)).architecture()
    assert shape.layer_types[0] == "full_attention" and shape.rope == Rope(1e6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expert_count": 8}, "gemma3.expert_count = 8 is not supported"),
        ({"rope.scaling.type": "yarn"}, "gemma3.rope.scaling.type = 'yarn' is not supported"),
        ({"attention.key_length": None}, "no gemma3.attention.key_length"),
        ({"attention.sliding_window_pattern": [True]}, "names 1 layers, block_count is 7"),
    ],
)
def test_an_option_that_is_not_honoured_is_refused(tmp_path, options, said):
    path = write(tmp_path / "m.gguf", make_model("gemma3"), "gemma3", **options)
    with pytest.raises(InputError, match=said):
        open_gguf(path).architecture()


# The tokenizer.


def tokenizer():
    return sentencepiece_bpe(TOKENS, SCORES, KINDS, unknown="<unk>")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the the", ["the", "▁the"]),
        (" th  e", ["▁th", "▁▁", "e"]),
        ("12\n", ["1", "2", "\n"]),
        ("t\n\nh", ["t", "\n\n", "h"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("<start_of_turn>the<end_of_turn>", ["<start_of_turn>", "the", "<end_of_turn>"]),
    ],
)
def test_pieces_are_merged_by_their_scores_and_the_rest_spelled_in_bytes(text, tokens):
    found = tokenizer().encode(text, add_special_tokens=False)
    assert found.tokens == tokens
    assert tokenizer().decode(found.ids, skip_special_tokens=False) == text


def test_a_piece_is_made_as_sentencepiece_would_by_the_best_score_first():
    def best_first(text):
        parts = list(text.replace(" ", "▁"))
        score = dict(zip(TOKENS, SCORES, strict=True))
        while True:
            both = [parts[i] + parts[i + 1] for i in range(len(parts) - 1)]
            pairs = [(-score[one], i) for i, one in enumerate(both) if one in PIECES]
            if not pairs:
                return parts
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]

    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(rng.choice(list(" the12"), 12))
        assert tokenizer().encode(text, add_special_tokens=False).tokens == best_first(text)


@pytest.mark.parametrize("kind", SIZES)
def test_a_student_from_a_file_is_asked_and_saved(kind, tmp_path):
    formats = {"param_dtype": jnp.float32, "compute_dtype": jnp.float32}
    path = write(tmp_path / "m.gguf", make_model(kind), kind)
    student = load_model(str(path), init="pretrained", seed=0, **formats)
    assert (student.eos_id, student.pad_id, student.tokenizer.bos_token) == (1, 0, "<bos>")
    asked = student.tokenizer.apply_chat_template([{"role": "user", "content": "the"}])["input_ids"]
    assert [TOKENS[i] for i in asked if i != 2] == ["<start_of_turn>", "the", "<end_of_turn>"]
    assert student.tokenizer.encode("the")[0] == 2, "the file puts a begin token before a text"
    huggingface.save(student.model, tmp_path / "saved", tokenizer=student.tokenizer)
    again = load_model(str(tmp_path / "saved"), init="pretrained", seed=0, **formats)
    assert again.tokenizer.encode("the the\n\n12é") == student.tokenizer.encode("the the\n\n12é")
    assert isinstance(again.tokenizer.backend_tokenizer, Tokenizer)


def test_another_vocabulary_is_refused(tmp_path):
    path = write(tmp_path / "m.gguf", make_model("gemma2"), "gemma2")
    file = open_gguf(path)
    file._option = lambda key, default=None: "gpt2" if key.endswith("model") else [1]
    with pytest.raises(InputError, match='tokenizer.ggml.model = "gpt2"; Gemma'):
        file.tokenizer()

"""config.json to decoder: everything that is read is honoured, everything else is refused."""

import json
from typing import Any

import pytest
import transformers

from cotjax.errors import InputError
from cotjax.models.families import FAMILIES, architecture_of, config_of

SIZES = {
    "vocab_size": 64,
    "hidden_size": 512,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
}
CONFIG_CLASSES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_options_mean_what_they_mean_to_transformers(family: str) -> None:
    theirs = CONFIG_CLASSES[family](**SIZES)
    ours = architecture_of({"model_type": family, **SIZES}, "config.json")
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 512 // 32)
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.max_positions == theirs.max_position_embeddings


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes_is_read_and_written_back(family: str) -> None:
    options = {"num_key_value_heads": 8, "tie_word_embeddings": True, "rms_norm_eps": 3e-6}
    theirs = CONFIG_CLASSES[family](**SIZES, **options)
    shape = architecture_of(json.loads(theirs.to_json_string()), "config.json")
    assert shape.num_kv_heads == 8
    assert shape.norm_eps == 3e-6
    assert architecture_of(config_of(shape, "float32"), "config.json") == shape


def test_rotary_base_in_both_spellings() -> None:
    base = {"model_type": "llama", **SIZES}
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert architecture_of(base | {"rope_theta": 5e5}, "").rope_theta == 5e5
    assert architecture_of(base | {"rope_theta": 5e5, "rope_scaling": None}, "").rope_theta == 5e5
    assert architecture_of(base | new, "").rope_theta == 5e5


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("use_sliding_window", True),
        ("sliding_window", 4096),  # llama has none
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu_pytorch_tanh"),
        ("attention_dropout", 0.1),
        ("quantization_config", {"quant_method": "gptq"}),
        ("an_option_of_next_year", 7),
    ],
)
def test_options_that_are_not_honoured_are_refused(option: str, value: Any) -> None:
    with pytest.raises(
        InputError, match=f"config.json.*{option.removesuffix('_parameters')}|rotary"
    ):
        architecture_of({"model_type": "llama", **SIZES, option: value}, "config.json")


@pytest.mark.parametrize("option", ["rope_scaling", "use_mrope", "an_option_of_next_year"])
def test_options_that_are_off_are_accepted(option: str) -> None:
    for value in (None, False):
        architecture_of({"model_type": "qwen2", **SIZES, option: value}, "config.json")


def test_unknown_architecture_names_it_and_the_known_ones() -> None:
    with pytest.raises(InputError, match='"gpt_neox".*llama, qwen2, qwen3'):
        architecture_of({"model_type": "gpt_neox"}, "config.json")


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [None, 0, "12", 1.5])
def test_sizes_are_positive_integers(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        architecture_of({"model_type": "llama", **SIZES, key: value}, "config.json")


def test_head_counts_must_fit() -> None:
    with pytest.raises(InputError, match="num_key_value_heads = 5"):
        architecture_of({"model_type": "llama", **SIZES, "num_key_value_heads": 5}, "config.json")

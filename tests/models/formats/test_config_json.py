"""config.json to decoder: everything that is read is honoured, everything else is refused."""

import json
from typing import Any

import pytest
import transformers

from cotjax.errors import InputError
from cotjax.models.formats.config_json import architecture_of, config_of
from cotjax.models.formats.families import FAMILIES
from cotjax.models.rope import Rope

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
    "gemma2": transformers.Gemma2Config,
    "gemma3_text": transformers.Gemma3TextConfig,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_options_mean_what_they_mean_to_transformers(family: str) -> None:
    theirs = CONFIG_CLASSES[family](**SIZES)
    ours = architecture_of({"model_type": family, **SIZES}, "config.json")
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == getattr(theirs, "head_dim", 512 // 32)
    assert ours.norm_eps == theirs.rms_norm_eps
    rope = theirs.rope_parameters
    assert ours.rope == Rope(rope.get("full_attention", rope)["rope_theta"])
    if ours.local_rope:
        assert ours.local_rope == Rope(rope["sliding_attention"]["rope_theta"])
    assert [kind.window for kind in ours.kinds] == [
        theirs.sliding_window if one == "sliding_attention" else 0
        for one in getattr(theirs, "layer_types", ["full_attention"] * 2)
    ]
    assert ours.attention_softcap == (getattr(theirs, "attn_logit_softcapping", 0) or 0)
    assert ours.logit_softcap == (getattr(theirs, "final_logit_softcapping", 0) or 0)
    assert ours.activation == getattr(theirs, "hidden_activation", "silu")
    head_scalar = getattr(theirs, "query_pre_attn_scalar", ours.head_dim)
    assert (ours.query_scalar or ours.head_dim) == head_scalar
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
    assert architecture_of(base | {"rope_theta": 5e5}, "").rope == Rope(5e5)
    assert architecture_of(base | {"rope_theta": 5e5, "rope_scaling": None}, "").rope == Rope(5e5)
    assert architecture_of(base | new, "").rope == Rope(5e5)


GEMMA = {"model_type": "gemma3_text", **SIZES, "num_hidden_layers": 7}


def test_rotary_positions_of_two_kinds_in_both_spellings() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    old = {"rope_theta": 1e5, "rope_local_base_freq": 100.0, "rope_scaling": scaling}
    nested = {
        "full_attention": {"rope_theta": 1e5, **scaling},
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
    }
    for options in (old, {"rope_parameters": nested}):
        shape = architecture_of(GEMMA | options, "")
        assert shape.rope == Rope(1e5, "linear", 8.0)
        assert shape.local_rope == Rope(100.0)
    nested["sliding_attention"] = {"rope_theta": 100.0, **scaling}
    with pytest.raises(InputError, match="'linear'.*of sliding layers is not supported"):
        architecture_of(GEMMA | {"rope_parameters": nested}, "")


def test_windows_by_pattern_by_list_and_from_a_layer_on() -> None:
    def windows(**options: Any) -> list[int]:
        shape = architecture_of({**GEMMA, "sliding_window": 9, **options}, "config.json")
        again = architecture_of(config_of(shape, "float32"), "config.json")
        assert again == shape
        return [kind.window for kind in shape.kinds]

    assert windows() == [9, 9, 9, 9, 9, 0, 9]
    assert windows(sliding_window_pattern=2) == [9, 0, 9, 0, 9, 0, 9]
    types = ["full_attention"] * 3 + ["sliding_attention"] * 4
    assert windows(layer_types=types) == [0, 0, 0, 9, 9, 9, 9]
    assert windows(layer_types=types[:3] * 2 + types[:1], sliding_window=None) == [0] * 7
    qwen = {"model_type": "qwen2", "max_window_layers": 5}
    assert windows(**qwen) == [0] * 7
    assert windows(**qwen, use_sliding_window=True) == [0, 0, 0, 0, 0, 9, 9]
    for bad, message in (
        ({"sliding_window": None}, "sliding_window = None"),
        ({**qwen, "layer_types": types}, "use_sliding_window = False"),
        ({"layer_types": types[1:]}, "layer_types names 6 layers, but num_hidden_layers = 7"),
    ):
        with pytest.raises(InputError, match=message):
            windows(**bad)


def test_query_scalar_is_a_whole_number_as_transformers_wants_it() -> None:
    for value in (168, 168.0):
        shape = architecture_of(GEMMA | {"query_pre_attn_scalar": value}, "")
        assert repr(shape.query_scalar) == "168"
        assert repr(config_of(shape, "float32")["query_pre_attn_scalar"]) == "168"
    for bad in (0, -4, 2.5, float("inf"), float("nan"), "256"):
        with pytest.raises(InputError, match=f"query_pre_attn_scalar = {bad!r}; a positive"):
            architecture_of(GEMMA | {"query_pre_attn_scalar": bad}, "")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rope_scaling", {"rope_type": "dynamic", "factor": 8.0}),
        ("rope_scaling", {"rope_type": "longrope", "factor": 8.0}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),  # and no low_freq_factor
        ("rope_scaling", {"type": "linear"}),
        ("rope_scaling", {"type": "linear", "factor": 2.0, "mscale": 1.0}),
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

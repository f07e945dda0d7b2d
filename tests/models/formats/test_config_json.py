"""config.json to decoder: everything that is read is honoured, everything else is refused."""

import json
import re
from typing import Any

import pytest
import transformers

from cotjax.errors import InputError
from cotjax.models.architecture import Architecture
from cotjax.models.formats.config_json import (
    _DEFAULTS,
    _MAY_BE_NONE,
    architecture_of,
    config_of,
    unread_keys,
)
from cotjax.models.formats.config_keys import KEYS
from cotjax.models.formats.families import FAMILIES, MULTIPLIERS
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
    "smollm3": transformers.SmolLM3Config,
    "granite": transformers.GraniteConfig,
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
    turns = getattr(theirs, "no_rope_layers", None) or [1] * ours.num_layers
    assert ours.nope_layers == tuple(i for i, one in enumerate(turns) if not one)
    for factor in MULTIPLIERS:
        assert getattr(ours, factor) == getattr(theirs, factor, getattr(Architecture, factor))
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


HARMLESS = {"unsloth_version": "2025.3", "_attn_implementation_autoset": True, "num_labels": 3}
BASE = {"model_type": "llama", **SIZES}


def test_harmless_keys_are_noted_with_a_reason_and_change_nothing() -> None:
    assert architecture_of(BASE | HARMLESS, "") == architecture_of(BASE, "")
    (said,) = unread_keys(BASE | HARMLESS, "")
    for word in ("unsloth_version", "_attn_implementation_autoset", "num_labels", "Unsloth"):
        assert word in said
    assert unread_keys(BASE | {"architectures": ["LlamaForCausalLM"], "use_cache": True}, "") == ()


@pytest.mark.parametrize("key", [key for key in KEYS if KEYS[key].effect == "maths"])
def test_keys_that_change_the_maths_are_refused_by_name_and_reason(key: str) -> None:
    assert KEYS[key].why and "*" not in key
    with pytest.raises(InputError, match=f"config.json: {key} = 7.* is not supported: "):
        architecture_of(BASE | {key: 7.5}, "config.json")
    for off in (None, False, KEYS[key].off):
        architecture_of(BASE | {key: off}, "config.json")


def test_every_key_of_the_table_has_a_reason_and_none_is_read() -> None:
    read = {"model_type", *_DEFAULTS, *SIZES}
    assert all(one.why for one in KEYS.values()) and not read & KEYS.keys()


@pytest.mark.parametrize(
    ("key", "bad", "needed"),
    [
        *(("tie_word_embeddings", bad, "true or false") for bad in ("true", 1, 0, [])),
        *(("rms_norm_eps", bad, "a positive number") for bad in ("1e-5", 0, -1e-6, True)),
        *(("rope_theta", bad, "a positive number") for bad in ("10000", 0, float("nan"))),
        *(("max_position_embeddings", bad, "a positive integer") for bad in ("2048", 2048.5, 0)),
        *(("num_key_value_heads", bad, "a positive integer") for bad in ("8", 4.0, True, -2, 0)),
        *(("head_dim", bad, "a positive integer") for bad in ("64", 64.0, 0)),
        *(("rope_scaling", bad, "a JSON object") for bad in ("linear", [2.0], 2.0)),
        *(("rope_parameters", bad, "a JSON object") for bad in ("linear", [2.0], True)),
        *(("layer_types", bad, "a list of texts") for bad in ("full_attention", [1, 2], {"a": 1})),
    ],
)
def test_values_of_a_wrong_type_are_one_sentence(key: str, bad: Any, needed: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"config.json: {key} = {bad!r}; {needed} is")):
        architecture_of(BASE | {key: bad}, "config.json")


@pytest.mark.parametrize(
    ("key", "value", "most"),
    [
        ("num_hidden_layers", 10**9, "10,000"),
        ("vocab_size", 2**31, "16,777,216"),
        ("hidden_size", 10**400, "1,048,576"),
        ("max_position_embeddings", 2**31, "2,147,483,647"),
    ],
)
def test_sizes_are_bounded_before_anything_is_made_of_them(key: str, value: int, most: str) -> None:
    with pytest.raises(
        InputError, match=f"config.json: {key} = .*; {most} at most is read"
    ) as error:
        architecture_of(BASE | {key: value}, "config.json")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("number", [10**400, 1e300, 1e-300, float("inf")])
def test_numbers_beyond_float32_are_one_short_sentence(number: float) -> None:
    for key in ("rms_norm_eps", "rope_theta"):
        with pytest.raises(InputError, match=f"{key} = .*; a positive number is needed") as error:
            architecture_of(BASE | {key: number}, "config.json")
        assert len(str(error.value)) < 200
    with pytest.raises(InputError, match="a number above 1 is needed"):
        architecture_of(BASE | {"rope_theta": 1}, "config.json")


@pytest.mark.parametrize("family", FAMILIES)
def test_null_means_the_default(family: str) -> None:
    base = {"model_type": family, **SIZES}
    nothing = dict.fromkeys((*_DEFAULTS, *FAMILIES[family].defaults, "hidden_act"))
    nothing = {key: None for key in nothing if key not in (*SIZES, *_MAY_BE_NONE)}
    assert architecture_of(base | nothing, "") == architecture_of(base, "")


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear", "factor": 0}, "factor = 0; a positive number"),
        ({"rope_type": "linear", "factor": -2.0}, "factor = -2.0; a positive number"),
        ({"rope_type": "linear", "factor": "2"}, "factor = '2'; a positive number"),
        ({"rope_type": ["linear"], "factor": 2.0}, "rope_type is one of"),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0}, "= 0; a"),
        ({"rope_type": "yarn", "factor": float("nan")}, "factor = nan; a positive"),
        (
            {"rope_type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 32},
            "beta_slow = 32 is",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0}, "attention_factor = 0; a"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4},
            "low_freq_factor = 4 is not below high_freq_factor = 4",
        ),
        ({"rope_theta": "1e6"}, "rope_theta = '1e6'; a positive"),
    ],
)
def test_rotary_settings_without_a_meaning_are_one_sentence(
    scaling: dict[str, Any], message: str
) -> None:
    for key in ("rope_scaling", "rope_parameters"):
        with pytest.raises(InputError, match=message):
            architecture_of(BASE | {key: scaling}, "config.json")
    with pytest.raises(InputError, match=r"rope_parameters of .* must be objects"):
        architecture_of(GEMMA | {"rope_parameters": {"full_attention": "linear"}}, "config.json")


def test_unknown_architecture_names_it_and_the_known_ones() -> None:
    with pytest.raises(InputError, match='"gpt_neox".*llama, qwen2, qwen3'):
        architecture_of({"model_type": "gpt_neox"}, "config.json")


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", [None, 0, "12", 1.5])
def test_sizes_are_positive_integers(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=key):
        architecture_of({"model_type": "llama", **SIZES, key: value}, "config.json")


SMOLLM3 = {"model_type": "smollm3", **SIZES, "num_hidden_layers": 5, "num_key_value_heads": 8}


def test_layers_without_positions_by_interval_and_by_list() -> None:
    def still(**options: Any) -> list[int]:
        shape = architecture_of({**SMOLLM3, **options}, "config.json")
        assert architecture_of(config_of(shape, "float32"), "config.json") == shape
        return [i for i, kind in enumerate(shape.kinds) if kind.rope.kind == "none"]

    assert still() == [3]
    assert still(no_rope_layer_interval=2) == [1, 3]
    assert still(no_rope_layers=[0, 1, 1, 1, 0, 1]) == [0, 4]  # one more than there are layers
    windowed = {"use_sliding_window": True, "sliding_window": 9}
    shape = architecture_of({**SMOLLM3, **windowed}, "")
    assert [kind.window for kind in shape.kinds] == [0, 0, 0, 9, 0]
    for bad, message in (
        ([1, 0], "no_rope_layers names 2 layers, but num_hidden_layers = 5"),
        ([2] * 5, "a list of 0 and 1 is needed"),
        ("1", "a list of 0 and 1 is needed"),
    ):
        with pytest.raises(InputError, match=message):
            still(no_rope_layers=bad)


def test_factors_are_positive_numbers() -> None:
    base = {"model_type": "granite", **SIZES}
    assert architecture_of(base | {"logits_scaling": 8}, "").logits_scaling == 8.0
    for factor in MULTIPLIERS:
        with pytest.raises(InputError, match=f"{factor} = 0; a positive number is needed"):
            architecture_of(base | {factor: 0}, "config.json")


def test_head_counts_must_fit() -> None:
    with pytest.raises(InputError, match="hidden_size = 512 does not divide by .* = 30"):
        architecture_of({**BASE, "num_attention_heads": 30}, "config.json")
    with pytest.raises(InputError, match="num_key_value_heads = 5"):
        architecture_of({"model_type": "llama", **SIZES, "num_key_value_heads": 5}, "config.json")

"""Between a Hugging Face config.json and an `Architecture`.

An option that the decoder does not honour is refused, never ignored: a model that loads
computes what its authors' code computes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cotjax.errors import InputError, shown
from cotjax.models.architecture import Architecture
from cotjax.models.formats.config_keys import check_keys
from cotjax.models.formats.families import FAMILIES, MULTIPLIERS, Family, turning_layers
from cotjax.models.formats.kinds import (
    MOST_HEADS,
    MOST_LAYERS,
    MOST_POSITIONS,
    MOST_ROWS,
    MOST_WIDTH,
    NUMBER,
    TEXTS,
    TRUTH,
    Kind,
    check_kind,
    each,
    is_number,
    is_whole,
    whole,
)
from cotjax.models.rope import Rope, options_of, rope_of

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_REQUIRED = (*_SIZES, "intermediate_size")
# What transformers assumes for options of every family that config.json leaves out.
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "max_position_embeddings": 32_768,
        "num_key_value_heads": None,  # = num_attention_heads
        "head_dim": None,  # = hidden_size / num_attention_heads
        "layer_types": None,
        "rope_scaling": None,
        "rope_parameters": None,
    }
)
# Where null is no default: there is no window, no cap; heads follow from other sizes.
_MAY_BE_NONE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
                "num_key_value_heads", "head_dim")  # fmt: skip
_ACTIVATION = ("hidden_act", "hidden_activation")
_KINDS = ("full_attention", "sliding_attention")


# What the value of a key must be; null stands for a default.
_OBJECT = Kind(lambda value: isinstance(value, Mapping), "a JSON object")
_SCALAR = Kind(  # 256.0 stands for 256
    lambda value: is_whole(int(value) if is_number(value) and value == int(value) else None),
    "a positive integer",
)
_TYPES: Mapping[str, Kind] = MappingProxyType(
    {
        "num_hidden_layers": whole(MOST_LAYERS),
        "vocab_size": whole(MOST_ROWS),
        "max_position_embeddings": whole(MOST_POSITIONS),
        "max_window_layers": whole(MOST_POSITIONS, least=0),
        "layer_types": TEXTS,
        "no_rope_layers": each(lambda one: one in (0, 1), "0 and 1"),
    }
    | dict.fromkeys(("hidden_size", "intermediate_size"), whole(MOST_WIDTH))
    | dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim"), whole(MOST_HEADS))
    | dict.fromkeys(("sliding_window_pattern", "no_rope_layer_interval"), whole(MOST_LAYERS))
    | dict.fromkeys(
        ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "attn_logit_softcapping")
        + ("final_logit_softcapping", *MULTIPLIERS),
        NUMBER,
    )
    | dict.fromkeys(("tie_word_embeddings", "use_sliding_window"), TRUTH)
    | dict.fromkeys(("rope_scaling", "rope_parameters"), _OBJECT)
)


def _check_types(config: Mapping[str, Any], read: frozenset[str], origin: str) -> None:
    """Refuses values of a wrong type or range; a required key must be there."""
    for key, kind in _TYPES.items():
        value = config.get(key)
        missing = key not in _REQUIRED and (value is None or (value is False and kind is _OBJECT))
        if key in read and not missing:
            check_kind(value, kind, key, origin)


def unread_keys(config: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    """A sentence on the keys that were passed over, if there are any to speak of.

    Raises:
      InputError: a family or a key that is not supported.
    """
    return check_keys(config, _read_keys(_family(config, origin)), origin)


def _read_keys(family: Family) -> frozenset[str]:
    """The keys of config.json that are honoured."""
    return frozenset({"model_type", *_REQUIRED, *_DEFAULTS, *_ACTIVATION, *family.defaults})


def _family(config: Mapping[str, Any], origin: str) -> Family:
    """The family of a config.json.

    Raises:
      InputError: its `model_type` is not in the table.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(
            f'{origin}: model_type = "{str(model_type)[:80]}" is not a known architecture; '
            f"use a model of one of these: {', '.join(FAMILIES)}."
        )
    return FAMILIES[model_type]


def _completed(config: Mapping[str, Any], origin: str) -> tuple[Family, dict[str, Any]]:
    """The family of a config.json, and all of its options; null is the default.

    Raises:
      InputError: its `model_type` is not in the table, an option is not honoured, or a value is of
        a wrong type.
    """
    family = _family(config, origin)
    read = _read_keys(family)
    check_keys(config, read, origin)
    activation = family.fixed.get("activation", "silu")
    for key in _ACTIVATION:
        if config.get(key) not in (None, activation):
            raise InputError(
                f"{origin}: {key} = {shown(config[key])} is not supported; use a model with {key} "
                f"= {activation!r}."
            )
    given = {
        key: value
        for key, value in config.items()
        if key in read and (value is not None or key in _MAY_BE_NONE)
    }
    config = {**_DEFAULTS, **family.defaults, **given}
    _check_types(config, read, origin)
    return family, config


def _ropes(config: Mapping[str, Any], origin: str) -> dict[str, Rope | None]:
    """Rotary positions; where layers of two kinds differ, transformers 5 nests them by kind."""
    options = {**(config["rope_scaling"] or {}), **(config["rope_parameters"] or {})}
    positions, theta = config["max_position_embeddings"], config["rope_theta"]
    if "rope_local_base_freq" not in config:
        return {"rope": rope_of(options, theta, positions, origin)}
    full, local = ((options.pop(kind, None) or {}) for kind in _KINDS)
    if not (isinstance(full, Mapping) and isinstance(local, Mapping)):
        raise InputError(f"{origin}: rope_parameters of {' and '.join(_KINDS)} must be objects.")
    rope = rope_of(local, config["rope_local_base_freq"], positions, origin)
    if rope.kind != "default":
        raise InputError(
            f"{origin}: rotary scaling {shown(local)} of sliding layers is not supported."
        )
    return {"rope": rope_of({**options, **full}, theta, positions, origin), "local_rope": rope}


def _positions(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Which layers turn nothing by position; nothing if all turn."""
    turns, number = turning_layers(config), config["num_hidden_layers"]
    if len(turns) != number:
        raise InputError(
            f"{origin}: no_rope_layers names {len(turns)} layers, but num_hidden_layers = {number}."
        )
    return {"nope_layers": tuple(i for i, one in enumerate(turns) if not one)}


def _windows(config: Mapping[str, Any], family: Family, origin: str) -> dict[str, Any]:
    """Which layers see a window, and how wide it is; nothing if none does."""
    types = config["layer_types"]
    types = tuple(family.layer_types(config) if types is None else types)
    may = _KINDS if "sliding_window" in family.defaults else _KINDS[:1]
    if unknown := sorted(set(types) - set(may)):
        raise InputError(
            f"{origin}: layer_types has {', '.join(unknown)[:80]}; "
            f"{config['model_type']} may have {' and '.join(may)} only."
        )
    if len(types) != config["num_hidden_layers"]:
        raise InputError(
            f"{origin}: layer_types names {len(types)} layers, but num_hidden_layers = "
            f"{config['num_hidden_layers']}."
        )
    if "sliding_attention" not in types:
        return {}
    window = config["sliding_window"] if config.get("use_sliding_window", True) else None
    if not is_whole(window):
        raise InputError(
            f"{origin}: layer_types has sliding_attention, but sliding_window = "
            f"{shown(config['sliding_window'])}, use_sliding_window = "
            f"{config.get('use_sliding_window', True)!r}; a window of at least 1 token is needed."
        )
    return {"layer_types": types, "sliding_window": window}


def architecture_of(config: Mapping[str, Any], origin: str) -> Architecture:
    """The decoder that a config.json describes.

    Args:
      config: the parsed file.
      origin: its name, for error messages.

    Raises:
      InputError: unknown architecture, a size that is missing or not a positive integer, an option
        that is not honoured, or head counts that do not fit.
    """
    family, config = _completed(config, origin)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    # null, as old files have it, means the same as a head per query head or hidden / heads.
    kv_heads = config["num_key_value_heads"] or heads
    if config["head_dim"] is None and hidden % heads:
        raise InputError(
            f"{origin}: hidden_size = {hidden} does not divide by num_attention_heads = {heads}, "
            "and head_dim is not given; correct one of them."
        )
    head_dim = config["head_dim"] or hidden // heads
    query_scalar = config.get("query_pre_attn_scalar")
    query_scalar = head_dim if query_scalar is None else query_scalar
    check_kind(query_scalar, _SCALAR, "query_pre_attn_scalar", origin)
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{origin}: num_attention_heads = {heads}, num_key_value_heads = {kv_heads}, "
            f"head_dim = {head_dim}; heads must divide by key-value heads and head_dim by 2."
        )
    return Architecture(
        family=config["model_type"],
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_size=config["intermediate_size"],
        norm_eps=config["rms_norm_eps"],
        tie_embeddings=config["tie_word_embeddings"],
        max_positions=config["max_position_embeddings"],
        query_scalar=0 if query_scalar == head_dim else int(query_scalar),
        attention_softcap=config.get("attn_logit_softcapping") or 0.0,
        logit_softcap=config.get("final_logit_softcapping") or 0.0,
        **_ropes(config, origin),
        **_positions(config, origin),
        **{key: float(config[key]) for key in MULTIPLIERS if key in config},
        **_windows(config, family, origin),
        **family.fixed,
    )


def config_of(shape: Architecture, dtype: str) -> dict[str, Any]:
    """The config.json of a decoder; `architecture_of` reads it back.

    Args:
      shape: the decoder.
      dtype: of the saved tensors, e.g. "float32".

    Returns:
      Options in the spelling that transformers 4 and 5 and vLLM read.
    """
    family = FAMILIES[shape.family]
    scaling = options_of(shape.rope)
    return {
        "architectures": [family.class_name],
        "model_type": shape.family,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp_size,
        "hidden_act": shape.activation,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope.theta,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": dtype,
        **({"rope_scaling": scaling} if scaling else {}),
        **_own_options(shape, family),
    }


def _own_options(shape: Architecture, family: Family) -> dict[str, Any]:
    """Options that only some families have."""
    types = shape.layer_types or ("full_attention",) * shape.num_layers
    windows = "sliding_attention" in types
    own = {
        "hidden_activation": shape.activation,
        "query_pre_attn_scalar": shape.query_scalar or shape.head_dim,
        "attn_logit_softcapping": shape.attention_softcap or None,
        "final_logit_softcapping": shape.logit_softcap or None,
        "rope_local_base_freq": (shape.local_rope or shape.rope).theta,
        "no_rope_layers": [int(i not in shape.nope_layers) for i in range(shape.num_layers)],
        **{key: getattr(shape, key) for key in MULTIPLIERS},
        "use_sliding_window": windows,
        "sliding_window": shape.sliding_window or None,
        "max_window_layers": types.index("sliding_attention") if windows else shape.num_layers,
    }
    written = {key: value for key, value in own.items() if key in family.defaults}
    return written | ({"layer_types": list(types)} if "sliding_window" in written else {})

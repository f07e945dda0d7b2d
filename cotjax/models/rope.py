"""Rotary position embeddings, and the ways in which models stretch them to longer texts.

    pair i of a head at position p turns by p · f_i;   default: f_i = theta^(-2i/D)

    linear    f_i / factor
    llama3    long wavelengths divided by factor, short ones kept, a ramp between
    yarn      likewise, the ramp counted in turns over the original length; cos and sin grow too

Every number is rounded to float32 where transformers rounds it: a far position multiplies the last
bit of a frequency. Source: Su et al. 2021, arXiv:2104.09864; Peng et al. 2023, arXiv:2309.00071
(YaRN); transformers' modeling_rope_utils.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cotjax.errors import InputError, shown

Table = tuple[Float[Array, "B S 1 half"], Float[Array, "B S 1 half"]]


@dataclasses.dataclass(frozen=True)
class Rope:
    """One way to turn positions into angles.

    Attributes:
      theta: base of the frequencies.
      kind: "default", "linear", "llama3" or "yarn"; "none" turns nothing.
      factor: how many times longer than in pre-training a text may be.
      original_positions: length of the texts in pre-training (llama3, yarn).
      low_frequency: wavelengths above original / low_frequency are divided by factor (llama3).
      high_frequency: wavelengths below original / high_frequency are kept (llama3).
      beta_fast: pairs with more turns than this over the original length are kept (yarn).
      beta_slow: pairs with fewer turns than this are divided by factor (yarn).
      attention_factor: multiplies cos and sin, so attention scores by its square (yarn).
      truncate: the ramp begins and ends at whole pairs (yarn).
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True

    def frequencies(self, width: int) -> Float[np.ndarray, " half"]:
        """Radians per position of each of a head's D/2 pairs, float32."""
        exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
        inverse = (self.theta ** exponent.astype(np.float64)).astype(np.float32)
        return _STRETCH[self.kind](self, inverse, width)

    def table(self, positions: Int[Array, "B S"], width: int) -> Table:
        """Cosine and sine of every pair's angle, each [B, S, 1, D/2] float32."""
        angle = positions[..., None, None].astype(jnp.float32) * self.frequencies(width)
        both = jnp.stack([jnp.cos(angle), jnp.sin(angle)]) * self.attention_factor
        # One array behind a barrier: otherwise a CPU's compiler computes both anew for every
        # element of every head of every layer.
        cos, sin = jax.lax.optimization_barrier(both)
        return cos, sin


def rotate(x: Float[Array, "B S H D"], table: Table) -> Float[Array, "B S H D"]:
    """Turns every head of x, halves convention (Hugging Face): pairs (i, i + D/2)."""
    cos, sin = table
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _default(rope: Rope, inverse: np.ndarray, width: int) -> np.ndarray:
    del rope, width
    return np.float32(1) / inverse


def _linear(rope: Rope, inverse: np.ndarray, width: int) -> np.ndarray:
    del width
    return np.float32(1) / inverse / np.float32(rope.factor)


def _llama3(rope: Rope, inverse: np.ndarray, width: int) -> np.ndarray:
    del width
    frequency = np.float32(1) / inverse
    period = np.float32(2 * math.pi) / frequency
    original = np.float32(rope.original_positions)
    low, high = np.float32(rope.low_frequency), np.float32(rope.high_frequency)
    slowed = frequency / np.float32(rope.factor)
    ramp = (original / period - low) / (high - low)
    between = (1 - ramp) * frequency / np.float32(rope.factor) + ramp * frequency
    return np.where(
        period > original / low, slowed, np.where(period < original / high, frequency, between)
    )


def _yarn(rope: Rope, inverse: np.ndarray, width: int) -> np.ndarray:
    def pair_with(turns: float) -> float:
        """The (fractional) pair that turns so often over the original length."""
        log = math.log(rope.original_positions / (turns * 2 * math.pi))
        return width * log / (2 * math.log(rope.theta))

    first, last = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    if first == last:
        last += 0.001
    pair = np.arange(width // 2, dtype=np.float32)
    ramp = np.clip((pair - np.float32(first)) / np.float32(last - first), 0, 1)
    keep = 1 - ramp
    slowed = np.float32(1) / (np.float32(rope.factor) * inverse)
    return slowed * (1 - keep) + np.float32(1) / inverse * keep


def _none(rope: Rope, inverse: np.ndarray, width: int) -> np.ndarray:
    """No pair turns, wherever it stands."""
    del rope, width
    return np.zeros_like(inverse)


_STRETCH = MappingProxyType(
    {"none": _none, "default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
)

# Options in config.json below rope_parameters (transformers 5) or rope_scaling (4): the field of
# `Rope` that each one sets.
_FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "default": {},
        "linear": {"factor": "factor"},
        "llama3": {
            "factor": "factor",
            "low_freq_factor": "low_frequency",
            "high_freq_factor": "high_frequency",
            "original_max_position_embeddings": "original_positions",
        },
        "yarn": {
            "factor": "factor",
            "original_max_position_embeddings": "original_positions",
            "beta_fast": "beta_fast",
            "beta_slow": "beta_slow",
            "truncate": "truncate",
        },
    }
)
_MUST = ("factor", "low_freq_factor", "high_freq_factor")
_LARGEST = 1e12  # beside it, and below its inverse, angles leave the range of float32


def _grown(factor: float, slope: float = 1.0) -> float:
    """By how much YaRN lets cos and sin grow for a text `factor` times longer."""
    return 1.0 if factor <= 1 else 0.1 * slope * math.log(factor) + 1.0


def _yarn_attention(options: dict[str, Any], factor: float) -> float:
    """YaRN's attention factor: given, from two slopes (DeepSeek), or the paper's."""
    given, slope, slope_all = (
        options.pop(key, None) for key in ("attention_factor", "mscale", "mscale_all_dim")
    )
    if given is not None:
        return float(given)
    if slope and slope_all:
        return _grown(factor, slope) / _grown(factor, slope_all)
    return _grown(factor)


def _check_numbers(options: Mapping[str, Any], origin: str) -> None:
    """Refuses values with which no angle could be computed."""
    for key, value in options.items():
        if key == "truncate":
            if not isinstance(value, bool):
                raise InputError(f"{origin}: truncate = {shown(value)}; true or false is needed.")
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if key == "rope_theta" else 1 / _LARGEST
        if not (number and 1 / _LARGEST <= value <= _LARGEST):
            raise InputError(f"{origin}: {key} = {shown(value)}; a positive number is needed.")
        if value <= least:
            raise InputError(f"{origin}: {key} = {value}; a number above {least} is needed.")
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if low in options and high in options and options[low] >= options[high]:
            raise InputError(
                f"{origin}: {low} = {options[low]} is not below {high} = {options[high]}; they are "
                "the two ends of a ramp."
            )


def rope_of(options: Mapping[str, Any], theta: float, positions: int, origin: str) -> Rope:
    """The `Rope` of a config.json.

    Args:
      options: what stands below `rope_parameters` or `rope_scaling`.
      theta: the base if `options` has none.
      positions: the original length if `options` has none.
      origin: the file, for error messages.

    Raises:
      InputError: a kind of scaling that is not known, a missing or an unknown option.
    """
    left = {key: value for key, value in options.items() if value is not None}
    kind = left.pop("rope_type", left.pop("type", "default"))
    left.pop("type", None)
    theta = left.pop("rope_theta", theta)
    whole = left.pop("partial_rotary_factor", 1.0) == 1.0
    if not isinstance(kind, str) or kind not in _FIELDS or not whole:
        raise InputError(
            f"{origin}: rotary scaling {shown(dict(options))} is not supported; use a model whose "
            f"rope_type is one of {', '.join(_FIELDS)}, on whole heads."
        )
    _check_numbers(left | {"rope_theta": theta}, origin)
    theta = float(theta)
    fields = _FIELDS[kind]
    if "original_max_position_embeddings" in fields:
        left.setdefault("original_max_position_embeddings", positions)
    if kind == "yarn":  # as DeepSeek's files leave it out
        left.setdefault("factor", positions / left["original_max_position_embeddings"])
    if missing := [key for key in fields if key in _MUST and key not in left]:
        raise InputError(f"{origin}: rotary scaling {shown(dict(options))} has no {missing[0]}.")
    found: dict[str, Any] = {"theta": theta, "kind": kind}
    if kind == "yarn":
        found["attention_factor"] = _yarn_attention(left, float(left["factor"]))
    for key, field in fields.items():
        if key in left:
            found[field] = left.pop(key)
    if left:
        raise InputError(
            f"{origin}: rotary scaling {shown(dict(options))} is not supported: {kind} has no "
            f"option {', '.join(left)[:80]}."
        )
    return Rope(**found)


def options_of(rope: Rope) -> dict[str, Any] | None:
    """What `rope_of` reads, without theta, in the spelling of transformers 4; None if default."""
    if rope.kind == "default":
        return None
    options: dict[str, Any] = {"rope_type": rope.kind}
    options |= {key: getattr(rope, field) for key, field in _FIELDS[rope.kind].items()}
    # Other readers know other names for it, so it is written only where it has to be.
    if rope.attention_factor != (_grown(rope.factor) if rope.kind == "yarn" else 1.0):
        options["attention_factor"] = rope.attention_factor
    return options

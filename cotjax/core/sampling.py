"""Drawing tokens: filters over logits, and one uniform number per row instead of V Gumbels."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int, Key

from cotjax.core.masking import widen

BLOCK = 128  # width of a block of the vocabulary in a two-level search: one TPU lane row
HEAD = 256  # how many largest tokens are looked at before the whole vocabulary is


def filter_logits(
    logits: Float[Array, "*B V"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Float[Array, "*B V"]:
    """Divides logits by the temperature and forbids unlikely tokens.

        z / τ, then −inf outside: the k largest; the smallest set of largest p with Σ p ≥ top_p;
        p ≥ min_p · max p

    The filters apply in this order, each to the distribution that the previous one left (the
    order of Hugging Face transformers). A filter at its neutral value costs nothing.

    Args:
      logits: [*B, V]; any floating dtype. A NaN counts as −inf, +inf as the largest float.
      temperature: τ ≥ 0; 0 keeps only the first largest logit.
      top_k: how many tokens stay; 0 is all. Tokens that tie with the last one stay too.
      top_p: in (0, 1]; 1 is all. Tokens that tie with the last one stay too.
      min_p: in [0, 1], relative to the largest probability; 0 is all.

    Returns:
      [*B, V], float32 (or wider). The largest logit always stays.

    Example:
      >>> filter_logits(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), top_k=2).round(4)
      Array([[-0.6931, -1.204 ,    -inf]], dtype=float32)

    Raises:
      ValueError: a setting outside its range.

    Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751
    (top-p); Nguyen et al. 2025, arXiv:2407.01082 (min-p).
    """
    _check(temperature, top_k, top_p, min_p)
    logits = widen(logits)
    largest = cast(Any, jnp.finfo(logits.dtype).max)
    logits = jnp.nan_to_num(logits, nan=-jnp.inf, posinf=largest, neginf=-jnp.inf)
    if temperature == 0:
        token = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        first = token == _first_largest(logits)[..., None]
        return jnp.where(first, 0, -jnp.inf).astype(logits.dtype)
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        # A minimum, not the last entry: XLA would make a slice of a slice a full sort.
        least = lax.top_k(logits, top_k)[0].min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if top_p < 1:
        logits = jnp.where(logits >= _nucleus(logits, top_p), logits, -jnp.inf)
    if min_p > 0:
        probability = _probabilities(logits)
        enough = probability >= min_p * probability.max(axis=-1, keepdims=True)
        logits = jnp.where(enough, logits, -jnp.inf)
    return logits


def sample(
    key: Key[Array, "..."],
    logits: Float[Array, "*B V"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Int[Array, "*B"]:
    """Draws one token per row.

        y ~ softmax(filter_logits(z)),  by inverting the cumulative sum at one uniform number

    The sum is searched in two levels, blocks of 128 tokens and then one block, so a row costs a
    maximum, an exponential and a sum: no random number and no logarithm per token of V.

    Args:
      key: a typed key, or one per row, [*B]; with a key per row, a row's token depends on its
        own key and logits alone, whatever else is in the batch.
      logits: [*B, V]; as `filter_logits`.
      temperature: τ ≥ 0; 0 takes the first largest logit.
      top_k: how many tokens stay; 0 is all.
      top_p: in (0, 1]; 1 is all.
      min_p: in [0, 1]; 0 is all.

    Returns:
      [*B] int32 ids, never one of probability zero. Probabilities are exact to float32 rounding
      of the cumulative sum (2⁻²³ absolute). A row without a finite logit gives 0: look at its
      log-probability, which is NaN.

    Example:
      >>> sample(jax.random.key(0), jnp.array([[0.0, 5.0, -jnp.inf]]), temperature=0)
      Array([1], dtype=int32)

    Raises:
      ValueError: a setting outside its range, or keys that do not match the rows.

    Source: inverse transform sampling.
    """
    rows = logits.shape[:-1]
    if key.shape not in ((), rows):
        raise ValueError(f"sample: keys have shape {key.shape}; needs () or {rows}.")
    if temperature == 0:
        uniform = jnp.zeros(rows)
    elif key.shape == rows:
        uniform = jax.vmap(jax.random.uniform)(key.reshape(-1)).reshape(rows)
    else:
        uniform = jax.random.uniform(key, rows)
    return sample_at(
        uniform, logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )


def sample_at(
    uniform: Float[Array, "*B"],
    logits: Float[Array, "*B V"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Int[Array, "*B"]:
    """`sample` with the uniform numbers given, as a loop does that drew them beforehand.

    Args:
      uniform: [*B] in [0, 1); not read at temperature 0.
      logits: [*B, V].
      temperature: as `sample`, and so are the others.
      top_k: 0 is all.
      top_p: 1 is all.
      min_p: 0 is all.

    Returns:
      [*B] int32 ids.

    Example:
      >>> sample_at(jnp.array([0.1, 0.9]), jnp.zeros((2, 4)))
      Array([0, 3], dtype=int32)

    Raises:
      ValueError: a setting outside its range.
    """
    if temperature == 0:
        _check(temperature, top_k, top_p, min_p)
        return _first_largest(jnp.where(jnp.isnan(logits), -jnp.inf, logits))
    logits = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    return _invert(logits, uniform.astype(logits.dtype))


def _check(temperature: Any, top_k: Any, top_p: Any, min_p: Any) -> None:
    ranges = {
        "temperature": (temperature, temperature >= 0, "at least 0"),
        "top_k": (top_k, top_k >= 0, "at least 0 (0 keeps all)"),
        "top_p": (top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        "min_p": (min_p, 0 <= min_p <= 1, "0 to 1"),
    }
    for name, (value, valid, needs) in ranges.items():
        if not valid:
            raise ValueError(f"{name} is {value}; needs to be {needs}.")


def _peak(logits: Array) -> Any:
    # The largest finite logit, or 0, so that a row of −inf has weights 0 and not NaN.
    peak = logits.max(axis=-1, keepdims=True)
    return jnp.where(jnp.isfinite(peak), peak, 0)


def _probabilities(logits: Array) -> Array:
    weight = jnp.exp(logits - _peak(logits))
    return weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1)


def _nucleus(logits: Array, mass: Any) -> Array:
    """The least logit, [*B, 1], of the smallest set of largest logits that holds the mass.

    A sort of V numbers is slow everywhere. Nearly always the largest few hold the mass; where they
    do not, the threshold is found by halving. A TPU sorts to find the few, and compiles that for
    most of a minute where V is large, so there halving does it alone.
    """
    probability = _probabilities(logits)

    def halving(logits: Array, probability: Array) -> Array:
        return _nucleus_by_halving(logits, probability, mass)

    def head(logits: Array, probability: Array) -> Array:
        return _nucleus_of_head(logits, probability, mass)

    return cast(Array, lax.platform_dependent(logits, probability, tpu=halving, default=head))


def _nucleus_of_head(logits: Array, probability: Array, mass: Any) -> Array:
    largest, index = lax.top_k(logits, min(HEAD, logits.shape[-1]))
    reach = jnp.take_along_axis(probability, index, axis=-1).cumsum(axis=-1)
    enough = reach >= mass
    place = enough.argmax(axis=-1, keepdims=True)
    found = cast(
        Array,
        lax.cond(
            enough.any(axis=-1).all(),
            lambda: jnp.take_along_axis(largest, place, axis=-1),
            lambda: _nucleus_by_halving(logits, probability, mass),
        ),
    )
    return found


def _nucleus_by_halving(logits: Array, probability: Array, mass: Any) -> Array:
    # The order of floats is the order of their bits, so 32 halvings of an integer interval end at
    # one float, each for a comparison and a sum.
    bits = lax.bitcast_convert_type(logits.astype(jnp.float32), jnp.int32)
    rank = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)

    def halve(_: Any, interval: Any) -> Any:
        low, high = interval  # at least the mass lies at or above `low`, less than it above `high`
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        above = jnp.where(rank >= middle, probability, 0).sum(axis=-1, keepdims=True)
        return jnp.where(above >= mass, middle, low), jnp.where(above >= mass, high, middle - 1)

    interval = rank.min(axis=-1, keepdims=True), rank.max(axis=-1, keepdims=True)
    found = cast(Any, lax.fori_loop(0, 32, halve, interval))
    return jnp.where(rank >= found[0], logits, jnp.inf).min(axis=-1, keepdims=True)


def _blocks(logits: Array) -> Array:
    # [*B, V] as [*B, blocks, BLOCK], padded with tokens that are never taken.
    padding = [(0, 0)] * (logits.ndim - 1) + [(0, -logits.shape[-1] % BLOCK)]
    padded = jnp.pad(logits, padding, constant_values=-jnp.inf)
    return padded.reshape(*logits.shape[:-1], -1, BLOCK)


def _first_largest(logits: Array) -> Array:
    # XLA vectorises a maximum but not its place, so the place is only sought in one block.
    blocks = _blocks(logits)
    block = blocks.max(axis=-1).argmax(axis=-1)
    within = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return (block * BLOCK + within.argmax(axis=-1)).astype(jnp.int32)


def _invert(logits: Array, uniform: Array) -> Array:
    # First level: which block holds the point `uniform` of the cumulative sum; second: which token.
    shifted = _blocks(logits - _peak(logits))
    mass = jnp.exp(shifted).sum(axis=-1)
    block, point = _locate(mass, uniform * mass.sum(axis=-1))
    weight = jnp.exp(jnp.take_along_axis(shifted, block[..., None, None], axis=-2)[..., 0, :])
    token, _ = _locate(weight, point)
    return block * BLOCK + token


def _locate(weight: Array, point: Array) -> tuple[Array, Array]:
    # The first entry whose cumulative weight passes the point, and how far the point lies in it.
    # Rounding may leave no such entry, or one of weight zero: then the last one with weight.
    reach = weight.cumsum(axis=-1)
    passed = (reach > point[..., None]) & (weight > 0)
    last = weight.shape[-1] - 1 - (weight > 0)[..., ::-1].argmax(axis=-1)
    entry = jnp.where(passed.any(axis=-1), passed.argmax(axis=-1), last)
    entry = jnp.where((weight > 0).any(axis=-1), entry, 0)[..., None]
    before = jnp.take_along_axis(reach - weight, entry, axis=-1)
    return entry[..., 0].astype(jnp.int32), point - before[..., 0]

"""Log-probabilities of chosen tokens, entropy, and the three estimators of a KL divergence."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Int

from cotjax.core.chunked.blocks import rows_gradient, value_of, wide_of
from cotjax.core.masking import fill_masked, widen
from cotjax.core.softcap import SoftCap, soft_cap, soft_cap_slope


def token_logprobs(
    logits: Float[Array, "*B T V"],
    tokens: Int[Array, "*B T"],
    *,
    temperature: float = 1.0,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Gives the log-probability of each token under the logits beside it.

        z_ty / τ − log Σ_v exp(z_tv / τ),   y = tokens_t

    Args:
      logits: [*B, T, V]; any floating dtype; −inf forbids a token.
      tokens: [*B, T] ids; logits at t are those that predict the token at t.
      temperature: τ > 0. Use the temperature that the sampler used.
      mask: [*B, T], True = counts. Elsewhere logits may be NaN and tokens any integer.

    Returns:
      [*B, T] in nats, ≤ 0, float32 (or wider). Masked positions are 0 with zero gradient. An id
      outside 0..V−1 that is not masked gives NaN, not another token's number.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25]]]))
      >>> token_logprobs(logits, jnp.array([[0]])).round(4)
      Array([[-0.6931]], dtype=float32)

    Raises:
      ValueError: temperature ≤ 0.

    Source: the softmax likelihood; full vocabulary, whatever top-k or top-p drew the token.
    """
    logits = _tempered(logits, temperature, mask)
    if mask is not None:
        tokens = jnp.where(mask, tokens, 0)
    tokens = jnp.where(tokens < 0, logits.shape[-1], tokens)  # not "counted from the end"
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1, mode="fill")[..., 0]
    logp = chosen - jax.nn.logsumexp(logits, axis=-1)
    return logp if mask is None else fill_masked(logp, mask)


def entropy(
    logits: Float[Array, "*B T V"],
    *,
    temperature: float = 1.0,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Gives the entropy of the distribution at each position.

        −Σ_v p_v log p_v,   p = softmax(z / τ)

    Args:
      logits: [*B, T, V]; any floating dtype; −inf forbids a token.
      temperature: τ > 0.
      mask: [*B, T], True = counts. Elsewhere logits may be NaN.

    Returns:
      [*B, T] in nats, between 0 and log V, float32 (or wider). Masked positions are 0 with zero
      gradient.

    Example:
      >>> entropy(jnp.zeros((1, 1, 8))).round(4)  # log 8
      Array([[2.0794]], dtype=float32)

    Raises:
      ValueError: temperature ≤ 0.

    Source: Shannon 1948.
    """
    logits = _tempered(logits, temperature, mask)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    finite = jnp.where(jnp.isneginf(logits), 0, log_probs)  # 0 log 0 = 0, in the gradient too
    value = -jnp.sum(jnp.exp(log_probs) * finite, axis=-1)
    return value if mask is None else fill_masked(value, mask)


def kl_k1(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """Estimates KL(π‖π_ref) from tokens drawn from π: unbiased, of either sign.

        −Δ,   Δ = log π_ref − log π

    Args:
      logp: [*B, T] of the policy that drew the tokens.
      logp_ref: [*B, T] of the reference.

    Returns:
      [*B, T] in nats. As a loss its expected gradient is zero: use it in a reward, k2 or k3 here.

    Example:
      >>> kl_k1(jnp.array([[-1.0]]), jnp.array([[-1.5]]))
      Array([[0.5]], dtype=float32)

    Source: Schulman 2020, "Approximating KL divergence", joschu.net/blog/kl-approx.html.
    """
    return widen(logp) - widen(logp_ref)


def kl_k2(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """Estimates KL(π‖π_ref) from tokens drawn from π: biased in the third order, never negative.

        Δ² / 2,   Δ = log π_ref − log π

    Args:
      logp: [*B, T] of the policy that drew the tokens.
      logp_ref: [*B, T] of the reference.

    Returns:
      [*B, T] in nats, ≥ 0. Its expected gradient as a loss is that of the reverse KL.

    Example:
      >>> kl_k2(jnp.array([[-1.0]]), jnp.array([[-1.5]]))
      Array([[0.125]], dtype=float32)

    Source: Schulman 2020, "Approximating KL divergence", joschu.net/blog/kl-approx.html.
    """
    return (widen(logp_ref) - widen(logp)) ** 2 / 2


def kl_k3(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """Estimates KL(π‖π_ref) from tokens drawn from π: unbiased and never negative.

        exp(Δ) − Δ − 1,   Δ = log π_ref − log π

    Args:
      logp: [*B, T] of the policy that drew the tokens.
      logp_ref: [*B, T] of the reference.

    Returns:
      [*B, T] in nats, ≥ 0 up to rounding.

    Example:
      >>> kl_k3(jnp.array([[-1.0]]), jnp.array([[-1.5]])).round(4)
      Array([[0.1065]], dtype=float32)

    Source: Schulman 2020, as k1; Shao et al. 2024, arXiv:2402.03300, use it as a loss.
    """
    delta = widen(logp_ref) - widen(logp)
    return jnp.expm1(delta) - delta


def chunked_token_logprobs(
    hidden: Float[Array, "*B T D"],
    unembed: Float[Array, "V D"],
    tokens: Int[Array, "*B T"],
    *,
    chunk_size: int,
    temperature: float | Float[Array, ""] = 1.0,
    softcap: SoftCap = None,
    mask: Bool[Array, "*B T"] | None = None,
) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
    """Gives log-probabilities and entropies from hidden states, without a [*B, T, V] array.

        z = cap(hidden unembedᵀ);   (z_ty/τ − log Σ_v exp(z_tv/τ),  −Σ_v p_v log p_v)

    A scan walks over blocks of the vocabulary, so the token axes stay whole (and sharded, if they
    were) and each block of the unembedding's gradient is one product over all tokens, accumulated
    in float32 and written once. The backward pass computes the logits again. It does no work for
    the entropy if only the log-probabilities are differentiated, and none for `unembed` if that
    is not differentiated.

    Args:
      hidden: [*B, T, D] last hidden states, after the final norm.
      unembed: [V, D]. Products are in the dtype of `hidden`, their sums in float32.
      tokens: [*B, T] ids; hidden states at t are those that predict the token at t.
      chunk_size: how many tokens' worth of logits, chunk_size · V numbers, may exist at once.
      temperature: τ > 0. Use the temperature that the sampler used. May be traced. No gradient.
      softcap: of the logits, see `soft_cap`; None is none. May be traced. No gradient.
      mask: [*B, T], True = counts. Elsewhere hidden states may be NaN and tokens any integer.

    Returns:
      (logp, entropy), both [*B, T], float32, in nats: `token_logprobs` and `entropy` of the same
      logits up to rounding, gradients included. Masked positions are 0 with zero gradient.

    Example:
      >>> hidden, unembed = jnp.ones((1, 1, 2)), jnp.zeros((8, 2))
      >>> logp, entropy = chunked_token_logprobs(hidden, unembed, jnp.array([[3]]), chunk_size=64)
      >>> logp.round(4), entropy.round(4)
      (Array([[-2.0794]], dtype=float32), Array([[2.0794]], dtype=float32))

    Raises:
      ValueError: chunk_size < 1, or a number ≤ 0 as temperature.

    Source: this project; the idea of recomputing the head is Wijmans et al. 2024,
    arXiv:2411.09009 (cut cross-entropy).
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; needs at least 1 token.")
    traced = temperature if isinstance(temperature, Array) else None
    if traced is None:
        _check_temperature(temperature)
    fixed = float(temperature) if traced is None else None
    block = _block_size(tokens.size, unembed.shape[0], chunk_size)
    tokens = tokens.astype(jnp.int32)
    if mask is not None:
        hidden = fill_masked(hidden, mask[..., None])
        tokens = jnp.where(mask, tokens, 0)
    # JAX does not type what a custom_vjp returns.
    both = cast(Any, _blockwise(block, fixed, hidden, unembed, tokens, (softcap, traced)))
    logp, spread = both
    return (logp, spread) if mask is None else (fill_masked(logp, mask), fill_masked(spread, mask))


def _check_temperature(temperature: Any) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; needs to be above 0.")


def _tempered(logits: Array, temperature: Any, mask: Array | None) -> Array:
    _check_temperature(temperature)
    logits = widen(logits)
    if mask is not None:
        logits = fill_masked(logits, mask[..., None])
    return logits / temperature


def _block_size(tokens: int, vocabulary: int, chunk_size: int) -> int:
    # The width of a vocabulary block that holds chunk_size · V logits for all tokens at once,
    # in whole lanes of 128.
    width = chunk_size * vocabulary // max(tokens, 1)
    return min(vocabulary, max(128, width // 128 * 128))


def _blocks(vocabulary: int, block: int) -> Any:
    # (start, own) of each block: where it is read and from where its tokens are its own. The last
    # one starts early instead of running over the edge; it comes first, so that its neighbour
    # overwrites the rows that they share.
    own = np.arange(0, vocabulary, block, dtype=np.int32)[::-1]
    return jnp.asarray(np.minimum(own, vocabulary - block)), jnp.asarray(own)


def _block_logits(
    hidden: Array, unembed: Array, start: Array, block: int, softcap: SoftCap
) -> tuple[Array, Array, Array]:
    # The block's rows of `unembed`, its logits before the temperature, and each one's token id.
    # Without the barrier XLA's CPU backend casts all of a bfloat16 `unembed` before the loop.
    unembed, start = lax.optimization_barrier((unembed, start))
    rows = lax.dynamic_slice_in_dim(unembed, start, block).astype(hidden.dtype)
    logits = jnp.einsum("...d,vd->...v", hidden, rows, preferred_element_type=wide_of(hidden))
    column = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) + start
    return rows, soft_cap(logits, softcap), column


def _softcap_and_temperature(temperature: Any, scales: Any, hidden: Array) -> tuple[Any, Any]:
    # The temperature is a number that is known when tracing, or else the second of the scales.
    softcap, traced = scales
    return softcap, temperature if traced is None else traced.astype(wide_of(hidden))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blockwise(
    block: int, temperature: Any, hidden: Array, unembed: Array, tokens: Any, scales: Any
) -> Any:
    return _blockwise_forward(block, temperature, hidden, unembed, tokens, scales)[0]


def _blockwise_forward(
    block: int, temperature: Any, hidden: Array, unembed: Array, tokens: Any, scales: Any
) -> Any:
    softcap, temperature = _softcap_and_temperature(temperature, scales, hidden)

    def statistics(_: Any, starts: Any) -> Any:
        start, own = starts
        _, logits, ids = _block_logits(hidden, unembed, start, block, softcap)
        logits = jnp.where(ids >= own, logits / temperature, -jnp.inf)
        top = logits.max(axis=-1)
        shifted = logits - top[..., None]
        weight = jnp.exp(shifted)
        moment = jnp.where(weight > 0, weight * shifted, 0).sum(axis=-1)
        here = (tokens >= own) & (tokens < start + block)
        column = jnp.where(here, tokens - start, 0)
        chosen = jnp.take_along_axis(logits, column[..., None], axis=-1)[..., 0]
        return None, (top, weight.sum(axis=-1), moment, jnp.where(here, chosen, 0))

    starts = _blocks(unembed.shape[0], block)
    _, (top, total, moment, chosen) = lax.scan(statistics, None, starts)
    # Everything relative to the largest logit, so that a common offset costs no digits.
    peak = top.max(axis=0)
    shift = top - peak[None]
    total = total * jnp.exp(shift)
    norm = total.sum(axis=0)
    mean = (moment * jnp.exp(shift) + shift * total).sum(axis=0) / norm
    log_norm = jnp.log(norm)
    known = (tokens >= 0) & (tokens < unembed.shape[0])
    logp = jnp.where(known, chosen.sum(axis=0) - peak - log_norm, jnp.nan)
    return (logp, log_norm - mean), (peak, log_norm, log_norm - mean)


def _blockwise_fwd(block: int, temperature: Any, hidden: Any, unembed: Any, *others: Any) -> Any:
    others = jax.tree.map(value_of, others)
    inputs = (hidden.value, unembed.value, *others)
    outputs, saved = _blockwise_forward(block, temperature, *inputs)
    # A frozen unembedding (LoRA) needs no gradient: None in the residuals is known when tracing.
    wanted = () if unembed.perturbed else None
    return outputs, (inputs, saved, wanted)


def _blockwise_bwd(
    block: int, temperature: Any, residuals: Any, cotangents: Any
) -> tuple[Any, ...]:
    (hidden, unembed, tokens, scales), (peak, log_norm, spread), wanted = residuals
    wide = wide_of(hidden)
    softcap, temperature = _softcap_and_temperature(temperature, scales, hidden)
    by_logp, by_spread = (
        None if isinstance(cotangent, SymbolicZero) else cotangent / temperature
        for cotangent in cotangents
    )

    def accumulate(carry: Any, starts: Any) -> Any:
        start, own = starts
        d_hidden, d_unembed = carry
        rows, logits, ids = _block_logits(hidden, unembed, start, block, softcap)
        log_probs = logits / temperature - peak[..., None] - log_norm[..., None]
        d_logits = jnp.zeros_like(logits)
        if by_logp is not None:
            chosen = (ids == tokens[..., None]).astype(logits.dtype)
            d_logits += by_logp[..., None] * (chosen - jnp.exp(log_probs))
        if by_spread is not None:
            surprise = log_probs + spread[..., None]
            d_logits -= by_spread[..., None] * jnp.exp(log_probs) * surprise
        d_logits = d_logits * soft_cap_slope(logits, softcap)
        # Two products read these; without the barrier XLA computes them anew for each.
        d_logits = lax.optimization_barrier(jnp.where(ids >= own, d_logits, 0).astype(hidden.dtype))
        d_hidden += jnp.einsum("...v,vd->...d", d_logits, rows, preferred_element_type=wide)
        if wanted is not None:
            d_rows = rows_gradient(d_logits, hidden).astype(unembed.dtype)
            d_unembed = lax.dynamic_update_slice_in_dim(d_unembed, d_rows, start, 0)
        return (d_hidden, d_unembed), None

    d_unembed = None if wanted is None else jnp.zeros_like(unembed)
    empty = jnp.zeros(hidden.shape, wide), d_unembed
    (d_hidden, d_unembed), _ = lax.scan(accumulate, empty, _blocks(unembed.shape[0], block))
    return d_hidden.astype(hidden.dtype), d_unembed, None, None


_blockwise.defvjp(_blockwise_fwd, _blockwise_bwd, symbolic_zeros=True)

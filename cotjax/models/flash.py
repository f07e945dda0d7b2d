"""Attention by JAX's own TPU kernel (splash attention): scores exist block by block only.

Which token attends to which is given twice: by a static mask over the places of a row, which lets
the kernel pass over blocks that no query sees, and by a segment number per token, known at run
time, for padding and packed examples. Compiled for TPUs; on other machines the kernel is
interpreted, which is slow and exact.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from cotjax.interfaces import Placement
from cotjax.models.attention_scores import Scoring

LANES = 128  # a block is a multiple of what a TPU register holds
LARGEST_BLOCK = 512


def causal(
    query: Float[Array, "B S H D"],
    key: Float[Array, "B S K D"],
    value: Float[Array, "B S K D"],
    segment: Int[Array, "B S"],
    scoring: Scoring,
    placement: Placement,
) -> Float[Array, "B S H D"]:
    """See `attention.Causal`."""
    place: Any = np.arange(query.shape[1])
    mask = scoring.sees(place[:, None] - place[None, :])
    return _attend(query, key, value, segment, np.asarray(mask), scoring, placement)


def shared_prompt(
    query: Float[Array, "B S H D"],
    key: Float[Array, "B S K D"],
    value: Float[Array, "B S K D"],
    prompt_mask: Bool[Array, "B P"],
    group_size: int,
    scoring: Scoring,
    placement: Placement,
) -> Float[Array, "B S H D"]:
    """See `attention.SharedPrompt`; S = P + G·T."""
    num_prompt = prompt_mask.shape[-1]
    length = (query.shape[1] - num_prompt) // group_size
    mask = shared_prompt_mask(num_prompt, group_size, length, scoring)
    segment = jnp.pad(
        prompt_mask.astype(jnp.int32),
        ((0, 0), (0, group_size * length)),
        constant_values=1,
    )
    return _attend(query, key, value, segment, mask, scoring, placement)


def shared_prompt_mask(
    num_prompt: int, group_size: int, length: int, scoring: Scoring
) -> Bool[np.ndarray, "S S"]:
    """Which token sees which in a row `prompt (P) | completion 1 (T) | … | completion G (T)`."""
    own = np.arange(group_size * length)
    part = np.concatenate([np.zeros(num_prompt, int), 1 + own // length])
    place: Any = np.concatenate([np.arange(num_prompt), num_prompt + own % length])
    seen = np.asarray(scoring.sees(place[:, None] - place[None, :]))
    return seen & ((part[None, :] == 0) | (part[:, None] == part[None, :]))


def _attend(
    query: Array,
    key: Array,
    value: Array,
    segment: Array,
    mask: np.ndarray,
    scoring: Scoring,
    placement: Placement,
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds  # here: see `_kernel`

    size = query.shape[1]
    block = min(LARGEST_BLOCK, -(-size // LANES) * LANES)
    rest = -size % block
    # Rows are filled up to whole blocks with places that see themselves and nobody else.
    whole = np.eye(size + rest, dtype=bool)
    whole[:size, :size] = mask
    interpret = placement.mesh.devices.flat[0].platform != "tpu"

    def on_one_device(query: Array, key: Array, value: Array, segment: Array) -> Array:
        kernel = _kernel(whole, query.shape[2], block, scoring.softcap, interpret)
        query, key, value = (
            jnp.pad(jnp.moveaxis(x, 2, 1), ((0, 0), (0, 0), (0, rest), (0, 0)))
            for x in (query, key, value)
        )
        query = query * jnp.asarray(scoring.scale or query.shape[-1] ** -0.5, query.dtype)
        segment = jnp.pad(segment, ((0, 0), (0, rest)))
        out = jax.vmap(kernel)(query, key, value, SegmentIds(segment, segment))
        return jnp.moveaxis(out[:, :, :size], 1, 2)

    heads = P(placement.batch, None, placement.heads)
    return jax.shard_map(
        on_one_device,
        mesh=placement.mesh,
        in_specs=(heads, heads, heads, P(placement.batch)),
        out_specs=heads,
        check_vma=False,
    )(query, key, value, segment)


def _kernel(mask: np.ndarray, num_heads: int, block: int, softcap: float, interpret: bool) -> Any:
    # Here: only a run with flash attention waits for the import of Pallas.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.NumpyMask(mask)] * num_heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )

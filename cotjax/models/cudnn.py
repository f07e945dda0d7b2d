"""Attention by cuDNN's kernel for NVIDIA GPUs, of which no scores [S, S] are stored per head.

It is called through `jax.nn.dot_product_attention`; on other machines the same calls take that
function's own formula, which is exact and stores the scores. The kernel knows causal rows, windows
and a mask that all heads share. A prompt shared by G completions is laid out for it in one of two
ways, whichever moves fewer bytes: as G rows `prompt | completion`, which are causal and repeat the
prompt, or as the one row that it is, with a mask [S, S].

A third way would do neither: attend to the prompt and to the own tokens in two calls, and join them
by the logarithms of their sums (arXiv:2205.14135). It is not exact through JAX's public function,
which rounds these logarithms to bfloat16 (by up to 1/64 between 4 and 8 nats) and gives them no
gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from cotjax.interfaces import Placement
from cotjax.models.attention_scores import Scoring
from cotjax.models.flash import shared_prompt_mask


def causal(
    query: Float[Array, "B S H D"],
    key: Float[Array, "B S K D"],
    value: Float[Array, "B S K D"],
    segment: Int[Array, "B S"],
    scoring: Scoring,
    placement: Placement,
) -> Float[Array, "B S H D"]:
    """See `attention.Causal`."""
    place = jnp.arange(query.shape[1])
    seen = scoring.sees(place[:, None] - place[None, :])

    def attend(query: Array, key: Array, value: Array, segment: Array) -> Array:
        mask = seen & (segment[:, :, None] == segment[:, None, :])
        return _masked(query, key, value, mask, scoring, placement)

    return _split(placement, attend, query, key, value, segment)


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
    width = (query.shape[2] + key.shape[2]) * query.shape[3]

    def as_rows(query: Array, key: Array, value: Array, mask: Array) -> Array:
        shift = num_prompt - mask.sum(axis=-1, dtype=jnp.int32)
        query, key, value = (_rows(x, shift, num_prompt, group_size) for x in (query, key, value))
        out = _kernel(query, key, value, None, scoring, placement)
        return _row(out, shift, num_prompt, group_size)

    def as_one(query: Array, key: Array, value: Array, mask: Array) -> Array:
        seen = shared_prompt_mask(num_prompt, group_size, length, scoring)
        real = jnp.pad(mask, ((0, 0), (0, group_size * length)), constant_values=True)
        same = real[:, :, None] == real[:, None, :]
        return _masked(query, key, value, same & seen, scoring, placement)

    one = as_rows if repeats_prompt(num_prompt, group_size, length, width) else as_one
    return _split(placement, one, query, key, value, prompt_mask)


def repeats_prompt(num_prompt: int, group_size: int, length: int, width: int) -> bool:
    """Whether rows `prompt | completion` move fewer bytes than one row with a mask.

    Both directions together move queries, keys, values, the output and their gradients, four
    times `width` numbers a token, and of a mask the mask and its gradient, which is not used.

    Args:
      num_prompt: P.
      group_size: G.
      length: T.
      width: (H + K) · D.
    """
    one = num_prompt + group_size * length
    return group_size * (num_prompt + length) * 4 * width <= one * 4 * width + 2 * one**2


def _split(placement: Placement, attend: Callable[..., Array], *arrays: Array) -> Array:
    """Attention of each device's own examples and heads; the last array has no heads."""
    heads = P(placement.batch, None, placement.heads)
    return jax.shard_map(
        attend,
        mesh=placement.mesh,
        in_specs=(heads, heads, heads, P(placement.batch)),
        out_specs=heads,
        check_vma=False,
    )(*arrays)


def _masked(
    query: Array,
    key: Array,
    value: Array,
    mask: Bool[Array, "B S S"],
    scoring: Scoring,
    placement: Placement,
) -> Array:
    """Attention where a mask allows it, which allows no token that lies ahead."""
    size = query.shape[1]
    rest = size % 2  # with a mask the kernel's backward pass wants an even length
    mask = jnp.pad(mask, ((0, 0), (0, rest), (0, rest)), constant_values=True)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0))) for x in (query, key, value)
    )
    return _kernel(query, key, value, mask, scoring, placement)[:, :size]


def _kernel(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    scoring: Scoring,
    placement: Placement,
) -> Array:
    """Causal attention of whole rows; a window is in the mask where there is one."""
    if scoring.softcap:
        raise ValueError("cuDNN's attention has no soft cap of scores; use another.")
    window = scoring.window if mask is None else 0
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if mask is None else mask[:, None],
        scale=scoring.scale or None,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn" if placement.platform == "gpu" else "xla",
    )


def _rows(
    x: Float[Array, "B S N D"], shift: Int[Array, " B"], num_prompt: int, group: int
) -> Float[Array, "B*G R N D"]:
    """Rows `prompt | completion | padding` from `padding, prompt | completions`; R = P + T."""
    batch, _, *heads = x.shape
    # The gradients of a prompt's G copies are summed in float32.
    prompt = x[:, None, :num_prompt].astype(jnp.float32)
    prompt = jnp.broadcast_to(prompt, (batch, group, *prompt.shape[2:])).astype(x.dtype)
    own = x[:, num_prompt:].reshape(batch, group, -1, *heads)
    rows = _rolled(jnp.concatenate([prompt, own], axis=2), shift)
    return rows.reshape(batch * group, -1, *heads)


def _row(
    rows: Float[Array, "B*G R H D"], shift: Int[Array, " B"], num_prompt: int, group: int
) -> Float[Array, "B S H D"]:
    """The inverse of `_rows`, with the first completion's copy of the prompt."""
    rows = _rolled(rows.reshape(-1, group, *rows.shape[1:]), -shift)
    own = rows[:, :, num_prompt:].reshape(len(rows), -1, *rows.shape[3:])
    return jnp.concatenate([rows[:, 0, :num_prompt], own], axis=1)


@jax.custom_vjp
def _rolled(rows: Float[Array, "B G R N D"], shift: Int[Array, " B"]) -> Array:
    """Moves a row's tokens `shift` places to the left; the first ones come to stand last.

    Its gradient is moved back, for which JAX would add numbers up in no certain order.
    """
    place = (jnp.arange(rows.shape[2]) + shift[:, None]) % rows.shape[2]
    return jnp.take_along_axis(rows, place[:, None, :, None, None], axis=2)


def _rolled_forth(rows: Array, shift: Array) -> tuple[Array, Array]:
    return _rolled(rows, shift), shift


def _rolled_back(shift: Array, by_out: Array) -> tuple[Array, np.ndarray]:
    return _rolled(by_out, -shift), np.zeros(shift.shape, jax.dtypes.float0)


_rolled.defvjp(_rolled_forth, _rolled_back)

"""Several teachers as one: mixtures of distributions, and the vocabulary that models share."""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cotjax.core.divergences import Temperature, tempered
from cotjax.core.masking import widen

Space = Literal["probability", "logit"]


def mix_teachers(
    logits: Float[Array, "N *B V"],
    weight: Float[Array, "N *W"],
    *,
    space: Space = "probability",
    temperature: Temperature = 1.0,
) -> Float[Array, "*B V"]:
    """Mixes N teachers into one distribution.

        probability   log p = log Σ_k w_k softmax(z_k / τ)       a vote: keeps every teacher's modes
        logit         p = softmax(Σ_k w_k z_k / τ)               a consensus: the geometric mean

    The result goes into a divergence as `teacher_logits` with `teacher_temperature=1`.

    Args:
      logits: [N, ..., V], one teacher per row. −inf means probability 0: of that teacher's share in
        probability space, of the mixture in logit space.
      weight: [N], or [N, ...] with leading axes of `logits` for weights that vary by row or token;
        ≥ 0, summing to 1 over N. A teacher of weight 0 contributes exactly nothing, even if its
        logits are NaN.
      space: `probability` or `logit`.
      temperature: τ > 0.

    Returns:
      [..., V] log-probabilities, float32 or wider. One teacher of weight 1 is returned as it is.

    Example:
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.25, 0.75]]))
      >>> weight = jnp.array([0.75, 0.25])
      >>> jnp.exp(mix_teachers(logits, weight)).round(4)
      Array([0.625, 0.375], dtype=float32)
      >>> jnp.exp(mix_teachers(logits, weight, space="logit")).round(4)
      Array([0.634, 0.366], dtype=float32)

    Raises:
      ValueError: weights of another number of teachers or with more axes than the positions have,
        an unknown space, or a temperature ≤ 0.

    Source: linear and logarithmic opinion pools (Genest and Zidek 1986).
    """
    if weight.shape[0] != logits.shape[0] or weight.ndim >= logits.ndim:
        raise ValueError(
            f"weight {weight.shape} does not fit logits {logits.shape}: it needs the same first "
            "axis (teachers), then leading axes of the logits without the vocabulary."
        )
    logits = tempered(logits, temperature)
    weight = widen(weight).astype(logits.dtype)
    weight = weight.reshape(weight.shape + (1,) * (logits.ndim - weight.ndim))
    return mix_scores(list(logits), list(weight), space)[0]


def mix_scores(
    scores: Sequence[Float[Array, "*B V"]],
    weight: Sequence[Float[Array, "*W"]],
    space: Space,
    norms: Sequence[Float[Array, "*B"]] | None = None,
) -> tuple[Float[Array, "*B V"], list[Float[Array, "*B"]]]:
    """Mixes logits that are at temperature already, over the whole vocabulary or over a block.

    Args:
      scores: N arrays [..., V], z_k / τ.
      weight: N arrays that broadcast against a score; 0 leaves the teacher out.
      space: `probability` or `logit`.
      norms: log Σ_v exp over the whole vocabulary, when `scores` hold only a part of it; as this
        function returned them. None computes them.

    Returns:
      [..., V] log-probabilities of the mixture, and their norms [...]: one for each teacher in
      probability space, one for the mixture in logit space.
    """
    used = [w > 0 for w in weight]
    scores = [jnp.where(u, z, 0) for u, z in zip(used, scores, strict=True)]
    if space == "logit":
        scores = [functools.reduce(jnp.add, [w * z for w, z in zip(weight, scores, strict=True)])]
    elif space != "probability":
        raise ValueError(f"space = {space!r}: there are 'probability' and 'logit'.")
    if norms is None:
        norms = [jax.nn.logsumexp(z, axis=-1) for z in scores]
    log_probs = [z - norm[..., None] for z, norm in zip(scores, norms, strict=True)]
    if space == "logit":
        return log_probs[0], list(norms)
    shares = [
        jnp.where(u, logp + jnp.log(jnp.where(u, w, 1)), -jnp.inf)
        for u, w, logp in zip(used, weight, log_probs, strict=True)
    ]
    return functools.reduce(_log_add, shares), list(norms)


def _log_add(a: Float[Array, "*S"], b: Float[Array, "*S"]) -> Float[Array, "*S"]:
    # log(e^a + e^b), with gradient 0 and not NaN where both are −inf: one of them is replaced.
    # `jnp.logaddexp` takes 1.4 times as long on a CPU, for digits of log1p that the sum rounds off.
    dead = jnp.isneginf(a) & jnp.isneginf(b)
    a = jnp.where(dead, 0, a)
    total = jnp.maximum(a, b) + jnp.log(1 + jnp.exp(-jnp.abs(a - b)))
    return jnp.where(dead, -jnp.inf, total)


def common_vocabulary(
    teacher_logits: Float[Array, "*B T Vt"], student_logits: Float[Array, "*B T Vs"], *, size: int
) -> tuple[Float[Array, "*B T V"], Float[Array, "*B T V"]]:
    """Cuts the padding columns off two unembeddings of different width.

    Models of one family share a tokenizer but may pad the unembedding differently (Qwen2.5: 151,936
    and 152,064 columns for 151,665 tokens). A divergence compares the columns that stand for a
    token, and normalises over them alone.

    Args:
      teacher_logits: [..., T, Vt].
      student_logits: [..., T, Vs].
      size: number of tokens of the common tokenizer; at most Vt and Vs.

    Returns:
      Both logits, [..., T, size].

    Example:
      >>> teacher, student = common_vocabulary(jnp.zeros((4, 12)), jnp.zeros((4, 10)), size=9)
      >>> teacher.shape, student.shape
      ((4, 9), (4, 9))

    Raises:
      ValueError: one of the models has fewer columns than the tokenizer has tokens.
    """
    for owner, logits in (("teacher", teacher_logits), ("student", student_logits)):
        if logits.shape[-1] < size:
            raise ValueError(
                f"the {owner} has logits for {logits.shape[-1]} tokens, the common vocabulary has "
                f"{size}: these models do not share a tokenizer."
            )
    return teacher_logits[..., :size], student_logits[..., :size]

"""Divergences from hidden states and unembeddings; no [..., T, V] array of anyone ever exists."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from cotjax.core.chunked.blocks import BlockLoss, Unembed, blockwise_loss
from cotjax.core.chunked.sums import summed_loss
from cotjax.core.divergences import Kind, Temperature, checked, tempered, terms_of
from cotjax.core.masking import fill_masked
from cotjax.core.mixing import Space, mix_scores
from cotjax.core.softcap import SoftCap, soft_cap
from cotjax.core.topk import Tail, topk_scores, topk_value


def chunked_divergence(
    kind: Kind,
    teacher_hidden: Float[Array, "*B T Dt"] | Sequence[Float[Array, "*B T _"]],
    teacher_unembed: Float[Array, "Vt Dt"] | Sequence[Float[Array, "_ _"]],
    student_hidden: Float[Array, "*B T D"],
    student_unembed: Float[Array, "V D"],
    *,
    chunk_size: int,
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: Temperature = 1.0,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
    teacher_weight: Float[Array, " N"] | None = None,
    space: Space = "probability",
    vocab_size: int | None = None,
    softcap: SoftCap = None,
    teacher_softcap: Sequence[SoftCap] | None = None,
    parts: int | None = None,
) -> Float[Array, "*S"]:
    """The divergence called `kind` between `teacher_hidden @ teacher_unembed.T` and the student's.

    Equals the dense function of that name (after `mix_teachers`, with several teachers) up to
    rounding, in value and gradient. Logits exist for chunk_size tokens at a time, or for all tokens
    and a slice of the vocabulary of the same size; the backward pass computes them again. Products
    are taken in the dtype of the hidden states and accumulated in float32.

    Args:
      kind: `forward_kl`, `reverse_kl`, `jensen_shannon`, `skew_forward_kl`, `skew_reverse_kl` or
        `total_variation`.
      teacher_hidden: [..., T, Dt] last hidden states; a sequence of them for several teachers,
        whose widths may differ. Teachers get no gradient, and none is computed.
      teacher_unembed: [V, Dt]; a sequence for several teachers.
      student_hidden: [..., T, D].
      student_unembed: [V, D]. No gradient array is built if it is not differentiated.
      chunk_size: how many tokens' worth of logits may exist at once, in all rows together; memory
        is proportional to it.
      beta: of `jensen_shannon`.
      alpha: of the skew divergences.
      temperature: τ > 0 of teachers and student; may be traced. No gradient.
      scale_by_temperature: multiplies by τ².
      mask: [..., T] True = counts; elsewhere value and gradient are 0 even for NaN hidden states.
      teacher_weight: [N] as in `mix_teachers`; may be traced, and a teacher of weight 0 then costs
        no product. None only with one teacher. No gradient.
      space: how teachers are mixed, as in `mix_teachers`.
      vocab_size: tokens of the common tokenizer, when the unembeddings are padded; None if all have
        the same number of rows.
      softcap: of the student's logits, see `soft_cap`; None is none. No gradient.
      teacher_softcap: of each teacher's; None: nobody has one.
      parts: None gives a number per token. A number gives their sum, whose gradient is computed
        along with it, each product once; `summed_loss` says what it counts.

    Returns:
      [..., T] nats, float32; with `parts` their sum, [].

    Example:
      >>> teacher_head = jnp.log(jnp.array([[0.5], [0.25], [0.25]]))  # width 1, three tokens
      >>> hidden, head = jnp.zeros((2, 4)), jnp.ones((3, 4))  # a uniform student of width 4
      >>> chunked_divergence(
      ...     "forward_kl", jnp.ones((2, 1)), teacher_head, hidden, head, chunk_size=1
      ... ).round(4)
      Array([0.0589, 0.0589], dtype=float32)

    Raises:
      ValueError: several teachers without weights, unembeddings of different height without
        vocab_size, or an argument outside its range.

    Source: this package; the idea is Wijmans et al. 2024, arXiv:2411.09009 (cut cross-entropy).
    """
    hiddens = tuple(teacher_hidden) if isinstance(teacher_hidden, Sequence) else (teacher_hidden,)
    matrices = (
        tuple(teacher_unembed) if isinstance(teacher_unembed, Sequence) else (teacher_unembed,)
    )
    if teacher_weight is None:
        if len(hiddens) > 1:
            raise ValueError(f"{len(hiddens)} teachers need teacher_weight.")
        teacher_weight = jnp.ones(1)
    caps = (None,) * len(hiddens) if teacher_softcap is None else tuple(teacher_softcap)
    if not len(hiddens) == len(matrices) == len(teacher_weight) == len(caps):
        raise ValueError(
            f"{len(hiddens)} hidden states, {len(matrices)} unembeddings, {len(teacher_weight)} "
            f"weights and {len(caps)} soft caps of teachers: one of each is needed for every "
            "teacher."
        )
    heights = [len(matrix) for matrix in (*matrices, student_unembed)]
    if vocab_size is None and len(set(heights)) > 1:
        raise ValueError(f"the unembeddings have {heights} rows: give vocab_size, those in common.")
    vocab_size = heights[-1] if vocab_size is None else vocab_size
    if vocab_size > min(heights):
        raise ValueError(f"vocab_size = {vocab_size}: the unembeddings have {heights} rows.")
    temperature = lax.stop_gradient(checked(temperature))
    if mask is not None:
        student_hidden = fill_masked(student_hidden, mask[..., None])
        hiddens = tuple(fill_masked(hidden, mask[..., None]) for hidden in hiddens)
    value = _of_tokens(
        _Divergence(kind, beta, alpha, space),
        student_hidden,
        student_unembed,
        hiddens,
        (matrices, caps, teacher_weight, temperature),
        mask,
        chunk_size=chunk_size,
        vocab_size=vocab_size,
        softcap=softcap,
        parts=parts,
    )
    return value * temperature.astype(value.dtype) ** 2 if scale_by_temperature else value


def _of_tokens(
    loss: BlockLoss,
    hidden: Array,
    matrix: Array,
    tokens: Any,
    shared: Any,
    mask: Array | None,
    *,
    parts: int | None,
    **sizes: Any,
) -> Array:
    # A number for each token, or their sum.
    if parts is None:
        value = blockwise_loss(loss, hidden, matrix, tokens, shared, **sizes)
        return value if mask is None else fill_masked(value, mask)
    if mask is None:
        mask = jnp.ones(hidden.shape[:-1], bool)
    return summed_loss(loss, hidden, matrix, tokens, shared, mask, parts=parts, **sizes)


@dataclasses.dataclass(frozen=True)
class _Divergence:
    kind: Kind
    beta: float
    alpha: float
    space: Space

    def rows(self, logits: Array, tokens: Any, shared: Any, unembed: Unembed) -> tuple[Array, Any]:
        scores = tempered(logits, shared[-1])
        norm = jax.nn.logsumexp(scores, axis=-1)
        logp, teacher_norms = self._teacher(tokens, shared, unembed, None)
        value, slope = self._terms(logp, scores - norm[..., None])
        return value.sum(axis=-1), (norm, slope.sum(axis=-1), teacher_norms)

    def slopes(
        self, logits: Array, saved: Any, tokens: Any, shared: Any, unembed: Unembed, start: Any
    ) -> Array:
        norm, slope_sum, teacher_norms = saved
        logp, _ = self._teacher(tokens, shared, unembed, teacher_norms)
        logq = tempered(logits, shared[-1]) - norm[..., None]
        _, slope = self._terms(logp, logq)
        return self._by_logits(slope, slope_sum, logq, shared[-1])

    def both(
        self, logits: Array, tokens: Any, shared: Any, unembed: Unembed
    ) -> tuple[Array, Array]:
        logq = jax.nn.log_softmax(tempered(logits, shared[-1]), axis=-1)
        logp, _ = self._teacher(tokens, shared, unembed, None)
        value, slope = self._terms(logp, logq)
        by_logits = self._by_logits(slope, slope.sum(axis=-1), logq, shared[-1])
        return value.sum(axis=-1), by_logits

    def _by_logits(self, slope: Array, slope_sum: Array, logq: Array, temperature: Any) -> Array:
        # Through log q_v = z_v/τ − log Σ exp(z/τ).
        by_score = slope - jnp.exp(logq) * slope_sum[..., None]
        return by_score / temperature.astype(by_score.dtype)

    def _terms(self, logp: Array, logq: Array) -> tuple[Array, Array]:
        # The terms and their derivatives by log q, entry by entry.
        terms = terms_of(self.kind, beta=self.beta, alpha=self.alpha)
        value, pull_back = cast(Any, jax.vjp(functools.partial(terms, logp), logq))
        return value, pull_back(jnp.ones_like(value))[0]

    def _teacher(
        self, hiddens: Any, shared: Any, unembed: Unembed, norms: Any
    ) -> tuple[Array, Any]:
        # Log-probabilities of the mixture; a teacher of weight 0 costs no product.
        matrices, caps, weight, temperature = shared
        scores: list[Array] = []
        for w, hidden, matrix, cap in zip(weight, hiddens, matrices, caps, strict=True):
            like = jax.eval_shape(unembed, hidden, matrix)

            def nothing(*_: Any, like: Any = like) -> Array:
                return jnp.zeros(like.shape, like.dtype)

            z = cast(Any, lax.cond(w > 0, unembed, nothing, hidden, matrix))
            scores.append(tempered(soft_cap(z, cap), temperature))
        return mix_scores(scores, list(weight.astype(scores[0].dtype)), self.space, norms)


def chunked_topk_forward_kl(
    topk_logp: Float[Array, "*B T K"],
    topk_ids: Int[Array, "*B T K"],
    student_hidden: Float[Array, "*B T D"],
    student_unembed: Float[Array, "V D"],
    *,
    chunk_size: int,
    tail: Tail = "bucket",
    temperature: Temperature = 1.0,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
    vocab_size: int | None = None,
    softcap: SoftCap = None,
    parts: int | None = None,
) -> Float[Array, "*S"]:
    """`topk_forward_kl` of `student_hidden @ student_unembed.T`, which is never built.

    Args:
      topk_logp: [..., T, K] as in `topk_forward_kl`. No gradient.
      topk_ids: [..., T, K].
      student_hidden: [..., T, D].
      student_unembed: [V, D]. No gradient array is built if it is not differentiated.
      chunk_size: as in `chunked_divergence`.
      tail: as in `topk_forward_kl`.
      temperature: τ > 0 of the student; may be traced. No gradient.
      scale_by_temperature: multiplies by τ².
      mask: [..., T] True = counts; elsewhere value and gradient are 0 even for NaN inputs.
      vocab_size: tokens of the tokenizer, when the unembedding is padded; None counts all rows.
      softcap: of the student's logits, see `soft_cap`; None is none. No gradient.
      parts: as in `chunked_divergence`.

    Returns:
      [..., T] nats, float32; equals `topk_forward_kl` up to rounding, in value and gradient. With
      `parts` their sum, [].

    Example:
      >>> logp, ids = jnp.log(jnp.array([[0.6, 0.3]])), jnp.array([[2, 0]])
      >>> hidden, head = jnp.ones((1, 2)), jnp.zeros((4, 2))
      >>> chunked_topk_forward_kl(logp, ids, hidden, head, chunk_size=1).round(4)
      Array([0.419], dtype=float32)

    Raises:
      ValueError: as `topk_forward_kl` and `chunked_divergence`.

    Source: as `chunked_divergence`.
    """
    temperature = lax.stop_gradient(checked(temperature))
    if mask is not None:
        topk_logp = fill_masked(topk_logp, mask[..., None])
        topk_ids = jnp.where(mask[..., None], topk_ids, 0)
        student_hidden = fill_masked(student_hidden, mask[..., None])
    value = _of_tokens(
        _TopK(tail),
        student_hidden,
        student_unembed,
        (topk_logp, topk_ids),
        temperature,
        mask,
        chunk_size=chunk_size,
        vocab_size=len(student_unembed) if vocab_size is None else vocab_size,
        softcap=softcap,
        parts=parts,
    )
    return value * temperature.astype(value.dtype) ** 2 if scale_by_temperature else value


@dataclasses.dataclass(frozen=True)
class _TopK:
    tail: Tail

    def rows(self, logits: Array, tokens: Any, shared: Any, unembed: Unembed) -> tuple[Array, Any]:
        logp, ids = tokens
        student = topk_scores(logp, ids, tempered(logits, shared))
        value_of = functools.partial(topk_value, logp, tail=self.tail)
        value, pull_back = cast(Any, jax.vjp(value_of, *student))
        return value, (student[1:], pull_back(jnp.ones_like(value)))

    def slopes(
        self, logits: Array, saved: Any, tokens: Any, shared: Any, unembed: Unembed, start: Any
    ) -> Array:
        logp, ids = tokens
        (norm, rest), (by_chosen, by_norm, by_rest) = saved
        scores = tempered(logits, shared)
        nowhere = scores.shape[-1]
        column = ids - start
        inside = ~jnp.isneginf(logp) & (column >= 0) & (column < nowhere)
        column = jnp.where(inside, column, nowhere)
        chosen = jnp.put_along_axis(
            jnp.zeros_like(scores), column, by_chosen, axis=-1, inplace=False, mode="drop"
        )
        stored = jnp.put_along_axis(
            jnp.zeros(scores.shape, bool), column, True, axis=-1, inplace=False, mode="drop"
        )
        by_score = chosen + by_norm[..., None] * jnp.exp(scores - norm[..., None])
        others = by_rest[..., None] * jnp.exp(scores - rest[..., None])
        by_score = by_score + jnp.where(stored, 0, others)
        return by_score / shared.astype(by_score.dtype)

    def both(
        self, logits: Array, tokens: Any, shared: Any, unembed: Unembed
    ) -> tuple[Array, Array]:
        value, saved = self.rows(logits, tokens, shared, unembed)
        return value, self.slopes(logits, saved, tokens, shared, unembed, 0)

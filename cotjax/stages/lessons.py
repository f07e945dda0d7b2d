"""What teachers say about a batch, and the loss of a student that listens.

loss = Σ_tokens [(1 − α) · divergence + α · cross-entropy] / number of tokens
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from cotjax.config import Config, CurriculumConfig, DistillConfig
from cotjax.core.chunked import chunked_divergence, chunked_topk_forward_kl
from cotjax.core.distillation import distillation_advantage
from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.errors import InputError
from cotjax.models.head import Head
from cotjax.stages import common

ONE_WALK_TOKENS = 512  # of a chunk: 2 products saved, at 200 Tflop/s, for 8 bytes, at 800 GB/s


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lesson:
    """The teachers in use, N at once; what changes from step to step is an array.

    A teacher is either hidden states with an unembedding, or what a store kept of its logits.

    Attributes:
      weight: [N], sums to 1.
      temperature: of teachers and student.
      hidden: N arrays [*B, T, D].
      head: N heads, whose unembeddings are [V, D].
      topk_logp: N arrays [*B, T, K]; empty if the teachers run beside.
      topk_ids: N arrays [*B, T, K].
    """

    weight: Float[Array, " N"]
    temperature: Float[Array, ""]
    hidden: tuple[Float[Array, "*B T D"], ...] = ()
    head: tuple[Head, ...] = ()
    topk_logp: tuple[Float[Array, "*B T K"], ...] = ()
    topk_ids: tuple[Int[Array, "*B T K"], ...] = ()


def open_listening(config: Config, student: common.Student, vocab_size: int) -> "Listening":
    """How a run's student listens.

    Args:
      config: of the run.
      student: who listens.
      vocab_size: tokens that all models have in common.
    """
    policy = student.policy
    rows = policy.head(student.reference).size
    at_once = common.tokens_at_once(policy, rows)
    # One walk reads and writes a gradient [V, D] for every chunk; it pays for large chunks only.
    large = policy.on_cpu or at_once // policy.batch_devices >= ONE_WALK_TOKENS
    parts = policy.batch_parts if large else None
    return Listening(config.distill, config.curriculum, vocab_size, at_once, parts)


@dataclasses.dataclass(frozen=True)
class Listening:
    """How a student listens; static.

    Attributes:
      distill: which divergence, and its settings.
      curriculum: where teachers are mixed.
      vocab_size: tokens that all models have in common.
      chunk_size: how many tokens' worth of logits may exist at once.
      parts: over how many devices examples are split; None if tokens are split too, or if chunks
        are too small for `total_divergence` to take one walk.
    """

    distill: DistillConfig
    curriculum: CurriculumConfig
    vocab_size: int
    chunk_size: int
    parts: int | None = None

    def divergence(
        self,
        lesson: Lesson,
        hidden: Float[Array, "*B T D"],
        head: Head,
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        """Per-token divergence of the student from the lesson's mixture, nats."""
        return self._divergence(lesson, hidden, head, mask, None)

    def total_divergence(
        self,
        lesson: Lesson,
        hidden: Float[Array, "*B T D"],
        head: Head,
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, ""]:
        """The sum of `divergence`, whose gradient costs less."""
        return self._divergence(lesson, hidden, head, mask, self.parts).sum()

    def _divergence(
        self, lesson: Lesson, hidden: Array, head: Head, mask: Array, parts: int | None
    ) -> Array:
        shared: Any = {
            "chunk_size": self.chunk_size,
            "temperature": lesson.temperature,
            "scale_by_temperature": self.distill.scale_by_temperature,
            "mask": mask,
            "vocab_size": self.vocab_size,
            "softcap": head.softcap,
            "parts": parts,
        }
        if not lesson.topk_logp:
            kind: Any = self.distill.divergence
            return chunked_divergence(
                kind,
                lesson.hidden,
                [their.matrix for their in lesson.head],
                hidden,
                head.matrix,
                teacher_softcap=[their.softcap for their in lesson.head],
                beta=self.distill.beta,
                alpha=self.distill.skew,
                teacher_weight=lesson.weight,
                space=self.curriculum.mixing,
                **shared,
            )
        shape = mask.shape if parts is None else ()
        total = jnp.zeros(shape, jnp.float32)
        for weight, logp, ids in zip(lesson.weight, lesson.topk_logp, lesson.topk_ids, strict=True):

            def from_store(logp: Array, ids: Array) -> Array:
                return chunked_topk_forward_kl(
                    logp, ids, hidden, head.matrix, tail=self.distill.tail, **shared
                )

            nothing = lambda logp, ids: jnp.zeros(shape, jnp.float32)  # noqa: E731
            total += weight * jax.lax.cond(weight > 0, from_store, nothing, logp, ids)
        return total

    def teacher_logprobs(
        self, lesson: Lesson, tokens: Int[Array, "*B T"], mask: Bool[Array, "*B T"]
    ) -> Float[Array, "*B T"]:
        """Log-probabilities of tokens under the lesson's mixture, nats."""
        if self.curriculum.mixing == "logit":
            # Σ w_k h_k·u_k is one product of what is side by side.
            parts = zip(lesson.weight, lesson.hidden, strict=True)
            side_by_side = jnp.concatenate([w.astype(h.dtype) * h for w, h in parts], axis=-1)
            if any(head.softcap for head in lesson.head):
                raise InputError(
                    'curriculum.mixing = "logit": capped logits of teachers (Gemma 2) have no '
                    'mixture for distill.on_policy_loss = "policy_gradient". Set '
                    'curriculum.mixing = "probability".'
                )
            heads = Head(jnp.concatenate([head.matrix for head in lesson.head], axis=-1))
            return self._logprobs(side_by_side, heads, tokens, mask, lesson.temperature)
        scores = []
        for weight, hidden, head in zip(lesson.weight, lesson.hidden, lesson.head, strict=True):

            def of_one(hidden: Array, head: Head) -> Array:
                return self._logprobs(hidden, head, tokens, mask, lesson.temperature)

            nothing = lambda hidden, head: jnp.zeros(mask.shape, jnp.float32)  # noqa: E731
            logp = jax.lax.cond(weight > 0, of_one, nothing, hidden, head)
            scores.append(jnp.where(weight > 0, jnp.log(weight) + logp, -jnp.inf))
        return jnp.where(mask, jax.nn.logsumexp(jnp.stack(scores), axis=0), 0)

    def policy_gradient(
        self,
        lesson: Lesson,
        hidden: Float[Array, "*B T D"],
        head: Head,
        tokens: Int[Array, "*B T"],
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        """−Â log q of the student's own tokens; its gradient is the reverse KL's, sampled."""
        head = head.with_matrix(head.matrix[: self.vocab_size])
        logp = self._logprobs(hidden, head, tokens, mask, lesson.temperature)
        gap = distillation_advantage(self.teacher_logprobs(lesson, tokens, mask), logp)
        return -gap * logp

    def _logprobs(
        self, hidden: Array, head: Head, tokens: Array, mask: Array, temperature: Array
    ) -> Array:
        # Dividing hidden states and cap divides the logits, by a temperature that may be traced.
        hidden = hidden / temperature.astype(hidden.dtype)
        return chunked_token_logprobs(
            hidden,
            head.matrix,
            tokens,
            chunk_size=self.chunk_size,
            softcap=head.softcap / temperature if head.softcap else None,
            mask=mask,
        )[0]

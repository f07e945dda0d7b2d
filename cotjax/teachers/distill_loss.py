"""The outputs of teachers for a batch, and the student's loss against them.

loss = Σ_tokens [(1 − α) · divergence + α · cross-entropy] / number of tokens
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from cotjax.config import Config, CurriculumConfig, DistillConfig, Tail
from cotjax.core.chunked.losses import chunked_divergence, chunked_topk_forward_kl
from cotjax.core.distillation import distillation_advantage
from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.errors import InputError
from cotjax.models.head import Head
from cotjax.student.load import LoadedPolicy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutputs:
    """The teachers in use, N at once; what changes from step to step is an array.

    A teacher is either hidden states with an unembedding, or the top logits that a cache kept.

    Attributes:
      weight: [N], sums to 1.
      temperature: of teachers and student.
      hidden: N arrays [*B, T, D].
      head: N heads, whose unembeddings are [V, D].
      topk_logp: N arrays [*B, T, K]; empty if the teachers run beside the student.
      topk_ids: N arrays [*B, T, K].
    """

    weight: Float[Array, " N"]
    temperature: Float[Array, ""]
    hidden: tuple[Float[Array, "*B T D"], ...] = ()
    head: tuple[Head, ...] = ()
    topk_logp: tuple[Float[Array, "*B T K"], ...] = ()
    topk_ids: tuple[Int[Array, "*B T K"], ...] = ()


def make_distill_loss(config: Config, student: LoadedPolicy, vocab_size: int) -> "DistillLoss":
    """The distillation loss of a run.

    Args:
      config: of the run.
      student: the model that is trained.
      vocab_size: tokens that all models have in common.
    """
    policy = student.policy
    rows = student.architecture.vocab_size
    at_once, parts = policy.tokens_at_once(rows), policy.parts_of_a_sum(rows)
    return DistillLoss(
        config.distill, config.curriculum, config.teachers.tail, vocab_size, at_once, parts
    )


@dataclasses.dataclass(frozen=True)
class DistillLoss:
    """How a student is compared with its teachers; static.

    Attributes:
      distill: which divergence, and its settings.
      curriculum: where teachers are mixed.
      tail: what becomes of the probability that a logit cache left out.
      vocab_size: tokens that all models have in common.
      chunk_size: how many tokens' worth of logits may exist at once.
      parts: over how many devices examples are split; None if tokens are split too, or if chunks
        are too small for `total_divergence` to take one walk.
    """

    distill: DistillConfig
    curriculum: CurriculumConfig
    tail: Tail
    vocab_size: int
    chunk_size: int
    parts: int | None = None

    def divergence(
        self,
        outputs: TeacherOutputs,
        hidden: Float[Array, "*B T D"],
        head: Head,
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        """Per-token divergence of the student from the teachers' mixture, nats."""
        return self._divergence(outputs, hidden, head, mask, None)

    def total_divergence(
        self,
        outputs: TeacherOutputs,
        hidden: Float[Array, "*B T D"],
        head: Head,
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, ""]:
        """The sum of `divergence`, whose gradient costs less."""
        return self._divergence(outputs, hidden, head, mask, self.parts).sum()

    def _divergence(
        self, outputs: TeacherOutputs, hidden: Array, head: Head, mask: Array, parts: int | None
    ) -> Array:
        shared: Any = {
            "chunk_size": self.chunk_size,
            "temperature": outputs.temperature,
            "scale_by_temperature": self.distill.scale_by_temperature,
            "mask": mask,
            "vocab_size": self.vocab_size,
            "softcap": head.softcap,
            "parts": parts,
        }
        if not outputs.topk_logp:
            kind: Any = self.distill.divergence
            return chunked_divergence(
                kind,
                outputs.hidden,
                [their.matrix for their in outputs.head],
                hidden,
                head.matrix,
                teacher_softcap=[their.softcap for their in outputs.head],
                beta=self.distill.beta,
                alpha=self.distill.skew,
                teacher_weight=outputs.weight,
                space=self.curriculum.mixing,
                **shared,
            )
        shape = mask.shape if parts is None else ()
        total = jnp.zeros(shape, jnp.float32)
        for weight, logp, ids in zip(
            outputs.weight, outputs.topk_logp, outputs.topk_ids, strict=True
        ):

            def from_cache(logp: Array, ids: Array) -> Array:
                return chunked_topk_forward_kl(
                    logp, ids, hidden, head.matrix, tail=self.tail, **shared
                )

            nothing = lambda logp, ids: jnp.zeros(shape, jnp.float32)  # noqa: E731
            total += weight * jax.lax.cond(weight > 0, from_cache, nothing, logp, ids)
        return total

    def teacher_logprobs(
        self, outputs: TeacherOutputs, tokens: Int[Array, "*B T"], mask: Bool[Array, "*B T"]
    ) -> Float[Array, "*B T"]:
        """Log-probabilities of tokens under the teachers' mixture, nats."""
        if self.curriculum.mixing == "logit":
            # Σ w_k h_k·u_k is one product of what is side by side.
            parts = zip(outputs.weight, outputs.hidden, strict=True)
            side_by_side = jnp.concatenate([w.astype(h.dtype) * h for w, h in parts], axis=-1)
            if any(head.softcap for head in outputs.head):
                raise InputError(
                    'curriculum.mixing = "logit": capped logits of teachers (Gemma 2) have no '
                    'mixture for distill.on_policy_loss = "policy_gradient". Set '
                    'curriculum.mixing = "probability".'
                )
            heads = Head(jnp.concatenate([head.matrix for head in outputs.head], axis=-1))
            return self._logprobs(side_by_side, heads, tokens, mask, outputs.temperature)
        scores = []
        for weight, hidden, head in zip(outputs.weight, outputs.hidden, outputs.head, strict=True):

            def of_one(hidden: Array, head: Head) -> Array:
                return self._logprobs(hidden, head, tokens, mask, outputs.temperature)

            nothing = lambda hidden, head: jnp.zeros(mask.shape, jnp.float32)  # noqa: E731
            logp = jax.lax.cond(weight > 0, of_one, nothing, hidden, head)
            scores.append(jnp.where(weight > 0, jnp.log(weight) + logp, -jnp.inf))
        return jnp.where(mask, jax.nn.logsumexp(jnp.stack(scores), axis=0), 0)

    def policy_gradient(
        self,
        outputs: TeacherOutputs,
        hidden: Float[Array, "*B T D"],
        head: Head,
        tokens: Int[Array, "*B T"],
        mask: Bool[Array, "*B T"],
    ) -> Float[Array, "*B T"]:
        """−Â log q of the student's own tokens; its gradient is the reverse KL's, sampled."""
        head = head.with_matrix(head.matrix[: self.vocab_size])
        logp = self._logprobs(hidden, head, tokens, mask, outputs.temperature)
        gap = distillation_advantage(self.teacher_logprobs(outputs, tokens, mask), logp)
        return -gap * logp

    def _logprobs(
        self, hidden: Array, head: Head, tokens: Array, mask: Array, temperature: Array
    ) -> Array:
        return chunked_token_logprobs(
            hidden,
            head.matrix,
            tokens,
            chunk_size=self.chunk_size,
            temperature=temperature,
            softcap=head.softcap,
            mask=mask,
        )[0]

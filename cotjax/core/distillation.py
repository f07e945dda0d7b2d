"""Divergences between teacher and student, one value per position, from logits.

p = softmax(teacher_logits / τ) and q = softmax(student_logits / τ); values in nats, computed in
float32 (float64 if the inputs are). All functions differentiate through both arguments: a trainer
stops the gradient of the teacher. All accept the options that `forward_kl` explains.

No padding or −inf logit can put NaN into a value or a gradient: see `mask`, and
`cotjax.core.divergences` for probabilities of 0.
"""

import jax
from jax import Array
from jaxtyping import Bool, Float

from cotjax.core.divergences import Temperature, divergence


def forward_kl(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Kullback-Leibler divergence of the student from the teacher: covers every mode of p.

        KL(p ‖ q) = Σ_v p_v (log p_v − log q_v)

    Args:
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      temperature: τ > 0, divides both logits; may be traced, for schedules.
      teacher_temperature: None is τ. Give 1 when `teacher_logits` are the log-probabilities of
        `mix_teachers`, to which τ has been applied already.
      scale_by_temperature: multiplies by τ², so that the size of the gradient does not depend on τ.
      mask: [..., T] True = counts. Elsewhere the value is 0 and so is the gradient, even where
        the logits are NaN. None counts every position.

    Returns:
      [..., T] nats, ≥ 0 up to rounding, 0 iff the distributions are equal. A student probability
      of exactly 0 where p > 0 costs 87 nats times p, not infinity.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.log(jnp.array([[0.5, 0.5]]))
      >>> forward_kl(teacher, jnp.log(jnp.array([[0.9, 0.1]]))).round(4)
      Array([0.5108], dtype=float32)
      >>> forward_kl(teacher, teacher)
      Array([0.], dtype=float32)

    Source: Hinton et al. 2015, arXiv:1503.02531 (temperature, τ²).
    """
    return divergence(
        "forward_kl",
        teacher_logits,
        student_logits,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def reverse_kl(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Kullback-Leibler divergence of the teacher from the student: seeks one mode of p.

        KL(q ‖ p) = Σ_v q_v (log q_v − log p_v)

    Args:
      teacher_logits: [..., T, V]. A logit of −inf means p = 0: student mass there costs 87 nats
        times q, which pushes it away without an infinity.
      student_logits: [..., T, V].
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] nats, ≥ 0 up to rounding, 0 iff the distributions are equal.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.log(jnp.array([[0.5, 0.5]]))
      >>> reverse_kl(teacher, jnp.log(jnp.array([[0.9, 0.1]]))).round(4)
      Array([0.3681], dtype=float32)

    Source: Gu et al. 2023, arXiv:2306.08543 (MiniLLM).
    """
    return divergence(
        "reverse_kl",
        teacher_logits,
        student_logits,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def jensen_shannon(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    beta: float = 0.5,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Generalised Jensen-Shannon divergence, bounded, between forward and reverse KL.

        JSD_β = β KL(p ‖ M) + (1−β) KL(q ‖ M),   M = βp + (1−β)q

    The formula is 0 at β = 0 and at β = 1; there the function returns the limits of
    JSD_β / (β (1−β)) instead: KL(p ‖ q) at β = 0 and KL(q ‖ p) at β = 1, as TRL does.

    Args:
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      beta: weight of the teacher in the mixture, in [0, 1]; a Python number.
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] nats, ≥ 0 up to rounding, 0 iff the distributions are equal; for 0 < β < 1 at most
      the entropy of (β, 1−β), log 2 at β = ½.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([[0.0, -jnp.inf]])
      >>> jensen_shannon(teacher, teacher[:, ::-1]).round(4)
      Array([0.6931], dtype=float32)

    Raises:
      ValueError: beta outside [0, 1].

    Source: Agarwal et al. 2023, arXiv:2306.13649 (GKD).
    """
    return divergence(
        "jensen_shannon",
        teacher_logits,
        student_logits,
        beta=beta,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def skew_forward_kl(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    alpha: float = 0.1,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Forward KL to a student that borrows a share α of the teacher: bounded slopes.

        KL(p ‖ αp + (1−α)q)

    Args:
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      alpha: share of the teacher in the mixture, in [0, 1); a Python number. 0 is `forward_kl`.
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] nats, ≥ 0 up to rounding, 0 iff the distributions are equal, at most −log α.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.array([[0.0, -jnp.inf]])
      >>> skew_forward_kl(teacher, teacher[:, ::-1]).round(4)
      Array([2.3026], dtype=float32)

    Raises:
      ValueError: alpha outside [0, 1).

    Source: Ko et al. 2024, arXiv:2402.03898 (DistiLLM).
    """
    return divergence(
        "skew_forward_kl",
        teacher_logits,
        student_logits,
        alpha=alpha,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def skew_reverse_kl(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    alpha: float = 0.1,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Reverse KL to a teacher that borrows a share α of the student: bounded slopes.

        KL(q ‖ (1−α)p + αq)

    Args:
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      alpha: share of the student in the mixture, in [0, 1); a Python number. 0 is `reverse_kl`.
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] nats, ≥ 0 up to rounding, 0 iff the distributions are equal, at most −log α.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.log(jnp.array([[0.5, 0.5]]))
      >>> skew_reverse_kl(teacher, jnp.log(jnp.array([[0.9, 0.1]]))).round(4)
      Array([0.3071], dtype=float32)

    Raises:
      ValueError: alpha outside [0, 1).

    Source: Ko et al. 2024, arXiv:2402.03898 (DistiLLM).
    """
    return divergence(
        "skew_reverse_kl",
        teacher_logits,
        student_logits,
        alpha=alpha,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def total_variation(
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Total variation distance: the mass that would have to move.

        TV(p, q) = ½ Σ_v |p_v − q_v|

    Args:
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] in [0, 1], symmetric. The slope at p_v = q_v is taken as 0.

    Example:
      >>> import jax.numpy as jnp
      >>> teacher = jnp.log(jnp.array([[0.5, 0.5]]))
      >>> total_variation(teacher, jnp.log(jnp.array([[0.75, 0.25]]))).round(4)
      Array([0.25], dtype=float32)

    Source: Wen et al. 2023, arXiv:2307.15190 (f-DISTILL).
    """
    return divergence(
        "total_variation",
        teacher_logits,
        student_logits,
        temperature=temperature,
        teacher_temperature=teacher_temperature,
        scale_by_temperature=scale_by_temperature,
        mask=mask,
    )


def distillation_advantage(
    teacher_logp: Float[Array, "*B T"], student_logp: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
    """On-policy distillation as a policy gradient: the per-token advantage of a student's sample.

        Â_t = log p(y_t) − log q(y_t),   y sampled by the student

    Its mean over samples is −KL(q ‖ p), so a policy gradient with Â descends the reverse KL. It may
    be added to a group advantage.

    Args:
      teacher_logp: [..., T] nats, the teacher's log-probability of each sampled token.
      student_logp: [..., T] nats, the student's own, at the same temperature.

    Returns:
      [..., T] nats, without gradient; 0 where teacher and student agree.

    Example:
      >>> import jax.numpy as jnp
      >>> distillation_advantage(jnp.array([-1.0, -5.0]), jnp.array([-2.0, -2.0]))
      Array([ 1., -3.], dtype=float32)

    Source: Agarwal et al. 2023, arXiv:2306.13649 (the reward form of on-policy reverse KL).
    """
    return jax.lax.stop_gradient(teacher_logp - student_logp)

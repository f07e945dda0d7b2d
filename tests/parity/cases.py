"""What is compared with other people's code: inputs, and cotjax's value and gradient for them.

Torch is not needed here: the live comparison and the golden files share these functions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cotjax import core

Arrays = dict[str, np.ndarray]
MAX_LENGTH = 9  # Dr. GRPO divides by it; longer than any completion of the inputs


@dataclasses.dataclass(frozen=True)
class PolicyCase:
    """One setting of TRL's GRPO loss, in TRL's words."""

    loss_type: str
    level: str = "token"
    beta: float = 0.0
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    correction: bool = False  # vLLM's importance-sampling ratio
    unbiased_kl: bool = False  # TRL's use_bias_correction_kl

    @property
    def name(self):
        tail = "-delta" * (self.delta is not None) + "-correction" * self.correction
        tail += "-unbiased" * self.unbiased_kl
        return f"{self.loss_type}-{self.level}-{self.beta}{tail}"


POLICY_CASES = [
    *(
        PolicyCase(loss_type, level, beta, epsilon_high=0.28 if loss_type == "dapo" else 0.2)
        for loss_type in ("grpo", "dr_grpo", "dapo", "bnpo")
        for level in ("token", "sequence")
        for beta in (0.0, 0.04)
    ),
    *(PolicyCase("cispo", beta=beta, epsilon_high=2.0) for beta in (0.0, 0.04)),
    PolicyCase("grpo", delta=1.5),
    PolicyCase("dapo", delta=1.5, beta=0.04),
    PolicyCase("grpo", correction=True),
    PolicyCase("dapo", correction=True, beta=0.04),
    PolicyCase("dapo", beta=0.04, unbiased_kl=True),
    PolicyCase("grpo", "sequence", beta=0.04, unbiased_kl=True),
]

# TRL's loss types in the words of `cotjax.core.make_objective`.
REDUCTION = {
    "grpo": "sequence",
    "dr_grpo": "length",
    "dapo": "token",
    "bnpo": "token",
    "cispo": "token",
}


def policy_inputs(seed) -> Arrays:
    """Log-probabilities of ragged completions, far enough apart for every clip to act."""
    rng = np.random.default_rng(seed)
    shape = (6, 7)
    logp = -rng.exponential(1.0, shape)
    length = np.array([7, 1, 4, 6, 2, 5])
    return {
        "logp": logp.astype(np.float32),
        "logp_old": (logp + 0.4 * rng.standard_normal(shape)).astype(np.float32),
        "logp_ref": (logp + 0.4 * rng.standard_normal(shape)).astype(np.float32),
        "advantage": rng.standard_normal(shape[0]).astype(np.float32),
        "weight": rng.uniform(0.2, 2.0, shape).astype(np.float32),
        "mask": np.arange(shape[1]) < length[:, None],
    }


def policy(case: PolicyCase, x: Arrays) -> Arrays:
    objective = core.make_objective(
        term={"token": "clipped", "sequence": "sequence"}[case.level]
        if case.loss_type != "cispo"
        else "cispo",
        reduction=REDUCTION[case.loss_type],
        clip_low=case.epsilon_low,
        clip_high=case.epsilon_high,
        max_ratio=case.epsilon_high,
        dual_clip=case.delta,
        beta=case.beta,
        unbiased_kl=case.unbiased_kl,
    )

    def loss(logp):
        total, count, _ = core.policy_loss(
            objective,
            logp,
            x["logp_old"],
            x["logp_ref"],
            x["advantage"][:, None],
            x["mask"],
            max_length=MAX_LENGTH,
            weight=x["weight"] if case.correction else None,
        )
        return core.mean_from(total, count)

    value, slope = jax.value_and_grad(loss)(x["logp"])
    return {"value": value, "by_logp": slope}


JSD_CASES = [
    (beta, temperature) for beta in (0.0, 0.1, 0.5, 0.9, 1.0) for temperature in (1.0, 2.5)
]


def divergence_inputs(seed) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "teacher": (2 * rng.standard_normal((4, 7, 11))).astype(np.float32),
        "student": (2 * rng.standard_normal((4, 7, 11))).astype(np.float32),
        "mask": rng.random((4, 7)) < 0.6,
    }


def jensen_shannon(case, x: Arrays) -> Arrays:
    beta, temperature = case

    def loss(student):
        value = core.jensen_shannon(
            x["teacher"], student, beta=beta, temperature=temperature, mask=x["mask"]
        )
        return core.token_mean(value, x["mask"])

    value, slope = jax.value_and_grad(loss)(x["student"])
    return {"value": value, "by_student": slope}


def head_inputs(seed) -> Arrays:
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "teacher_hidden": draw(9, 6),
        "teacher_matrix": draw(301, 6),
        "student_hidden": draw(9, 4),
        "student_matrix": draw(301, 4),
        "cotangent": draw(9),
    }


HEAD_CASES = [(0.0, 1.0), (0.3, 2.5), (1.0, 1.0)]


@functools.cache
def _compiled_head(beta, temperature):
    def loss(hidden, matrix, x):
        value = core.chunked_divergence(
            "jensen_shannon",
            x["teacher_hidden"],
            x["teacher_matrix"],
            hidden,
            matrix,
            chunk_size=4,
            beta=beta,
            temperature=temperature,
        )
        return (x["cotangent"] * value).sum(), value

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def head(case, x: Arrays) -> Arrays:
    compiled = _compiled_head(*case)
    (_, value), slopes = compiled(x["student_hidden"], x["student_matrix"], x)
    return {"value": value, "by_hidden": slopes[0], "by_matrix": slopes[1]}


TOPK_CASES = ["bucket", "renormalise"]


def topk_inputs(seed) -> Arrays:
    x = divergence_inputs(seed)
    logp = np.asarray(jax.nn.log_softmax(x["teacher"]))
    ids = np.argsort(-logp, axis=-1)[..., :4]
    return {
        "topk_logp": np.take_along_axis(logp, ids, -1),
        "topk_ids": ids.astype(np.int32),
        "student": x["student"],
        "mask": x["mask"],
    }


def topk(case, x: Arrays) -> Arrays:
    def loss(student):
        value = core.topk_forward_kl(
            x["topk_logp"], x["topk_ids"], student, tail=case, mask=x["mask"]
        )
        return core.token_mean(value, x["mask"])

    value, slope = jax.value_and_grad(loss)(x["student"])
    return {"value": value, "by_student": slope}


def logprob_inputs(seed) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "logits": (3 * rng.standard_normal((3, 5, 17))).astype(np.float32),
        "tokens": rng.integers(0, 17, (3, 5)).astype(np.int32),
    }


def logprobs(case, x: Arrays) -> Arrays:
    def both(logits):
        return core.token_logprobs(logits, x["tokens"]), core.entropy(logits)

    (logp, entropy), pull_back = jax.vjp(both, jnp.asarray(x["logits"]))
    (slope,) = pull_back((jnp.ones_like(logp), jnp.ones_like(entropy)))
    return {"logp": logp, "entropy": entropy, "by_logits": slope}


# family: (cases, inputs from a seed, cotjax's answer)
FAMILIES = {
    "policy": (POLICY_CASES, policy_inputs, policy),
    "jensen_shannon": (JSD_CASES, divergence_inputs, jensen_shannon),
    "head": (HEAD_CASES, head_inputs, head),
    "topk": (TOPK_CASES, topk_inputs, topk),
    "logprobs": (["selected"], logprob_inputs, logprobs),
}


def name_of(case) -> str:
    return case.name if isinstance(case, PolicyCase) else str(case)


def largest_difference(ours: Arrays, theirs: Arrays) -> dict[str, float]:
    """Largest |ours − theirs| of each output, in units of its own largest entry (at least 1)."""
    assert ours.keys() == theirs.keys()
    return {
        key: float(np.abs(np.asarray(ours[key]) - y).max() / max(1.0, np.abs(y).max()))
        for key, y in theirs.items()
    }

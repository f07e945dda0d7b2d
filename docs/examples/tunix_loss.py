"""cotjax's losses inside Tunix: a policy loss that its learner finds by name, and a distillation.

Read with google-tunix 0.1.7. Its requirements hold transformers below the version that a run of
cotjax needs, so the two do not install side by side; `cotjax.core` needs JAX alone, and this file
no more of cotjax than that:

    pip install google-tunix && pip install --no-deps -e .
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from cotjax.core import (
    Objective,
    entropy,
    forward_kl,
    make_objective,
    mean_from,
    policy_loss,
    token_mean,
)

NAME = "cotjax"


def loss_of(logp: Array, example: Any, objective: Objective) -> tuple[Array, dict[str, Array]]:
    """The loss of an objective on what Tunix's `TrainExample` holds, and its metrics.

    Args:
      logp: [rows, T] of the completions under the policy that is trained.
      example: completion_mask [rows, T], advantages [rows], and log-probabilities of the policy
        that sampled and of the reference, [rows, T] or None.
      objective: of `cotjax.core.make_objective`.
    """
    mask = example.completion_mask.astype(bool)
    advantage = example.advantages
    total, count, found = policy_loss(
        objective,
        logp,
        example.old_per_token_logps,
        example.ref_per_token_logps,
        advantage if advantage.ndim == 2 else advantage[:, None],
        mask,
        max_length=mask.shape[1],
        weight=getattr(example, "sampler_is_weights", None),
    )
    return mean_from(total, count), {name: mean_from(*pair) for name, pair in found.items()}


def register(objective: Objective | None = None, name: str = NAME) -> str:
    """Makes an objective a policy loss of Tunix: `GRPOConfig(policy_loss_fn=register())`.

    Args:
      objective: None is Tunix's own conventions, the preset "tunix".
      name: under which its registry has it.
    """
    from flax import nnx
    from tunix.rl import common, function_registry

    own = make_objective(preset="tunix") if objective is None else objective

    @function_registry.register_policy_loss_fn(name)
    def policy_loss_fn(model, train_example, algo_config, pad_id, eos_id, **_):
        definition, state = nnx.split(model)
        logp, logits = common.compute_per_token_logps(
            definition,
            state,
            prompt_tokens=train_example.prompt_ids,
            completion_tokens=train_example.completion_ids,
            pad_id=pad_id,
            eos_id=eos_id,
            stop_gradient=False,
            return_logits=True,
            temperature=algo_config.temperature,
        )
        loss, found = loss_of(logp.astype(jnp.float32), train_example, own)
        mask = train_example.completion_mask.astype(bool)
        found["entropy"] = token_mean(entropy(logits), mask)
        found["pg_clipfrac"] = found["clip_fraction"]  # this and "kl" are what its learner logs
        return loss, {"kl": jnp.zeros(())} | found

    return name


def strategy(mask_of: Any, **how: Any) -> Any:
    """A distillation strategy of Tunix whose loss is a masked forward KL.

    Tunix's `LogitStrategy` takes the mean over all positions, padding included.

    Args:
      mask_of: labels [B, T, V] to [B, T], True where a position counts.
      **how: of `BaseStrategy`.
    """
    from tunix.distillation.strategies import base_strategy

    class MaskedStrategy(base_strategy.BaseStrategy):
        def compute_loss(self, student_output, teacher_output, labels):
            mask = mask_of(labels)
            return token_mean(forward_kl(teacher_output, student_output, mask=mask), mask), {}

        def compute_eval_loss(self, student_output, labels):
            mask = mask_of(labels)
            return token_mean(forward_kl(jnp.log(labels), student_output, mask=mask), mask), {}

    return MaskedStrategy(**how)

"""The supervised loss: cross-entropy on the tokens that count."""

from jax import Array
from jaxtyping import Float, Int

from cotjax.core.logprobs import token_logprobs


def reconstruction_loss(
    logits: Float[Array, "*B T V"], targets: Int[Array, "*B T"], weight: Float[Array, "*B T"]
) -> Float[Array, "*B T"]:
    """Negative log-likelihood of each target token, times its weight.

        −w_t log softmax(z_t)[y_t]

    Args:
      logits: [..., T, V], those that predict the target at the same index.
      targets: [..., T] ids; any integer where the weight is 0.
      weight: [..., T] ≥ 0: 0 on prompt and padding, 1 on target tokens, more on tokens of masked
        steps if they should count more.

    Returns:
      [..., T] nats, ≥ 0, float32 or wider. Where the weight is 0 the value is 0 and so is the
      gradient, even if the logits there are NaN. The usual reduction divides the sum by the number
      of target tokens of the global batch.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
      >>> reconstruction_loss(logits, jnp.array([1, -100]), jnp.array([1.0, 0.0])).sum().round(4)
      Array(0.2877, dtype=float32)

    Source: maximum likelihood; as the first stage of BRIDGE, arXiv:2602.17686.
    """
    return weighted_nll(token_logprobs(logits, targets, mask=weight > 0), weight)


def weighted_nll(logp: Float[Array, "*B T"], weight: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """Negative log-likelihood of each target token, times its weight, from its log-probability.

        −w_t log π(y_t)

    Args:
      logp: [..., T] of the targets, 0 where the weight is 0.
      weight: [..., T] ≥ 0.

    Returns:
      [..., T] nats, ≥ 0: what `reconstruction_loss` gives, for a caller that never holds logits.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted_nll(jnp.log(jnp.array([0.5, 1.0])), jnp.array([2.0, 0.0])).round(4)
      Array([ 1.3863, -0.    ], dtype=float32)

    Source: maximum likelihood.
    """
    return -weight.astype(logp.dtype) * logp

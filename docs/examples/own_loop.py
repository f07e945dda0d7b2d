"""GRPO, then distillation, of a flax.nnx model of your own in a plain optax loop.

Nothing of cotjax is used but `cotjax.core`: functions of arrays, which need JAX alone.

    python docs/examples/own_loop.py
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cotjax.core import (
    OBJECTIVES,
    forward_kl,
    group_advantage,
    mean_from,
    mix_teachers,
    policy_loss,
    sample,
    token_logprobs,
    token_mean,
)

VOCAB, WIDTH, LENGTH, END = 12, 32, 5, 11  # ten digits, a filler, and the end token
GROUP = 16


class Model(nnx.Module):
    """A small causal model: each position sees the mean of what stands before it, and itself."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCAB, WIDTH, rngs=rngs)
        self.mix = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCAB, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """[..., S] ids to logits [..., S, VOCAB] of the next ones."""
        x = self.embed(tokens)
        seen = jnp.cumsum(x, axis=-2) / jnp.arange(1, x.shape[-2] + 1)[:, None]
        return self.head(nnx.gelu(self.mix(jnp.concatenate([seen, x], axis=-1))))


@nnx.jit
def write(model: Model, prompts: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B] prompts of one token to completions [B, G, LENGTH] and where they count."""
    rows = jnp.repeat(prompts[:, None], GROUP, axis=1)[..., None]
    for place in range(LENGTH):
        token = sample(jax.random.fold_in(key, place), model(rows)[..., -1, :])
        rows = jnp.concatenate([rows, token[..., None]], axis=-1)
    tokens = rows[..., 1:]
    ended = jnp.cumsum(tokens == END, axis=-1)
    return tokens, (ended == 0) | ((ended == 1) & (tokens == END))  # the end token counts


def reward(prompts: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, G]: right if the first token is the digit that follows; brevity counts if it is right."""
    right = tokens[..., 0] == (prompts[:, None] + 1) % 10
    return jnp.where(right, 1 - 0.1 * mask.sum(-1), -1.0)


def logp_of(model: Model, prompts: jax.Array, tokens: jax.Array) -> jax.Array:
    """[B, G, T] log-probabilities of completions."""
    first = jnp.broadcast_to(prompts[:, None, None], (*tokens.shape[:2], 1))
    return token_logprobs(model(jnp.concatenate([first, tokens[..., :-1]], axis=-1)), tokens)


@nnx.jit
def grpo_step(model: Model, optimizer: nnx.Optimizer, prompts, tokens, mask, earned) -> jax.Array:
    """One update on completions; gives the loss."""
    advantage = group_advantage(earned)[..., None]

    def loss(model: Model) -> jax.Array:
        logp = logp_of(model, prompts, tokens)
        total, count, _ = policy_loss(
            OBJECTIVES["dr_grpo"], logp, None, None, advantage, mask, max_length=LENGTH
        )
        return mean_from(total, count)

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


@functools.partial(nnx.jit, static_argnames="kind")
def distill_step(model, optimizer, teachers: list[Model], tokens, weight, *, kind=forward_kl):
    """One update towards several teachers, mixed with weights; gives the divergence, nats."""
    theirs = mix_teachers(jnp.stack([teacher(tokens) for teacher in teachers]), weight)
    theirs = jax.lax.stop_gradient(theirs)
    mask = tokens != END

    def loss(model: Model) -> jax.Array:
        distance = kind(theirs, model(tokens), teacher_temperature=1.0, mask=mask)
        return token_mean(distance, mask)

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    return value


def train_by_reward(steps: int = 150) -> tuple[Model, list[float]]:
    """A model from random weights, and the mean reward of each step."""
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    prompts, rewards = jnp.arange(10), []
    for step in range(steps):
        tokens, mask = write(model, prompts, jax.random.fold_in(jax.random.key(0), step))
        earned = reward(prompts, tokens, mask)
        grpo_step(model, optimizer, prompts, tokens, mask, earned)
        rewards.append(float(earned.mean()))
    return model, rewards


def train_by_teachers(teachers: list[Model], steps: int = 150) -> tuple[Model, list[float]]:
    """A student of teachers whose weights go from the first to the last; and its divergences."""
    student = Model(nnx.Rngs(1))
    optimizer = nnx.Optimizer(student, optax.adam(1e-2), wrt=nnx.Param)
    distances = []
    for step in range(steps):
        tokens = jax.random.randint(jax.random.fold_in(jax.random.key(1), step), (32, 6), 0, VOCAB)
        late = step / (steps - 1)
        weight = jnp.array([1 - late, late])
        distances.append(float(distill_step(student, optimizer, teachers, tokens, weight)))
    return student, distances


def distance(teacher: Model, student: Model) -> float:
    """Nats a token from a student to one teacher, on random texts."""
    tokens = jax.random.randint(jax.random.key(2), (256, 6), 0, VOCAB)
    mask = tokens != END
    return float(token_mean(forward_kl(teacher(tokens), student(tokens), mask=mask), mask))


if __name__ == "__main__":
    teacher, rewards = train_by_reward()
    print(f"reward      {rewards[0]:+.2f} -> {rewards[-1]:+.2f}  (0.80 is the most)")
    student, _ = train_by_teachers([Model(nnx.Rngs(2)), teacher])
    before, after = distance(teacher, Model(nnx.Rngs(1))), distance(teacher, student)
    print(f"divergence  {before:.2f} -> {after:.2f}  nats a token from the last teacher")

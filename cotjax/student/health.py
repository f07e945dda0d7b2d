"""Whether a model is sound: its template holds the question, its numbers are numbers.

Text is looked at whenever a model is opened. Numbers cost a forward pass and two programs, so only
`python -m cotjax.doctor` looks at them. Each check raises an `InputError` that names the two values
that should be one, or gives what it found as words.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.data.encode import encode_supervised
from cotjax.data.packing import pack_in_order
from cotjax.data.prompts import Prompts
from cotjax.errors import InputError
from cotjax.interfaces import TokenBatch
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices
from cotjax.student.load import LoadedPolicy
from cotjax.student.preflight import SAMPLER_GAP
from cotjax.training.finite import described, named_leaves, not_finite

QUESTION = "Ann has 3 boxes of 12 pens and gives away 5. How many are left?"
ROWS = 4  # per device, in the larger of two batches
BLOCK = 64  # rows are as long as the next multiple


def check_template(tokenizer: Any, prompts: Prompts, name: str) -> str:
    """Refuses prompts in which the question does not stand.

    Args:
      tokenizer: of the model.
      prompts: of the run.
      name: of the model, for the error.

    Raises:
      InputError: the text of a prompt, or what its tokens spell, lacks the question.
    """
    text = prompts.solve(QUESTION)
    if QUESTION not in text:
        raise InputError(
            f"{name}: its chat template makes {_short(text)} of the question {_short(QUESTION)}, "
            'so the model would never see it. Set data.prompt = "plain", or repair the template.'
        )
    tokens = tokenizer.encode(text, add_special_tokens=False)
    spelled = tokenizer.decode(tokens, skip_special_tokens=False)
    if QUESTION not in spelled:
        raise InputError(
            f"{name}: its tokenizer spells the prompt {_short(text)} as {_short(spelled)}, without "
            "the question. Take the tokenizer of the model's origin."
        )
    return f"{len(tokens)} tokens, the question among them"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a model makes of some texts, at the positions that count.

    Attributes:
      nats: [texts] mean −log probability of each text's tokens.
      mass: [positions] probability of the K likeliest tokens.
      vocab_size: V.
      gap: largest difference of a log-probability between a small and a large batch.
    """

    nats: np.ndarray
    mass: np.ndarray
    vocab_size: int
    gap: float

    def __str__(self) -> str:
        """What the check of the numbers found."""
        return (
            f"finite; {self.nats.mean():.2f} nats a token (chance {np.log(self.vocab_size):.2f}); "
            f"twice the same, {self.gap:.1g} nats apart in batches of two sizes"
        )


def score(
    student: LoadedPolicy,
    params: Any,
    mesh: Mesh,
    texts: Sequence[tuple[str, str]],
    *,
    name: str,
    compute_dtype: str,
    top_k: int = 1,
    temperature: float = 1.0,
) -> Scored:
    """Scores texts twice, in batches of two sizes.

    Args:
      student: the model.
      params: all of its parameters.
      mesh: of the run.
      texts: prompts and what follows them, at least one; the first few are used.
      name: of the model, for errors.
      compute_dtype: of its activations.
      top_k: K of `Scored.mass`.
      temperature: of that probability.

    Raises:
      InputError: a logit that is not finite, or a text whose numbers depend on when it is scored or
        beside what.
    """
    parts = batch_devices(mesh)
    examples = [
        encode_supervised(
            student.tokenizer, *pair, eos_id=student.eos_id, max_length=2**31, name=name
        )
        for pair in texts[: ROWS * parts]
    ]
    longest = min(max(len(one["tokens"]) for one in examples), student.architecture.max_positions)
    length = -(-longest // BLOCK) * BLOCK
    cut = [{key: part[:longest] for key, part in one.items()} for one in examples]
    many = [cut[i % len(cut)] for i in range(ROWS * parts)]

    def run(examples: Sequence[dict[str, np.ndarray]]) -> tuple[TokenBatch, list[np.ndarray]]:
        rows = [pack_in_order([(0, one)], 1, length)[0] for one in examples]
        batch = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
        placed = parallel.shard(mesh, batch)
        settings = top_k, temperature
        return batch, [np.asarray(x) for x in _examine(student.policy, params, placed, *settings)]

    batch, (logp, finite, mass) = run(many)
    counted = batch.weight > 0
    if not finite[batch.segment > 0].all():
        raise InputError(_not_finite(student, params, batch, finite, name, compute_dtype))
    _, (again, *_) = run(many)
    _refuse_gap(batch, logp, again, 0.0, f"{name}: scored twice", "Report this")
    _, (alone, *_) = run(many[:parts])
    limit, few = SAMPLER_GAP[compute_dtype], jax.tree.map(lambda leaf: leaf[:parts], batch)
    where = f"{name}: scored in batches of {len(many)} and {parts} rows"
    _refuse_gap(few, logp[:parts], alone, limit, where, 'Set model.compute_dtype = "float32"')
    nats = np.array([-row[mask].mean() for row, mask in zip(logp, counted, strict=True)])
    gap = float(np.abs(logp[:parts] - alone)[counted[:parts]].max())
    return Scored(nats[: len(cut)], mass[counted], student.architecture.vocab_size, gap)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _examine(
    policy: Policy, params: Any, batch: TokenBatch, top_k: int, temperature: float
) -> tuple[Array, Array, Array]:
    """[B, S] log-probabilities of targets, whether all logits are finite, and the top K's mass."""
    hidden = policy.rows(params, batch)
    logp, _ = policy.head_logprobs(params, hidden, batch.targets, batch.weight > 0)
    lanes = policy.lanes
    logits = policy.head(params)(hidden.reshape(lanes, -1, hidden.shape[-1]))
    chances = jax.nn.softmax(logits / temperature)
    mass = jax.lax.top_k(chances, min(top_k, logits.shape[-1]))[0].sum(-1)
    shape = batch.tokens.shape
    return logp, jnp.isfinite(logits).all(-1).reshape(shape), mass.reshape(shape)


def _not_finite(
    student: LoadedPolicy,
    params: Any,
    batch: TokenBatch,
    finite: np.ndarray,
    name: str,
    compute_dtype: str,
) -> str:
    """A sentence on logits that are NaN or infinite, with the parameter that is, if one is."""
    real = np.asarray(batch.segment) > 0
    wrong = int((~finite & real).sum())
    told = f"{name}: logits at {wrong} of {int(real.sum())} positions are NaN or infinite"
    if found := not_finite(params):
        arrays = described(found, named_leaves(params))
        return f"{told}, and {arrays}. Copy the weights from the model's origin again."
    row, column = np.argwhere(~finite & real)[0]
    token = student.tokenizer.convert_ids_to_tokens(int(np.asarray(batch.tokens)[row, column]))
    return (
        f"{told}, first after the token {token!r}, though every parameter is finite. Set "
        f'model.compute_dtype to another format than "{compute_dtype}".'
    )


def _refuse_gap(
    batch: TokenBatch, one: np.ndarray, other: np.ndarray, limit: float, what: str, fix: str
) -> None:
    gap = np.where(np.asarray(batch.weight) > 0, np.abs(one - other), 0.0)
    if gap.max() > limit:
        at = np.unravel_index(gap.argmax(), gap.shape)
        raise InputError(
            f"{what}, one token has the log-probabilities {one[at]:.6f} and {other[at]:.6f}, more "
            f"than {limit:g} nats apart. {fix}."
        )


def check_mass(mass: np.ndarray, *, top_k: int, name: str, least: float) -> str:
    """Refuses a store of top logits that would keep too little of what a teacher says.

    Args:
      mass: [positions] probability of the K likeliest tokens.
      top_k: K.
      name: of the teacher, for the error.
      least: the mean that is needed.

    Raises:
      InputError: it is less.
    """
    kept = float(mass.mean())
    if kept < least:
        raise InputError(
            f"{name}: teachers.top_k = {top_k} keeps {kept:.1%} of its probability, "
            f"{least:.0%} are needed. Raise teachers.top_k."
        )
    return f"the likeliest {top_k} tokens keep {kept:.2%} of the probability"

"""Groups of completions on the host, and their micro-batches for the policy loss."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.core.advantage import informative_groups
from cotjax.errors import InputError
from cotjax.interfaces import End, Program, PromptBatch, Record, Rollout, ScoredGroups
from cotjax.parallel import shapes
from cotjax.parallel.mesh import batch_devices
from cotjax.training.evaluation import JudgedCompletion


@jax.jit
def _informative_groups(reward: Any, counts: Any) -> Any:
    return informative_groups(reward, mask=counts)


SHORTEST = 64  # tokens; scoring and update are compiled once per doubling that occurs


@dataclasses.dataclass(frozen=True)
class RolloutGroups:
    """Judged groups on the host; B of everything.

    Attributes:
      prompts: [B, P].
      rollout: [B, G, T].
      records: B.
      judged: B lists of G.
    """

    prompts: PromptBatch
    rollout: Rollout
    records: list[Record]
    judged: list[list[JudgedCompletion]]

    @property
    def reward(self) -> np.ndarray:
        """[B, G]."""
        return np.array([[one.reward for one in group] for group in self.judged], np.float32)

    @property
    def tokens(self) -> int:
        """Of all completions and prompts; each prompt is computed once, padding is none."""
        return int(self.rollout.mask.sum()) + int(self.prompts.mask.sum())

    @property
    def finite(self) -> np.ndarray:
        """[B, G] False where a NaN or infinite logit ended the completion."""
        return np.asarray(self.rollout.end != End.NONFINITE)

    @property
    def rewarded(self) -> np.ndarray:
        """[B, G] False where a user's function gave no reward."""
        return np.array([[not one.failed for one in group] for group in self.judged], bool)

    @property
    def counted(self) -> np.ndarray:
        """[B, G] True where a completion counts in its group's baseline, and adds loss."""
        return self.finite & self.rewarded

    @property
    def informative(self) -> np.ndarray:
        """[B] True where the rewards that count differ: equal ones have zero advantage."""
        return self.informative_among(self.counted)

    def informative_among(self, counts: np.ndarray) -> np.ndarray:
        """[B] True where the rewards of these completions [B, G] differ."""
        reward: Any = self.reward
        return np.asarray(_informative_groups(reward, counts))

    def take(self, groups: Sequence[int] | np.ndarray) -> "RolloutGroups":
        """Some groups, in the order given."""
        index = np.asarray(groups, int)
        prompts, rollout = jax.tree.map(lambda leaf: leaf[index], (self.prompts, self.rollout))
        return RolloutGroups(
            prompts,
            rollout,
            [self.records[one] for one in groups],
            [self.judged[one] for one in groups],
        )

    def join(self, other: "RolloutGroups") -> "RolloutGroups":
        """These groups, then the other's; prompts as wide as the wider ones."""
        width = max(one.prompts.mask.shape[1] for one in (self, other))
        prompts, rollout = jax.tree.map(
            lambda *leaves: np.concatenate(leaves),
            (_widened(self.prompts, width), self.rollout),
            (_widened(other.prompts, width), other.rollout),
        )
        return RolloutGroups(
            prompts, rollout, self.records + other.records, self.judged + other.judged
        )

    def metrics(self) -> dict[str, float]:
        """Metrics of the student from the completions of a step."""
        flat = [one for group in self.judged for one in group]
        written, passes = self.rollout.mask.sum(), self.rollout.passes
        drafted = {} if passes is None else {"tokens_per_pass": float(written / passes.sum())}
        return drafted | {
            "accuracy": float(np.mean([one.parts["correct"] for one in flat])),
            "well_formed": float(np.mean([one.parts["well_formed"] for one in flat])),
            "reward": float(np.mean([one.reward for one in flat if not one.failed] or [0.0])),
            "completion_tokens": float(np.mean([one.tokens for one in flat])),
            "truncated": float(np.mean([not one.ended for one in flat])),
            "no_signal": float(1 - self.informative.mean()),
            "repeated": float(np.mean([_repeated(group) for group in self.judged])),
            "nonfinite": int((~self.finite).sum()),
        }

    def micro_batches(
        self,
        advantage: np.ndarray,
        counts: np.ndarray,
        *,
        prompts: int,
        longest: int,
        pad_id: int,
        widths: Sequence[int] = (),
    ) -> Iterator[ScoredGroups]:
        """Groups of like length together, so that no micro-batch is padded to another's longest.

        Args:
          advantage: [B, G].
          counts: [B, G] False where a completion adds no loss.
          prompts: of a micro-batch.
          longest: T of the longest micro-batch, in tokens.
          pad_id: stands for what made a logit NaN: it would make one in the trainer too, and
            0 · NaN is NaN.
          widths: P that a micro-batch may have, from the least on; none: that of all prompts.
        """
        rollout = self.rollout
        finite: Any = self.finite
        mask: Any = np.asarray(rollout.mask) & counts[..., None]
        own: Any = advantage
        prompt: Any = np.where(finite.any(axis=1)[:, None], self.prompts.tokens, pad_id)
        completion: Any = np.where(finite[..., None], rollout.tokens, pad_id)
        lengths = np.array(rollout.mask, int).sum(axis=-1).max(axis=-1)
        for rows in np.argsort(lengths, kind="stable").reshape(-1, prompts):
            size = padded_length(int(lengths[rows].max()), longest)
            used = int(self.prompts.mask[rows].sum(axis=1).max())
            left = -next((width for width in widths if width >= used), prompt.shape[1])
            yield ScoredGroups(
                prompt=prompt[rows, left:],
                prompt_mask=self.prompts.mask[rows, left:],
                completion=completion[rows, :, :size],
                completion_mask=mask[rows, :, :size],
                advantage=own[rows],
                logp_sampler=rollout.logp[rows, :, :size],
            )


def _repeated(group: Sequence[JudgedCompletion]) -> float:
    """The share of a group's completions that say what another one says."""
    counts = collections.Counter(one.text for one in group)
    return sum(count for count in counts.values() if count > 1) / len(group)


def _widened(prompts: PromptBatch, width: int) -> PromptBatch:
    """The same prompts with more padding on the left."""
    more = ((0, 0), (width - prompts.mask.shape[1], 0))
    tokens: Any = np.pad(prompts.tokens, more)
    mask: Any = np.pad(prompts.mask, more)
    return PromptBatch(tokens=tokens, mask=mask, ids=prompts.ids)


def informative_program(prompts: int, group_size: int, *, always: bool) -> Program:
    """What `RolloutGroups.informative` compiles."""
    reward = shapes.on_host(prompts, group_size)
    counts = shapes.on_host(prompts, group_size, dtype=np.bool_)
    return Program("groups with a signal", _informative_groups, (reward, counts), always=always)


def micro_shapes(
    mesh: Mesh, prompts: int, group_size: int, *, width: int, longest: int
) -> list[ScoredGroups]:
    """The shapes of micro-batches on the mesh, by their length.

    Args:
      mesh: of the run.
      prompts: of a micro-batch.
      group_size: completions per prompt.
      width: tokens of a prompt.
      longest: T of the longest micro-batch, in tokens.
    """
    prompt = shapes.prompt_batch(mesh, prompts, width)
    size = prompts, group_size
    return [
        ScoredGroups(
            prompt=prompt.tokens,
            prompt_mask=prompt.mask,
            completion=shapes.per_example(mesh, *size, length, dtype=np.int32),
            completion_mask=shapes.per_example(mesh, *size, length, dtype=np.bool_),
            advantage=shapes.per_example(mesh, *size),
            logp_sampler=shapes.per_example(mesh, *size, length),
        )
        for length in padded_lengths(longest)
    ]


def padded_lengths(limit: int) -> list[int]:
    """What `padded_length` may give.

    Example:
      >>> padded_lengths(300)
      [64, 128, 256, 300]
    """
    lengths = [padded_length(1, limit)]
    while lengths[-1] < limit:
        lengths.append(padded_length(lengths[-1] + 1, limit))
    return lengths


def padded_length(longest: int, limit: int) -> int:
    """The least of 64, 128, 256, … and the limit that holds `longest` tokens."""
    size = SHORTEST
    while size < longest:
        size *= 2
    return min(size, limit)


def micro_batch_prompts(per_device: int, prompts: int, mesh: Mesh) -> int:
    """Prompts per pass on all devices together.

    Raises:
      InputError: they do not divide the prompts of a step.
    """
    whole = per_device * batch_devices(mesh)
    if whole == 0 or whole >= prompts:
        return prompts
    if prompts % whole:
        raise InputError(
            f"policy.micro_batch = {per_device}: on {batch_devices(mesh)} devices that is {whole} "
            f"prompts a pass, which does not divide rollout.prompts = {prompts}. Set "
            f"policy.micro_batch = 0 or rollout.prompts to a multiple of {whole}."
        )
    return whole

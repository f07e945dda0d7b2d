"""How a right, well-formed completion is rewarded for its length, beside BRIDGE's own way.

    none             nothing
    bridge           r_len and the step bonus, see `completion_reward`
    target           a length that the prompt asks for, see `target_brevity`
    group_relative   its length among those of the group, see `relative_brevity`
    budget           a limit that falls as the run goes on, see `limit_at`

All are pure and of numbers. Correctness gates each of them: whoever calls them gives a wrong or
ill-formed completion no length part, so that it never gains by its length.
"""

import math
from collections.abc import Sequence
from typing import Literal

from cotjax.errors import InputError

TargetForm = Literal["exact", "max"]
LimitSchedule = Literal["rounds", "linear", "cosine"]

LENIENCE = 0.5  # δ of L1-max: what a right completion earns at its target


def target_brevity(
    length: float, target: float, *, form: TargetForm = "max", weight: float = 0.0003
) -> float:
    """The length part of a right completion that was asked for a length; 0 at best, −1 at worst.

        exact   −min(α·|n − t|, 1)
        max     clip(α·(t − n) + δ, 0, 1) − 1,   δ = 0.5

    with n = `length`, t = `target`, α = `weight`. Beside an outcome of 1 these are the rewards of
    L1-Exact, 1 − α·|n − t|, and of L1-Max, clip(α·(t − n) + δ, 0, 1). [choice] L1-Exact also
    punishes wrong answers by their length, and without end; here the penalty is for right ones
    and ends at 1, so that a right answer stays above a wrong one however long it is.

    Args:
      length: of the completion, tokens.
      target: that the prompt asks for, tokens.
      form: whether shorter than the target is as bad as longer, or better.
      weight: reward per token away from the target.

    Example:
      >>> [round(target_brevity(n, 100, form="exact", weight=0.01), 4) for n in (80, 110, 300)]
      [-0.2, -0.1, -1.0]
      >>> [round(target_brevity(n, 100, weight=0.01), 4) for n in (20, 80, 100, 120, 300)]
      [0.0, -0.3, -0.5, -0.7, -1.0]

    Raises:
      InputError: `weight` not above 0.

    Source: arXiv:2503.04697 (L1), its two rewards; α = 0.0003 and δ = 0.5 are its values.
    """
    if not (weight > 0 and math.isfinite(weight)):
        raise InputError(f"weight = {weight}: must be a number above 0.")
    if form == "exact":
        return -min(weight * abs(length - target), 1.0)
    return min(max(weight * (target - length) + LENIENCE, 0.0), 1.0) - 1.0


def relative_brevity(lengths: Sequence[float]) -> list[float]:
    """The length part of each of a group's right completions, within [−0.5, 0.5].

        λ_i = 0.5 − (n_i − min n) / (max n − min n);   0 for all if all are equally long

    [choice] The minimum and the maximum are those of the right completions. Kimi k1.5 takes them
    of the whole group and gives wrong ones min(0, λ): among these the shorter one gains, which no
    wrong answer may.

    Args:
      lengths: n_i of the right completions of one group; may be empty.

    Example:
      >>> relative_brevity([10, 20, 40, 50])
      [0.5, 0.25, -0.25, -0.5]
      >>> relative_brevity([7, 7])
      [0.0, 0.0]

    Source: arXiv:2501.12599 (Kimi k1.5), its length reward.
    """
    shortest, longest = min(lengths, default=0), max(lengths, default=0)
    if shortest == longest:
        return [0.0] * len(lengths)
    return [0.5 - (one - shortest) / (longest - shortest) for one in lengths]


def limit_at(
    step: int,
    *,
    start: int,
    end: int,
    steps: int,
    schedule: LimitSchedule = "rounds",
    rounds: int = 3,
) -> int:
    """Tokens that a completion may have at a step; a longer one counts as wrong.

        rounds   start + (end − start)·r / (R − 1),   r = ⌊R·x⌋ at most R − 1
        linear   start + (end − start)·x
        cosine   end + (start − end)·(1 + cos πx) / 2

    with x = step / (steps − 1), at most 1, and in rounds x = step / steps; rounded. It depends on
    the step alone, so that a resumed run has the same limits. "rounds" is ThinkPrune's: training
    in turn under limits such as 4,000, 3,000 and 2,000 tokens.

    Args:
      step: from 0.
      start: the first limit.
      end: the last one, which stays.
      steps: over which it falls.
      schedule: how.
      rounds: R, how many limits there are in "rounds".

    Example:
      >>> [limit_at(step, start=400, end=200, steps=6) for step in range(8)]
      [400, 400, 300, 300, 200, 200, 200, 200]
      >>> [limit_at(step, start=400, end=200, steps=5, schedule="linear") for step in range(6)]
      [400, 350, 300, 250, 200, 200]

    Raises:
      InputError: fewer than 2 rounds, or steps that are not above 0.

    Source: arXiv:2504.01296 (ThinkPrune), its iterative pruning.
    """
    if steps < 1 or rounds < 2:
        raise InputError(f"steps = {steps}, rounds = {rounds}: needs steps >= 1 and rounds >= 2.")
    if schedule == "rounds":
        share = min(rounds * step // steps, rounds - 1) / (rounds - 1)
    else:
        share = min(step / max(steps - 1, 1), 1.0)
        if schedule == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
    return round(start + (end - start) * share)

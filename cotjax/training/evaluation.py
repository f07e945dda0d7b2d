"""Accuracy with its interval, from judged completions.

The same numbers for every model compared: same prompts, same token limit, same stop rule.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cotjax.interfaces import End
from cotjax.training.metrics import wilson_interval


@dataclasses.dataclass(frozen=True)
class JudgedCompletion:
    """A completion as text, judged.

    Attributes:
      text: without the end token.
      tokens: its length, end token included.
      end: why it ended.
      reward: the run's reward; the built-in one where nobody asks for it.
      parts: the reward's named parts; `correct` and `well_formed`, 0 or 1, are always there.
      failed: why a user's function gave it no reward; empty if it did. It leaves the baseline of
        its group then, and adds no loss.
      answer: as the verifier read it; None if it found none.
    """

    text: str
    tokens: int
    end: End
    reward: float
    parts: dict[str, float]
    failed: str = ""
    answer: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the model finished it: an end token or a stop string, not the token limit."""
        return self.end in (End.EOS, End.STOP)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate that one of k samples of a problem is right, from n ≥ k of them.

        1 − C(n − c, k) / C(n, k)

    Any k of the n samples are as good as any others; this is the share of these choices with a
    right one among them. 1 − (1 − c/n)^k would be too low.

    Args:
      samples: n, drawn of the problem.
      correct: c, how many of them are right.
      k: 1 to n.

    Raises:
      ValueError: k is not among 1 to n, or c not among 0 to n.

    Example:
      >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
      (0.25, 0.5, 1.0)

    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, equation 1,
    arXiv:2107.03374.
    """
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"pass_at_k: k = {k} and c = {correct} of n = {samples} samples.")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(
    group: Sequence[JudgedCompletion], equal: Callable[[str, str], bool]
) -> JudgedCompletion | None:
    """The first completion of those with the most frequent answer; of a tie, the earliest.

    Args:
      group: samples of one problem; those without an answer have no vote.
      equal: whether two answers are one, as the verifier compares them.

    Returns:
      None if there is no answer.

    Source: Wang et al. 2022, Self-Consistency Improves Chain of Thought Reasoning in Language
    Models, arXiv:2203.11171.
    """
    votes: list[list[JudgedCompletion]] = []
    for one in group:
        if (answer := one.answer) is None:
            continue
        firsts = [own[0].answer or "" for own in votes]
        same = [place for place, first in enumerate(firsts) if first == answer]
        same = same or [place for place, first in enumerate(firsts) if equal(answer, first)]
        if same:
            votes[same[0]].append(one)
        else:
            votes.append([one])
    return max(votes, key=len)[0] if votes else None


def summarize(
    greedy: Sequence[JudgedCompletion],
    sampled: Sequence[Sequence[JudgedCompletion]],
    equal: Callable[[str, str], bool] = operator.eq,
) -> dict[str, Any]:
    """One evaluation's numbers.

    Args:
      greedy: one completion per problem.
      sampled: n completions per problem; may be empty.
      equal: whether two answers are one, see `majority`.

    Returns:
      `accuracy` (greedy, 0–1) with `accuracy_low`/`_high` (95 %, Wilson), `tokens` and
      `median_tokens` (mean and median greedy length), `correct_tokens` (mean length of correct
      ones), `truncated` and `well_formed` shares; with samples also `sampled_accuracy`,
      `sampled_tokens`, and for n > 1 `samples` = n, `pass_at_k` (any of the n correct), of every
      power of 2 up to n an estimate such as `pass_at_2` (see `pass_at_k`), and such as `maj_at_4`
      the share of problems whose most frequent answer among n = 4 is right (see `majority`).
    """
    correct = np.array([c.parts["correct"] for c in greedy])
    tokens = np.array([c.tokens for c in greedy], float)
    low, high = wilson_interval(correct.sum(), len(correct))
    numbers: dict[str, Any] = {
        "accuracy": correct.mean(),
        "accuracy_low": low,
        "accuracy_high": high,
        "tokens": tokens.mean(),
        "median_tokens": np.median(tokens),
        "truncated": np.mean([not c.ended for c in greedy]),
        "well_formed": np.mean([c.parts["well_formed"] for c in greedy]),
        "problems": len(greedy),
    }
    if correct.any():
        numbers["correct_tokens"] = tokens[correct > 0].mean()
    if sampled:
        marks = np.array([[c.parts["correct"] for c in group] for group in sampled])
        numbers["sampled_accuracy"] = marks.mean()
        numbers["sampled_tokens"] = np.mean([[c.tokens for c in group] for group in sampled])
        if marks.shape[1] > 1:
            numbers["pass_at_k"] = marks.any(axis=1).mean()
            numbers["samples"] = marks.shape[1]
            numbers |= _of_several(marks, [majority(group, equal) for group in sampled])
    plain = ((k, v if isinstance(v, int) else float(v)) for k, v in numbers.items())
    return dict(plain)


def _of_several(marks: np.ndarray, voted: Sequence[JudgedCompletion | None]) -> dict[str, float]:
    """`pass_at_1`, `pass_at_2`, … and `maj_at_n` of marks [problems, n]."""
    n = marks.shape[1]
    found = {
        f"pass_at_{k}": float(np.mean([pass_at_k(n, int(row.sum()), k) for row in marks]))
        for k in (2**power for power in range(n.bit_length()))
    }
    right = [one is not None and bool(one.parts["correct"]) for one in voted]
    return found | {f"maj_at_{n}": float(np.mean(right))}

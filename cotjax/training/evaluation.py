"""Accuracy with its interval, from judged completions.

The same numbers for every model compared: same prompts, same token limit, same stop rule.
"""

import dataclasses
from collections.abc import Sequence
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
    """

    text: str
    tokens: int
    end: End
    reward: float
    parts: dict[str, float]
    failed: str = ""

    @property
    def ended(self) -> bool:
        """Whether the model finished it: an end token or a stop string, not the token limit."""
        return self.end in (End.EOS, End.STOP)


def summarize(
    greedy: Sequence[JudgedCompletion], sampled: Sequence[Sequence[JudgedCompletion]]
) -> dict[str, Any]:
    """One evaluation's numbers.

    Args:
      greedy: one completion per problem.
      sampled: k completions per problem; may be empty.

    Returns:
      `accuracy` (greedy, 0–1) with `accuracy_low`/`_high` (95 %, Wilson), `tokens` and
      `median_tokens` (mean and median greedy length), `correct_tokens` (mean length of correct
      ones), `truncated` and `well_formed` shares; with samples also `sampled_accuracy`,
      `sampled_tokens`, and for k > 1 `pass_at_k` (any of k correct).
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
    plain = ((k, v if isinstance(v, int) else float(v)) for k, v in numbers.items())
    return dict(plain)

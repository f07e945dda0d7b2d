"""Tokens that a run has used, by what for: a part of its checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

USES = ("trained", "sampled", "mined")


@dataclasses.dataclass(frozen=True)
class UsedTokens:
    """Tokens up to a step.

    Attributes:
      trained: that were trained on, without padding, once for each update.
      sampled: that were sampled for it, and each group's prompt once.
      mined: that were sampled to choose or to order what is trained on.
      total: all of these.
      before: the total before the last step.
    """

    trained: float = 0.0
    sampled: float = 0.0
    mined: float = 0.0
    total: float = 0.0
    before: float = 0.0

    def plus(self, metrics: Mapping[str, Any]) -> "UsedTokens":
        """These and those of a further step, by its metrics."""
        by_use = tokens_by_use(metrics)
        more = {use: getattr(self, use) + by_use[use] for use in USES}
        return UsedTokens(**more, total=self.total + sum(by_use.values()), before=self.total)

    def by_use(self) -> dict[str, int]:
        """Whole tokens by use."""
        return {use: round(getattr(self, use)) for use in USES}


def tokens_by_use(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Tokens of one step: trained on, without padding; sampled for it; and mined."""
    rows = metrics["batch_tokens"] * metrics.get("used", 1.0)
    trained = metrics.get("trained_tokens", rows)
    others = metrics.get("sampled_tokens", 0.0), metrics.get("mined_tokens", 0.0)
    return {use: float(one) for use, one in zip(USES, (trained, *others), strict=True)}

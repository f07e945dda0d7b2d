"""The bridge: reconstruct, grpo on masked completion, rewrite, each from the one before.

It trains nothing itself: it is a list of stages, which a file can write out as [[stages]].
"""

from typing import Any


class Bridge:
    """BRIDGE's curriculum as a list of stages (arXiv 2602.17686)."""

    defaults: dict[str, Any] = {"eval": {"max_prompt_tokens": 80}}
    entries: tuple[dict[str, Any], ...] = (
        {"stage": "reconstruct"},
        {
            "stage": "grpo",
            "steps": 60,
            "rollout": {"max_prompt_tokens": 320},
            "mask": {"rule": "share"},
            "curriculum": {"buckets": 3, "advance_after": 10},
            "checkpoint": {"every": 20},
        },
        {"stage": "rewrite"},
    )

"""What each stage sets by default."""

import dataclasses
import typing
from typing import Any

from cotjax.config.reading import merge
from cotjax.config.sections import BridgeConfig, Config, EvalConfig, StageName

# What a stage sets otherwise than `Config`; a bridge's stages start from the same tables.
TABLES: dict[str, dict[str, Any]] = {
    "grpo": {"distill": {"on_policy_loss": "policy_gradient"}},
    "sft": {
        "steps": 1000,
        "model": {"init": "random"},
        "optimizer": {"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 50},
        "checkpoint": {"every": 500},
    },
    "reconstruct": {
        "steps": 150,
        "reconstruct": {"solve_share": 0.3},
        "sft": {"batch_size": 16, "sequence_length": 576},
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 10},
        "checkpoint": {"every": 50},
    },
    "rewrite": {
        "steps": 4,  # few are right, by skipped steps often; 20 unlearn the others, see RESULTS.md
        "rollout": {"max_prompt_tokens": 320},
        "sft": {"sequence_length": 256},
        "mining": {"questions": 1024, "max_new_tokens": 256},
        "optimizer": {"learning_rate": 3e-5},
        "checkpoint": {"every": 2},
    },
    "distill": {
        "steps": 200,
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 10},
    },
}
MASKED_GRPO = {
    "steps": 60,
    "distill": {"on_policy_loss": "policy_gradient"},
    "rollout": {"max_prompt_tokens": 320},
    "mask": {"rule": "share"},
    "levels": {"count": 3, "patience": 10},
    "checkpoint": {"every": 20},
}
BRIDGE_STAGES = ("reconstruct", "grpo", "rewrite")


def _defaults() -> dict[str, Config]:
    stages = {
        name: merge(Config(stage=typing.cast(StageName, name)), table, "")
        for name, table in TABLES.items()
    }
    tables = {name: TABLES[name] for name in BRIDGE_STAGES} | {"grpo": MASKED_GRPO}
    bridge = Config(stage="bridge", eval=EvalConfig(max_prompt_tokens=80))
    return stages | {"bridge": dataclasses.replace(bridge, bridge=BridgeConfig(**tables))}


DEFAULTS = _defaults()

"""The stages: the only files that wire data, models, rollout and training together."""

from collections.abc import Callable

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Stage
from cotjax.stages.distill import DistillStage
from cotjax.stages.grpo import GRPOStage
from cotjax.stages.sft import SupervisedStage

STAGES: dict[str, Callable[[Config, Mesh], Stage]] = {
    "distill": DistillStage,
    "grpo": GRPOStage,
    "sft": SupervisedStage,
}

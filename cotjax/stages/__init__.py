"""The stages: the only files that wire data, models, rollout and training together."""

from collections.abc import Callable

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Stage
from cotjax.stages import distill, grpo, reconstruct, rewrite, sft

STAGES: dict[str, Callable[[Config, Mesh], Stage]] = {
    "distill": distill.open_stage,
    "grpo": grpo.open_stage,
    "reconstruct": reconstruct.open_stage,
    "rewrite": rewrite.RewriteStage,
    "sft": sft.open_stage,
}

"""All settings of a run in one frozen dataclass."""

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cotjax.config.ranges import Count, Natural, StageName, TrackerName
from cotjax.config.sections import (
    BatchConfig,
    BudgetConfig,
    CheckpointConfig,
    DataConfig,
    DeliberateConfig,
    EvalConfig,
    LoraConfig,
    MaskConfig,
    MeshConfig,
    MiningConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyConfig,
    ReconstructConfig,
    RewardConfig,
    RewriteConfig,
    RolloutConfig,
    SupervisedConfig,
    TrainingConfig,
)  # fmt: skip
from cotjax.config.teaching import (
    CurriculumConfig,
    DistillConfig,
    RationalesConfig,
    TeachersConfig,
)  # fmt: skip

# The settings that one entry of a list of stages gives, nested as in a file.
Entries = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Config:
    """A run: its stage and every setting that a stage reads."""

    stage: StageName = "grpo"  # How to train: built in, or your own class.
    name: str = ""  # Run folder; empty = stage and time. Name it when several hosts share a run.
    seed: Natural = 0  # Of data order, sampling, weights.
    steps: Count = 60  # Batches to train on.
    output: str = "runs"  # Folder of the run folders, or that of a bucket: gs://…, s3://….
    resume: bool = False  # Continue the named run from its newest checkpoint.
    track: tuple[TrackerName, ...] = ()  # Trackers that are told of numbers and completions too.
    track_project: str = "cotjax"  # The project of those trackers that the run belongs to.
    stages: Entries = ()  # [[stages]] of a file: each begins from the one before.
    data: DataConfig = field(default_factory=DataConfig)
    deliberate: DeliberateConfig = field(default_factory=DeliberateConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teachers: TeachersConfig = field(default_factory=TeachersConfig)
    rationales: RationalesConfig = field(default_factory=RationalesConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    @classmethod
    def for_stage(cls, stage: Any, **settings: Any) -> "Config":
        """The checked config of a stage, from Python.

        Args:
          stage: a built-in name, a reference, or a class of your own.
          **settings: top-level keys, and sections as dicts.

        Returns:
          the stage's defaults with these settings over them; its name is stage and time unless one
          is given.

        Example:
          >>> Config.for_stage("grpo", steps=60, rollout={"group_size": 4}).rollout.group_size
          4

        Raises:
          InputError: what the command line refuses, with the same words.
        """
        from cotjax.config.loading import from_table

        return from_table({"stage": stage, **settings}, "Config.for_stage")

    @classmethod
    def for_stages(cls, stages: "list[dict[str, Any]]", **settings: Any) -> "Config":
        """The checked config of a list of stages, each of which begins from the one before.

        Args:
          stages: a dict for each, with its `stage` and its own settings.
          **settings: settings of all of them.

        Raises:
          InputError: what the command line refuses, with the same words.
        """
        from cotjax.config.loading import from_table

        return from_table({"stages": list(stages), **settings}, "Config.for_stages")


def every_setting(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every section and setting as (dotted key, type, value)."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        yield prefix + name, hint, value
        if dataclasses.is_dataclass(hint):  # a user's object may be one too, but no section
            yield from every_setting(value, f"{prefix}{name}.")


_ALL = tuple(every_setting(Config()))
# The type of every setting by its dotted key.
HINTS = {key: hint for key, hint, _ in _ALL if not dataclasses.is_dataclass(hint)}
KEYS = tuple(HINTS)
SECTIONS = tuple(key for key, hint, _ in _ALL if dataclasses.is_dataclass(hint))

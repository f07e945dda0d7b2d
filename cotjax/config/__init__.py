"""The settings of a run: frozen dataclasses, filled from TOML and flags, checked once.

    stage's defaults  <  --config FILE  <  flags

Every bad value stops here, before anything compiles, with its key, its value and the fix. `whole`
holds the sections, `stages` reads what a stage's class declares, `checks` holds what must agree.

Example:
  >>> load(["--stage=grpo", "--name=demo", "--rollout.group-size", "4"]).rollout.group_size
  4
"""

from cotjax.config.checks import validate as validate
from cotjax.config.loading import change as change
from cotjax.config.loading import from_table as from_table
from cotjax.config.loading import load as load
from cotjax.config.loading import to_toml as to_toml
from cotjax.config.loading import with_objects as with_objects
from cotjax.config.plugins import Plugin as Plugin
from cotjax.config.plugins import check_plugins as check_plugins
from cotjax.config.plugins import is_source as is_source
from cotjax.config.plugins import plugin as plugin
from cotjax.config.plugins import required_arguments as required_arguments
from cotjax.config.plugins import verifier_object as verifier_object
from cotjax.config.ranges import ROW_KEYS as ROW_KEYS
from cotjax.config.ranges import SOURCES as SOURCES
from cotjax.config.ranges import STAGES as STAGES
from cotjax.config.ranges import Range as Range
from cotjax.config.ranges import Tail as Tail
from cotjax.config.reference import check_call as check_call
from cotjax.config.reference import is_reference as is_reference
from cotjax.config.reference import name_of as name_of
from cotjax.config.reference import resolve as resolve
from cotjax.config.sections import BatchConfig as BatchConfig
from cotjax.config.sections import BudgetConfig as BudgetConfig
from cotjax.config.sections import CheckpointConfig as CheckpointConfig
from cotjax.config.sections import DataConfig as DataConfig
from cotjax.config.sections import EvalConfig as EvalConfig
from cotjax.config.sections import LoraConfig as LoraConfig
from cotjax.config.sections import MaskConfig as MaskConfig
from cotjax.config.sections import MeshConfig as MeshConfig
from cotjax.config.sections import MiningConfig as MiningConfig
from cotjax.config.sections import ModelConfig as ModelConfig
from cotjax.config.sections import OptimizerConfig as OptimizerConfig
from cotjax.config.sections import PolicyConfig as PolicyConfig
from cotjax.config.sections import ReconstructConfig as ReconstructConfig
from cotjax.config.sections import RewardConfig as RewardConfig
from cotjax.config.sections import RewriteConfig as RewriteConfig
from cotjax.config.sections import RolloutConfig as RolloutConfig
from cotjax.config.sections import TrainingConfig as TrainingConfig
from cotjax.config.stages import PIPELINE as PIPELINE
from cotjax.config.stages import StageClass as StageClass
from cotjax.config.stages import stage_class as stage_class
from cotjax.config.stages import stage_configs as stage_configs
from cotjax.config.switches import Switch as Switch
from cotjax.config.teacher_names import TeacherName as TeacherName
from cotjax.config.teacher_names import parse_teacher as parse_teacher
from cotjax.config.teaching import CurriculumConfig as CurriculumConfig
from cotjax.config.teaching import DistillConfig as DistillConfig
from cotjax.config.teaching import RationalesConfig as RationalesConfig
from cotjax.config.teaching import TeachersConfig as TeachersConfig
from cotjax.config.whole import Config as Config

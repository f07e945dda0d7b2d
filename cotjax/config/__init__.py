"""The settings of a run: frozen dataclasses, filled from TOML and flags, checked once.

    stage's defaults  <  --config FILE  <  flags

Every bad value stops here, before anything compiles, with its key, its value and the fix.
`sections` holds every setting, `defaults` what a stage sets otherwise, `checks` what must agree.

Example:
  >>> load(["--stage=grpo", "--name=demo", "--rollout.group-size", "4"]).rollout.group_size
  4
"""

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tomli_w
import tyro

from cotjax.config.checks import validate as validate
from cotjax.config.defaults import BRIDGE_STAGES as BRIDGE_STAGES
from cotjax.config.defaults import DEFAULTS as DEFAULTS
from cotjax.config.reading import merge, read_toml, typed
from cotjax.config.sections import BridgeConfig as BridgeConfig
from cotjax.config.sections import CheckpointConfig as CheckpointConfig
from cotjax.config.sections import Config as Config
from cotjax.config.sections import CurriculumConfig as CurriculumConfig
from cotjax.config.sections import DataConfig as DataConfig
from cotjax.config.sections import DistillConfig as DistillConfig
from cotjax.config.sections import EvalConfig as EvalConfig
from cotjax.config.sections import LevelsConfig as LevelsConfig
from cotjax.config.sections import LoraConfig as LoraConfig
from cotjax.config.sections import MaskConfig as MaskConfig
from cotjax.config.sections import MeshConfig as MeshConfig
from cotjax.config.sections import MiningConfig as MiningConfig
from cotjax.config.sections import ModelConfig as ModelConfig
from cotjax.config.sections import OptimizerConfig as OptimizerConfig
from cotjax.config.sections import PolicyConfig as PolicyConfig
from cotjax.config.sections import Range as Range
from cotjax.config.sections import ReconstructConfig as ReconstructConfig
from cotjax.config.sections import RewardConfig as RewardConfig
from cotjax.config.sections import RewriteConfig as RewriteConfig
from cotjax.config.sections import RolloutConfig as RolloutConfig
from cotjax.config.sections import SftConfig as SftConfig
from cotjax.config.sections import SourceName as SourceName
from cotjax.config.sections import StageName as StageName
from cotjax.config.sections import TeacherConfig as TeacherConfig
from cotjax.errors import InputError


@dataclass(frozen=True)
class _CommandLine:
    """Train a student. Defaults below are those of the stage and file that you name."""

    run: Annotated[Config, tyro.conf.arg(name="")]
    config: str = ""  # TOML file to read before the flags.


@dataclass(frozen=True)
class _FirstFlags:
    config: str = ""
    stage: str = ""


def load(argv: Sequence[str] | None = None) -> Config:
    """Resolves the stage's defaults, a TOML file and the flags into one checked config.

    Args:
      argv: flags such as `["--stage=grpo", "--rollout.group-size", "8"]`, with - or _;
        None reads the process's own. `--config FILE` names the TOML file.

    Returns:
      The config, with a name: `<stage>-<time>` if none was given.

    Raises:
      InputError: the file cannot be read, has an unknown key or a wrong type, or a value is out
        of range.
      SystemExit: an unknown flag or a flag of the wrong type (tyro prints it), or `--help`.
    """
    first, _ = tyro.cli(_FirstFlags, args=argv, return_unknown_args=True, add_help=False)
    table = read_toml(first.config) if first.config else {}
    stage = first.stage
    if stage not in DEFAULTS:  # not given, or a value that tyro is about to refuse
        stage = typed("stage", table.get("stage", Config.stage), StageName, first.config)
    base = merge(DEFAULTS[stage], table, first.config)
    config = tyro.cli(
        _CommandLine,
        args=argv,
        default=_CommandLine(run=base, config=first.config),
        prog="python -m cotjax.train",
    ).run
    validate(config)
    if config.name:
        return config
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return dataclasses.replace(config, name=f"{config.stage}-{time}")


def stage_config(config: Config, stage: str) -> Config:
    """A stage's config inside a bridge: the bridge's, with the stage's own table over it.

    Raises:
      InputError: the table has an unknown key or a wrong value; the key begins with `bridge.`.
    """
    prefix = f"bridge.{stage}"
    plain = dataclasses.replace(config, stage=stage, bridge=BridgeConfig())
    merged = merge(plain, getattr(config.bridge, stage), prefix)
    try:
        validate(merged)
    except InputError as error:
        raise InputError(f"[{prefix}] {error}") from error
    return merged


def to_toml(config: Config) -> str:
    """Writes every setting as TOML; `load(["--config", file])` gives the same config back."""
    return tomli_w.dumps(dataclasses.asdict(config))

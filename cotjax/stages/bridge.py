"""The bridge: reconstruct, grpo on masked completion, rewrite, each from the one before.

It trains nothing itself: it says which runs follow each other, and the command line runs them.
"""

import dataclasses
import pathlib

from cotjax.config import BRIDGE_STAGES, Config, stage_config
from cotjax.errors import InputError
from cotjax.stages.limits import check_contexts
from cotjax.stages.opening import open_model


def plan(config: Config) -> list[Config]:
    """The runs of a bridge, in order; each is a folder inside the bridge's.

    Every stage begins from the folder of the one before, the first from `model.path`. A stage that
    was begun is to be resumed.

    Raises:
      InputError: a stage's own settings are wrong.
    """
    folder = pathlib.Path(config.output) / config.name
    model, stages = config.model, []
    for number, name in enumerate(BRIDGE_STAGES, 1):
        own = stage_config(config, name)
        here = folder / f"{number}-{name}"
        if stages:
            own = dataclasses.replace(
                own, model=dataclasses.replace(own.model, path=model.path, init="pretrained")
            )
        begun = (here / "config.toml").is_file()
        stages.append(dataclasses.replace(own, output=str(folder), name=here.name, resume=begun))
        model = dataclasses.replace(own.model, path=str(here))
    return stages


def check_lengths(stages: list[Config]) -> None:
    """Refuses texts longer than the model's context in any stage, before the first one begins.

    Raises:
      InputError: names the stage, the settings and the numbers; or there is no such model.
    """
    model = open_model(stages[0].model, seed=0, place=None, init="abstract").model
    for config in stages:
        try:
            check_contexts(config, model.shape.max_positions)
        except InputError as error:
            raise InputError(f"[bridge.{config.stage}] {error}") from error

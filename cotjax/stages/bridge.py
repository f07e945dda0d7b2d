"""The bridge: reconstruct, grpo on masked completion, rewrite, each from the one before.

It trains nothing itself: it says which runs follow each other, and the command line runs them.
"""

import dataclasses
import pathlib

from cotjax.config import BRIDGE_STAGES, Config, stage_config


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

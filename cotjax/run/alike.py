"""Models that are to be measured alike, or their numbers say nothing about each other."""

import json
from collections.abc import Sequence

from cotjax.config import Config, load
from cotjax.config.reference import plain
from cotjax.config.switches import value_of
from cotjax.errors import InputError
from cotjax.run.opened import config_from_flags, run_of

# What two models must be measured alike in.
ALIKE = (
    *("eval.max_new_tokens", "eval.max_prompt_tokens", "eval.verifier", "reward.verifier"),
    *("reward.tolerance", "rollout.stop", "data.prompt", "data.templates"),
)


def configs_of(
    checkpoints: Sequence[str], argv: Sequence[str], alike: Sequence[str] = ALIKE
) -> list[Config]:
    """The settings with which each of some runs and models is measured.

    A model, which has no settings of its own, is measured with those of the first run.

    Args:
      checkpoints: run folders, their checkpoints, and models.
      argv: config flags.
      alike: settings that all must have in common.

    Raises:
      InputError: a wrong setting; or the runs are not measured alike, names the setting.
    """
    runs = [one for one in checkpoints if run_of(one) is not None]
    found: list[Config] = []
    for one in checkpoints:
        if one in runs or not runs:
            found.append(config_from_flags(one, argv))
            continue
        file = run_of(runs[0])
        assert file is not None, "it is a run"
        config_from_flags(one, ())  # refuses what is no model
        base = ["--model.path", one, "--model.init=pretrained", "--model.adapter=", "--lora.rank=0"]
        found.append(load(["--config", str(file / "config.toml"), *argv, *base]))
    for name, config in zip(checkpoints[1:], found[1:], strict=True):
        for key in alike:
            one, other = (plain(key, value_of(own, key)) for own in (found[0], config))
            if one != other:
                raise InputError(
                    f"--compare {checkpoints[0]} {name}: {key} is {json.dumps(one)} in one and "
                    f"{json.dumps(other)} in the other. Add --{key.replace('_', '-')} to measure "
                    "them alike."
                )
    return found

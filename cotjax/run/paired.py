"""Models measured on the same questions, and what differs between them by more than chance."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from cotjax.config import Config, load
from cotjax.config.reference import plain
from cotjax.config.switches import value_of
from cotjax.errors import InputError
from cotjax.report.statistics import Interval, bootstrap_interval, mcnemar
from cotjax.run.opened import config_from_flags, run_of

Row = dict[str, Any]  # of a greedy completion: id, question, parts, tokens, …
# What two models must be measured alike in, or their numbers say nothing about each other.
ALIKE = (
    *("eval.max_new_tokens", "eval.max_prompt_tokens", "eval.verifier", "reward.verifier"),
    *("reward.tolerance", "rollout.stop", "data.prompt", "data.templates"),
)


@dataclasses.dataclass(frozen=True)
class Paired:
    """What two models did with the same questions, greedily.

    Attributes:
      questions: how many.
      only_first: that only the first model answered rightly.
      only_second: that only the second did.
      p: of McNemar's exact test that both are equally right.
      accuracy: the second's less the first's, with its 95 % interval over questions.
      tokens: the same of the mean length.
    """

    questions: int
    only_first: int
    only_second: int
    p: float
    accuracy: Interval
    tokens: Interval


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


def paired(first: Sequence[Row], second: Sequence[Row], names: str) -> Paired:
    """Compares greedy completions by the id of their question.

    Args:
      first: a model's.
      second: another's.
      names: which models these are, for the error.

    Raises:
      InputError: they were asked other questions.
    """
    one, other = ({row["id"]: row for row in rows} for rows in (first, second))
    asked = [{name: row["question"] for name, row in side.items()} for side in (one, other)]
    differ = [name for name in one if asked[1].get(name) != asked[0][name]]
    differ += [name for name in other if name not in one]
    if differ or not one:
        raise InputError(
            f"{names}: {len(differ)} of {len({**one, **other})} questions were asked of one of "
            f"them alone{f', the first is {differ[0]}' if differ else ''}. Measure both on the "
            "same problems: --files FILE, or the same data and eval settings."
        )
    right = [[bool(side[name]["parts"]["correct"]) for name in one] for side in (one, other)]
    tokens = [other[name]["tokens"] - one[name]["tokens"] for name in one]
    pairs = list(zip(*right, strict=True))
    return Paired(
        questions=len(pairs),
        only_first=sum(a and not b for a, b in pairs),
        only_second=sum(b and not a for a, b in pairs),
        p=mcnemar(*right),
        accuracy=bootstrap_interval([float(b) - float(a) for a, b in pairs]),
        tokens=bootstrap_interval(tokens),
    )


def sentences(first: str, second: str, found: Paired) -> str:
    """A comparison in lines that fit 60 columns, if the names do.

    Args:
      first: name of the first model.
      second: of the second.
      found: what `paired` gives.
    """
    points = [100 * one for one in (found.accuracy.mean, found.accuracy.low, found.accuracy.high)]
    certain = found.p < 0.05
    verdict = "no more right answers than chance explains"
    if certain:
        verdict = f"{'more' if points[0] > 0 else 'fewer'} right answers, by more than chance"
    return "\n".join(
        [
            f"{second}",
            f"  against {first}, on the same {found.questions} questions:",
            f"  {verdict} (McNemar p = {found.p:.2g})",
            f"  right alone     {found.only_second}, the other {found.only_first}",
            f"  accuracy        {_change(*points)} points",
            f"  tokens          {_change(*dataclasses.astuple(found.tokens))}",
        ]
    )


def _change(mean: float, low: float, high: float) -> str:
    """A difference and its 95 % interval, which one question alone has not."""
    if math.isnan(low):
        return f"{mean:+.1f}"
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"

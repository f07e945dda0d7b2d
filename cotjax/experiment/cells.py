"""The runs of an experiment: every arm with every seed, as a config of its own."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import tomli_w

from cotjax.config import Config, StageClass, from_table, stage_class, to_toml
from cotjax.config.reading import keys_of, merge, overlay
from cotjax.config.stages import defaults_of, idle_settings, read_by
from cotjax.config.switches import without
from cotjax.errors import InputError

BASE = "base"  # the arm that is what the others begin from
UNBOUNDED = 10**6  # steps of a run that tokens end


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is compared with what.

    Attributes:
      name: of the file.
      arms: settings by name, as in a config; empty for the base.
      settings: of every arm.
      seeds: of the numbers that are reported.
      validation_seeds: of runs by which settings are chosen.
      against: the arm that others are compared with.
      unit: `tokens` or `steps`.
      budget: how many of them an arm may use.
      curve: shares of it at which every arm is evaluated, beside its start and end.
      test: questions that are reported.
      validation: other held-out questions, behind those.
      chosen: which settings were chosen, on what.
    """

    name: str
    arms: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    validation_seeds: tuple[int, ...]
    against: str
    unit: str
    budget: int
    curve: tuple[float, ...]
    test: int
    validation: int
    chosen: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
      arm: its name.
      seed: of everything random.
      table: the run's settings, as a config's file has them.
      trains: whether there is anything to train; the base has nothing.
    """

    arm: str
    seed: int
    table: dict[str, Any]
    trains: bool

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{re.sub('[^a-zA-Z0-9]+', '_', self.arm)}-{self.seed}"

    def toml(self) -> str:
        """The run's config."""
        return tomli_w.dumps(self.table)

    def fingerprint(self) -> str:
        """Changes with any setting of the run."""
        text = json.dumps(self.table, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def cells(experiment: Experiment, *, validation: bool = False) -> Iterator[Cell]:
    """Every arm with every seed; seeds one after the other, so that what is stopped is balanced.

    Args:
      experiment: from its file.
      validation: of the validation questions and seeds instead of those reported.
    """
    seeds = experiment.validation_seeds if validation else experiment.seeds
    start = experiment.test if validation else 0
    count = experiment.validation if validation else experiment.test
    questions = {"eval": {"problems": count, "start": start, "every": 0}}
    for seed in seeds:
        for arm, own in experiment.arms.items():
            trains = bool(own)
            if not trains and seed != seeds[0]:
                continue  # the base has no seed
            table = _table(experiment, arm, own)
            table = overlay(table, {"seed": seed, **questions})
            yield Cell(arm, seed, table, trains)


def _table(experiment: Experiment, arm: str, own: dict[str, Any]) -> dict[str, Any]:
    """An arm's config: its settings over those of all arms, and its budget."""
    _refuse_tokens_beside_steps(experiment, arm, own)
    if "stages" in own:
        return _list(experiment, arm, own)
    stage = own.get("stage", Config.stage)
    if defaults_of(stage).stages:
        raise InputError(
            f'arms.{arm}: stage = "{stage}" is a list of stages, each of which would have the '
            f"whole budget. Write them as [[arms.{arm}.stages]], with a share of it each."
        )
    table = overlay(_shared(experiment, arm, stage, own), {"stage": stage, **own})
    if experiment.unit == "steps":
        _refuse_other(arm, "steps", own.get("steps"), experiment.budget)
        return overlay(table, {"steps": experiment.budget, "eval": {"at": [*experiment.curve]}})
    _refuse_other(arm, "budget.tokens", own.get("budget", {}).get("tokens"), experiment.budget)
    limits = {"budget": {"tokens": experiment.budget}, "eval": {"at": [*experiment.curve]}}
    steps = _steps(f"arms.{arm}", table) if own else UNBOUNDED  # the base takes none
    return overlay(table, {"steps": steps, **limits})


def _shared(experiment: Experiment, arm: str, stage: Any, own: dict[str, Any]) -> dict[str, Any]:
    """What an arm uses of the settings of all arms: not what its stage does not read, or idles."""
    where = f"arms.{arm}"
    shared = read_by(stage_class(stage, f"{where}: stage"), experiment.settings)
    config = merge(defaults_of(stage), overlay(shared, {"stage": stage, **own}), where)
    return without(shared, {*idle_settings(config)} - {*keys_of(own)})


def _list(experiment: Experiment, arm: str, own: dict[str, Any]) -> dict[str, Any]:
    """The same of a list of stages, whose budgets add up to the whole."""
    entries = [dict(entry) for entry in own["stages"]]
    given = [_given(experiment.unit, entry) for entry in entries]
    left = experiment.budget - sum(one or 0 for one in given)
    open_ = [number for number, one in enumerate(given) if one is None]
    if len(open_) > 1 or (not open_ and left) or (open_ and left <= 0):
        shown = ", ".join("?" if one is None else str(one) for one in given)
        raise InputError(
            f"arms.{arm}: the budgets of its stages ({shown} {experiment.unit}) are not the common "
            f"{experiment.budget}. Give all stages but one a budget, of less than that together."
        )
    done = 0
    for entry, one in zip(entries, given, strict=True):
        amount = left if one is None else one
        shares = [(share * experiment.budget - done) / amount for share in experiment.curve]
        inside = {"at": [round(share, 6) for share in shares if 0 < share < 1]}
        if experiment.unit == "steps":
            entry.update(overlay(entry, {"steps": amount, "eval": inside}))
        else:
            limits = {"budget": {"tokens": amount}, "eval": inside}
            whole = overlay(overlay(experiment.settings, own), entry)
            entry.update(overlay({"steps": _steps(f"arms.{arm}", whole)}, limits))
        done += amount
    shared: dict[str, Any] = {}
    rest = {name: value for name, value in own.items() if name != "stages"}
    for entry in entries:
        stage = entry.get("stage", Config.stage)
        shared = overlay(shared, _shared(experiment, arm, stage, overlay(rest, entry)))
    return overlay(shared, rest) | {"stages": entries}


def stages_of(arm: str, own: dict[str, Any]) -> list[StageClass]:
    """The classes of an arm's stages."""
    entries = own.get("stages", [own])
    return [
        stage_class(entry.get("stage", Config.stage), f"arms.{arm}: stage") for entry in entries
    ]


def _steps(where: str, table: dict[str, Any]) -> int:
    """Steps of a run that tokens end: schedules of the learning rate and of teachers need them.

    Raises:
      InputError: it has one, and no steps say where it ends.
    """
    if "steps" in table:
        return table["steps"]
    schedule = table.get("optimizer", {}).get("schedule")
    schedule = schedule or defaults_of(table.get("stage", Config.stage)).optimizer.schedule
    if schedule != "constant":
        raise InputError(
            f'{where}: optimizer.schedule = "{schedule}" needs to know how many steps the budget '
            'is. Set steps to about that many, or optimizer.schedule = "constant".'
        )
    if table.get("stage") == "distill" or table.get("distill", {}).get("coefficient"):
        raise InputError(
            f"{where}: the weights of teachers follow the steps of the run. Set steps to about as "
            "many as the budget is."
        )
    reward = table.get("reward", {})
    if reward.get("length") == "budget" and not reward.get("limit_steps"):
        raise InputError(
            f"{where}: reward.limit_steps = 0: the limit falls over the steps of the run. Set "
            "reward.limit_steps, or steps to about as many as the budget is."
        )
    return UNBOUNDED


def _given(unit: str, entry: dict[str, Any]) -> int | None:
    return entry.get("steps") if unit == "steps" else entry.get("budget", {}).get("tokens")


def _refuse_other(arm: str, unit: str, given: Any, budget: int) -> None:
    if given is not None and given != budget:
        raise InputError(
            f"arms.{arm}: {unit} = {given}: the arms have a common budget of {budget} {unit}. "
            "Leave it out."
        )


def _refuse_tokens_beside_steps(experiment: Experiment, arm: str, own: dict[str, Any]) -> None:
    for table in (own, *own.get("stages", [])):
        if experiment.unit == "steps" and "tokens" in table.get("budget", {}):
            raise InputError(
                f"arms.{arm}: budget.tokens = {table['budget']['tokens']}: the arms have a common "
                f"budget of {experiment.budget} steps, and tokens would end this one earlier. "
                "Leave it out."
            )


def config_of(cell: Cell) -> Config:
    """A cell's checked config.

    Raises:
      InputError: see `cotjax.config.load`; names the arm.
    """
    arm = f"arms.{cell.arm}"
    try:
        config = from_table(cell.table, arm)
        to_toml(config)
    except InputError as error:
        told = str(error).removeprefix(f"{arm}: ")
        raise InputError(f"{arm}: {told}") from error
    return config


def part_of(found: list[Cell], part: str) -> list[Cell]:
    """The cells of one machine of several.

    Args:
      found: all of them.
      part: `i/n`, the i-th of n machines.

    Raises:
      InputError: not such a pair with 1 <= i <= n.
    """
    first, slash, last = part.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(f"--part {part}: needs i/n with 1 <= i <= n, such as 2/3. Write such.")
    return found[int(first) - 1 :: int(last)]

"""An experiment's file: its arms, seeds, budget and questions, checked before anything runs.

seeds = [0, 1, 2]
against = "sft"                       # the arm that others are compared with
budget = { tokens = 850_000 }         # or steps = 200; what each arm may use
curve = [0.25, 0.5, 0.75]             # shares of it at which every arm is evaluated, beside its end
questions = { test = 512, validation = 128 }
chosen = "learning rates, on the validation questions, with seed 100"
validation_seeds = [100]

[settings]                            # of every arm, as in a config
rollout = { prompts = 8 }

[arms.base]                           # what every arm begins from, only measured
[arms.sft]
stage = "sft"
[[arms.bridge.stages]]                # a list of stages, each from the one before
stage = "reconstruct"
budget = { tokens = 100_000 }         # of the whole; the last stage takes what is left
[[arms.bridge.stages]]
stage = "grpo"
"""

import pathlib
from typing import Any

from cotjax.config.reading import keys_of, nearest, read_toml
from cotjax.errors import InputError
from cotjax.experiment.cells import BASE, Cell, Experiment, cells, config_of, stages_of

KEYS = {
    "seeds": "a list of whole numbers, such as [0, 1, 2]",
    "validation_seeds": "a list of whole numbers that seeds has not",
    "against": "the name of an arm",
    "budget": "{ tokens = … } or { steps = … }",
    "curve": "a list of shares that rise, between 0 and 1",
    "questions": "{ test = …, validation = … }",
    "chosen": "a sentence: which settings were chosen, on what",
    "settings": "the settings of every arm",
    "arms": "a table for each arm",
}
CURVE = (0.25, 0.5, 0.75)  # where an experiment does not say it


def read_experiment(path: str) -> Experiment:
    """An experiment's file.

    Raises:
      InputError: it cannot be read, a wrong key or value, no arm, an arm that does not exist.
    """
    table = read_toml(path, flag="")
    for key in table:
        if key not in KEYS:
            raise InputError(
                f'{path}: unknown key "{key}". Did you mean "{nearest(key, KEYS)}"? An experiment '
                f"has {', '.join(KEYS)}."
            )
    arms = table.get("arms", {})
    tables = isinstance(arms, dict) and all(isinstance(own, dict) for own in arms.values())
    if not (arms and tables):
        raise InputError(f"{path}: arms: nothing is compared. Write [arms.NAME] for each arm.")
    _check_arms(path, arms, table.get("settings", {}))
    seeds = _seeds(path, table, "seeds", (0, 1, 2))
    if not seeds:
        raise InputError(f"{path}: seeds = []: nothing runs. Needs {KEYS['seeds']}.")
    apart = _seeds(path, table, "validation_seeds", ())
    if both := sorted({*seeds} & {*apart}):
        raise InputError(
            f"{path}: validation_seeds: {both[0]} is one of seeds too, and what settings were "
            "chosen by is not reported. Choose another."
        )
    against = table.get("against", next(iter(arms)))
    if not isinstance(against, str):
        raise InputError(f"{path}: against = {against}: needs {KEYS['against']}, in quotes.")
    if not isinstance(table.get("chosen", ""), str):
        raise InputError(f"{path}: chosen = {table['chosen']}: needs {KEYS['chosen']}.")
    if against not in arms:
        raise InputError(
            f'{path}: against = "{against}": there is no such arm. Did you mean '
            f'"{nearest(str(against), arms)}"? There are {", ".join(arms)}.'
        )
    budget, questions = table.get("budget", {}), table.get("questions", {})
    if not isinstance(budget, dict) or len(budget) != 1 or {*budget} - {"tokens", "steps"}:
        raise InputError(f"{path}: budget: needs {KEYS['budget']}, one of both.")
    ((unit, amount),) = budget.items()
    if not isinstance(questions, dict) or {*questions} - {"test", "validation"}:
        raise InputError(f"{path}: questions = {questions}: needs {KEYS['questions']}.")
    counts = {"budget." + unit: amount, "questions.test": questions.get("test", 512)}
    counts["questions.validation"] = questions.get("validation", 128)
    for key, value in counts.items():
        if type(value) is not int or value < 1:
            raise InputError(f"{path}: {key} = {value}: needs a whole number >= 1.")
    experiment = Experiment(
        name=pathlib.Path(path).stem,
        arms=arms,
        settings=table.get("settings", {}),
        seeds=seeds,
        validation_seeds=apart,
        against=against,
        unit=unit,
        budget=amount,
        curve=_curve(path, table.get("curve", [*CURVE])),
        test=counts["questions.test"],
        validation=counts["questions.validation"],
        chosen=table.get("chosen", ""),
    )
    try:
        stages = [stage for arm, own in arms.items() for stage in stages_of(arm, own)]
        for key in keys_of(experiment.settings):
            if not any(stage.reads_key(key) for stage in stages):
                raise InputError(f"settings.{key}: no arm reads it. Leave it out.")
        used: set[str] = set()
        for validation in (False, True):
            for cell in cells(experiment, validation=validation):
                config_of(cell)
                used |= {*keys_of(cell.table)}
        for key in keys_of(experiment.settings):
            if key not in used:
                raise InputError(
                    f"settings.{key}: does nothing in any arm, as what switches it on is off. "
                    "Switch it on, or leave it out."
                )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return experiment


OWN = ("seed", "name", "output", "resume", "eval.every", "eval.at", "eval.problems", "eval.start")


def _check_arms(path: str, arms: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
    """Refuses what the experiment itself sets, and arms that cannot be told apart.

    Raises:
      InputError: names the arm and the key.
    """
    if not isinstance(settings, dict):
        raise InputError(f"{path}: settings = {settings}: needs a table [settings].")
    _check_sections(f"{path}: settings", settings)
    names: dict[str, str] = {}
    for arm, own in arms.items():
        name = Cell(arm, 0, {}, trains=True).name
        if name in names:
            raise InputError(
                f'{path}: arms "{names[name]}" and "{arm}" have one folder. Rename one.'
            )
        names[name] = arm
        if bool(own) == (arm == BASE):
            raise InputError(
                f"{path}: arms.{arm}: "
                + ("is what every arm begins from, and takes no settings." if own else "is empty.")
                + f" Only arms.{BASE} is empty."
            )
        entries = own.get("stages", [])
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise InputError(f"{path}: arms.{arm}.stages: needs [[arms.{arm}.stages]] entries.")
        for table in (own, *entries):
            _check_sections(f"{path}: arms.{arm}", table)
            given = {"budget.tokens": table.get("budget", {}).get("tokens", 1)}
            given["steps"] = table.get("steps", 1)
            for key, value in given.items():
                if type(value) is not int or value < 1:
                    raise InputError(
                        f"{path}: arms.{arm}: {key} = {value}: needs a whole number >= 1."
                    )
    for where, table in (("settings", settings), *((f"arms.{a}", own) for a, own in arms.items())):
        entries = table.get("stages", []) if where != "settings" else []
        named = [{k: one for k, one in entry.items() if k != "name"} for entry in entries]
        for key in (key for one in (table, *named) for key in keys_of(one)):
            if key in OWN or (where == "settings" and key.startswith("budget")):
                raise InputError(f"{path}: {where}: {key} is the experiment's own. Leave it out.")


def _check_sections(where: str, table: dict[str, Any]) -> None:
    for section in ("budget", "optimizer", "distill", "eval", "reward"):  # looked into early
        if not isinstance(table.get(section, {}), dict):
            raise InputError(f"{where}: {section}: needs a table.")


def _seeds(path: str, table: dict[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    found = table.get(key, default)
    if not isinstance(found, list | tuple) or not all(
        type(one) is int and one >= 0 for one in found
    ):
        raise InputError(f"{path}: {key} = {found}: needs {KEYS[key]}.")
    if len({*found}) < len(found):
        raise InputError(f"{path}: {key} = {list(found)}: one seed stands there twice.")
    return tuple(found)


def _curve(path: str, shares: Any) -> tuple[float, ...]:
    found: list[Any] = [*shares] if isinstance(shares, list | tuple) else [None]
    if not all(type(one) is float and 0 < one < 1 for one in found) or found != sorted({*found}):
        raise InputError(f"{path}: curve = {shares}: needs {KEYS['curve']}, such as {[*CURVE]}.")
    return tuple(found)

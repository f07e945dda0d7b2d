"""Settings that are read only where another one switches them on.

A setting that does nothing is refused: whoever gave it expects that it does.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from cotjax.config.mixture import parse_mixture
from cotjax.config.reference import is_reference, name_of
from cotjax.config.whole import KEYS, Config
from cotjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Switch:
    """A setting, and those that are read only where it has certain values.

    Attributes:
      by: the key that switches.
      needs: what it must be, as an error says it: `> 1`, `= "share"`.
      on: whether a config has it so.
      keys: the settings, or sections, that are read only then.
    """

    by: str
    needs: str
    on: Callable[[Config], bool]
    keys: tuple[str, ...]

    def switches(self, key: str) -> bool:
        """Whether a setting is one of its; never the switch itself, which lies in the section."""
        return key != self.by and any(key == one or key.startswith(f"{one}.") for one in self.keys)


def _draws_from(*sources: str) -> Callable[[Config], bool]:
    """Whether records come from one of some built-in sources, or a user's, which may read all."""

    def on(config: Config) -> bool:
        data = config.data
        if data.mixture:
            return any(name in sources for name, _, _ in parse_mixture(data.mixture))
        return is_reference(data.source) or data.source in sources

    return on


def _reads_rows(config: Config) -> bool:
    """Whether training or held-out records come from anything but the built-in problems."""
    data = config.data
    if data.mixture or data.eval_path:
        parts = parse_mixture(data.mixture) if data.mixture else []
        return bool(data.eval_path) or any(name != "problems" for name, _, _ in parts)
    return is_reference(data.source) or data.source != "problems"


def _verifiers(config: Config) -> tuple[str, str]:
    return name_of(config.reward.verifier), name_of(config.eval.verifier)


# Of every stage.
COMMON = (
    Switch(
        *("track", '= ["trackio"] or others', lambda config: bool(config.track)),
        ("track_project",),
    ),
    Switch(
        *("lora.rank", "> 0", lambda config: config.lora.rank > 0),
        ("lora.alpha", "lora.dropout", "lora.targets"),
    ),
    Switch(
        *("model.init", '= "pretrained"', lambda config: config.model.init == "pretrained"),
        ("model.adapter",),
    ),
    Switch(
        *("data.prompt", '= "chat"', lambda config: config.data.prompt != "plain"),
        ("data.chat_kwargs",),
    ),
    Switch(
        *("data.source", '= "jsonl" or another of rows', _reads_rows),
        (
            *("data.layout", "data.keep_calculator", "data.filter_teacher", "data.on_bad_record"),
            "data.on_duplicate",
        ),
    ),
    Switch(
        *("data.source", '= "problems"', _draws_from("problems")),
        (
            *("data.min_steps", "data.max_steps", "data.style", "data.new_share", "deliberate"),
            "data.concise_share",
        ),
    ),
    Switch(
        *("data.style", '= "house"', lambda config: config.data.style == "house"),
        ("data.concise_share",),
    ),
    Switch(
        *("data.style", '= "deliberate"', lambda config: config.data.style == "deliberate"),
        ("deliberate",),
    ),
    Switch(
        *("data.source", '= "hub" or "tfds"', _draws_from("hub", "tfds")),
        ("data.split", "data.eval_split"),
    ),
    Switch("data.source", '= "hub"', _draws_from("hub"), ("data.config",)),
    Switch("data.source", '= "reasoning_gym"', _draws_from("reasoning_gym"), ("data.size",)),
    Switch("eval.samples", "> 0", lambda config: config.eval.samples > 0, ("eval.temperature",)),
    Switch(
        *("reward.verifier", '= "numeric"', lambda config: "numeric" in _verifiers(config)),
        ("reward.tolerance",),
    ),
    Switch(
        *(
            "reward.function",
            "to your own function",
            lambda config: is_reference(config.reward.function),
        ),
        ("reward.workers", "reward.timeout", "reward.memory", "reward.max_failed"),
    ),
    Switch(
        *("reward.workers", "> 0", lambda config: config.reward.workers > 0),
        ("reward.timeout", "reward.memory"),
    ),
    Switch(
        *("reward.function", '= "bridge"', lambda config: config.reward.function == "bridge"),
        ("reward.length_per_step", "reward.unit", "reward.monotone", "reward.length"),
    ),
)


def idle(config: Config, defaults: Config, switches: Iterable[Switch]) -> dict[str, Switch]:
    """The settings of a config that do nothing, by key, each with the switch that is off.

    Args:
      config: of one stage.
      defaults: of its stage; a setting that is as there is never idle.
      switches: of its stage.
    """
    found: dict[str, Switch] = {}
    for switch in switches:
        if not switch.on(config):
            own = [key for key in KEYS if switch.switches(key) and key not in found]
            changed = [
                key for key in own if _differ(value_of(config, key), value_of(defaults, key))
            ]
            found |= dict.fromkeys(changed, switch)
    return found


def refuse_idle(found: dict[str, Switch], given: Iterable[str], set_later: Collection[str],
                config: Config, where: str) -> None:  # fmt: skip
    """Refuses a setting that does nothing, unless what came later has switched it off.

    Args:
      found: what `idle` gives.
      given: dotted keys of a file, or of flags.
      set_later: keys of what comes over them: whoever switches a part of a file off by a flag does
        not want to hear of it.
      config: with all of them.
      where: they came from.

    Raises:
      InputError: names the setting, the switch and what to set.
    """
    for key in given:
        if key in found and (by := found[key].by) not in set_later:
            now = _shown(value_of(config, by))
            raise InputError(
                f"{where}: {key} = {_shown(value_of(config, key))}: does nothing while {by} = "
                f"{now}. Set {by} {found[key].needs}, or leave {key} out."
            )


def reset(config: Any, keys: Collection[str], defaults: Any, prefix: str = "") -> Any:
    """A config whose settings `keys` are as in another."""
    sections = {
        key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)
    }
    changes = {
        name: getattr(defaults, name)
        if prefix + name in keys
        else reset(getattr(config, name), keys, getattr(defaults, name), f"{prefix}{name}.")
        for name in sections
    }
    return dataclasses.replace(config, **changes)


def without(table: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """A nested table without some of its dotted keys, and without sections that this empties."""

    def kept(table: dict[str, Any], prefix: str) -> dict[str, Any]:
        inner = {
            name: kept(value, f"{prefix}{name}.")
            if any(key.startswith(f"{prefix}{name}.") for key in keys)
            else value
            for name, value in table.items()
            if prefix + name not in keys
        }
        return {name: value for name, value in inner.items() if value != {} or table[name] == {}}

    return kept(table, "")


def value_of(config: Any, key: str) -> Any:
    """A setting by its dotted key."""
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _differ(one: Any, other: Any) -> bool:
    """Whether two settings do; a user's object is compared with nothing."""
    plain = isinstance(one, str | int | float | tuple | dict)
    return one != other if plain else one is not other


def _shown(value: Any) -> str:
    return json.dumps(value, default=name_of)

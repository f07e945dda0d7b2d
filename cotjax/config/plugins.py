"""A user's own objects behind the keys that take them: found, checked, and called with care.

Whatever one of them does wrong is one sentence with its key, its name and, where it raised, the
record, the file and the line.
"""

import dataclasses
import functools
import importlib.util
import inspect
import math
import types
from collections.abc import Callable
from typing import Any

from cotjax.config.ranges import Named
from cotjax.config.reference import (
    ARGUMENTS,
    FROM_PYTHON,
    check_call,
    is_reference,
    name_of,
    place_of,
    resolve,
    signature_of,
)
from cotjax.config.stages import stage_class, stage_configs
from cotjax.config.whole import Config, every_setting
from cotjax.errors import InputError, PluginError

TAKES = {
    key: named.takes
    for key, hint, _ in every_setting(Config())
    for named in getattr(hint, "__metadata__", ())
    if isinstance(named, Named)
}


@dataclasses.dataclass(frozen=True)
class Plugin:
    """What a key names that is not built in.

    Attributes:
      key: of the config.
      value: the reference, or the object itself.
    """

    key: str
    value: Any

    def __reduce__(self) -> Any:
        """To another process it goes by its name where it has one, and is found again there."""
        return Plugin, (self.key, self.value)

    @functools.cached_property
    def found(self) -> Any:
        """The object.

        Raises:
          InputError: see `resolve`.
        """
        return resolve(self.key, self.value, takes=TAKES[self.key])

    @property
    def shown(self) -> str:
        """The key and the object's name."""
        return f'{self.key} = "{name_of(self.value)}"'

    def call(
        self, function: Callable[..., Any], *args: Any, record: str = "", **settings: Any
    ) -> Any:
        """What one of its functions gives.

        Args:
          function: the object itself, or a method of it.
          *args: its arguments.
          record: id of the record that it is called for, for the error.
          **settings: its keyword arguments.

        Raises:
          PluginError: it raised; names the record, the file and the line.
        """
        try:
            return function(*args, **settings)
        except PluginError:
            raise
        except (Exception, SystemExit) as error:  # it may not end the run in silence
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise PluginError(
                f"{self.shown} raised {what}", f" ({place_of(error)}). Fix it there.", record
            ) from error

    def __call__(self, *args: Any, record: str = "", **settings: Any) -> Any:
        """What the object gives, which is a function; see `call`."""
        return self.call(self.found, *args, record=record, **settings)

    def refuse(self, gave: Any, needs: str, record: str = "") -> PluginError:
        """The error about what one of its functions gave.

        Args:
          gave: that.
          needs: what it should give, as a sentence.
          record: id of the record that it was called for.
        """
        text = repr(gave)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        return PluginError(f"{self.shown} returned {text}", f": {needs}", record)

    def number(self, value: Any, needs: str, record: str = "") -> float:
        """A finite number that one of its functions gave.

        Raises:
          PluginError: it is none.
        """
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.refuse(value, needs, record)
        return number


def open_stage(config: Config, mesh: Any) -> Any:
    """The stage of a config, which may be a user's own class.

    Args:
      config: of the run.
      mesh: of the run.

    Raises:
      PluginError: a user's class raised, or gave what is no stage.
      InputError: see the stage.
    """
    own = stage_class(config.stage)
    if not is_reference(config.stage):
        return own.from_config(config, mesh)
    plugged = Plugin("stage", config.stage)
    try:
        stage = plugged.call(own.from_config, config, mesh)
    except PluginError as error:
        if isinstance(error.__cause__, InputError):  # of a part that it is built on
            raise error.__cause__ from error
        raise
    missing = [name for name in PARTS if not hasattr(type(stage), name)]
    if missing:
        raise plugged.refuse(
            stage, f"a stage has {', '.join(missing)} too. See cotjax.interfaces.Stage."
        )
    return stage


PARTS = ("update", "programs", "prepare", "next_step", "evaluate")  # methods of every stage


def plugin(config: Config, key: str) -> Plugin | None:
    """What a key of a config names, found and checked; None if that is built in.

    Args:
      config: of the run.
      key: one of `ARGUMENTS`' values.

    Raises:
      InputError: there is none of that name, or it cannot be called as the key needs; or what is
        built in needs a package that is not there.
    """
    section, _, name = key.partition(".")
    value = getattr(getattr(config, section), name)
    if not is_reference(value):
        _check_package(key, value)
        return None
    own = Plugin(key, value)
    _CHECKS[key](own, config)
    return own


def _check_package(key: str, value: str) -> None:
    if (
        key.endswith(".verifier")
        and value == "math"
        and not importlib.util.find_spec("math_verify")
    ):
        raise InputError(
            f'{key} = "math": needs the package math-verify. Run pip install "cotjax[math]".'
        )


def check_plugins(config: Config, *, given: bool = True) -> None:
    """Finds and checks every object that a run's stages read.

    Args:
      config: of a stage, or of a list of stages.
      given: an object from Python must be there, and not only its name.

    Raises:
      InputError: see `plugin`; in a list, also which stage.
    """
    if config.stages:
        for name, own in stage_configs(config):
            try:
                check_plugins(own, given=given)
            except InputError as error:
                raise InputError(f"[[stages]] {name}: {error}") from error
        return
    stage = stage_class(config.stage)
    for key in ARGUMENTS.values():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        lost = isinstance(value, str) and value.startswith(FROM_PYTHON)
        if stage.reads_key(key) and (given or not lost):
            plugin(config, key)


def required_arguments(function: Any) -> int:
    """How many positional arguments a function cannot do without."""
    signature = signature_of(function)
    if signature is None:
        return 0
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = signature.parameters.values()
    return sum(one.kind in positional and one.default is one.empty for one in parameters)


def is_source(found: Any) -> bool:
    """Whether an object is records already, and does not only make them."""
    return not inspect.isclass(found) and all(
        hasattr(type(found), name) for name in ("__len__", "__getitem__")
    )


def _check_reward(own: Plugin, config: Config) -> None:
    del config
    check_call(own.key, own.value, own.found, takes=TAKES[own.key], names=2)


def _check_verifier(own: Plugin, config: Config) -> None:
    del config
    for name, count in (("extract", 1), ("equal", 2)):
        function = getattr(verifier_object(own), name, None)
        if not callable(function):
            kind = "a module" if isinstance(own.found, types.ModuleType) else "an object"
            raise InputError(
                f"{own.shown}: is {kind} without the function {name}. {own.key} takes "
                f"{TAKES[own.key]}."
            )
        check_call(own.key, own.value, function, takes=TAKES[own.key], names=count)


def verifier_object(own: Plugin) -> Any:
    """The object behind a verifier's key; of a class, one that is made once.

    Raises:
      InputError: the class needs arguments.
    """
    if not inspect.isclass(own.found):
        return own.found
    if own.found in _MADE:
        return _MADE[own.found]
    if required_arguments(own.found):
        raise InputError(
            f"{own.shown}: the class needs arguments {signature_of(own.found)}. Give them defaults,"
            " or name an object of it."
        )
    return _MADE.setdefault(own.found, own.call(own.found))


_MADE: dict[type, Any] = {}  # classes to their objects


def _check_term(own: Plugin, config: Config) -> None:
    settings = config.policy.term_settings
    check_call(own.key, own.value, own.found, takes=TAKES[own.key], names=4, settings=settings)


def _check_source(own: Plugin, config: Config) -> None:
    del config
    if is_source(own.found):
        return
    needed = required_arguments(own.found) if callable(own.found) else 0
    takes = f"{TAKES[own.key]}, or a function of nothing or of the [data] section that gives them"
    check_call(own.key, own.value, own.found, takes=takes, names=1 if needed else 0)


def _check_difficulty(own: Plugin, config: Config) -> None:
    del config
    needed = required_arguments(own.found) if callable(own.found) else 1
    names = 2 if needed == 2 else 1
    check_call(own.key, own.value, own.found, takes=TAKES[own.key], names=names)


def _check_schedule(own: Plugin, config: Config) -> None:
    del config
    check_call(own.key, own.value, own.found, takes=TAKES[own.key], names=2)


_CHECKS: dict[str, Callable[[Plugin, Config], None]] = {
    "reward.function": _check_reward,
    "reward.verifier": _check_verifier,
    "eval.verifier": _check_verifier,
    "policy.term": _check_term,
    "data.source": _check_source,
    "curriculum.difficulty": _check_difficulty,
    "curriculum.schedule": _check_schedule,
}

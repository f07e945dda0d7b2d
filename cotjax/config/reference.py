"""A user's own objects by name: "package.module:name", or "./file.py:name" inside the project.

One resolver for every key that takes one. An object that was passed from Python is used as it is.
"""

import importlib
import importlib.util
import inspect
import linecache
import os
import pathlib
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cotjax.errors import InputError

FROM_PYTHON = "python:"  # how config.toml writes an object that no import finds
# What cotjax.train(config, …) calls the objects that a run takes, and their keys.
ARGUMENTS = {
    "reward": "reward.function",
    "verifier": "reward.verifier",
    "eval_verifier": "eval.verifier",
    "term": "policy.term",
    "source": "data.source",
    "difficulty": "curriculum.difficulty",
    "schedule": "curriculum.schedule",
}


def is_reference(value: Any) -> bool:
    """Whether a value names, or is, a user's own object."""
    return not isinstance(value, str) or ":" in value


def resolve(key: str, value: Any, *, takes: str) -> Any:
    """The object that a key names.

    Args:
      key: for errors.
      value: the name, or the object.
      takes: what the key takes, for errors.

    Raises:
      InputError: no such module, file or name; or the import raised.
    """
    if not isinstance(value, str):
        return value
    where, _, name = value.rpartition(":")
    shown = f'{key} = "{value}"'
    if value.startswith(FROM_PYTHON):
        again = [f"cotjax.train(config, {name}=…)" for name, own in ARGUMENTS.items() if own == key]
        raise InputError(
            f"{shown}: the run was given this object from Python, and no import finds it. Give it "
            f"again, with {again[0] if again else 'Config.for_stage(…)'}, or move it into a file "
            "and name that."
        )
    if not where or not name or ":" in where:
        raise InputError(
            f"{shown}: names no object. Write package.module:name or ./file.py:name; "
            f"it takes {takes}."
        )
    if not where.endswith(".py") and (where.startswith(".") or "/" in where):
        raise InputError(
            f'{shown}: a file is named with its ending. Write "{where}.py:{name}", or '
            "package.module:name."
        )
    module = _file(shown, where) if where.endswith(".py") else _module(shown, where)
    if not hasattr(module, name):
        if _is_module(where, name):
            return _module(shown, f"{where}.{name}")
        public = [one for one in vars(module) if not one.startswith("_")]
        raise InputError(
            f'{shown}: "{where}" has no "{name}". It has {", ".join(public) or "nothing"}; '
            f"{key} takes {takes}."
        )
    return getattr(module, name)


def name_of(value: Any) -> str:
    """How config.toml writes a name or an object; `resolve` finds it again if an import does."""
    if isinstance(value, str):
        return value
    if isinstance(value, types.ModuleType):
        where, _, name = value.__name__.rpartition(".")
        return f"{where}:{name}" if where else f"{FROM_PYTHON}{name}"
    module = getattr(value, "__module__", "") or ""
    name = getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module) if module != "__main__" else None
    if not name and found is not None:  # an object of a class, which may have a name beside it
        name = next((one for one, other in vars(found).items() if other is value), "")
    for part in name.split("."):
        found = getattr(found, part, None)
    own_file = module.startswith(_PREFIX)
    if own_file and found is value:
        return f"{_FILES[module]}:{name}"
    return f"{module}:{name}" if found is value else f"{FROM_PYTHON}{name or type(value).__name__}"


def plain(key: str, value: Any) -> Any:
    """A value as TOML has it; what a user's object is called is all that is kept of it.

    Args:
      key: of the value; empty for the whole table, and for an entry of a list.
      value: a setting, or a table of settings.
    """
    if isinstance(value, dict):
        before = f"{key}." if key else ""
        return {name: plain(f"{before}{name}", one) for name, one in value.items()}
    if isinstance(value, list | tuple) and key not in ARGUMENTS.values():
        return [plain("", one) for one in value]
    return value if isinstance(value, str | int | float | bool) else name_of(value)


def check_call(
    key: str,
    value: Any,
    function: Any,
    *,
    takes: str,
    names: int,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Refuses what cannot be called as the key needs.

    Args:
      key: for errors.
      value: as the config has it.
      function: the object behind it.
      takes: the expected signature.
      names: how many positional arguments it is called with.
      settings: its keyword arguments.

    Raises:
      InputError: not callable, or another signature; both are shown.
    """
    shown = f'{key} = "{name_of(value)}"'
    if not callable(function):
        raise InputError(
            f"{shown}: is {type(function).__name__}, not a function. {key} takes {takes}."
        )
    ways = function, type(function).__call__
    if later := next((kind for test, kind in _LATER.items() if any(map(test, ways))), ""):
        raise InputError(
            f"{shown}: is {later}, which gives no result when it is called. {key} takes {takes}. "
            "Make it a plain function that returns one."
        )
    signature = signature_of(function)
    if signature is None:
        return
    try:
        signature.bind(*[None] * names, **settings)
    except TypeError as error:
        given = f" with the settings {', '.join(settings)}" if settings else ""
        raise InputError(
            f"{shown}: its signature is {signature}, and {key} takes {takes}{given}. Change its "
            f"parameters{' or the settings' if settings else ''}."
        ) from error


_LATER: Mapping[Callable[[Any], bool], str] = MappingProxyType(
    {
        inspect.iscoroutinefunction: "an async function",
        inspect.isasyncgenfunction: "an async function with yield",
        inspect.isgeneratorfunction: "a function with yield",
    }
)


def signature_of(function: Any) -> inspect.Signature | None:
    """The parameters of a function or class; None for one in C that does not tell."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def place_of(error: BaseException) -> str:
    """File, line and text where a user's code raised: the last line that is of no library."""
    if isinstance(error, SyntaxError) and error.filename:
        text = (error.text or "").strip()
        return f'{pathlib.Path(error.filename).name}, line {error.lineno}: "{text}"'
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [one for one in frames if not one[0].startswith(_LIBRARIES)]
    file, line = (own or frames)[-1]
    linecache.checkcache(file)
    return f'{pathlib.Path(file).name}, line {line}: "{linecache.getline(file, line).strip()}"'


_FOLDERS = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(pathlib.Path(__file__).parents[1]),
)
_LIBRARIES = (*(f"{folder}{os.sep}" for folder in _FOLDERS), "<frozen")
_PREFIX = "cotjax_user_file_"
_FILES: dict[str, str] = {}
_VERSIONS: dict[str, tuple[str, int, int]] = {}  # a file that changed is read again


def _file(shown: str, path: str) -> Any:
    """The module of a file inside the working directory."""
    project, file = pathlib.Path.cwd().resolve(), pathlib.Path(path).resolve()
    if not file.is_relative_to(project):
        raise InputError(
            f"{shown}: {file} lies outside of the project {project}. Copy it there, or start from "
            "its folder."
        )
    if not file.is_file():
        raise InputError(f"{shown}: there is no file {file}. Name one that is there.")
    parts = file.relative_to(project).with_suffix("").parts
    name = _PREFIX + "_".join(part.replace("_", "__") for part in parts)  # a/b_c is not a_b/c
    version = str(file), file.stat().st_mtime_ns, file.stat().st_size
    if _VERSIONS.get(name) == version:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "a file that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name], _FILES[name] = module, path
    _see_project()
    try:
        _imported(shown, lambda: spec.loader.exec_module(module))  # pyright: ignore
    except InputError:
        del sys.modules[name]
        _VERSIONS.pop(name, None)
        raise
    _VERSIONS[name] = version
    return module


def _see_project() -> None:
    """The working directory is where modules are looked for, as `python -m` has it."""
    if str(pathlib.Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(pathlib.Path.cwd()))


def _is_module(package: str, name: str) -> bool:
    """Whether a package has a module of a name, which nobody may have imported yet."""
    if package.endswith(".py") or not hasattr(sys.modules[package], "__path__"):
        return False
    return importlib.util.find_spec(f"{package}.{name}") is not None


def _module(shown: str, name: str) -> Any:
    _see_project()
    return _imported(shown, lambda: importlib.import_module(name), name)


def _imported(shown: str, run: Callable[[], Any], module: str = "") -> Any:
    try:
        return run()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if missing and f"{module}.".startswith(f"{missing}."):
            raise InputError(
                f'{shown}: there is no module "{missing}". Install it, or start from the folder '
                "that holds it."
            ) from error
        said = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(
            f"{shown}: importing it raised {type(error).__name__}: {said} ({place_of(error)}). "
            "Fix it there."
        ) from error

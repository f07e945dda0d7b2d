"""`--help` of training: the keys most used on one screen, and how to see every other one."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.config.command import width
from cotjax.config.field_help import texts, type_of
from cotjax.config.loading import unchecked
from cotjax.config.ranges import STAGES
from cotjax.config.reading import nearest
from cotjax.config.reference import name_of
from cotjax.config.stages import stage_class, stage_configs
from cotjax.config.whole import KEYS, SECTIONS, Config
from cotjax.errors import InputError

# Most used first; a stage shows the first ten that it reads.
MOST_USED = (
    *("stage", "name", "steps", "model.path", "data.source", "data.path", "batch.size"),
    *("rollout.group_size", "teachers.paths", "optimizer.learning_rate", "resume", "seed"),
)
NUM_SHOWN = 10
_FIRST = (
    "Usage: cotjax train [--explain] [--quiet|--json] [--config FILE] [--KEY VALUE …]",
    "Trains a student; --explain: what it would do; --profile-start: where time goes.",
    "Flags over the file over the stage's defaults. Most used, with their values now:",
)


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether `--help` or `-h` is among the words."""
    return any(word in ("-h", "--help") or word.startswith("--help=") for word in argv)


def train_help(argv: Sequence[str]) -> str:
    """What `cotjax train … --help …` prints: one screen, one section, or all of them.

    Args:
      argv: the command's words. Those behind `--help` name sections, or "all"; a stage and a file
        among the others give the values that are shown.

    Raises:
      InputError: no section of that name; names the nearest. Or the file cannot be read.
    """
    names, rest = _split(argv)
    for name in names:
        if name not in (*SECTIONS, "all"):
            close = nearest(name, (*SECTIONS, "all"))
            raise InputError(f'--help {name}: there is no section "{name}". Try --help {close}.')
    whole = unchecked(rest)
    stages = [own for _, own in stage_configs(whole)] if whole.stages else [whole]
    if not names:
        return _screen(whole, stages)
    if "all" in names:
        names = ["", *SECTIONS]
    return "\n\n".join(_section(name, whole, stages) for name in names)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words behind --help, and all others."""
    names: list[str] = []
    rest: list[str] = []
    behind = False
    for word in argv:
        if asks_for_help([word]):
            behind = True
            names += [word.partition("=")[2]] if "=" in word else []
        elif behind and not word.startswith("-"):
            names.append(word)
        else:
            behind = False
            rest.append(word)
    return names, rest


def _screen(whole: Config, stages: Sequence[Config]) -> str:
    keys = [key for key in MOST_USED if _readers(key, stages)][:NUM_SHOWN]
    heads = [f"--{key.replace('_', '-')} {_value(key, whole, stages)}" for key in keys]
    heads = [head if len(head) <= 33 else f"{head[:32]}…" for head in heads]
    column = max(map(len, heads)) + 4
    lines = [*(line for text in _FIRST for line in _wrapped(text, "")), ""]
    for key, head in zip(keys, heads, strict=True):
        text = f"{', '.join(STAGES)}, or your own." if key == "stage" else _clause(texts()[key])
        first, *more = textwrap.wrap(text, max(width() - column, 20))
        lines.append(f"  {head.ljust(column - 4)}  {first}")
        lines += [" " * column + line for line in more]
    sections = f"{', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}"
    lines += [
        "",
        *_wrapped(f"More: --help SECTION, --help all, --version. SECTION: {sections}.", ""),
    ]
    return "\n".join(lines)


def _clause(text: str) -> str:
    """The first part of a help text."""
    return re.split(r"[;.](?= )", text)[0].removesuffix(".") + "."


def _section(section: str, whole: Config, stages: Sequence[Config]) -> str:
    """Every key of a section with its value, what it takes and what it is."""
    prefix = f"{section}." if section else ""
    keys = [key for key in KEYS if key.startswith(prefix) and key != "stages"]
    keys = [key for key in keys if section or "." not in key]
    lines = _wrapped(f"[{section}] {texts()[section]}" if section else "The run itself.", "")
    for key in keys:
        if _readers(key, stages):
            lines += _entry(key, _value(key, whole, stages))
    unread = [key.removeprefix(prefix) for key in keys if not _readers(key, stages)]
    if unread:
        words = f"{_named(whole)} does not read {', '.join(unread)}."
        lines += ["", *_wrapped(words, "  ")]
    return "\n".join(lines)


def _entry(key: str, value: str) -> Iterator[str]:
    yield f"  --{key.replace('_', '-')} {value}"
    yield from _wrapped(f"{texts()[key]} ({type_of(key)})", "      ")


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width(), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _named(whole: Config) -> str:
    return f"--stage={name_of(whole.stage)}"


def _readers(key: str, stages: Sequence[Config]) -> list[Config]:
    """The stages that read a key."""
    return [own for own in stages if stage_class(own.stage).reads_key(key)]


def _value(key: str, whole: Config, stages: Sequence[Config]) -> str:
    """A setting as a flag writes it: of the whole run, or of the first stage that reads it."""
    source = whole if "." not in key and key != "steps" else _readers(key, stages)[0]
    value: Any = source
    for name in key.split("."):
        value = getattr(value, name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value) if value else '""'
    words = value if isinstance(value, tuple) else (value,)
    return (
        " ".join(str(one) if isinstance(one, int | float) else name_of(one) for one in words)
        or '""'
    )

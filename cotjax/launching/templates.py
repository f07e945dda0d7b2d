"""The files of `launch/`, valid as they lie there, and how their values are replaced."""

import pathlib
import re
from collections.abc import Mapping

import yaml

_PACKAGE = pathlib.Path(__file__).parents[1]


def template(name: str) -> str:
    """A file of `launch/`: of this checkout, or as it is packed into the installed package."""
    packed = _PACKAGE / "assets" / "launch" / name
    return (packed if packed.is_file() else _PACKAGE.parent / "launch" / name).read_text("utf-8")


def told(text: str, line: str) -> str:
    """A file with a comment that says what it was filled in from, behind a first `#!`."""
    first, rest = text.split("\n", 1) if text.startswith("#!") else ("", text)
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return "\n".join(part for part in (first, f"# Filled in: {line}", "#", rest) if part)


def assigned(text: str, values: Mapping[str, str], *, before: str = "", equals: str = "=") -> str:
    r"""A file in which `NAME=value` lines have other values; comments behind them stay.

    Args:
      text: of the file.
      values: by name, each as the file's language writes it.
      before: what stands before each name, as `ARG ` does.
      equals: what stands behind it.

    Raises:
      KeyError: there is no such line, or there are two.

    Example:
      >>> assigned("A=1 # one\\nB=2", {"A": "3"})
      'A=3 # one\\nB=2'
    """
    for name, value in values.items():
        line = re.compile(rf"^{re.escape(before + name + equals)}[^#\n]*?( *#.*)?$", re.MULTILINE)
        text, found = line.subn(
            lambda match, start=f"{before}{name}{equals}{value}": start + (match[1] or ""), text
        )
        if found != 1:
            raise KeyError(name)
    return text


def header(text: str) -> str:
    """The comments with which a file begins."""
    lines = text.splitlines(keepends=True)
    end = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:end])


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Blocks.add_representer(str, _text)


def dumped(documents: list[object], comments: str) -> str:
    """YAML of several documents under the comments of a template."""
    whole = yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, width=100)
    return comments + whole

"""What each setting is, for `--help`: its type in words, and the comment behind its field."""

import ast
import functools
import inspect
import io
import textwrap
import tokenize
import typing
from typing import Any

from cotjax.config.ranges import Named, Range
from cotjax.config.reading import kinds
from cotjax.config.whole import HINTS, SECTIONS, Config


@functools.cache
def texts() -> dict[str, str]:
    """The help text of every setting by its dotted key; of a section, its docstring's first line.

    Example:
      >>> texts()["steps"], texts()["checkpoint"]
      ('Batches to train on.', 'What is kept on disk to resume from.')
    """
    found = _comments(Config)
    hints = typing.get_type_hints(Config)
    for section in SECTIONS:
        found[section] = (hints[section].__doc__ or "").partition("\n")[0]
        for name, text in _comments(hints[section]).items():
            found[f"{section}.{name}"] = text
    return found


def _comments(section: type) -> dict[str, str]:
    """The comment at the end of each field's line."""
    source = textwrap.dedent(inspect.getsource(section))
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        ast.unparse(node.target): comments[node.end_lineno]
        for node in body.body
        if isinstance(node, ast.AnnAssign) and node.end_lineno in comments
    }


def type_of(key: str) -> str:
    """What a setting takes, in words.

    Example:
      >>> type_of("rollout.top_p"), type_of("checkpoint.every"), type_of("mask.mode")
      ('0 < number <= 1', 'whole number >= 0', 'scattered | contiguous')
    """
    return _words(HINTS[key])


_NAMES = {str: "text", int: "whole number", float: "number", bool: "true | false"}


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"{_words(typing.get_args(hint)[0])} …"
    if typing.get_origin(hint) is dict or hint is dict:
        return "{ name = value }"
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Named):
            return " | ".join((*part.known, "module:name"))
    types, choices = kinds(hint)
    words = [_ranged(hint, kind) for kind in types]
    return " | ".join(words + [str(choice) for choice in choices])


def _ranged(hint: Any, kind: type) -> str:
    """A type with the limits of the hint's part that has it."""
    for part in (hint, *typing.get_args(hint)):
        for limit in getattr(part, "__metadata__", ()):
            if isinstance(limit, Range):
                return limit.form.format(_NAMES[kind])
    return _NAMES[kind]

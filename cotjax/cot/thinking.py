"""Reasoning tags: what a model writes for itself, and what it says."""

import re
from collections import Counter

_NAMES = (
    "think", "thinking", "thought", "thoughts", "reason", "reasoning", "reflect", "reflection",
    "scratchpad", "analysis", "inner_monologue", "seed:think",
)  # fmt: skip
TAG = re.compile(
    rf"(?i)<(?P<close>/?)\s?(?P<name>{'|'.join(_NAMES)})(?:\s[^<>]{{0,200}})?(?P<empty>/?)>"
    r"|<\|(?P<word>begin|end)_of_thought\|>|(?P<open2>\[THINK\])|(?P<close2>\[/THINK\])"
    r"|(?P<open3>◁think▷)|(?P<close3>◁/think▷)"
)


def spoken(text: str) -> str | None:
    """The text without what stands between reasoning tags; None if one is still open.

    A closing tag without an opening one ends what the prompt began: everything before it is
    reasoning. Tags may be nested, have attributes, and be written in capitals.

    Example:
      >>> spoken("<think>24?</think>Answer: 7"), spoken("24?</think>7"), spoken("<THINK x=1>24")
      ('Answer: 7', '7', None)
    """
    kept: list[str] = []
    stack: list[str] = []
    opened: Counter[str] = Counter()
    position = 0
    for tag in TAG.finditer(text):
        name, ends = _kind(tag)
        if tag["empty"]:
            continue
        if not ends:
            if not stack:
                kept.append(text[position : tag.start()])
            stack.append(name)
            opened[name] += 1
        elif not stack:  # the prompt has opened it
            kept.clear()
            position = tag.end()
        elif opened[name]:
            while opened[name] and (inner := stack.pop()) != name:
                opened[inner] -= 1
            opened[name] -= 1
            if not stack:
                position = tag.end()
    if stack:
        return None
    kept.append(text[position:])
    return "".join(kept)


def open_tag(prompt: str) -> str:
    """The reasoning tag that a prompt leaves open, as some chat templates do; "" if none is.

    Example:
      >>> open_tag("How many?<|assistant|><think>"), open_tag("How many?<think></think>")
      ('<think>', '')
    """
    if spoken(prompt) is not None:
        return ""
    return [tag[0] for tag in TAG.finditer(prompt) if not (closes(tag) or tag["empty"])][-1]


def closes(tag: re.Match[str]) -> bool:
    """Whether a match of `TAG` is a closing tag."""
    return _kind(tag)[1]


def _kind(tag: re.Match[str]) -> tuple[str, bool]:
    """A tag's name, and whether it closes."""
    if tag["name"]:
        return tag["name"].lower(), bool(tag["close"])
    if tag["word"]:
        return "thought|", tag["word"].lower() == "end"
    if tag["open2"] or tag["close2"]:
        return "[think]", bool(tag["close2"])
    return "◁think▷", bool(tag["close3"])

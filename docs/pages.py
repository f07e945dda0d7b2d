"""Text of the site that is made from the code: settings, metrics, the API, and llms.txt.

Plain functions from the package to Markdown; `conf.py` puts them into pages, tests read them too.
"""

import importlib
import inspect
import pathlib
import re
from collections.abc import Iterator

from cotjax.config.field_help import texts, type_of
from cotjax.config.ranges import STAGES
from cotjax.config.reading import keys_of
from cotjax.config.reference import name_of
from cotjax.config.stages import stage_class
from cotjax.config.whole import KEYS, SECTIONS, Config
from cotjax.training.metric_names import GROUPS, METRICS

ROOT = pathlib.Path(__file__).parents[1]
TRAINED = [stage for stage in STAGES if stage != "bridge"]  # which is a list of three of them
# Public names that are not in a module's `__all__`, in the order of the page.
CORE = {
    "Policy-gradient terms": "grpo",
    "Objectives": "objectives",
    "Advantages": "advantage",
    "Log-probabilities and KL estimators": "logprobs",
    "Divergences": "distillation",
    "Top-k teachers": "topk",
    "Several teachers": "mixing",
    "Losses over the vocabulary in blocks": "chunked",
    "Supervised losses": "reconstruction",
    "Masks and reductions": "masking",
    "Curriculum and teacher schedule": "curriculum",
    "Sampling": "sampling",
}


def configuration() -> str:
    """Every section and key: its default, what it takes, what it is, and who reads it."""
    parts = [_section("")] + [_section(name) for name in SECTIONS]
    return "\n".join([*parts, _stage_defaults()])


def _section(section: str) -> str:
    prefix = f"{section}." if section else ""
    keys = [key for key in KEYS if key.startswith(prefix) and (section or "." not in key)]
    title = f"## `[{section}]`" if section else "## The run itself"
    lines = [title, "", texts()[section] if section else "Keys without a section.", ""]
    lines += ["| key | default | takes | what it is |", "|---|---|---|---|"]
    for key in keys:
        cells = [f"`{key}`", _code(_default(key)), _cell(type_of(key)), _cell(texts()[key])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_readers(keys), ""])


def _readers(keys: list[str]) -> Iterator[str]:
    """Sentences on the stages that read a section's keys, where not all of them do."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in keys:
        who = tuple(stage for stage in TRAINED if stage_class(stage).reads_key(key))
        groups.setdefault(who, []).append(key)
    for who, some in groups.items():
        names = ", ".join(f"`{stage}`" for stage in who) or "commands other than `train`"
        if len(who) == len(TRAINED):
            continue
        whole = len(some) == len(keys)
        subject = "All of it" if whole else ", ".join(f"`{key}`" for key in some)
        yield f"{subject}: read by {names}."
        yield ""


def _stage_defaults() -> str:
    lines = ["## What a stage sets otherwise", "", "| stage | its own defaults |", "|---|---|"]
    for stage in TRAINED:
        own = stage_class(stage).defaults
        found = [f"`{key} = {_toml(_get(own, key))}`" for key in keys_of(own)]
        lines.append(f"| `{stage}` | {', '.join(found) or 'those above'} |")
    return "\n".join([*lines, ""])


def _get(table: dict, key: str) -> object:
    value: object = table
    for name in key.split("."):
        value = value[name]  # pyright: ignore[reportIndexIssue]
    return value


def _default(key: str) -> str:
    value: object = Config()
    for name in key.split("."):
        value = getattr(value, name)
    return _toml(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else "{ … }"
    return str(value) if isinstance(value, int | float) else f'"{name_of(value)}"'


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    """Text inside a table: bars and Markdown's own signs are escaped."""
    return re.sub(r"([|*_<>\[\]{}$])", r"\\\1", text)


def metrics() -> str:
    """Every metric with its unit, by group."""
    parts = []
    for group, title in GROUPS.items():
        parts += [f"## {title}", "", "| metric | unit | what it is | stages |", "|---|---|---|---|"]
        for row in METRICS[group]:
            who = ", ".join(row.stages) if row.stages else "all"
            parts.append(f"| `{row.name}` | {row.unit} | {_cell(row.what)} | {who} |")
        parts.append("")
    return "\n".join(parts)


def core_names() -> dict[str, list[str]]:
    """The public names of `cotjax.core` by the title under which the page has them."""
    core = importlib.import_module("cotjax.core")
    found: dict[str, list[str]] = {title: [] for title in CORE}
    for name, value in vars(core).items():
        where = getattr(value, "__module__", "") or ""
        if name.startswith("_") or inspect.ismodule(value) or not where.startswith("cotjax.core."):
            continue
        part = where.split(".")[2]
        title = next((title for title, module in CORE.items() if module == part), None)
        found.setdefault(title or "Others", []).append(name)
    return {title: names for title, names in found.items() if names}


def core_api() -> str:
    """Directives that document `cotjax.core`."""
    parts = []
    for title, names in core_names().items():
        parts += [f"## {title}", "", "```{eval-rst}", ".. currentmodule:: cotjax.core", ""]
        for name in names:
            value = getattr(importlib.import_module("cotjax.core"), name)
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            parts.append(f".. {kind}:: {name}")
        parts += ["```", ""]
    return "\n".join(parts)


def text_api() -> str:
    """Directives that document `cotjax.cot`."""
    cot = importlib.import_module("cotjax.cot")
    parts = ["```{eval-rst}", ".. currentmodule:: cotjax.cot", ""]
    for name in cot.__all__:
        value = getattr(cot, name)
        if inspect.isfunction(value):
            parts.append(f".. autofunction:: {name}")
        elif inspect.isclass(value):
            parts += [f".. autoclass:: {name}", ""]
    return "\n".join([*parts, "```", ""])


def included(name: str) -> str:
    """A file of the repository's root as a page: its links lead from docs/."""
    return (ROOT / name).read_text("utf-8").replace("](docs/", "](")


MADE = {
    "configuration": configuration,
    "metrics": metrics,
    "core": core_api,
    "cot": text_api,
    "RESULTS.md": lambda: included("RESULTS.md"),
    "CHANGELOG.md": lambda: included("CHANGELOG.md"),
    "CONTRIBUTING.md": lambda: included("CONTRIBUTING.md"),
}
# A place, with what stands there for readers of the repository.
PLACE = re.compile(
    r"^<!-- made from: (\S+) -->$(?:\n\nMade when the site is built, .*$)?", re.MULTILINE
)
# Links of a page to files that are pages of the site too.
FROM_ROOT = {"RESULTS.md": "results", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changes"}
# Markdown that is kept beside the results, and is no page.
KEPT = re.compile(r"\[([^\]]+)\]\((results/\S+\.md)\)")
TITLED = re.compile(r'^```(\w+) title="(.+?)"\n', re.MULTILINE)


def page(text: str, depth: int = 0) -> str:
    """A page as the site builds it, from the page as GitHub shows it.

    Args:
      text: the Markdown file.
      depth: folders between it and docs/.
    """
    text = PLACE.sub(lambda match: MADE[match[1]](), text)
    up = "../" * depth
    for name, own in FROM_ROOT.items():
        text = text.replace(f"]({up}../{name}", f"]({up}{own}.md")
        text = text.replace(f"]({name}", f"]({up}{own}.md")
    text = text.replace("\n\n```\n", "\n```\n")  # doctest's end of an example
    text = KEPT.sub(r"{download}`\1 <\2>`", text)
    return TITLED.sub(r"```{code-block} \1\n:caption: \2\n\n", text)


def llms(pages: dict[str, tuple[str, str]]) -> str:
    """The site as one list for language models (llmstxt.org).

    Args:
      pages: address to title and first sentence.
    """
    lines = [
        "# cotjax",
        "",
        "> Trains small language models to reason rightly and briefly, in JAX: fine-tuning, GRPO,",
        "> distillation from one or several teachers, and the curricula of BRIDGE and CLPD.",
        "",
        "## Pages",
        "",
    ]
    lines += [f"- [{title}]({where}): {says}" for where, (title, says) in pages.items()]
    return "\n".join([*lines, ""])


def summary(text: str) -> tuple[str, str]:
    """The title of a page and the first sentence behind it."""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    body = text[title.end() :] if title else text
    body = re.sub(r"^```.*?^```", "", body, flags=re.DOTALL | re.MULTILINE)
    paragraphs = (" ".join(part.split()) for part in body.split("\n\n"))
    first = next((one for one in paragraphs if re.match(r"[A-Za-z`\[0-9]", one)), "")
    first = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", first)
    sentence = re.match(r".+?[.:](?=\s|$)", first)
    return (title[1] if title else ""), (sentence[0] if sentence else first).rstrip(":")

"""What pages of docs/ say about the code is so: messages, names, links, and an example on each."""

import ast
import functools
import importlib
import pathlib
import re
import runpy

import pytest

import cotjax.core
from cotjax.config.whole import KEYS
from tests.test_docs import PAGES, PYTHON, each_page, tables
from tests.test_readme import TOOLS, commands

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = runpy.run_path(str(DOCS / "pages.py"))
WHOLE = ("results.md", "contributing.md", "changes.md")  # files of the root, which have their tests


@each_page
def test_every_page_has_an_example_that_a_test_runs(page):
    text = page.read_text("utf-8")
    ours = {name for name, words in commands() if words[0] not in TOOLS}
    runs = ">>> " in text or page.name in ours
    assert runs or 'title="' in text or page.name in WHOLE


@each_page
def test_every_block_of_python_parses_and_its_imports_are_there(page):
    for block in PYTHON.findall(page.read_text("utf-8")):
        if ">>> " in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cotjax"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), block


@functools.cache
def said():
    """Every text of the package, with … for what is put into it, as one string."""
    found = []
    for path in sorted((ROOT / "cotjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


MESSAGES = re.findall(r"^`(.+)`\n: ", (DOCS / "troubleshooting.md").read_text("utf-8"), re.M)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:50])
def test_a_message_is_one_that_the_code_raises(message):
    if message.startswith("rollout.group_size"):  # made of a range's parts
        why = "a group baseline needs at least 2 completions per prompt"
        assert why in message and why in said()
        return
    assert message in said()


def test_messages_are_found_and_a_planted_one_is_not():
    assert len(MESSAGES) > 30
    assert "… exists. Add --resume to go on" not in said()


def trl_rows():
    text = (DOCS / "howto" / "from_trl.md").read_text("utf-8")
    return [row for head, *rows in tables(text) for row in rows if "cotjax" in head]


def test_every_key_of_the_table_beside_trl_is_ours():
    ours = [key for row in trl_rows() for key in re.findall(r"`([^`]+)`", row[1])]
    assert len(ours) > 40
    assert not set(ours) - set(KEYS)


def test_the_names_of_trl_are_its_own_where_it_is_installed():
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    fields = set(trl.GRPOConfig.__dataclass_fields__) | {"vllm_*"}
    first = next(rows for head, *rows in tables((DOCS / "howto/from_trl.md").read_text("utf-8")))
    names = [name for row in first if "trainer" not in row[0] for name in
             re.findall(r"`([^`]+)`", row[0])]  # fmt: skip
    assert not set(names) - fields
    own = {name for name in trl.GRPOConfig.__annotations__ if not name.startswith(("vllm_", "_"))}
    assert not own - set(names)


def test_the_configuration_page_has_every_key():
    text = MADE["configuration"]()
    assert [key for key in KEYS if f"| `{key}` |" not in text] == []
    assert "| `rollout.group_size` | `8` | whole number >= 2" in text.replace("\\>", ">")
    assert "`checkpoint.every = 500`" in text  # of sft


def test_the_page_of_the_core_has_every_public_name():
    shown = {name for names in MADE["core_names"]().values() for name in names}
    public = {
        name
        for name, value in vars(cotjax.core).items()
        if (getattr(value, "__module__", "") or "").startswith("cotjax.core.")
    }
    assert shown == public and "Others" in MADE["core_names"]()  # divergences, soft caps


def test_figures_are_small_and_each_is_shown():
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    figures = sorted((DOCS / "figures").glob("*.svg"))
    assert len(figures) >= 7
    for figure in figures:
        assert figure.stat().st_size < 80_000, figure.name
        assert f"figures/{figure.name}" in pages


@each_page
def test_every_link_to_a_file_leads_to_one(page):
    text = PYTHON.sub("", page.read_text("utf-8"))
    for where in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not where.startswith("http"):
            assert (page.parent / where).exists(), where


def test_a_page_becomes_the_site_s():
    text = 'See [R](../RESULTS.md#a).\n\n```python title="a.py"\nx = 1\n```\n'
    made = MADE["page"](text)
    assert "](results.md#a)" in made
    assert "```{code-block} python\n:caption: a.py\n\nx = 1\n" in made
    assert "](../results.md#a)" in MADE["page"](text.replace("../R", "../../R"), depth=1)


def test_the_summary_of_a_page_is_its_title_and_first_sentence():
    assert MADE["summary"]("# A title\n\nIt [does](x.md) one thing. And more.\n") == (
        "A title",
        "It does one thing.",
    )
    code = "# t\n\n```sh\nrun\n\nagain\n```\n\n| a |\n\nt beside u. More.\n"
    assert MADE["summary"](code) == ("t", "t beside u.")

"""Holds docs/ to the code: every example runs, every table of settings is the one in use."""

import dataclasses
import doctest
import pathlib
import re
import typing

import pytest

from cotjax.config.ranges import SOURCES, VERIFIERS, LayoutName
from cotjax.core import OBJECTIVES, PRESETS, Objective

DOCS = pathlib.Path(__file__).parents[1] / "docs"
DATA = (DOCS / "data.md").read_text(encoding="utf-8")
NUMERICS = (DOCS / "numerics.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WORDS = {"off": None, "yes": True, "no": False}


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "results" not in page.parts]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


@each_page
def test_every_example_gives_what_the_page_says(page, capsys):
    text = page.read_text(encoding="utf-8")
    # The fences become empty lines, so that a failure names the line of the page.
    kept = ["\n" * text.count("\n")]
    if blocks := list(PYTHON.finditer(text)):
        kept, end = [], 0
        for block in blocks:
            kept += ["\n" * text.count("\n", end, block.start(1)), block[1]]
            end = block.end(1)
    examples = doctest.DocTestParser().get_doctest("".join(kept), {}, page.name, str(page), 0)
    failed, tried = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples)
    assert not failed, capsys.readouterr().out
    assert tried == sum(line.startswith(">>> ") for line in text.splitlines())


def tables(text):
    """Every table of the page, as rows of cells; the first row is its head."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = block.splitlines()
        yield [[cell.strip() for cell in row.strip("|").split(" | ")] for row in (head, *rows)]


def value(cell):
    """A cell as the setting it shows: a number, a word, or None for `off`."""
    if cell in WORDS:
        return WORDS[cell]
    try:
        return float(cell)
    except ValueError:
        return cell


def settings_of(known):
    """The table whose columns are the names of `known`: {(setting, name): value}."""
    (rows,) = [rows for head, *rows in tables(NUMERICS) if head == ["setting", *known]]
    return {
        (re.match(r"`(\w+)`", first)[1], name): value(cell)
        for first, *cells in rows
        for name, cell in zip(known, cells, strict=True)
    }


def test_the_table_of_presets_is_that_of_the_code():
    fields = [field.name for field in dataclasses.fields(Objective)]
    assert settings_of(PRESETS) == {
        (field, name): getattr(PRESETS[name], field) for field in fields for name in PRESETS
    }


def test_the_table_of_variants_is_that_of_the_code():
    shown = settings_of(OBJECTIVES)
    assert shown == {key: getattr(OBJECTIVES[key[1]], key[0]) for key in shown}
    assert {name for _, name in shown} == set(OBJECTIVES)


def test_every_number_of_the_text_is_the_output_of_an_example():
    outputs = "".join(PYTHON.findall(NUMERICS))
    text = PYTHON.sub("", NUMERICS)
    numbers = set(re.findall(r"(?<![\d.])\d\.\d{3,}(?![\d.])", text)) - {"0.001"}
    assert "1.4997" in numbers
    assert not {number for number in numbers if number not in outputs}


def first_words(title):
    """The names in the first column of the table of docs/data.md with that head."""
    (rows,) = (table[1:] for table in tables(DATA) if table[0][0] == title)
    return [re.findall("`(.+?)`", row[0])[0] for row in rows]


def test_every_layout_verifier_and_source_of_files_has_its_row():
    assert {"auto", *first_words("`data.layout`")} == set(typing.get_args(LayoutName))
    assert first_words("verifier") == list(VERIFIERS)
    assert {"problems", *first_words("`data.source`")} == set(SOURCES)

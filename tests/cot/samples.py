"""What several text tests share: fuzz strategies, hostile strings and the public data sets."""

import json
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

DATA = Path(__file__).parents[3] / "shared" / "data"

FUZZ = settings(derandomize=True, deadline=None, max_examples=150)

FRAGMENTS = (
    "Step 1:", "Step 2:", "**Step 3:** ", "### Step 4: ", "step 5 - ", "1. ", "2) ", "\n", "\n\n",
    " ", "\r\n", "\t", "\x85", "\x0b", "\u2028", "Answer:", "answer: ", "**Answer:** ",
    "Final Answer: ", "#### ", "# ", "<think>", "</think>", "\\[", "\\]", "\\(", "\\)", "$$", "\\",
    "\\\\", "$", "42", "1,234.5", "-3", "3/0", "\\boxed{", "}", "{", "\\frac{3}{4}", "=", " + ",
    "×", "nan", "inf", "1e999", "<<6*7=42>>", ". So ", "Mr. ", "! ", "é", "步", "\U0001f600", "\0",
    "\ud800", "The answer is ",
)  # fmt: skip

any_text = st.text(st.characters(), max_size=60)
"""Any string of code points, lone surrogates included."""

marked_text = st.lists(st.one_of(st.sampled_from(FRAGMENTS), any_text), max_size=16).map("".join)
"""Markers, LaTeX and separators in any order, with any text between them."""

piece_text = st.text(st.characters(exclude_characters="\n"), max_size=40).map(
    lambda text: "a" + text + r" \( x^2 \) é"
)
"""One line of content that is neither blank nor a marker."""

HOSTILE = (
    "", "\0", "\ud800", "inf", "-inf", "nan", "NaN", "Infinity", "1e999", "-1e999", "1/0", "0/0",
    "\\frac{1}{0}", "\\frac{}{}", "--5", "+-+-5", "$", "£€$", "%", ".", ",", "1,2,3", "1.2.3",
    "9" * 5000, "1e" + "9" * 400, "0." + "0" * 5000 + "1", "\\boxed{", "\\boxed{{{{", "}", "####",
    "####" * 50, "Answer:", "Answer: Answer:", "٣", "²", "½/0", "\u202e5", "5" + "\u0301",
)  # fmt: skip


MEGABYTE_UNITS = {
    "spaces": " ", "newlines": "\n", "digits": "1", "hashes": "#", "braces": "{",
    "backslashes": "\\", "NUL": "\0", "surrogates": "\ud800", "openers": "\\[", "dollars": "$$",
    "boxed": "\\boxed{", "answers": "Answer: ", "finals": "final answer is ", "commas": "1,",
    "equations": "1=", "fractions": "\\frac{1}{2}", "steps": "Step 1: \n", "items": "1. \n",
    "sentences": "a. ", "thinks": "<think></think>", "calculators": "<<1",
    "Answer": " ", "Answer:": "\n", ".": " ",
}  # fmt: skip
"""What is repeated to a million characters; capitals and stops stand once before it."""


def megabyte(name: str) -> str:
    """Returns one million characters that make a careless pattern quadratic."""
    unit = MEGABYTE_UNITS[name]
    start = "" if name[0].islower() or name == "NUL" else name
    return start + unit * (1_000_000 // len(unit)) + "a"


def records(*parts: str) -> list[dict]:
    """Returns the records of a public data set, or skips the test that asks for them."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)}: this test reads the published data set")
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else list(map(json.loads, text.splitlines()))

"""Texts and data of a run inside a page, where a browser must only show them."""

import html
import json
import re
from pathlib import Path
from typing import Any

from cotjax.errors import visible

LETTERS_SHOWN = 20_000  # of one text; a longer one makes a browser wait
_ASSETS = Path(__file__).parents[1] / "assets" / "report"
# What would end a script element, and whatever is not seen or turns text around; JSON has already
# escaped what stands below the space.
_ESCAPED = re.compile(
    "[<>&\x7f-\xa0\xad\u0600-\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff0-\uffff]"
)


def asset(name: str) -> str:
    """A file of cotjax/assets/report."""
    return (_ASSETS / name).read_text("utf-8")


def text(value: str) -> str:
    """A text as HTML; what is longer than a person reads is cut, and says so."""
    if len(value) > LETTERS_SHOWN:
        more = f"… and {len(value) - LETTERS_SHOWN:,} letters more, which the run folder has"
        value = f"{value[:LETTERS_SHOWN]}\n{more}"
    return html.escape(visible(value))


def dumped(value: Any) -> str:
    r"""JSON that may stand in a script element: no tag, no control character, only finite numbers.

    Example:
      >>> dumped({"a": "</script>\u202e"})
      '{"a":"\\u003c/script\\u003e\\u202e"}'
    """
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", plain)


def data_block(name: str, value: Any) -> str:
    """An element that holds data for the page's scripts, as JSON."""
    return f'<script type="application/json" id="{name}">{dumped(value)}</script>'

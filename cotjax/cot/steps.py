r"""Rationales: text to steps and back, without losing a character.

The layout that cotjax writes:

    <think>
    optional thinking
    </think>
    Step 1: first step, which may hold
    several lines and LaTeX: \[ 6 \times 7 = 42 \]
    Step 2: second step
    Answer: 42

Text from elsewhere comes in other layouts. `parse_rationale` keeps what stood between the pieces
as `layout`, so rendering gives back exactly the text that was parsed. `normalize_rationale`
forgets it, and the pieces render in the layout above.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cotjax.cot.thinking import TAG, closes
from cotjax.errors import InputError

SplitKind = Literal["auto", "numbered", "lines", "sentences"]

_WHITE = " \t\r\n"
_STEP = re.compile(
    r"(?mi)^[ \t\r]*(?:#{1,6} ?)?[*_]{0,2}step ?[0-9]{1,4}[*_]{0,2} ?[:：.)-][*_]{0,2}"
)
_ITEM = re.compile(r"(?m)^[ \t\r]*([0-9]{1,4})[.)](?=\s)")
_NEWLINE = re.compile(r"\n[ \t\r\n]*")
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bvs\.)"
    r"[ \t\r\n]+(?=[^a-z\s])|\n[ \t\r\n]*"
)
# A capital is asked for in the middle of a line, where "the answer: ..." is ordinary prose.
_ANSWER = re.compile(
    r"(?:(?m:^)[ \t\r]*(?:#{1,6} ?)?[*_]{0,2}(?i:(?:final )?answer)"
    r"|(?<!\S)[*_]{0,2}(?:Final )?Answer)[*_]{0,2} ?[:：][*_]{0,2}(?=[ \t\r\n]{0,8}[^ \t\r\n])"
    r"|(?<!\S)####(?=[ \t\r\n]{0,8}(?:[-+−$£€.0-9\\]|\(?[A-J]\)?[.]?[ \t\r]*(?:\n|\Z)))"
)
_MATH = re.compile(r"\\[\[\]()]|\$\$")
_CLOSES = {"\\[": "\\]", "\\(": "\\)", "$$": "$$"}
_THINK, _END_THINK = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Rationale:
    """A worked solution in pieces. Equality looks at the pieces, not at the layout.

    Attributes:
      thinking: text before the steps, "" if there is none.
      steps: the steps in order, without their numbers; a step may hold several lines.
      answer: the text of the answer line, "" if there is none; not yet read as a number.
      layout: what stands before, between and after (thinking, *steps, answer): one string more
        than there are pieces. None is cotjax's own layout.
    """

    thinking: str = ""
    steps: tuple[str, ...] = ()
    answer: str = ""
    layout: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        """Raises InputError for a layout that does not fit the pieces."""
        if self.layout is not None and len(self.layout) != len(self.steps) + 3:
            raise InputError(
                f"Rationale: {len(self.layout)} layout strings for {len(self.steps)} steps; "
                f"{len(self.steps) + 3} are needed. Set layout=None when you change the steps."
            )


def parse_rationale(text: str, *, kind: SplitKind = "auto") -> Rationale:
    r"""Splits a solution into thinking, steps and answer.

    Laws, for every string and every kind:

        render_rationale(parse_rationale(text)) == text
        parse_rationale(render_rationale(normalize_rationale(r))) == r,   r = parse_rationale(text)

    Thinking is everything up to the last `</think>` or another closing reasoning tag (see
    `cotjax.cot.thinking`), or behind one at the start that never closes; for
    numbered steps without such tags, the text before the first of them. The answer is the rest of
    the line behind the last `Answer:`, `Final Answer:` or `####` that follows the last step's
    number. Nothing inside `\[ \]`, `\( \)` or `$$ $$` starts a step or an answer.

    Args:
      text: any string.
      kind: where a new step starts.
        numbered: at a line `Step k:` (bold and headings allowed); if there is none, at the lines
        `1.`, `2.`, ... or `1)`, `2)`, ... that count up. No such line: no steps.
        lines: at every line that is not blank.
        sentences: also behind `.`, `!` or `?` and white space, unless a small letter follows.
        auto: numbered if the text has numbered steps, otherwise lines.

    Returns:
      The pieces, stripped of spaces, tabs and line ends, and the layout between them. What
      `normalize_rationale` drops with the layout: the markers' spelling and numbers, the white
      space around pieces, text between `</think>` and the first number, and text after the
      answer's line.

    Example:
      >>> parse_rationale("Step 1: 6 * 7\nStep 2: is 42\nAnswer: 42")
      Rationale(thinking='', steps=('6 * 7', 'is 42'), answer='42')

    Raises:
      InputError: `kind` is none of the above.
    """
    if kind not in get_args(SplitKind):
        raise InputError(f'kind = "{kind}": not a way to split. Use one of {get_args(SplitKind)}.')
    thinking, start = _thinking(text)
    body = text[start:]
    math = _math_spans(body)
    marks = _step_marks(body, math) if kind in ("auto", "numbered") else []
    end, answer = _answer(body, math, after=marks[-1][1] if marks else 0)
    if marks or kind == "numbered":
        if thinking is None:
            thinking = (0, marks[0][0] if marks else end)
    elif body[:end].strip(_WHITE):
        pattern = _SENTENCE if kind == "sentences" else _NEWLINE
        first, last = _strip(body, (0, end))
        breaks = (m.span() for m in _outside(math, pattern.finditer(body, first, last)))
        marks = [(first, first), *breaks]
    starts = [*(begin for begin, _ in marks), end]
    steps = [(mark[1], stop) for mark, stop in zip(marks, starts[1:], strict=True)]
    spans = [(start + begin, start + stop) for begin, stop in (*steps, answer)]
    return _cut(text, [thinking or (0, 0), *spans])


def render_rationale(rationale: Rationale) -> str:
    r"""Joins a rationale into text, in its own layout if it has one, else in cotjax's.

    Example:
      >>> render_rationale(Rationale(steps=("6 * 7", "is 42"), answer="42"))
      'Step 1: 6 * 7\nStep 2: is 42\nAnswer: 42'
    """
    pieces = (rationale.thinking, *rationale.steps, rationale.answer)
    if rationale.layout is not None:
        head, *gaps = rationale.layout
        return head + "".join(piece + gap for piece, gap in zip(pieces, gaps, strict=True))
    lines = [f"Step {k}: {step}" for k, step in enumerate(rationale.steps, start=1)]
    if rationale.thinking:
        lines.insert(0, f"{_THINK}\n{rationale.thinking}\n{_END_THINK}")
    if rationale.answer:
        lines.append(f"Answer: {rationale.answer}")
    return "\n".join(lines)


def normalize_rationale(rationale: Rationale) -> Rationale:
    """Forgets the layout, so that the rationale renders in cotjax's own."""
    return replace(rationale, layout=None)


def _thinking(text: str) -> tuple[tuple[int, int] | None, int]:
    """Returns the span between reasoning tags (None without tags) and where the rest starts."""
    begin, _ = _strip(text, (0, len(text)))
    first = TAG.match(text, begin)
    opened = first is not None and not (closes(first) or first["empty"])
    if first is not None and opened:
        begin = first.end()
    last = next(iter(deque(filter(closes, TAG.finditer(text)), maxlen=1)), None)
    if last is not None:
        return (min(begin, last.start()), last.start()), last.end()
    return ((begin, len(text)), len(text)) if opened else (None, 0)


def _math_spans(text: str) -> list[tuple[int, int]]:
    """Returns the spans of closed display and inline math; an opener replaces an unclosed one."""
    spans, opener = [], None
    for token in _MATH.finditer(text):
        if opener and token[0] == _CLOSES[opener[0]]:
            spans.append((opener.start(), token.end()))
            opener = None
        elif token[0] in _CLOSES:
            opener = token
    return spans


def _outside(
    math: list[tuple[int, int]], matches: Iterator[re.Match[str]]
) -> Iterator[re.Match[str]]:
    """Yields the matches that do not start inside math; both come in order of position."""
    spans = iter(math)
    span = next(spans, None)
    for match in matches:
        while span and span[1] <= match.start():
            span = next(spans, None)
        if span is None or match.start() < span[0]:
            yield match


def _step_marks(body: str, math: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the spans of `Step k:`, or else of `1.`, `2.`, ... as far as they count up."""
    marks = [match.span() for match in _outside(math, _STEP.finditer(body))]
    if marks:
        return marks
    for match in _outside(math, _ITEM.finditer(body)):
        if int(match[1]) == len(marks) + 1:
            marks.append(match.span())
    return marks


def _answer(body: str, math: list[tuple[int, int]], *, after: int) -> tuple[int, tuple[int, int]]:
    """Returns where the steps end and the span of the answer, both at the end if there is none."""
    marks = [m.span() for m in _outside(math, _ANSWER.finditer(body)) if m.start() >= after]
    if not marks:
        return len(body), (len(body), len(body))
    begin, _ = _strip(body, (marks[-1][1], len(body)))
    line_end = body.find("\n", begin)
    return marks[-1][0], (begin, line_end if line_end >= 0 else len(body))


def _strip(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Moves both ends of a span inwards over white space."""
    begin, end = span
    piece = text[begin:end]
    begin += len(piece) - len(piece.lstrip(_WHITE))
    return begin, begin + len(piece.strip(_WHITE))


def _cut(text: str, spans: list[tuple[int, int]]) -> Rationale:
    """Cuts text into the stripped pieces of `spans` and the layout between them."""
    pieces, layout, position = [], [], 0
    for begin, end in (_strip(text, span) for span in spans):
        layout.append(text[position:begin])
        pieces.append(text[begin:end])
        position = end
    layout.append(text[position:])
    return Rationale(pieces[0], tuple(pieces[1:-1]), pieces[-1], tuple(layout))

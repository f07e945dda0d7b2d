"""Questions asked one after the other, at a terminal or line by line; one model, or two of them."""

import contextlib
import dataclasses
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cotjax.errors import InputError, visible

NARROW = 40  # columns below which answers stand one below the other
Ask = Callable[[str], None]  # a question, whose answer it prints
Texts = Iterable[list[str]]  # the completions so far, again and again


@dataclasses.dataclass
class Clock:
    """How long an answer takes.

    Attributes:
      first: seconds to its first token; None before it.
      whole: seconds to its end; None before it, and of one that was stopped.
      note: what else these seconds hold.
      over: whether nothing more comes.
    """

    first: float | None = None
    whole: float | None = None
    note: str = ""
    over: bool = False

    def watch(self, texts: Texts) -> Iterator[list[str]]:
        """The same texts, timed."""
        began = time.monotonic()
        for one in texts:
            if self.first is None:
                self.first = time.monotonic() - began
            yield one
        self.whole = time.monotonic() - began

    def __str__(self) -> str:
        """In words."""
        if self.first is None:
            return ""
        ended = ", stopped" if self.over else ""
        whole = ended if self.whole is None else f", all {self.whole:.2f} s"
        return f"first token {self.first:.2f} s{whole}{self.note}"


def chat(ask: Ask, console: Console, read: Callable[[str], str] = input) -> None:
    """Asks at a terminal until Ctrl-D; Ctrl-C ends an answer.

    Args:
      ask: prints the answer to a question.
      console: for all else.
      read: shows a prompt and gives a line.
    """
    with contextlib.suppress(ImportError):  # not on Windows
        importlib.import_module("readline")  # arrows and history at the prompt
    told = "Each question stands alone. Ctrl-C ends an answer, Ctrl-D the session."
    console.print(told, style="dim")
    while True:
        try:
            question = read("> ")
        except EOFError:
            with contextlib.suppress(KeyboardInterrupt):  # both keys at once
                console.print()
            return
        except KeyboardInterrupt:
            console.print()
            continue
        if not question.strip():
            continue
        try:
            ask(question)
        except KeyboardInterrupt:
            console.print("\nstopped", style="dim")
        except InputError as error:
            console.print(visible(f"error: {error}"), style="red")


def ask_lines(ask: Ask, lines: Iterable[str], *, apart: bool = True) -> None:
    """Asks each line that is not empty.

    Args:
      ask: prints the answer to a question.
      lines: of questions.
      apart: whether a line stands between two answers.

    Raises:
      InputError: there is none.
    """
    asked = 0
    for line in lines:
        if question := line.strip():
            if asked and apart:
                print()
            ask(question)
            asked += 1
    if not asked:
        raise InputError("the prompt is empty. Give a text, --file or the standard input.")


def pieces(texts: Texts, count: int) -> Iterator[str]:
    """What is to be printed of completions as they are written: one in pieces, several at the end.

    Args:
      texts: see `stream_texts`.
      count: completions.
    """
    now, shown = [""], 0
    for now in texts:
        if count == 1:  # a letter may need further tokens before it is one
            whole = now[0].rstrip("\ufffd")
            yield visible(whole[shown:])
            shown = max(shown, len(whole))
    if count == 1:
        yield visible(now[0][shown:])
    else:
        yield visible("\n\n".join(f"[{number}] {one}" for number, one in enumerate(now, 1)))


def show_answer(texts: Texts, count: int, console: Console, *, clock: Clock | None) -> None:
    """Prints an answer as it is written, and how long that took if there is a clock."""
    watched = clock.watch(texts) if clock else texts
    try:
        for piece in pieces(watched, count):
            print(piece, end="", flush=True)
        print()
    finally:
        if clock:
            clock.over = True
            console.print(str(clock), style="dim")


def show_side_by_side(
    names: Sequence[str],
    answers: Sequence[Texts],
    console: Console,
    *,
    clocks: Sequence[Clock],
) -> None:
    """Prints the answers of several models beside each other, as they are written.

    Args:
      names: of the models.
      answers: what each writes; one after the other is asked for.
      console: whose width they share; a narrow one has them one below the other.
      clocks: of each, whose times are told; or none.
    """
    texts = [""] * len(names)

    def drawn() -> RenderableType:
        return _beside(names, texts, clocks, console.width)

    with Live(drawn(), console=console, auto_refresh=False) as live:
        try:
            for place, answer in enumerate(answers):
                for now in clocks[place].watch(answer) if clocks else answer:
                    texts[place] = now[0].rstrip("\ufffd")
                    live.update(drawn(), refresh=True)
        finally:
            for clock in clocks:
                clock.over = True
            live.update(drawn(), refresh=True)


def _beside(
    names: Sequence[str], texts: Sequence[str], clocks: Sequence[Clock], width: int
) -> RenderableType:
    heads = [Text(visible(name), style="bold", overflow="fold") for name in names]
    shown = [Text(visible(text), overflow="fold") for text in texts]
    times = [Text(str(clock), style="dim") for clock in clocks]
    if width < NARROW:
        sides = zip(heads, shown, times or [Text()] * len(heads), strict=True)
        return Group(*(part for side in sides for part in side if part))
    table = Table.grid(padding=(0, 2), expand=False)
    for _ in names:
        table.add_column(width=(width - 2 * (len(names) - 1)) // len(names), overflow="fold")
    for row in (heads, shown, times) if times else (heads, shown):
        table.add_row(*row)
    return table

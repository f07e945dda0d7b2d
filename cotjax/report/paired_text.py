"""Two answer sheets compared, for the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cotjax.errors import visible
from cotjax.report.paired import Paired, Sheet, sentences, shown_interval, shown_p

TABLE = 52  # columns that the narrowest table takes


def print_compared(console: Console, first: Sheet, second: Sheet, found: Sequence[Paired]) -> None:
    """What became of the questions in words, then a table per difficulty."""
    overall, *levels = found
    console.print(Text(visible(f"{second.label} beside {first.label}"), style="bold"))
    whens = [f"{sheet.label}: {sheet.when}" for sheet in (first, second) if sheet.when]
    same = f"The same {overall.questions:,} held-out questions, answered greedily"
    console.print(Text(visible(f"{same} ({'; '.join(whens)})." if whens else f"{same}.")))
    for sentence in sentences(overall):
        console.print(Text(sentence))
    if not levels:
        return
    console.print(Text("\nPer difficulty, in steps of the solution", style="bold"))
    if console.width < TABLE:
        for one in levels:
            right = f"{one.right[0]:.0%} → {one.right[1]:.0%}"
            changes = f"{one.gained} gained, {one.lost} lost, {one.token_change.mean:+.1f} tokens"
            console.print(Text(f"{one.level}: {right}, {changes}"))
        return
    narrow = console.width < 72
    table = Table(box=None, pad_edge=False, padding=(0, 2 if not narrow else 1, 0, 0))
    for title in ("steps", "n", "right", "gained", "lost", "p", "tokens"):
        table.add_column(title, justify="left" if title == "steps" else "right", no_wrap=True)
    for one in levels:
        table.add_row(
            *(one.level, f"{one.questions:,}"),
            f"{one.right[0]:.0%} → {one.right[1]:.0%}",
            *(f"{one.gained}", f"{one.lost}", shown_p(one.p_value)),
            f"{one.token_change.mean:+.1f}" if narrow else shown_interval(one.token_change),
        )
    console.print(table)

"""What `cotjax replay` says: first in words, then one line for each thing that was compared."""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from cotjax.errors import visible
from cotjax.run.recompute import Replayed
from cotjax.run.written import WrittenRun

STYLES = {"equal": "green", "different": "bold red", "not written": "yellow"}


def print_replayed(console: Console, written: WrittenRun, replayed: Replayed) -> None:
    """Prints whether a step that was taken again is equal to what the run wrote of it."""
    style = "bold green" if replayed.equal else "bold red"
    first, *others = sentences(written, replayed)
    console.print(Text(visible(first), style=style))
    for sentence in others:
        console.print(Text(visible(sentence)))
    for note in replayed.notes:
        console.print(Text(visible(f"note: {note}"), style="yellow"))
    console.print()
    width = max(len(one.name) for one in replayed.findings)
    for one in replayed.findings:
        line = Text(f"  {one.name.ljust(width)}  ")
        line.append(one.verdict.ljust(max(map(len, STYLES))), style=STYLES[one.verdict])
        console.print(line.append(f"  {visible(one.told)}"))


def sentences(written: WrittenRun, replayed: Replayed) -> Iterator[str]:
    """The words: whether all is equal, how it was taken again, and what differs first."""
    step, start, difference = replayed.step, replayed.start, replayed.difference
    where = f"{written.folder}, step {step} of {written.last} ({written.stage})"
    silent = [one.name for one in replayed.findings if one.verdict == "not written"]
    if difference is not None:
        yield f"{where}: different. The first difference is in its {difference.name}:"
        yield f"{difference.told}."
    elif replayed.earlier is not None:
        yield f"{where}: equal, but a step before it is not."
    elif silent:
        yield f"{where}: equal in what the run wrote, which is not all."
    else:
        yield f"{where}: equal, bit for bit."
    if replayed.earlier is not None:
        earlier, found = replayed.earlier
        yield (
            f"Step {earlier}, on the way, differs already in its {found.name} ({found.told}); what "
            "follows from it need not be equal."
        )
    count = step - start
    begun = f"the checkpoint of step {start}" if start else "the start of the run"
    yield f"Taken again from {begun}: {count} step{'s' * (count > 1)}."

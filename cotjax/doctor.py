"""Checks everything that a run needs, and trains nothing: `cotjax doctor --config run.toml`.

One line a check, with OK, NOTE or FAIL: settings, files, devices, memory, the student's tokenizer,
template and numbers, and whether its teachers speak its language. Flags are those of `cotjax
train`; the exit status is 1 if something failed, else 0.
"""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console

from cotjax import config as configs
from cotjax.config.command import Command
from cotjax.errors import InputError, visible
from cotjax.run.findings import Finding
from cotjax.startup import set_up

COLORS = {"OK": "green", "NOTE": "yellow", "FAIL": "red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what it finds; 0 if nothing failed, else 1."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    counts = dict.fromkeys(COLORS, 0)
    for finding in examine(argv):
        counts[finding.verdict] += 1
        console.print(finding.verdict.ljust(5), style=COLORS[finding.verdict], end="")
        console.print(visible(f"{finding.name}: {finding.says}"))
    console.print(f"{counts['OK']} OK, {counts['NOTE']} NOTE, {counts['FAIL']} FAIL")
    return 1 if counts["FAIL"] else 0


def examine(argv: Sequence[str] | None = None) -> Iterator[Finding]:
    """What is found of a config from flags; None reads the process's own.

    Raises:
      SystemExit: after `--help` or `--version`.
    """
    command = Command(
        "doctor", __doc__, usage="[--config FILE.toml] [--KEY VALUE …]", takes_keys=True
    )
    command.add_argument("--config", metavar="FILE", help="TOML file of the run")
    try:
        known, flags = command.parse(argv)
        config = configs.load([*(["--config", known.config] if known.config else []), *flags])
    except InputError as error:
        yield Finding("FAIL", "settings", str(error))
        return
    from cotjax.run.diagnosis import examine

    yield from examine(config)


if __name__ == "__main__":
    set_up()
    sys.exit(main())

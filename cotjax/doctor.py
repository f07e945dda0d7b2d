"""Checks the machine and a run, and trains one step: `cotjax doctor [--config run.toml]`.

One line a check, with OK, NOTE or FAIL: packages and versions, cache of compiled programs, disk,
extras; settings, files, the student's tokenizer, template and numbers, and whether its teachers
speak its language; devices, memory, and a step of the built-in student in a temporary folder.
Flags are those of `cotjax train`; the exit status is 1 if something failed, else 0.
"""

from __future__ import annotations

import getpass
import json
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cotjax.errors import InputError, visible
from cotjax.findings import Examination, Finding
from cotjax.machine import hardware, software, versions
from cotjax.startup import set_up

if TYPE_CHECKING:
    from argparse import Namespace

    from cotjax.config import Config

COLORS = {"OK": "green", "NOTE": "yellow", "FAIL": "red"}
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)  # of a variable's name
_TOKENS = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|glpat-|AKIA)[\w-]{8,}|(?<=://)[^/\s@]+(?=@)")
_HOMES = re.compile(r"(?<![\w.])/(home|Users)/[^/\s:,;'\"]+")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what it finds; 0 if nothing failed, else 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    shown = not {"--json", "--issue"} & {*argv}
    found: list[Finding] = []
    for finding in examine(argv):
        found.append(finding)
        if shown:
            _print(finding)
    failed = any(one.verdict == "FAIL" for one in found)
    if "--json" in argv:
        rows = [vars(one) for one in found]
        about = {"ok": not failed, "versions": versions(), "findings": rows}
        print(json.dumps(about | {"issue": issue(found)}, indent=2))
    elif "--issue" in argv:
        print(issue(found))
    else:
        print(f"{_counted(found)}. For an issue: cotjax doctor --issue, without names and paths.")
    return 1 if failed else 0


def _print(finding: Finding) -> None:
    text = visible(f"{finding.name}: {finding.says}")
    try:
        from rich.console import Console
    except ImportError:  # one of the packages that may be missing
        print(f"{finding.verdict.ljust(5)}{text}")
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(finding.verdict.ljust(5), style=COLORS[finding.verdict], end="")
    console.print(text)


def _counted(found: Sequence[Finding]) -> str:
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in COLORS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def examine(argv: Sequence[str]) -> Iterator[Finding]:
    """What is found of the machine, and of a config from flags.

    Raises:
      SystemExit: after `--help` or `--version`.
    """
    config: Config | None = None
    wrong: Finding | None = None
    trains = False
    try:
        known, config = _asked(argv)
        trains = not known.no_train
    except InputError as error:
        wrong = Finding("FAIL", "settings", str(error))
    except ImportError as error:
        wrong = Finding("FAIL", "packages", f"{error.name} cannot be imported ({error}).")
    broken = False
    for finding in software(config.output if config else "runs"):
        broken = broken or (finding.verdict == "FAIL" and finding.name == "packages")
        yield finding
    if wrong and not (broken and wrong.name == "packages"):
        yield wrong
    if broken or (wrong and wrong.name == "packages"):
        return
    if config:
        from cotjax.run.diagnosis import examine

        yield from examine(config)
    devices = [*hardware()]
    yield from devices
    if trains and not any(one.verdict == "FAIL" for one in devices):
        from cotjax.run.trial import try_one_step

        yield from Examination().check("train", try_one_step)


def _asked(argv: Sequence[str]) -> tuple[Namespace, Config]:
    """The command's flags, and the config of those of keys.

    Raises:
      InputError: a flag or a setting is wrong.
      ImportError: something that reading settings needs is missing.
    """
    from cotjax import config as configs
    from cotjax.config.command import Command

    usage = "[--config FILE.toml] [--KEY VALUE …]"
    command = Command("doctor", __doc__, usage=usage, takes_keys=True)
    command.add_argument("--config", metavar="FILE", help="TOML file of the run")
    command.add_argument("--no-train", action="store_true", help="leave the one step out")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--issue", action="store_true", help="print Markdown for an issue")
    known, flags = command.parse(argv)
    config = configs.load([*(["--config", known.config] if known.config else []), *flags])
    return known, config


def issue(found: Sequence[Finding]) -> str:
    """What was found as Markdown for an issue, without names, home folders, hosts and tokens."""
    lines = [f"{one.verdict.ljust(5)}{visible(one.name)}: {visible(one.says)}" for one in found]
    packages = ", ".join(f"{name} {one or 'missing'}" for name, one in versions().items())
    text = "\n".join(
        [
            "### What happened",
            "",
            "<!-- what you ran, what you expected, and what came instead -->",
            "",
            "### Environment",
            "",
            f"`{packages}`",
            "",
            f"<details><summary>cotjax doctor: {_counted(found)}</summary>",
            "",
            "```text",
            *(line.replace("```", "'''") for line in lines),
            "```",
            "",
            "</details>",
        ]
    )
    return without_names(text, os.environ)


def without_names(text: str, environment: Mapping[str, str]) -> str:
    """A text in which no user, home folder, host or token can be read.

    Args:
      text: of anything.
      environment: variables, of which those that sound like secrets are.

    Example:
      >>> without_names("/home/ana/runs: hf_abcdefghijkl of K3Y-12345", {"MY_KEY": "K3Y-12345"})
      '~/runs: TOKEN of TOKEN'
    """
    for name, value in environment.items():
        if _SECRET.search(name) and len(value) >= 8:
            text = text.replace(value, "TOKEN")
    text = _TOKENS.sub("TOKEN", text)
    text = (
        text.replace(str(pathlib.Path.home()), "~") if len(str(pathlib.Path.home())) > 1 else text
    )
    text = _HOMES.sub("~", text)
    for name, stands in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stands, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user that has no name
        return ""


if __name__ == "__main__":
    set_up()
    sys.exit(main())

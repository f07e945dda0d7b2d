"""Accuracy on held-out problems: `cotjax evaluate --checkpoint runs/NAME`.

Greedy first, then sampled (`--eval.samples=0`: greedy alone), of a run, with its own config, or of
a model as `model.path` takes it, in the same way. `--compare A B` measures several on the same
questions, and says what differs by more than chance. Ctrl-C keeps what is done.
"""

import dataclasses
import json
import pathlib
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from cotjax.config import Config
from cotjax.config.command import Command, one_line_errors
from cotjax.config.flags import read_flags
from cotjax.errors import InputError
from cotjax.progress import hushed
from cotjax.report.paired import as_json, compare_sheets, sheet_of
from cotjax.report.paired_text import print_compared
from cotjax.run.alike import configs_of
from cotjax.run.early import check_files, check_held_out
from cotjax.run.measure import FILES, Keep, forget, measure, measure_files
from cotjax.run.opened import ALLOWS, ALLOWS_HELP, config_from_flags, open_model
from cotjax.startup import set_up

STOPPED = 130  # the exit status of what Ctrl-C ended


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and prints; 0 if it worked, 2 if the input was wrong, 130 after Ctrl-C."""
    command = Command(
        *("evaluate", __doc__),
        usage="(--checkpoint RUN | --compare A B …) [--KEY VALUE …]",
        takes_keys=True,
    )
    command.add_argument("--checkpoint", metavar="RUN", default="", help="run folder, or a model")
    command.add_argument(
        *("--compare",),
        metavar="RUN",
        nargs="+",
        default=[],
        help="several, measured as the first run is",
    )
    command.add_argument(
        "--files",
        metavar="FILE",
        nargs="+",
        default=[],
        help="files of problems, in place of the held-out ones",
    )
    command.add_argument(
        "--out", metavar="FILE", type=pathlib.Path, help="JSON file for the numbers"
    )
    command.add_argument(
        "--completions",
        metavar="FILE",
        type=pathlib.Path,
        help="JSON Lines file for the greedy completions",
    )
    command.add_argument(ALLOWS, action="store_true", help=ALLOWS_HELP)
    command.add_output("the numbers as one JSON object")
    known, rest = command.parse(argv)
    with hushed(known.quiet):
        return _run(known, rest)


def _run(known: Namespace, rest: Sequence[str]) -> int:
    if known.checkpoint and known.compare or not (known.checkpoint or known.compare):
        raise InputError("cotjax evaluate: needs --checkpoint RUN, or --compare A B; one of them.")
    for flag, path in (("--out", known.out), ("--completions", known.completions)):
        if path:
            _check_out(flag, path)
    rows: list[dict[str, Any]] = []
    if known.compare:
        return _compare(known, rest)
    try:
        numbers = evaluate(
            known.checkpoint,
            rest,
            files=known.files,
            allow_nonfinite=known.allow_nonfinite,
            keep=rows.extend,
        )
    except KeyboardInterrupt:
        print("stopped before the first batch was done, so there are no numbers", file=sys.stderr)
        return STOPPED
    text = json.dumps(numbers, indent=2) + "\n"
    if known.out:
        _write("--out", known.out, text)
    if known.completions:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write("--completions", known.completions, lines)
    by_file = numbers if known.files else {"": numbers}
    stopped = any(one.get("problems_left") for one in by_file.values())
    if known.json:
        print(text, end="")
    else:
        _print(known.checkpoint, by_file)
    if left := [name for name in known.files if name not in numbers]:
        print(f"stopped: nothing was measured on {', '.join(left)}", file=sys.stderr)
    return STOPPED if stopped or left else 0


def evaluate(
    checkpoint: str,
    argv: Sequence[str] = (),
    *,
    files: Sequence[str] = (),
    allow_nonfinite: bool = False,
    keep: Keep = forget,
) -> dict[str, Any]:
    """The numbers of `cotjax.evaluate`, from flags.

    Args:
      checkpoint: a run folder, one of its `checkpoints/<step>`, or a model (see `model.path`).
      argv: config flags.
      files: to measure on instead; see `cotjax.evaluate`.
      allow_nonfinite: see `cotjax.evaluate`.
      keep: is given the greedy completions behind the numbers, those of each file at once.

    Raises:
      InputError: no such checkpoint or model, or a wrong setting.
    """
    return _measured(
        *(checkpoint, config_from_flags(checkpoint, argv), argv),
        files=files,
        allow_nonfinite=allow_nonfinite,
        keep=keep,
    )


def _measured(
    checkpoint: str,
    config: Config,
    argv: Sequence[str],
    *,
    files: Sequence[str],
    allow_nonfinite: bool,
    keep: Keep,
) -> dict[str, Any]:
    if files:
        check_files(files, FILES)
    else:
        check_held_out(config, alone=True)
    opened = open_model(checkpoint, config, allow_nonfinite=allow_nonfinite)
    if not files:
        return measure(opened, keep)
    _, given = read_flags(argv)
    problems = given.get("eval", {}).get("problems", 0)
    return measure_files(opened, files, problems=problems, keep=keep)


def _compare(known: Namespace, argv: Sequence[str]) -> int:
    """Measures several, compares each with the first, and prints."""
    names: list[str] = known.compare
    if len(names) < 2 or len({*names}) < len(names):
        raise InputError(f"--compare {' '.join(names)}: needs two different runs or models.")
    by_name: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for name, config in zip(names, configs_of(names, argv), strict=True):
        kept: list[list[dict[str, Any]]] = []
        try:
            by_name[name] = _measured(
                *(name, config, argv),
                files=known.files,
                allow_nonfinite=known.allow_nonfinite,
                keep=kept.append,
            )
        except KeyboardInterrupt:
            by_name[name] = {}
        if not _is_whole(by_name[name], known.files):
            print(f"stopped while {name} was measured: nothing is compared", file=sys.stderr)
            return STOPPED
        of = [f"{file}: " for file in known.files] or [""]
        answers[name] = [
            {**row, "id": f"{file}{row['id']}"}
            for file, rows in zip(of, kept, strict=False)
            for row in rows
        ]
    first, *others = (sheet_of(f"--compare {name}", name, "", answers[name]) for name in names)
    told = [(other, compare_sheets(first, other)) for other in others]
    if known.completions:
        rows = [{"model": name} | row for name, own in answers.items() for row in own]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write("--completions", known.completions, lines)
    pairs = {other.label: [dataclasses.asdict(one) for one in found] for other, found in told}
    everything = {"numbers": by_name, "against": first.label, "paired": pairs}
    text = as_json(everything)
    if known.out:
        _write("--out", known.out, text)
    if known.json:
        print(text, end="")
        return 0
    for name, numbers in by_name.items():
        _print(name, numbers if known.files else {"": numbers})
    out = Console(highlight=False, markup=False)
    out.soft_wrap = not out.is_terminal
    for other, found in told:
        out.print()
        print_compared(out, first, other, found)
    return 0


def _is_whole(numbers: dict[str, Any], files: Sequence[str]) -> bool:
    """Whether numbers are of all problems, and not of those before Ctrl-C."""
    parts = [numbers.get(file, {}) for file in files] if files else [numbers]
    return all(part and "problems_left" not in part for part in parts)


def _check_out(flag: str, path: pathlib.Path) -> None:
    """Before anything is computed, that it will have a place."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        reason = "it is a folder" if path.is_dir() else "its folder is not there"
        raise InputError(f"{flag} {path}: cannot write there ({reason}). Name a file.")


def _write(flag: str, path: pathlib.Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{flag} {path}: cannot write there ({error.strerror}).") from error


def _print(checkpoint: str, by_file: dict[str, dict[str, Any]]) -> None:
    """Prints the numbers."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for file, numbers in by_file.items():
        on = f" on {file}" if file else ""
        console.print(f"{checkpoint}, step {numbers['step']}{on}", style="bold")
        if left := numbers.get("problems_left"):
            done = numbers["problems"]
            console.print(f"  stopped after {done} of {done + left} problems", style="yellow")
        for name, value in numbers.items():
            if name not in ("step", "problems_left"):
                console.print(f"  {name.ljust(18)} {value:.4g}")


if __name__ == "__main__":
    set_up()
    sys.exit(main())

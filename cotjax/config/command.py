"""What all commands share: errors in one line, the nearest flag, `--version`, and `--help`."""

import argparse
import functools
import inspect
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from cotjax import __version__
from cotjax.config.flags import key_of
from cotjax.config.reading import likely
from cotjax.errors import TRACEBACK, InputError, Stopped, visible

VERSION = f"cotjax {__version__}"
WIDTH = 80  # columns of help, or fewer where a terminal has no more


def width() -> int:
    """Columns that help may take; 40 at least, below which a terminal breaks its lines."""
    return min(WIDTH, max(shutil.get_terminal_size((WIDTH, 24)).columns, 40))


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Prints the message of an `InputError` alone, and makes the exit status 2 of it.

    A run that a signal stopped says how it goes on (130, 143); one whose traceback is in a file
    says where (1); Ctrl-C elsewhere is one line too (130).
    """

    @functools.wraps(main)
    def safe(*args: object, **settings: object) -> int:
        try:
            return main(*args, **settings)
        except InputError as error:
            print(f"error: {visible(str(error))}", file=sys.stderr)
            return 2
        except Stopped as stopped:
            print(visible(str(stopped)), file=sys.stderr)
            return stopped.status
        except KeyboardInterrupt:  # before there is anything to save
            print("stopped by SIGINT.", file=sys.stderr)
            return 128 + signal.SIGINT
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            if not any(note.startswith(TRACEBACK) for note in notes):
                raise
            what = str(error).strip().partition("\n")[0][:300]
            told = " ".join([f"{type(error).__name__}: {what}".removesuffix(".") + ".", *notes])
            print(f"error: {visible(told)}", file=sys.stderr)
            return 1

    return safe


class Command(argparse.ArgumentParser):
    """The flags of one command.

    Args:
      name: as in `cotjax NAME`.
      about: what it does; the first words of its `--help`.
      usage: what stands behind the name.
      takes_keys: whether config keys may stand among its flags.
    """

    def __init__(
        self, name: str, about: str | None, *, usage: str, takes_keys: bool = False
    ) -> None:
        super().__init__(
            prog=f"cotjax {name}",
            description=_filled(inspect.cleandoc(about or "")),
            usage=f"cotjax {name} {usage}",
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=32, width=width()
            ),
            epilog="Config keys: cotjax train --help." if takes_keys else None,
            allow_abbrev=False,
        )
        self._takes_keys = takes_keys
        self.add_argument("--version", action="version", version=VERSION)

    def add_output(self, what: str) -> None:
        """Adds `--json` and `--quiet`.

        Args:
          what: is printed as JSON, in the words of the help.
        """
        self.add_argument("--json", action="store_true", help=f"print {what}")
        self.add_argument("--quiet", action="store_true", help="say nothing of how far it is")

    def parse(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """The command's own flags, and those of config keys.

        Raises:
          InputError: a flag that does not exist (names the nearest), a value of a wrong type, or
            one that is missing.
          SystemExit: after `--help` or `--version`.
        """
        argv = sys.argv[1:] if argv is None else list(argv)
        for word in argv:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                self._check(flag)
        known, rest = self.parse_known_args(argv)
        if rest and not self._takes_keys:
            self.error(f"no flag stands before {rest[0]}")
        return known, rest

    def _check(self, flag: str) -> None:
        own = [name.removeprefix("--") for name in self._option_string_actions]
        if self._takes_keys:
            key_of(flag, own)
            return
        close = likely(flag.removeprefix("--"), own, "--{}")
        listed = "" if close else f" {self.prog} --help lists them."
        raise InputError(f"{flag}: {self.prog} has no such flag.{close or listed}")

    def error(self, message: str) -> NoReturn:
        """Stops; `argparse` calls it.

        Raises:
          InputError: always.
        """
        wrong = _WRONG_TYPE.fullmatch(message)
        if wrong:
            flag, kind, value = wrong.groups()
            raise InputError(f"{flag} = {value}: needs {_NEEDS[kind]}.")
        raise InputError(f"{self.prog}: {message}. See {self.prog} --help.")


_WRONG_TYPE = re.compile(r"argument (\S+): invalid (int|float) value: '(.*)'")  # argparse's words
_NEEDS = {"int": "a whole number", "float": "a number"}


def _filled(text: str) -> str:
    """Paragraphs as wide as a terminal; an indented one is left as it is, and so is `a command`."""
    whole = re.sub("`[^`]{1,40}`", lambda code: code[0].replace(" ", "\xa0"), text)
    paragraphs = whole.split("\n\n")
    filled = [one if one.startswith(" ") else textwrap.fill(one, width()) for one in paragraphs]
    return "\n\n".join(filled).replace("\xa0", " ")

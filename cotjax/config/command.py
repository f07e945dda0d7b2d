"""What all commands share: errors in one line, the nearest flag, `--version`, and `--help`."""

import argparse
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cotjax import __version__
from cotjax.config.flags import key_of
from cotjax.config.reading import nearest
from cotjax.errors import InputError

VERSION = f"cotjax {__version__}"


def one_line_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Prints the message of an `InputError` alone, and makes the exit status 2 of it."""

    @functools.wraps(main)
    def safe(*args: object, **settings: object) -> int:
        try:
            return main(*args, **settings)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return safe


class Command(argparse.ArgumentParser):
    """The flags of one command.

    Args:
      name: as in `cotjax NAME`.
      about: what it does; the first words of its `--help`.
      takes_keys: whether config keys may stand among its flags.
    """

    def __init__(self, name: str, about: str | None, *, takes_keys: bool = False) -> None:
        super().__init__(
            prog=f"cotjax {name}",
            description=inspect.cleandoc(about or ""),
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=32, width=80
            ),
            epilog="Config keys: cotjax train --help." if takes_keys else None,
            allow_abbrev=False,
        )
        self._takes_keys = takes_keys
        self.add_argument("--version", action="version", version=VERSION)

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
        close = nearest(flag.removeprefix("--"), own)
        raise InputError(f'{flag}: {self.prog} has no such flag. Did you mean "--{close}"?')

    def error(self, message: str) -> NoReturn:
        """Stops; `argparse` calls it.

        Raises:
          InputError: always.
        """
        raise InputError(f"{self.prog}: {message}. See {self.prog} --help.")

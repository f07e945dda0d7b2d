"""The one exception for bad input: a message a person can act on, without a traceback."""


class InputError(Exception):
    """A config, file or argument is wrong and the user can fix it.

    The message names what was wrong with its value, what is needed, and the key or line to
    change. Command-line entry points print it alone and exit with status 2.
    """


class NothingToDo(InputError):
    """A stage has no work, as when no problem is a persistent failure; a list skips it."""

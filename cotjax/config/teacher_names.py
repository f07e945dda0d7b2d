"""What an entry of `teachers.paths` says: a model, and how much of the rationale it is shown.

    PATH        a model that sees what the student sees
    PATH@C      the same, after a prompt that holds the first share C of the reference's steps too
    self@C      the student's own starting weights, shown that share

The last `@` counts, and only with a decimal number in digits behind it: `owner/name@main` is a
revision of the Hub, `owner/name@main@0.5` a share of it. A revision, or a folder, whose name ends
in `@` and a number is written with a share: `owner/name@2@0`.
"""

import dataclasses
import re

from cotjax.errors import InputError

SELF = "self"
TEXTS = ".jsonl"  # ends the name of a file of texts
_SHARE = re.compile(r"(?P<path>.+)@(?P<share>[+-]?(?:\d+\.?\d*|\.\d+))")

NO_TEACHER = (
    "teachers.paths = []: there is no teacher. Set teachers.paths to run folders, model folders or "
    ".gguf files, weak to strong."
)


@dataclasses.dataclass(frozen=True)
class TeacherName:
    """An entry of `teachers.paths`, read.

    Attributes:
      path: of the model or file; empty for the student's own start.
      share: of the reference rationale's steps that its prompt holds, 0–1.
      is_shown: whether a share was written, be it 0.
    """

    path: str
    share: float = 0.0
    is_shown: bool = False

    @property
    def is_self(self) -> bool:
        """Whether it is the student as it was when the run began."""
        return not self.path

    @property
    def is_file(self) -> bool:
        """Whether it is a file of texts, and no model."""
        return self.path.endswith(TEXTS)

    def count(self, num_steps: int) -> int:
        """How many of n steps the prompt holds: C · n, rounded half up.

        Example:
          >>> [parse_teacher(f"a@{share}").count(3) for share in (0, 0.25, 0.5, 1)]
          [0, 1, 2, 3]
        """
        return int(self.share * num_steps + 0.5)


def parse_teacher(name: str) -> TeacherName:
    """Reads an entry of `teachers.paths`; see the module docstring.

    Example:
      >>> parse_teacher("owner/name@v1.0@0.5")
      TeacherName(path='owner/name@v1.0', share=0.5, is_shown=True)
      >>> parse_teacher("owner/name@main").is_shown, parse_teacher("self@1").is_self
      (False, True)

    Raises:
      InputError: the share is not from 0 to 1, or of a file of texts.
    """
    match = _SHARE.fullmatch(name)
    if match is None:
        return TeacherName(name)
    path, told = match["path"], match["share"]
    share = float(told)
    if not 0 <= share <= 1:
        raise InputError(
            f'teachers.paths: "{name}": behind the last @ stands the share of the reference '
            f"rationale that the teacher is shown, a number from 0 to 1, and {told} is none. "
            f'Write "{path}@1" for all of it, or "{name}@0" if {told} belongs to the name.'
        )
    found = TeacherName("" if path == SELF else path, share, is_shown=True)
    if found.is_file:
        raise InputError(
            f'teachers.paths: "{name}": a file holds texts that were written already, so nothing '
            f'can be shown to their writer. Write "{path}", or name the model that wrote it.'
        )
    return found

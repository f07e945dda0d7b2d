"""Where a launched run is kept: `gs://NAME` or `s3://NAME`, or a folder in it."""

import dataclasses
import re

from cotjax.errors import InputError, shown

# Names as Google Cloud Storage and S3 take them both.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_FOLDER = re.compile(r"[\w.=+-]+(/[\w.=+-]+)*")


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket, or a folder of one.

    Attributes:
      scheme: gs or s3.
      name: of the bucket.
      folder: in it, "" for all of it.
    """

    scheme: str
    name: str
    folder: str = ""

    @property
    def source(self) -> str:
        """The whole bucket, as tools name it."""
        return f"{self.scheme}://{self.name}"

    def runs(self, mounted: str) -> str:
        """The folder of all runs, where the bucket is mounted at `mounted`."""
        return self._inside(mounted, "runs")

    def compiled(self, mounted: str) -> str:
        """The folder of compiled programs, one for all hosts and runs."""
        return self._inside(mounted, "xla")

    def _inside(self, mounted: str, name: str) -> str:
        return "/".join(part for part in (mounted, self.folder, name) if part)


def parse_bucket(text: str) -> Bucket:
    """Reads a bucket.

    Raises:
      InputError: it is none.

    Example:
      >>> parse_bucket("gs://my-runs/maths/").runs("/bucket")
      '/bucket/maths/runs'
    """
    scheme, found, rest = text.partition("://")
    name, _, folder = rest.partition("/")
    folder = folder.rstrip("/")
    wanted = "Give gs://NAME or gs://NAME/FOLDER (s3:// for Amazon's), of a bucket that exists."
    if not found or scheme not in ("gs", "s3"):
        raise InputError(f"--bucket {shown(text)}: is no bucket. {wanted}")
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"--bucket {shown(text)}: {shown(name)} is no bucket's name, which has 3 to 63 small "
            f"letters, digits, dots, dashes or underscores. {wanted}"
        )
    if folder and (not _FOLDER.fullmatch(folder) or ".." in folder.split("/")):
        raise InputError(
            f"--bucket {shown(text)}: {shown(folder)} is no folder. Use letters, digits and "
            "- . _ = + between slashes."
        )
    return Bucket(scheme, name, folder)

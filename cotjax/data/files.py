"""The lines of a text file as people have them: compressed, in shards, with a byte order mark."""

import codecs
import errno
import gzip
import importlib
import pathlib
import stat
import zlib

from cotjax.errors import InputError

SUFFIXES = (".jsonl", ".json", ".ndjson")
COMPRESSED = (".gz", ".zst")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_OTHERS = {
    b"PAR1": 'a Parquet file. Set data.source = "parquet".',
    b"PK\x03\x04": "a zip archive. Unpack it.",
    b"BZh": "compressed by bzip2. Unpack it, or compress it by gzip.",
    b"\xfd7zXZ": "compressed by xz. Unpack it, or compress it by gzip.",
}
# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_lines(path: str, key: str) -> list[tuple[str, list[str]]]:
    """The lines of a file, or of every shard of a folder in the order of their names.

    Lines end with a line feed, a carriage return or both; other separators, which a JSON string may
    hold, stay.

    Args:
      path: of the file or folder.
      key: the config key that named it, for errors.

    Returns:
      name and lines of each file.

    Raises:
      InputError: nothing there, no file of text, an empty one, or one in another encoding.
    """
    place = pathlib.Path(path)
    try:
        if not path:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        files = _shards(place, key) if path and place.is_dir() else [place]
        return [(file.name, _lines(file, f'{key} = "{file}"', key)) for file in files]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f'{key} = "{path}": cannot be read ({reason}). Set {key} to a .jsonl file that can be '
            "read."
        ) from error


def _shards(folder: pathlib.Path, key: str) -> list[pathlib.Path]:
    """The text files of a folder, by name; JSON files only where there are no JSON lines."""
    there = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    found = [file for file in there if _kind(file) in (".jsonl", ".ndjson")]
    found = found or [file for file in there if _kind(file) == ".json"]
    if not found:
        names = ", ".join(file.name for file in there[:5]) or "nothing"
        raise InputError(
            f'{key} = "{folder}": is a folder without a {" or ".join(SUFFIXES)} file; it holds '
            f"{names}. Set {key} to a file, or to a folder of such files."
        )
    return found


def _kind(file: pathlib.Path) -> str:
    """A file's suffix before that of its compression."""
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _lines(file: pathlib.Path, shown: str, key: str) -> list[str]:
    if not stat.S_ISREG(file.stat().st_mode):
        raise InputError(f"{shown}: is no regular file. Set {key} to a file on disk.")
    content = file.read_bytes()
    for begin, what in _OTHERS.items():
        if content.startswith(begin):
            raise InputError(f"{shown}: is {what}")
    content = _unpacked(content, shown)
    if not content:
        raise InputError(f"{shown}: is empty. Set {key} to a file with records.")
    mark, encoding = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", "utf-8"))
    content = content[len(mark) :]
    begin = content[:4096]
    if encoding == "utf-8" and begin.count(0) * 8 > len(begin):  # one alone is its line's mistake
        raise InputError(
            f"{shown}: holds NUL bytes, so it is binary, or UTF-16 without a byte order mark. Save "
            "it as UTF-8."
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{shown}: cannot be read: line {line} is not {encoding.upper()} ({error.reason}). "
            "Save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _unpacked(content: bytes, shown: str) -> bytes:
    """The content of a compressed file, whatever its name says."""
    if content.startswith(_GZIP):
        return gzip.decompress(content)
    if not content.startswith(_ZSTD):
        return content
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError as error:
        raise InputError(
            f'{shown}: is compressed by Zstandard. Run pip install "cotjax[zst]".'
        ) from error
    pieces: list[bytes] = []
    try:
        while content:  # a file may be several, one behind the other
            frame = zstandard.ZstdDecompressor().decompressobj()
            pieces.append(frame.decompress(content))
            if not frame.eof:
                raise EOFError("Zstandard file ended before its end marker")
            content = frame.unused_data
    except zstandard.ZstdError as error:
        raise InputError(f"{shown}: a damaged Zstandard file ({error}). Copy it again.") from error
    return b"".join(pieces)

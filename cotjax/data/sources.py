"""Records by the name of where they come from, and mixtures of such sources by weight."""

import dataclasses
import decimal
import importlib
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from cotjax.config.mixture import parse_mixture as parse_mixture
from cotjax.data.hub_files import split_files
from cotjax.data.jsonl import json_rows
from cotjax.data.layouts import RecordReader
from cotjax.errors import InputError, visible
from cotjax.interfaces import Record, Source

FileSource = Literal["jsonl", "parquet", "array_record", "tfds", "hub", "reasoning_gym"]

# Rows are (place, row): the place names the row in errors. A row that cannot even be decoded is
# the InputError that says why.
Rows = Iterable[tuple[str, Any]]


class Records(Source, Protocol):
    """A source that a stage trains on, and what it offers a stage beside its records."""

    @property
    def parts(self) -> "tuple[tuple[Source, float], ...]":
        """Sources that are drawn from by weight; several have no order among each other."""
        ...

    def part(self, chosen: Sequence[int] | np.ndarray) -> "Records":
        """The records at some indices, in the order of these."""
        ...

    def checked(self, check: Callable[[list[Record]], list[Record]]) -> "Records":
        """What `check` leaves of the records; those that are made one by one pass unseen."""
        ...

    def mapped(self, change: Callable[[Record], Record]) -> "Records":
        """The records as `change` makes them; it travels to workers, so it holds no model."""
        ...


class OneSource:
    """`Records` of a source that is no mixture and makes its records one by one."""

    @property
    def parts(self) -> tuple[tuple[Any, float], ...]:
        """Itself alone."""
        return ((self, 1.0),)

    def part(self, chosen: Sequence[int] | np.ndarray) -> Records:
        """The records at some indices."""
        own: Any = self
        # A range stays one: a part of ten million records holds no list of them.
        return Subset(own, chosen if isinstance(chosen, range) else np.asarray(chosen, int))

    def checked(self, check: Callable[[list[Record]], list[Record]]) -> Any:
        """Itself: there are too many records to check each."""
        del check
        return self

    def mapped(self, change: Callable[[Record], Record]) -> Any:
        """Each record as `change` makes it when it is asked for."""
        own: Any = self
        return Mapped(own, change)


class RecordList(list[Record], OneSource):
    """The records of a file, in its order."""

    def part(self, chosen: Sequence[int] | np.ndarray) -> "RecordList":
        """The records at some indices."""
        return RecordList(self[int(index)] for index in chosen)

    def checked(self, check: Callable[[list[Record]], list[Record]]) -> "RecordList":
        """What `check` leaves of them."""
        return RecordList(check(self))

    def mapped(self, change: Callable[[Record], Record]) -> "RecordList":
        """All of them as `change` makes them."""
        return RecordList(map(change, self))


@dataclasses.dataclass(frozen=True)
class Subset(OneSource):
    """Some records of a source, by index."""

    source: Source
    indices: np.ndarray | range

    def __len__(self) -> int:
        """Number of records."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        """Record `index` of the subset."""
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Mapped(OneSource):
    """The records of a source, each as a function makes it."""

    source: Source
    change: Callable[[Record], Record]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        """Record `index` of the source, changed."""
        return self.change(self.source[index])


@dataclasses.dataclass(frozen=True)
class Mixture(OneSource):
    """Sources that one stream draws from in proportion to their weights.

    Attributes:
      sources: at least one; each is shuffled and repeated on its own.
      weights: > 0, one per source; only their ratios matter.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuses what nothing could be drawn from.

        Raises:
          InputError: no source, a weight that is not positive, or an empty source.
        """
        if not self.sources or len(self.sources) != len(self.weights):
            raise InputError(
                f"data.mixture: {len(self.sources)} sources, {len(self.weights)} weights. "
                "Set data.mixture to entries such as problems=1, jsonl:train.jsonl=3."
            )
        for number, (source, weight) in enumerate(zip(self.sources, self.weights, strict=True), 1):
            if not 0 < weight < float("inf") or not len(source):
                raise InputError(
                    f"data.mixture: source {number} has weight {weight:g} and {len(source)} "
                    "records, so nothing is drawn from it. Set its weight > 0 or remove it."
                )

    def __len__(self) -> int:
        """Number of records in all sources."""
        return sum(len(source) for source in self.sources)

    def __getitem__(self, index: int) -> Record:
        """Record `index`; they are numbered source by source."""
        for source in self.sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)

    def checked(self, check: Callable[[list[Record]], list[Record]]) -> "Mixture":
        """What `check` leaves of the records of each source."""
        sources: tuple[Any, ...] = self.sources
        return Mixture(tuple(source.checked(check) for source in sources), self.weights)

    def mapped(self, change: Callable[[Record], Record]) -> "Mixture":
        """The records of each source as `change` makes them."""
        sources: tuple[Any, ...] = self.sources
        return Mixture(tuple(source.mapped(change) for source in sources), self.weights)

    @property
    def parts(self) -> tuple[tuple[Source, float], ...]:
        """Its sources, by weight."""
        return tuple(zip(self.sources, self.weights, strict=True))


def read_records(
    path: str,
    reader: RecordReader,
    *,
    source: FileSource = "jsonl",
    split: str = "train",
    config: str = "",
    size: int = 1000,
    seed: int = 0,
    key: str = "data.path",
    on_bad_record: Literal["error", "skip"] = "error",
    last: int = 0,
) -> list[Record]:
    """All records of a source, in its order, or its last ones.

    Args:
      path: of the file or folder; for reasoning_gym the name of one of its data sets.
      reader: how a row becomes a record.
      source: the format.
      split: which part of a data set of TFDS or the hub.
      config: of a data set of the hub.
      size: how many problems reasoning-gym makes.
      seed: of those problems.
      key: the config key that named the path, for errors.
      on_bad_record: stop at an unusable row, or leave it out and say how many were.
      last: how many records are wanted from the end, so that rows before them are never looked
        at; 0 = all.

    Returns:
      at least one record; ids are `<file name>:<place>`, the place in a text file being its line.

    Raises:
      InputError: no file, nothing in it, a missing package, or an unusable row (with its place).
    """
    rows = {
        "jsonl": lambda: json_rows(path, key),
        "parquet": lambda: _parquet(path, key),
        "array_record": lambda: _array_record(path, key),
        "tfds": lambda: _tfds(path, split, key),
        "hub": lambda: _hub(path, config, split, key),
        "reasoning_gym": lambda: _gym(path, size, seed, key),
    }[source]()
    unit = {"jsonl": "line"}.get(source, "row")
    records: list[Record] = []
    refused: list[InputError] = []
    for name, row in reversed(list(rows)) if last else rows:
        if last and len(records) == last:
            break
        try:
            if isinstance(row, InputError):
                raise row
            records.append(reader.record(row, name))
        except InputError as error:
            if on_bad_record == "error":
                raise InputError(
                    f'{error} Fix the {unit} or set data.on_bad_record = "skip".'
                ) from error
            refused.append(error)
    if not records:
        raise InputError(
            f'{key} = "{path}": no usable record in {len(refused)} {unit}s. Name a .jsonl file '
            'with "question" and "answer" on each line, or see data.layout.'
        )
    if refused:
        print(
            f"{key}: {len(refused)} of {len(refused) + len(records)} records skipped, the first: "
            f"{visible(str(refused[0]))}",
            file=sys.stderr,
        )
    return records[::-1] if last else records


def _need(package: str, extra: str, key: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{key}: reading this source needs a package ({error}). "
            f'Run pip install "cotjax[{extra}]".'
        ) from error


def _opened(path: str, key: str, what: str, read: Callable[[], Any]) -> Any:
    """What `read` gives; whatever a library raises about a file becomes one kind of error."""
    try:
        place = pathlib.Path(path)
        if not place.exists():
            raise FileNotFoundError("No such file or directory")
        if not (place.is_file() or place.is_dir()):  # a pipe, which would be waited for
            raise OSError("neither a file nor a folder")
        return read()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f'{key} = "{path}": cannot be read ({reason[0]}). Set {key} to {what}.'
        ) from error


def _numbered(path: str, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    name = pathlib.Path(path).name
    return ((f"{name}:{number}", row) for number, row in enumerate(rows, 1))


def _parquet(path: str, key: str) -> Rows:
    parquet = _need("pyarrow.parquet", "parquet", key)
    read = lambda: parquet.read_table(path).to_pylist()  # noqa: E731
    rows = _opened(path, key, "a .parquet file, or a folder of them", read)
    return _numbered(path, map(_text, rows))


def _hub(path: str, config: str, split: str, key: str) -> Rows:
    parquet = _need("pyarrow.parquet", "parquet", key)
    for file in split_files(path, config, split, key):
        read = lambda file=file: parquet.read_table(file).to_pylist()  # noqa: E731
        rows = _opened(str(file), key, "a data set of the Hugging Face Hub", read)
        name = f"{path}/{split}" if file.name == "0000.parquet" else f"{path}/{file.name}"
        yield from ((f"{name}:{number}", _text(row)) for number, row in enumerate(rows, 1))


def _array_record(path: str, key: str) -> Rows:
    """Each entry is a JSON object in UTF-8."""
    from grain.sources import ArrayRecordDataSource

    def read() -> list[bytes]:
        entries: Any = ArrayRecordDataSource([path])
        return [entries[index] for index in range(len(entries))]

    lines = _opened(path, key, "an ArrayRecord file", read)
    return json_rows(path, key, lines=[line.decode("utf-8", "replace") for line in lines])


def _tfds(path: str, split: str, key: str) -> Rows:
    tfds = _need("tensorflow_datasets", "tfds", key)
    what = f'a folder that TFDS wrote as array_record, with the split data.split = "{split}"'

    def read() -> Sequence[Any]:
        return tfds.builder_from_directory(path).as_data_source(split)

    rows = _opened(path, key, what, read)
    return _numbered(path, map(_text, rows))


def _text(value: Any) -> Any:
    """The same as JSON has it: Parquet knows decimals, TFDS gives NumPy's arrays and numbers."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, np.ndarray | np.generic):
        return _text(value.tolist())
    if isinstance(value, list):
        return [_text(one) for one in value]
    if isinstance(value, dict):
        return {name: _text(one) for name, one in value.items()}
    return value


def _gym(path: str, size: int, seed: int, key: str) -> Rows:
    gym = _need("reasoning_gym", "reasoning-gym", key)
    try:
        rows = gym.create_dataset(path, size=size, seed=seed)
    except ValueError as error:
        raise InputError(
            f'{key} = "{path}": {error}. Set {key} to the name of a reasoning-gym data set, such '
            'as "chain_sum".'
        ) from error
    return _numbered(path, rows)

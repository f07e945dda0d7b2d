"""Teachers' logits on disk: the K likeliest tokens of each target position, and the rest's mass.

    manifest.json                        what the cache was made of; training compares every entry
    t<teacher>-b<bucket>-<part>.array_record   one record per example
    t<teacher>-b<bucket>-<part>.json           its examples, size and numbers; written last

A record holds, for each of L counted positions, K ids (2 bytes below 65,536 tokens, else 4), K
log-probabilities (float16, or 1 byte) and the logarithm of the other tokens' mass (float16): at
most 98 bytes per position for K = 16.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import array_record.python.array_record_module as array_record
import numpy as np

from cotjax.errors import InputError
from cotjax.storage import SAME, read_json, unwritten

StoreDtype = Literal["float16", "uint8"]
FLOOR = -24.0  # nats; the least log-probability that one byte can hold


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a cache was made of.

    Attributes:
      tokenizer: hash of the common vocabulary.
      template: hash of a prompt.
      data: hash of the examples' tokens and buckets, in order.
      vocab_size: common tokens.
      top_k: K.
      temperature: τ of the teachers.
      dtype: of the log-probabilities.
      teachers: hash of each teacher, weak to strong.
    """

    tokenizer: str
    template: str
    data: str
    vocab_size: int
    top_k: int
    temperature: float
    dtype: StoreDtype
    teachers: tuple[str, ...]


# Which key to change, for each entry of a manifest.
_REMEDY = {
    "tokenizer": "take the student whose tokenizer it was made with",
    "template": "set data.prompt as it was",
    "data": "set [data], [curriculum] and seed as they were",
    "vocab_size": "take the student that it was made for",
    "top_k": "set teachers.top_k to the cache's",
    "temperature": "set distill.temperature to the cache's, with temperature_schedule = constant",
    "dtype": "set teachers.cache_dtype to the cache's",
    "teachers": "set teachers.paths to those that wrote it",
}


@dataclasses.dataclass(frozen=True)
class TopKLogits:
    """One teacher's logits at L positions.

    Attributes:
      ids: [L, K] tokens, the likeliest first.
      logp: [L, K] log-probabilities over the whole vocabulary, nats.
      log_rest: [L] logarithm of the probability of all other tokens, nats.
    """

    ids: np.ndarray
    logp: np.ndarray
    log_rest: np.ndarray


def encode_logp(logp: np.ndarray, dtype: StoreDtype) -> np.ndarray:
    """Log-probabilities as they are stored; one byte is finest where tokens are likely.

        byte = round(255 · sqrt(logp / FLOOR))

    Example:
      >>> decode_logp(encode_logp(np.array([0.0, -0.5, -30.0]), "uint8")).round(3)
      array([ -0.   ,  -0.505, -24.   ], dtype=float32)
    """
    if dtype == "float16":
        return logp.astype(np.float16)
    return np.rint(255 * np.sqrt(np.clip(logp / FLOOR, 0, 1))).astype(np.uint8)


def decode_logp(stored: np.ndarray) -> np.ndarray:
    """The log-probabilities that were stored, float32."""
    if stored.dtype == np.float16:
        return stored.astype(np.float32)
    return np.float32(FLOOR) * np.square(stored.astype(np.float32) / np.float32(255))


def id_dtype(vocab_size: int) -> type:
    """The format of an id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def to_bytes(example: int, logits: TopKLogits, *, vocab_size: int, dtype: StoreDtype) -> bytes:
    """One record."""
    head = np.array([example, len(logits.ids)], np.uint32)
    parts = (
        logits.ids.astype(id_dtype(vocab_size)),
        encode_logp(logits.logp, dtype),
        logits.log_rest.astype(np.float16),
    )
    return head.tobytes() + b"".join(part.tobytes() for part in parts)


def from_bytes(
    record: bytes, *, vocab_size: int, top_k: int, dtype: StoreDtype
) -> tuple[int, TopKLogits]:
    """The example of a record, and its logits.

    Rounded probabilities are scaled so that they and the rest sum to 1.
    """
    example, length = (int(x) for x in np.frombuffer(record, np.uint32, 2))
    place, arrays = 8, []
    for kind, shape in (
        (id_dtype(vocab_size), (length, top_k)),
        (np.dtype(dtype), (length, top_k)),
        (np.float16, (length,)),
    ):
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(record, kind, count, place).reshape(shape))
        place += arrays[-1].nbytes
    ids, stored, rest = arrays
    logp, log_rest = decode_logp(stored), rest.astype(np.float32)
    total = np.exp(logp).sum(axis=-1)
    logp = logp + np.log(np.maximum(1 - np.exp(log_rest), 1e-6) / total)[:, None]
    return example, TopKLogits(ids.astype(np.int32), logp, log_rest)


def shard_name(teacher: int, bucket: int, part: int) -> str:
    """The file name of a shard, without its ending."""
    return f"t{teacher}-b{bucket}-{part:05d}"


class StoreWriter:
    """Writes shards; each is there whole or not at all, and one that is there is not made again.

    Args:
      folder: of the cache.
      manifest: what it is made of.

    Raises:
      InputError: the folder holds another cache.
    """

    def __init__(self, folder: pathlib.Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "manifest.json"
        if path.exists():
            check_manifest(folder, manifest)
        else:
            _write_whole(path, json.dumps(dataclasses.asdict(manifest), indent=2) + "\n")

    def has(self, name: str) -> bool:
        """Whether a shard is there."""
        return (self.folder / f"{name}.json").exists()

    def write(
        self, name: str, logits: Iterator[tuple[int, TopKLogits]], numbers: dict[str, float]
    ) -> dict[str, Any]:
        """Writes a shard.

        Args:
          name: see `shard_name`.
          logits: examples, each with its logits.
          numbers: further ones to keep, complete when `logits` has ended.

        Returns:
          its examples, bytes, positions and `numbers`.

        Raises:
          InputError: the disk is full; the shards before are whole.
        """
        target = self.folder / f"{name}.array_record"
        # A name that ends in .array_record all the same, so that readers of the format take it.
        temporary = self.folder / f"{name}.{os.getpid()}.tmp"
        with _writing(target):
            writer = array_record.ArrayRecordWriter(str(temporary), "group_size:1")
        examples, positions = [], 0
        try:
            for example, one in logits:
                settings = {"vocab_size": self.manifest.vocab_size, "dtype": self.manifest.dtype}
                record = to_bytes(example, one, **settings)
                with _writing(target):
                    writer.write(record)
                examples.append(example)
                positions += len(one.ids)
        finally:
            with _writing(target):
                writer.close()
        os.replace(temporary, target)
        entry = {"examples": examples, "bytes": target.stat().st_size, "positions": positions}
        _write_whole(self.folder / f"{name}.json", json.dumps(entry | numbers) + "\n")
        return entry | numbers


class LogitStore:
    """Reads the logits of teachers.

    Args:
      folder: of the cache.
      expected: what it must have been made of.
      pairs: (bucket, teacher) that will be read.

    Raises:
      InputError: no cache, one of something else, a shard that is cut off, or a missing pair.
    """

    def __init__(
        self, folder: pathlib.Path, expected: Manifest, pairs: Sequence[tuple[int, int]]
    ) -> None:
        self.manifest = check_manifest(folder, expected)
        self.entries: list[dict[str, Any]] = []
        self._where: dict[tuple[int, int], tuple[Any, int, pathlib.Path]] = {}
        for bucket, teacher in sorted(pairs):
            found = sorted(folder.glob(f"t{teacher}-b{bucket}-*.json"))
            if not found:
                raise InputError(
                    f"{folder}: holds no logits of teacher {teacher + 1} for bucket {bucket + 1}, "
                    "which the schedule needs. Run python -m cotjax.cache_logits with this config."
                )
            for path in found:
                self._open(path, teacher)

    def _open(self, path: pathlib.Path, teacher: int) -> None:
        file = path.with_suffix(".array_record")
        again = f"Remove it and {file.name}, and run python -m cotjax.cache_logits again."
        entry = read_json(path, fix=again)
        if not _is_entry(entry):
            raise InputError(f"{path}: is damaged. {again}")
        size = file.stat().st_size if file.exists() else 0
        if size != entry["bytes"]:
            raise InputError(
                f"{file}: has {size} bytes of {entry['bytes']}, so it was cut off. Remove it and "
                f"{path.name}, and run python -m cotjax.cache_logits again."
            )
        reader = array_record.ArrayRecordReader(
            str(file), "readahead_buffer_size:0,max_parallelism:0"
        )
        self.entries.append(entry)
        for number, example in enumerate(entry["examples"]):
            self._where[teacher, example] = reader, number, file

    def read(self, teacher: int, example: int) -> TopKLogits:
        """A teacher's logits at the counted positions of an example."""
        reader, number, _ = self._where[teacher, example]
        try:
            (record,) = reader.read([number])
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.where(teacher, example)}: is damaged ({error}).") from error
        manifest = self.manifest
        found, logits = from_bytes(
            record, vocab_size=manifest.vocab_size, top_k=manifest.top_k, dtype=manifest.dtype
        )
        assert found == example, "the list of examples is of this very shard"
        return logits

    def where(self, teacher: int, example: int) -> str:
        """Where an example's logits lie, and how they are made again."""
        *_, file = self._where[teacher, example]
        return (
            f"example {example} in {file} (remove that and {file.stem}.json, and run python -m "
            "cotjax.cache_logits again)"
        )


def check_manifest(folder: pathlib.Path, expected: Manifest) -> Manifest:
    """The manifest of a cache, which must be as expected.

    Raises:
      InputError: there is none, or an entry differs.
    """
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise InputError(
            f'teachers.cache = "{folder}": no manifest.json that can be read ({error}). '
            "Name a folder that python -m cotjax.cache_logits wrote."
        ) from error
    for name, value in dataclasses.asdict(expected).items():
        there = found.get(name)
        if (list(value) if isinstance(value, tuple) else value) != there:
            raise InputError(
                f"{folder}: was made with {name} = {there}, this run has {value}. "
                f"{_REMEDY[name].capitalize()}, or write a new one (python -m cotjax.cache_logits)."
            )
    return expected


def _is_entry(entry: Any) -> bool:
    """Whether this is what a shard's .json file holds."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("examples"), list)
        and all(isinstance(one, int) for one in entry["examples"])
    )


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord's is the latter
        raise unwritten(path, error, SAME) from error


def _write_whole(path: pathlib.Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)

"""A run's training and held-out records, opened by the names in its [data] section."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, TypeGuard

from cotjax.config import SOURCES, Config, DataConfig, is_reference, name_of, plugin
from cotjax.data.deliberate import Rates
from cotjax.data.layouts import RecordReader
from cotjax.data.problems import ProblemSource
from cotjax.data.sources import Mixture, RecordList, Records, parse_mixture, read_records
from cotjax.data.user_source import last_user_records, user_records
from cotjax.errors import InputError
from cotjax.interfaces import Record

HELD_OUT_SEED = 0  # the built-in test problems are the same for every run

# What is left of a file's records, with the file's name: those whose prompts fit the student.
Keep = Callable[[list[Record], str], list[Record]]


def open_split(
    config: Config, reader: RecordReader, keep: Keep, *, asked: Keep | None = None
) -> tuple[Records, list[Record]]:
    """Training records and held-out records; never one in both.

    Held out are the records of `data.eval_path`; without it the built-in test problems if built-in
    problems are trained on, else the last `eval.problems` records of the file or the user's source;
    with `eval.start` those behind that many of the former, or before that many of the last.

    Args:
      config: the run's.
      reader: how rows become records.
      keep: which of a file's records can be used.
      asked: which of them can be held out; None: those that `keep` keeps.

    Raises:
      InputError: see `open_source`; too few records to hold any out; a mixture of files without
        `data.eval_path`.
    """
    data, count = config.data, config.eval.problems
    held_out = config.eval.start + count
    sources = _sources(data)
    key = "data.mixture" if data.mixture else "data.path"
    opened = [open_source(config, reader, keep, one, path, key=key) for one, path, _ in sources]
    train: Records = opened[0]
    if data.mixture:
        told_apart = _told_apart(opened, [path for _, path, _ in sources])
        train = Mixture(told_apart, tuple(weight for _, _, weight in sources))
    apart = _held_out_apart(config, reader, asked or keep)
    if apart is not None:
        return train, apart
    own = is_reference(data.source)
    named = f'data.source = "{name_of(data.source)}"' if own else f'data.path = "{data.path}"'

    def last(size: int) -> tuple[list[Record], bool]:
        first = max(len(train) - size, 0)
        return [train[index] for index in range(first, len(train))], first > 0

    found, size = [], held_out
    if len(train) > held_out:
        path = name_of(data.source) if own else data.path
        found, size = _last_kept(last, asked or _all_of, held_out, path)
    if len(found) < held_out or len(train) <= size:
        raise InputError(
            f"{named}: {len(train)} records, and the last eval.problems = "
            f"{held_out} are held out. Set eval.problems < {len(train)} or data.eval_path."
        )
    return train.part(range(len(train) - size)), found[:count]


def _last_kept(
    last: Callable[[int], tuple[list[Record], bool]], keep: Keep, count: int, path: str
) -> tuple[list[Record], int]:
    """The last `count` records that are kept, and how many of the last ones they are among.

    One that is not kept makes room for one more.

    Args:
      last: gives so many records from the end, and whether there may be more.
      keep: which of them can be used.
      count: of records.
      path: where they come from.
    """
    size = count
    while True:
        found, more = last(size)
        kept = keep(found, path)
        if len(kept) >= count or not more:
            return kept, size
        size += count - len(kept)


def _told_apart(opened: list[Records], paths: list[str]) -> tuple[Records, ...]:
    """The sources of a mixture; where files of one name lie in several folders, ids say which.

    What a run keeps of a record, such as its accepted completions, is kept by its id.
    """
    lists = {path: one for path, one in zip(paths, opened, strict=True) if _is_list(one)}
    names = {path: {record.id.rpartition(":")[0] for record in one} for path, one in lists.items()}
    told: list[Records] = []
    for path, one in zip(paths, opened, strict=True):
        others = (own for other, own in names.items() if other != path)
        if path in names and not names[path].isdisjoint(itertools.chain(*others)):
            folder = pathlib.Path(path)
            folder = folder if folder.is_dir() else folder.parent
            one = one.mapped(functools.partial(_in_folder, str(folder)))
        told.append(one)
    return tuple(told)


def _is_list(records: Records) -> TypeGuard[RecordList]:
    return isinstance(records, RecordList)


def _in_folder(folder: str, record: Record) -> Record:
    return dataclasses.replace(record, id=f"{folder}/{record.id}")


def open_held_out(
    config: Config,
    reader: RecordReader,
    keep: Keep,
    *,
    asked: Keep | None = None,
    key: str = "data.eval_path",
) -> list[Record]:
    """The held-out records of `open_split` alone: no training record is looked at.

    A file with no more than `eval.problems` records is held out as a whole, for nothing trains.

    Args:
      config: see `open_split`.
      reader: how rows become records.
      keep: which of a file's records can be used.
      asked: see `open_split`.
      key: that named `data.eval_path`, for errors.

    Raises:
      InputError: see `open_split`.
    """
    apart = _held_out_apart(config, reader, asked or keep, key=key)
    if apart is not None:
        return apart
    data, problems, start = config.data, config.eval.problems, config.eval.start
    count = start + problems
    own = plugin(config, "data.source") if is_reference(data.source) else None
    path = data.path if own is None else own.shown

    def both(records: list[Record], path: str) -> list[Record]:
        return (asked or _all_of)(keep(records, path), path)

    def last(size: int) -> tuple[list[Record], bool]:
        if own is not None:
            found = last_user_records(own, data, size)
        else:
            opened = open_source(
                *(config, reader, _all_of, data.source, data.path), key="data.path", last=size
            )
            found = [opened[index] for index in range(len(opened))]
        return found, len(found) == size

    return _before_last(_last_kept(last, both, count, path)[0], start, problems, path)


def _before_last(records: list[Record], start: int, problems: int, name: str) -> list[Record]:
    """The last records but for `start` of them.

    Raises:
      InputError: none is left.
    """
    if start and start >= len(records):
        raise InputError(
            f"eval.start = {start}: {name} has {len(records)} records to hold out. Set eval.start "
            f"< {len(records)}."
        )
    return records[: len(records) - start][-problems:]


def _all_of(records: list[Record], path: str) -> list[Record]:
    del path
    return records


def _sources(data: DataConfig) -> list[tuple[Any, str, float]]:
    """(source, path, weight) of all that is trained on."""
    return parse_mixture(data.mixture) if data.mixture else [(data.source, data.path, 1.0)]


def _held_out_apart(
    config: Config, reader: RecordReader, keep: Keep, *, key: str = "data.eval_path"
) -> list[Record] | None:
    """Held-out records that are no part of the training records; None: they are their last ones."""
    data, start = config.data, config.eval.start
    held_out = start + config.eval.problems
    if data.eval_path or data.eval_split:
        own = "jsonl" if data.mixture or is_reference(data.source) else data.source
        path = data.eval_path or data.path
        others = open_source(config, reader, keep, own, path, key=key, split=data.eval_split)
        if start and start >= len(others):
            raise InputError(
                f"eval.start = {start}: {path} has {len(others)} records to hold out. Set "
                f"eval.start < {len(others)}."
            )
        return [others[i] for i in range(start, min(held_out, len(others)))]
    if any(not is_reference(one) and one == "problems" for one, _, _ in _sources(data)):
        limits = data.min_steps, data.max_steps
        test = ProblemSource("test", HELD_OUT_SEED, *limits, new_share=data.new_share)
        return [test[i] for i in range(start, held_out)]
    if data.mixture:
        raise InputError(
            f'data.mixture = "{data.mixture}": nothing is held out of a mixture of files. '
            "Set data.eval_path to a .jsonl file of held-out records."
        )
    return None


def open_source(
    config: Config,
    reader: RecordReader,
    keep: Keep,
    source: Any,
    path: str,
    *,
    key: str,
    last: int = 0,
    split: str = "",
) -> Records:
    """The records of one source.

    Args:
      config: the run's.
      reader: how rows become records.
      keep: which of them can be used.
      source: its name; what is not built in is `data.source`.
      path: of its file.
      key: that named the path, for errors.
      last: of a file, how many records from its end; 0 = all.
      split: of a data set of TFDS or the hub, instead of data.split.

    Raises:
      InputError: an unknown source, or see `read_records`.
    """
    data = config.data
    if is_reference(source):
        own = plugin(config, "data.source")
        assert own is not None, "a reference is not built in"
        records = user_records(own, data)
        return records.checked(lambda found: keep(found, own.shown))
    if source == "problems":
        shape = (data.min_steps, data.max_steps)
        aloud = data.style == "deliberate"
        return ProblemSource(
            *("train", config.seed, *shape),
            concise_share=1.0 if data.style == "concise" else data.concise_share,
            new_share=data.new_share,
            rates=Rates(**dataclasses.asdict(config.deliberate)) if aloud else None,
        )
    if source not in SOURCES:
        raise InputError(f'{key}: source "{source}" is unknown. Use one of {", ".join(SOURCES)}.')
    known: Any = source
    if source == "reasoning_gym":
        reader = dataclasses.replace(reader, layout="gym")
    records = read_records(
        path,
        reader,
        source=known,
        split=split or data.split,
        config=data.config,
        size=data.size,
        seed=config.seed,
        key=key,
        on_bad_record=data.on_bad_record,
        last=last,
    )
    return RecordList(keep(records, path))

"""Records of a user's own source: an object with random access, or a function that gives one."""

import dataclasses
import functools
import inspect
import re
from typing import Any

import cloudpickle

from cotjax.config import DataConfig, Plugin, is_source, required_arguments
from cotjax.data.sources import OneSource, RecordList, Records
from cotjax.errors import InputError, PluginError
from cotjax.interfaces import Record, Source

_SURROGATE = re.compile("[\ud800-\udfff]")
SMALL = 2**17  # up to so many records are read and checked before a run begins


@dataclasses.dataclass(frozen=True)
class UserSource(OneSource):
    """A large source, whose records are read and checked one by one.

    A worker process opens its own by the source's name; an object from Python is sent to it.

    Attributes:
      own: what `data.source` names.
      data: the [data] section, which a function may take.
    """

    own: Plugin
    data: DataConfig

    @functools.cached_property
    def opened(self) -> Source:
        """The source itself."""
        return open_user_source(self.own, self.data)

    def __reduce__(self) -> Any:
        """Without the open source."""
        return UserSource, (self.own, self.data)

    def __len__(self) -> int:
        """Number of records."""
        return self.own.call(len, self.opened)

    def __getitem__(self, index: int) -> Record:
        """Record `index`.

        Raises:
          PluginError: the source raised, or gave something else; names the index.
        """
        place = f"record {index}"
        record = self.own.call(self.opened.__getitem__, index, record=place)
        if wrong := record_mistake(record):
            raise self.own.refuse(record, f"{wrong} Give a cotjax.interfaces.Record.", place)
        return record


def user_records(own: Plugin, data: DataConfig) -> Records:
    """The records of a user's source: small ones are read and checked now.

    Args:
      own: what `data.source` names.
      data: the [data] section.

    Raises:
      InputError: no records, or one that cannot be sent to worker processes.
      PluginError: it raised, or an entry is no usable record; names the index.
    """
    source = UserSource(own, data)
    if not len(source):
        raise InputError(f"{own.shown}: holds no record. Give at least one.")
    if len(source) > SMALL:
        _check_workers(source)
        return source
    records, places = RecordList(), {}
    for index in range(len(source)):
        record = source[index]
        if (first := places.setdefault(record.id, index)) != index:
            raise PluginError(
                f"{own.shown}: records {first} and {index} have one id",
                f', "{record.id}". Give each an id of its own.',
            )
        records.append(record)
    return records


def last_user_records(own: Plugin, data: DataConfig, count: int) -> RecordList:
    """The last records of a user's source; those before them are never asked for.

    Raises:
      InputError: no records.
      PluginError: it raised, or one of these is no usable record; names the index.
    """
    source = UserSource(own, data)
    if not len(source):
        raise InputError(f"{own.shown}: holds no record. Give at least one.")
    return RecordList(source[index] for index in range(max(len(source) - count, 0), len(source)))


def open_user_source(own: Plugin, data: DataConfig) -> Source:
    """The object with the records: the user's own, or what the user's function gives.

    Raises:
      PluginError: the function raised, or gave something else.
    """
    if is_source(own.found):
        return own.found
    source = own(*[data][: required_arguments(own.found)])
    if not is_source(source):
        needs = "it needs to give records with __len__ and __getitem__. Return a list of them."
        raise own.refuse(source, needs)
    return source


def record_mistake(record: Any) -> str:
    """What is wrong with an entry of a source, as a sentence; empty if nothing is."""
    if not isinstance(record, Record):
        kind = record.__name__ if inspect.isclass(record) else type(record).__name__
        return f"it is {kind}, and no Record."
    for name in ("id", "question", "answer"):
        text = getattr(record, name)
        if not isinstance(text, str) or not text.strip():
            return f"its {name} is {text!r}, and needs to be a text that is not empty."
        if wrong := _half_pair(name, text):
            return wrong
    steps = record.steps
    if not isinstance(steps, tuple) or not all(isinstance(step, str) for step in steps):
        return f"its steps are {steps!r}, and need to be a tuple of texts."
    if wrong := _half_pair("steps", *steps):
        return wrong
    if not isinstance(record.difficulty, int) or record.difficulty < 0:
        return f"its difficulty is {record.difficulty!r}, and needs to be a number of steps."
    return ""


def _half_pair(name: str, *texts: str) -> str:
    """Says that a text is none that a tokenizer reads or a file holds; empty if each is."""
    found = next((found for text in texts if (found := _SURROGATE.search(text))), None)
    if found is None:
        return ""
    return f"half a surrogate pair, {found[0]!r}, stands in its {name}. Leave it out."


def _check_workers(source: UserSource) -> None:
    if not source.data.workers:
        return
    try:
        cloudpickle.dumps(source)  # as Grain does
    except Exception as error:
        raise InputError(
            f"data.workers = {source.data.workers}, {source.own.shown}: the source cannot be sent "
            f"to worker processes ({error}). Name it as package.module:name, make it picklable, or "
            "set data.workers = 0."
        ) from error

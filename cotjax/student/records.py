"""The records of a run: read, checked against the student's prompt length, and split."""

import dataclasses
import functools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from cotjax.config import Config
from cotjax.cot import (
    Rationale,
    Verifier,
    gold_of,
    is_right,
    parse_rationale,
    render_rationale,
)
from cotjax.data.duplicates import LEFT_OUT, find_duplicates, without_duplicates
from cotjax.data.encode import encode_prompts
from cotjax.data.layouts import RecordReader
from cotjax.data.prompts import Prompts, answer_name
from cotjax.data.sources import Records
from cotjax.data.splits import open_held_out, open_split
from cotjax.errors import InputError, visible
from cotjax.interfaces import PromptBatch, Record
from cotjax.parallel.processes import is_first
from cotjax.progress import Progress
from cotjax.student.verify import open_verifier

# A record to the text of its prompt.
PromptText = Callable[[Record], str]


def load_records(config: Config, tokenizer: Any, prompts: Prompts) -> tuple[Records, list[Record]]:
    """Training records and held-out records, whose prompts fit; never one in both.

    Args:
      config: of the run.
      tokenizer: of the student.
      prompts: of the student.

    Raises:
      InputError: a file that cannot be read, a prompt that is too long, or too few records to
        hold any out.
    """
    keep = functools.partial(_fitting, tokenizer, prompts, config)
    asked = functools.partial(keep, asked=True)
    train, held_out = open_split(config, _reader(config), keep, asked=asked)
    return apart(config, part_of(config, train), held_out), held_out


def load_held_out(
    config: Config, tokenizer: Any, prompts: Prompts, *, key: str = "data.eval_path"
) -> list[Record]:
    """The held-out records of `load_records` alone; arguments as for it.

    Raises:
      InputError: see `data.splits.open_held_out`; or a prompt that is too long.
    """
    keep = functools.partial(_fitting, tokenizer, prompts, config)
    asked = functools.partial(keep, asked=True)
    return open_held_out(config, _reader(config), keep, asked=asked, key=key)


def _reader(config: Config) -> RecordReader:
    data = config.data
    return dataclasses.replace(
        record_reader(open_verifier(config)),
        answer=answer_name(config.reward.verifier),
        layout=data.layout,
        keep_calculator=data.keep_calculator,
        filter_teacher=data.filter_teacher,
        columns=data.columns,
    )


def _fitting(
    tokenizer: Any,
    prompts: Prompts,
    config: Config,
    records: list[Record],
    path: str,
    *,
    asked: bool = False,
) -> list[Record]:
    """The records whose question alone fits; see `check_prompts`."""
    text = lambda record: prompts.solve(record.question)  # noqa: E731
    return check_prompts(tokenizer, records, config, path, text, asked=asked)


def asked_limit(config: Config) -> tuple[str, int]:
    """Tokens that the prompts of an evaluation are padded to, behind the setting that says so."""
    if own := config.eval.max_prompt_tokens:
        return "eval.max_prompt_tokens", own
    return "rollout.max_prompt_tokens", config.rollout.max_prompt_tokens


def apart(config: Config, train: Records, held_out: list[Record]) -> Records:
    """The training records, for which questions that are held out too are found first.

    The built-in problems, whose splits are disjoint by construction, and sources too large to be
    read whole pass unseen.

    Args:
      config: of the run; `data.on_duplicate` says whether those are told, left out, or an error.
      train: records.
      held_out: records.

    Raises:
      InputError: there are some and they are an error, or nothing is left to train on.
    """
    seen: list[Record] = []

    def look(records: list[Record]) -> list[Record]:
        seen.extend(records)
        return records

    train.checked(look)
    found, rule = find_duplicates(seen, held_out), config.data.on_duplicate
    if not str(found):
        return train
    then = ""
    if found.same and rule == "error":
        raise InputError(
            f'data.on_duplicate = "error": {found}. Take them out of the file, or set '
            'data.on_duplicate = "drop", which leaves them out of training.'
        )
    if found.same and rule == "drop":
        then = f" {LEFT_OUT}"
        if not without_duplicates(seen, held_out) and len(seen) == len(train):
            raise InputError(
                f'data.on_duplicate = "drop": {found}, and nothing else is trained on.'
            )
        train = train.checked(lambda records: without_duplicates(records, held_out))
    elif found.same:
        then = ' Set data.on_duplicate = "drop" to leave them out of training.'
    print(visible(f"note: {found}.{then}"), file=sys.stderr)
    return train


def record_reader(verifier: Verifier) -> RecordReader:
    """How rows of a file become records, whose answers a verifier reads."""

    def equal(answer: str | None, gold: str | None) -> bool:
        return gold is not None and is_right(verifier, answer, gold)

    return RecordReader(functools.partial(gold_of, verifier), parse_rationale, equal)


def part_of(config: Config, train: Records) -> Records:
    """The records from data.start to data.stop; the others are for other stages."""
    start, stop = config.data.start, config.data.stop
    if not (start or stop):
        return train
    train = in_order(train, f"data.start = {start}, data.stop = {stop}", "both to 0")
    chosen = range(len(train))[start : stop or None]
    if not chosen:
        raise InputError(
            f"data.start = {start}, data.stop = {stop}: none of {len(train)} training records. "
            f"Set data.start < {len(train)} and data.stop above it, or 0."
        )
    return train.part(chosen)


def in_order(train: Records, setting: str, instead: str) -> Records:
    """The same records, which have an order.

    Raises:
      InputError: a mixture, for which a setting has no meaning; says what to set instead.
    """
    if len(train.parts) > 1:
        raise InputError(
            f"{setting}: the parts of data.mixture have no order among each other. Set {instead}."
        )
    return train


def solution(record: Record) -> str:
    """A record's own solution, as the student should write it."""
    return render_rationale(Rationale(steps=record.steps, answer=record.answer))


def check_prompts(
    tokenizer: Any,
    records: Sequence[Record],
    config: Config,
    path: str,
    text: PromptText,
    *,
    asked: bool = False,
) -> list[Record]:
    """Records whose prompt fits; done once, before a run begins, for records of a file.

    Args:
      tokenizer: of the student.
      records: of a file.
      config: of the run.
      path: of the file, for the error.
      text: a record's prompt.
      asked: whether evaluations ask it, whose prompts have a limit of their own.

    Raises:
      InputError: a prompt is too long and `data.on_bad_record` is "error", or none fits.
    """
    key, limit = "rollout.max_prompt_tokens", config.rollout.max_prompt_tokens
    if asked:
        key, limit = asked_limit(config)
    fits, longer = [], []
    for record in records:
        size = len(tokenizer.encode(text(record), add_special_tokens=False))
        if size <= limit:
            fits.append(record)
            continue
        longer.append((record.id, size))
        if config.data.on_bad_record == "error":
            raise InputError(
                f"{record.id}: the prompt has {size} tokens, the limit is {limit}. Set "
                f'{key} >= {size} or data.on_bad_record = "skip".'
            )
    if not fits:
        raise InputError(f"{key} = {limit}: no prompt of {path} fits. Raise it.")
    _tell_skipped(longer, len(records), f"prompt: {key} = {limit}")
    return fits


def _tell_skipped(longer: list[tuple[str, int]], number: int, why: str) -> None:
    """Says how many records of a file were left out, since they are too long."""
    if longer and is_first():
        name, size = longer[0]
        told = f"note: {len(longer)} of {number} records skipped for their {why}; the first, {name}"
        print(visible(f"{told}, has {size} tokens."), file=sys.stderr)


def check_rows(
    records: Sequence[Record], config: Config, length: Callable[[Record], int]
) -> list[Record]:
    """Records whose rows fit; done once, before a run begins, for records of a file.

    Args:
      records: of a file.
      config: of the run.
      length: of the longest row that a record may become, tokens.

    Raises:
      InputError: a row is too long and `data.on_bad_record` is "error", or none fits.
    """
    limit, fits, longer = config.batch.sequence_length, [], []
    with Progress(
        "reading how long rows are", len(records), "records", quiet=not is_first()
    ) as told:
        for record in records:
            size = length(record)
            told.advance()
            if size <= limit:
                fits.append(record)
                continue
            longer.append((record.id, size))
            if config.data.on_bad_record == "error":
                raise InputError(
                    f"{record.id}: its row has up to {size} tokens, the limit is {limit}. Set "
                    f'batch.sequence_length >= {size} or data.on_bad_record = "skip".'
                )
    if not fits:
        raise InputError(f"batch.sequence_length = {limit}: no record's row fits. Raise it.")
    _tell_skipped(longer, len(records), f"row: batch.sequence_length = {limit}")
    return fits


def with_steps(records: Sequence[Record], refusal: str) -> tuple[list[Record], int]:
    """The records that have a rationale, and how many have none.

    Args:
      records: of a file, or failures.
      refusal: what to say if none has one.

    Raises:
      InputError: none has one.
    """
    usable = [record for record in records if record.steps]
    if not usable:
        raise InputError(refusal)
    return usable, len(records) - len(usable)


def prompt_tokens(tokenizer: Any, prompts: Prompts, records: Sequence[Record]) -> int:
    """Tokens of the prompts of some records, each of which is asked alone."""
    texts = (prompts.solve(record.question) for record in records)
    return sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)


def own_ids(numbers: Sequence[int], count: int) -> list[int]:
    """Ids of prompts by the numbers of their records; a record's second prompt has one of its own.

    Args:
      numbers: of the records, some perhaps several times.
      count: of all records.

    Example:
      >>> own_ids([3, 1, 3], 10)
      [3, 1, 13]
    """
    seen: Counter[int] = Counter()
    ids: list[int] = []
    for number in numbers:
        ids.append(number + count * seen[number])
        seen[number] += 1
    return ids


def prompt_batch(
    tokenizer: Any,
    ids: Sequence[int],
    records: Sequence[Record],
    texts: Sequence[str],
    max_length: int,
    *,
    key: str = "rollout.max_prompt_tokens",
) -> PromptBatch:
    """The prompt texts of records as a left-padded batch; `ids` decide the random numbers.

    `key` is the setting behind the length, for the error.
    """
    names = [record.id for record in records]
    return encode_prompts(tokenizer, texts, ids, max_length=max_length, names=names, key=key)

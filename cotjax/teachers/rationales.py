"""Rationales from a writer: collected, parsed, kept only where the answer is right.

A writer gives up to `rationales.attempts` texts per question; the first right one with steps is
kept. A server's answers are cached, so no run requests one twice.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import NUMERIC, Verifier, is_correct, parse_rationale
from cotjax.data.prompts import answer_name
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.parallel import processes
from cotjax.progress import Progress
from cotjax.rollout.plan import Sampling
from cotjax.student.generate import complete, prompts_at_once
from cotjax.student.load import LoadedPolicy, load_policy
from cotjax.student.records import in_order, load_records, solution
from cotjax.student.verify import open_verifier
from cotjax.teachers.answer_cache import AnswerCache
from cotjax.teachers.chat_client import ChatServer, ServerFailed, ServerSettings
from cotjax.training.finite import check_finite

INSTRUCTION = (
    'Solve the problem step by step. Write each step on a line of its own as "Step 1: ...", '
    'then the result on the last line as "Answer: <{answer}>".\n\n'
)
FAILURES_IN_A_ROW = 3  # a server that fails so often is down: stop, and keep what there is


class Writer(Protocol):
    """Gives texts for records.

    Attributes:
      name: written beside every rationale.
    """

    name: str

    @property
    def report(self) -> Mapping[str, int]:
        """Further counts, for the summary."""
        ...

    def solve(self) -> Iterator[tuple[Record, list[str] | None]]:
        """Each record with its texts, best first; None if there was no answer."""
        ...


def collect(
    writer: Writer, verifier: Verifier = NUMERIC
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Filters a writer's texts by answer.

    Args:
      writer: of the texts.
      verifier: reads and compares their answers.

    Returns:
      rows in GSM8K's layout (`question`, `answer`), with `teacher` and `thinking`; and counts.
    """
    counts = {"kept": 0, "wrong": 0, "without steps": 0, "unanswered": 0}
    rows = []
    for record, texts in writer.solve():
        if texts is None:
            counts["unanswered"] += 1
            continue
        right = [text for text in texts if is_correct(text, record.answer, verifier=verifier)]
        pieces = [parse_rationale(text) for text in right]
        usable = next((one for one in pieces if one.steps), None)
        if usable is None:
            counts["without steps" if right else "wrong"] += 1
            continue
        counts["kept"] += 1
        lines = [" ".join(step.split()) for step in usable.steps]
        rows.append(
            {
                "question": record.question,
                "answer": "\n".join([*lines, f"#### {record.answer}"]),
                "teacher": writer.name,
                "thinking": usable.thinking,
            }
        )
    return rows, {**counts, **writer.report}


def _records(config: Config, student: LoadedPolicy) -> list[Record]:
    train, _ = load_records(config, student.tokenizer, student.prompts)
    count = config.rationales.questions
    train = in_order(train, f"rationales.questions = {count}", "data.mixture to nothing")
    return [train[index] for index in range(min(count, len(train)))]


def _progress(records: list[Record], at_once: int = 1) -> Progress:
    quiet = not processes.is_first()
    what = "sampling the teacher"
    return Progress(what, len(records), "questions", quiet=quiet, at_once=at_once)


class DataWriter:
    """The data's own solutions."""

    name = "data"
    report: Mapping[str, int] = MappingProxyType({})

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self._records = _records(config, load_policy(config, mesh))

    def solve(self) -> Iterator[tuple[Record, list[str] | None]]:
        """The solutions as they stand."""
        for record in self._records:
            yield record, [solution(record)]


class ModelWriter:
    """A model on this machine, by the rollout engine; the first attempt is greedy."""

    report: Mapping[str, int] = MappingProxyType({})

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self.name = config.model.path
        self._config, self._mesh = config, mesh
        self._student = load_policy(config, mesh)
        self._records = _records(config, self._student)
        fix = "Copy the weights from their origin again, or set model.path to others."
        params = self._student.all_params(self._student.params)
        check_finite(params, f'model.path = "{self.name}"', fix)

    def solve(self) -> Iterator[tuple[Record, list[str] | None]]:
        """A batch of questions at a time, all attempts together."""
        config, student = self._config, self._student
        settings = Sampling(
            group_size=config.rationales.attempts,
            max_new_tokens=config.rationales.max_new_tokens,
            **student.ends,
            temperature=config.rationales.temperature,
            greedy_first=True,
        )
        most, count = config.eval.batch_size, len(self._records)
        answers = complete(
            student,
            config,
            self._mesh,
            student.params,
            self._records,
            settings=settings,
            completions=most,
            key=jax.random.key(config.seed),
        )
        at_once = prompts_at_once(most, settings.group_size, student.rollout_mesh, count)
        with _progress(self._records, at_once) as progress:
            for record, group in zip(self._records, answers, strict=True):
                progress.advance()
                yield record, [one.text for one in group]


class ServerWriter:
    """A server; a question that it fails is left unanswered, and a later run requests it again."""

    def __init__(self, config: Config, mesh: Mesh, cache: AnswerCache) -> None:
        settings = config.rationales
        self.name = settings.model
        self._attempts, self._verifier = settings.attempts, open_verifier(config)
        self._instruction = INSTRUCTION.replace("{answer}", answer_name(config.reward.verifier))
        self._records = _records(config, load_policy(config, mesh))
        self._server = ChatServer(
            ServerSettings(
                url=settings.url,
                model=settings.model,
                key_variable=settings.key_variable,
                temperature=settings.temperature,
                max_new_tokens=settings.max_new_tokens,
                timeout=settings.timeout,
                retries=settings.retries,
                backoff=settings.backoff,
                per_minute=settings.per_minute,
            ),
            cache,
        )
        self._damaged, self._cut = cache.damaged, 0

    @property
    def report(self) -> Mapping[str, int]:
        """Answers from the cache, damaged lines of it, requests, and answers that were cut off."""
        return {
            "cached": self._server.cached,
            "asked": self._server.asked,
            "cut off": self._cut,
            "damaged": self._damaged,
        }

    def solve(self) -> Iterator[tuple[Record, list[str] | None]]:
        """Requests one by one, until one answer is right, so that no request is wasted."""
        failed = 0
        with _progress(self._records) as progress:
            for record in self._records:
                asked = self._server.asked
                texts, failed = self._texts(record, failed)
                if self._server.asked > asked:
                    progress.advance()
                else:
                    progress.skip()
                yield record, texts

    def _texts(self, record: Record, failed: int) -> tuple[list[str] | None, int]:
        """What the server wrote for a record, and how many questions in a row it has now failed.

        Args:
          record: to ask about.
          failed: how many before this one.
        """
        texts: list[str] = []
        prompt = self._instruction + record.question
        try:
            for attempt in range(self._attempts):
                answer = self._server.answer(prompt, attempt=attempt)
                self._cut += answer.cut
                if answer.cut:  # half a solution is none
                    continue
                texts.append(answer.text)
                if is_correct(answer.text, record.answer, verifier=self._verifier):
                    break
        except ServerFailed as error:
            failed += 1
            if failed >= FAILURES_IN_A_ROW:
                raise InputError(
                    f"rationales.url: the server failed {failed} questions in a row ({error}). "
                    "What it answered is in rationales.cache, and the same command goes on."
                ) from error
            return texts or None, failed
        return texts, 0


@contextlib.contextmanager
def open_server(config: Config, mesh: Mesh) -> Iterator[Writer]:
    """A server's teacher; its cache is locked as long as it is open."""
    if not config.rationales.url:
        raise InputError(
            'rationales.url = "": rationales.writer = "server" needs one. Set rationales.url '
            "to its address, such as http://localhost:8000/v1."
        )
    with AnswerCache(pathlib.Path(config.rationales.cache)) as cache:
        yield ServerWriter(config, mesh, cache)


def _plain(make: Callable[[Config, Mesh], Writer]) -> Callable[..., Any]:
    return lambda config, mesh: contextlib.nullcontext(make(config, mesh))


WRITERS: dict[str, Callable[[Config, Mesh], AbstractContextManager[Writer]]] = {
    "data": _plain(DataWriter),
    "model": _plain(ModelWriter),
    "server": open_server,
}

"""A policy stage that replays what it accepts, see `accepted`, as supervised targets."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import Verdict, rewrite_reward
from cotjax.curriculum.difficulty import Difficulty
from cotjax.curriculum.prompt_stream import BucketStream, order_programs, prompt_stream
from cotjax.data.sources import RecordList, Records
from cotjax.interfaces import Completion, Program, Record, Step
from cotjax.stages.accepted import Accepted, Replay
from cotjax.stages.policy import PolicyStage
from cotjax.stages.supervised import make_loss, micro_shape
from cotjax.student.load import LoadedPolicy
from cotjax.student.mining import mine, mining_programs
from cotjax.student.records import check_prompts, in_order, solution, with_steps
from cotjax.student.rewards import written_tokens
from cotjax.training.update import Frozen, with_skipped


class RecordPrompt(Protocol):
    """What a record's prompt shows; holds no model, as it travels to workers."""

    def text(self, record: Record) -> str:
        """The prompt's text."""
        ...

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The same; nothing is drawn."""
        ...


class ReplayStage(PolicyStage):
    """Groups on mined failures, and a replay of the rewrites that were accepted.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained.
      train: records, among which failures are mined.
      held_out: what it is evaluated on.
      prompt: a record to its prompt.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        train: Records,
        held_out: list[Record],
        prompt: RecordPrompt,
    ) -> None:
        rewrite, self._kl = config.rewrite, config.supervised.kl_coefficient
        replays = rewrite.updates if rewrite.internalize else 0
        difficulty = Difficulty(config, mesh, student)
        super().__init__(
            config,
            mesh,
            student,
            held_out,
            data=self._open,
            data_programs=functools.partial(
                order_programs, config, train, difficulty, some=bool(config.mining.questions)
            ),
            reward=self._reward,
            shows_steps=True,
            updates=config.policy.inner_updates + replays,
        )
        self._prompt, self._difficulty = prompt, difficulty
        self._failures = self.train = train
        self._mined_tokens = 0
        # Of the loop; one step is the config's inner updates and the replay's.
        self.inner_updates = 1
        self._replay = Replay(config, mesh, student) if replays else None
        self._update_replayed = self.updating(make_loss(student.policy, kl_coefficient=self._kl))

    def _open(self, folder: pathlib.Path | None) -> BucketStream:
        measure = functools.partial(self._difficulty, self.student.params, kept_in=folder)
        prompt = lambda progress: self._prompt  # noqa: E731
        return prompt_stream(self.config, self.student.tokenizer, self._failures, prompt, measure)

    def programs(self) -> Sequence[Program]:
        """Those of every policy stage, the mining and the replay."""
        config, mesh, mined = self.config, self.mesh, ()
        if config.mining.questions:
            mined = mining_programs(self.student, config, mesh, self.train)
        replayed = self._update_replayed.programs(
            "update on the replay",
            self.state_shapes,
            [micro_shape(config, mesh)],
            frozen=self._frozen_for_replay(shapes=True),
            always=False,
        )
        return (*mined, *super().programs(), *(replayed if config.rewrite.internalize else ()))

    def _frozen_for_replay(self, *, shapes: bool = False) -> Frozen:
        """What a replay reads and does not change, or its shapes."""
        student = self.student
        base, start = student.base_shapes, student.reference_shapes
        if not shapes:
            base, start = student.base, student.reference
        return Frozen(base, start if self._kl else None)

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Mines the failures, or takes every record; returns what it found as sentences.

        Raises:
          InputError: nothing is left to rewrite.
        """
        told = self._mine(folder)
        told = (*super().prepare(folder), *told)  # opens the stream of what is left
        self.data = self.accepted = Accepted(self.ahead or self.stream, self.config.rewrite)
        return told

    def _mine(self, folder: pathlib.Path) -> list[str]:
        config, student = self.config, self.student
        told, failures = [], self.train
        if config.mining.questions:
            setting = f"mining.questions = {config.mining.questions}"
            train = in_order(self.train, setting, "mining.questions = 0")
            found = mine(student, config, self.mesh, train, folder)
            told.append(str(found))
            self._mined_tokens = found.tokens
            failures = RecordList(found.failures)

        def usable(records: list[Record]) -> list[Record]:
            kept, without = with_steps(
                records,
                f"None of {len(records)} failures has a rationale to shorten. Give "
                "rationales with at least one step (python -m cotjax.rationales).",
            )
            if without:
                told.append(f"Left out {without} without a rationale.")
            path = config.data.path
            return check_prompts(student.tokenizer, kept, config, path, self._prompt.text)

        self._failures = failures.checked(usable)
        return told

    def next_step(self, params: Any, step: int) -> Step:
        """The groups of a step, and the rewrites to replay after it."""
        work, groups = self.sample_step(params, step)
        metrics = work.metrics | self.accepted.take(groups)
        metrics["accepted"] = len(self.accepted.completions)
        replays, tokens = [], 0
        if self._replay is not None:
            replays, tokens = self._replay.batches(self.accepted, step)
        metrics["trained_tokens"] += tokens
        metrics["mined_tokens"] = 0 if step else self._mined_tokens + self._difficulty.take_tokens()
        data = [work.data, replays]
        return dataclasses.replace(work, batch=[work.batch, replays], metrics=metrics, data=data)

    def update(self, state: Any, batch: list[Any]) -> tuple[Any, dict[str, Any]]:
        """The policy's inner updates, then those on the replayed rewrites."""
        micros, replays = batch
        metrics: dict[str, Any] = {}
        for _ in range(self.config.policy.inner_updates):
            earlier = metrics
            state, metrics = super().update(state, micros)
            metrics = with_skipped(metrics, earlier)
        for replay in replays:
            state, replayed = self._update_replayed(state, [replay], self._frozen_for_replay())
            shown = [name for name in ("loss", "kl") if name in replayed]
            metrics = with_skipped(metrics, replayed)
            metrics = metrics | {f"replay_{name}": replayed[name] for name in shown}
        return state, metrics

    def _reward(
        self, config: Config, record: Record, completion: Completion, verdict: Verdict
    ) -> tuple[float, dict[str, float]]:
        unit, text_of_teacher = config.reward.unit, solution(record)
        counts = {
            "words": lambda: len(text_of_teacher.split()),
            "tokens": lambda: len(
                self.student.tokenizer.encode(text_of_teacher, add_special_tokens=False)
            ),
        }
        return rewrite_reward(
            completion.text,
            gold=record.answer,
            teacher_length=counts[unit](),
            unit=unit,
            length=written_tokens(completion) if unit == "tokens" else None,
            verdict=verdict,
        )

"""A policy stage that replays what it accepts as ordinary supervised targets."""

import dataclasses
import functools
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, RewriteConfig
from cotjax.cot import (
    Verdict,
    equations,
    normalize_rationale,
    parse_rationale,
    render_rationale,
    rewrite_reward,
)
from cotjax.curriculum.difficulty import Difficulty
from cotjax.curriculum.prompt_stream import BucketStream, order_programs, prompt_stream
from cotjax.data.encode import encode_supervised
from cotjax.data.sources import RecordList, Records
from cotjax.interfaces import Completion, Program, Record, Step, TokenBatch
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages.policy import PolicyStage
from cotjax.stages.supervised import dropout_key, make_loss, micro_shape
from cotjax.student.groups import RolloutGroups
from cotjax.student.load import LoadedPolicy
from cotjax.student.mining import mine, mining_programs
from cotjax.student.records import check_prompts, in_order, solution, with_steps
from cotjax.student.rewards import written_tokens
from cotjax.training.evaluation import JudgedCompletion
from cotjax.training.update import Frozen


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
        self.inner_updates = (
            1  # of the loop; one step is the config's inner updates and the replay's
        )
        if replays:
            check_divides(mesh, config.batch.size, "batch.size")
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
        self.data = self.accepted = Accepted(self.stream, self.config.rewrite)
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
        told = self.accepted.take(groups)
        replays, replayed = self._replays(step)
        metrics = work.metrics | told | {"accepted": len(self.accepted.rewrites)}
        metrics["trained_tokens"] += replayed
        metrics["mined_tokens"] = 0 if step else self._mined_tokens + self._difficulty.take_tokens()
        return dataclasses.replace(work, batch=[work.batch, replays], metrics=metrics)

    def _replays(self, step: int) -> tuple[list[Any], int]:
        """The batches of a step's replay, none if nothing is accepted; and their tokens."""
        config, key = self.config, jax.random.fold_in(self.root, step)
        rng, replays, tokens = np.random.default_rng((config.seed, step)), list[Any](), 0
        if not (self.accepted.rewrites and config.rewrite.internalize):
            return replays, tokens
        for turn in range(config.rewrite.updates):
            batch = self._rows(self.accepted.draw(config.batch.size, rng))
            tokens += int((batch.segment > 0).sum())
            own = jax.random.fold_in(key, turn) if turn else key
            replays.append((parallel.shard(self.mesh, batch), dropout_key(config, self.mesh, own)))
        return replays, tokens

    def update(self, state: Any, batch: list[Any]) -> tuple[Any, dict[str, Any]]:
        """The policy's inner updates, then those on the replayed rewrites."""
        micros, replays = batch
        for _ in range(self.config.policy.inner_updates - 1):
            state, _ = super().update(state, micros)
        state, metrics = super().update(state, micros)
        for replay in replays:
            state, replayed = self._update_replayed(state, [replay], self._frozen_for_replay())
            shown = [name for name in ("loss", "kl") if name in replayed]
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

    def _rows(self, rewrites: list[dict[str, Any]]) -> TokenBatch:
        """[R, S], one rewrite a row; rows that are missing are padding."""
        shape = self.config.batch.size, self.config.batch.sequence_length
        arrays = {
            "tokens": np.full(shape, self.student.pad_id, np.int32),
            "targets": np.full(shape, self.student.pad_id, np.int32),
            "weight": np.zeros(shape, np.float32),
        }
        segment = np.zeros(shape, np.int32)
        for row, rewrite in enumerate(rewrites):
            encoded = encode_supervised(
                self.student.tokenizer,
                self.student.prompts.solve(rewrite["question"]),
                rewrite["text"],
                eos_id=self.student.eos_id,
                max_length=shape[1],
                name=rewrite["id"],
            )
            size = len(encoded["tokens"])
            segment[row, :size] = 1
            for name, values in encoded.items():
                arrays[name][row, :size] = values
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        host: Any = {**arrays, "segment": segment, "positions": positions}
        return TokenBatch(**host)


class Accepted:
    """The accepted rewrites, beside the stream of failures; both are the checkpoint's.

    A rewrite is accepted if it is right and well-formed, its equations are true (and, as the
    settings ask for, some are there, or each has a result of the teacher's), enough of its group
    are right, and no shorter one of its group is accepted; of a question seen again the shorter
    one stays.

    Args:
      stream: of the failures.
      settings: what is asked of equations and groups.
    """

    def __init__(self, stream: BucketStream, settings: RewriteConfig) -> None:
        self._stream, self._settings = stream, settings
        self.rewrites: dict[str, dict[str, Any]] = {}

    def take(self, groups: RolloutGroups) -> dict[str, float]:
        """Keeps the accepted rewrites of a step.

        Returns:
          how many right and well-formed completions each rule refused: `refused_min_right`, of
          groups with too few right ones, and `refused_equations` of the others.
        """
        refused: Counter[str] = Counter(refused_min_right=0, refused_equations=0)
        for record, group in zip(groups.records, groups.judged, strict=True):
            right = [one for one in group if one.ended and one.parts["correct"]]
            good = [one for one in right if one.parts["well_formed"]]
            if len(right) < self._settings.min_right:
                refused["refused_min_right"] += len(good)
                continue
            rewrites = [(one, self._text(one.text)) for one in good]
            kept = [(one, text) for one, text in rewrites if self._is_sound(record, text)]
            refused["refused_equations"] += len(good) - len(kept)
            if kept:
                self._keep(record, *min(kept, key=lambda pair: pair[0].tokens))
        return dict(refused)

    def _text(self, completion: str) -> str:
        """A completion in cotjax's own layout."""
        return render_rationale(normalize_rationale(parse_rationale(completion, kind="numbered")))

    def _is_sound(self, record: Record, text: str) -> bool:
        """Whether the equations of a rewrite are as the settings ask for."""
        rule, found = self._settings.equations, equations(text)
        if rule == "ignore":
            return True
        if not (found or rule == "check") or not all(one.holds for one in found):
            return False
        if rule != "match":
            return True
        return {one.value for one in found} <= {one.value for one in equations(solution(record))}

    def _keep(self, record: Record, best: JudgedCompletion, text: str) -> None:
        known = self.rewrites.get(record.id)
        if known is None or best.tokens < known["tokens"]:
            self.rewrites[record.id] = {
                "id": record.id,
                "question": record.question,
                "text": text,
                "tokens": best.tokens,
            }

    def draw(self, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Some of them, without replacement; all if there are fewer."""
        every = list(self.rewrites.values())
        return [every[place] for place in rng.permutation(len(every))[:count]]

    def get_state(self) -> dict[str, Any]:
        """The stream's state and the rewrites, as JSON has them."""
        return {"stream": self._stream.get_state(), "rewrites": list(self.rewrites.values())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` stood."""
        self._stream.set_state(state["stream"])
        self.rewrites = {rewrite["id"]: rewrite for rewrite in state["rewrites"]}

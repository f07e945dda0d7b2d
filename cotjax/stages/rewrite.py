"""Rewrite: much shorter solutions of the problems that the student fails. BRIDGE's third stage.

    mine failures -> show question and teacher's rationale -> policy loss on the rewrite's reward
                  -> replay accepted rewrites as targets of the question alone

The replay is what makes the knowledge stick where no teacher's text is shown.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import (
    normalize_rationale,
    parse_rationale,
    render_rationale,
    rewrite_reward,
)
from cotjax.data.encode import encode_supervised
from cotjax.data.levels import LevelStream
from cotjax.data.prompts import Prompts
from cotjax.errors import InputError
from cotjax.interfaces import Record, Step, TokenBatch
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages import common
from cotjax.stages.asking import prompt_stream
from cotjax.stages.groups import GroupStage, Sampled
from cotjax.stages.mining import mine
from cotjax.stages.supervised import dropout_key, make_loss
from cotjax.training.metrics import GRPO_COLUMNS
from cotjax.training.update import make_update


class RewriteStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do."""

    columns = GRPO_COLUMNS
    inner_updates = 1  # of the loop; one step is the config's inner updates and a replay

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self.mesh, self.settings = mesh, config.rewrite
        self.student = common.open_student(config, mesh)
        self.train, held_out = common.open_records(config, self.student)
        replays = int(self.settings.internalize)
        self.groups = GroupStage(
            config,
            mesh,
            self.student,
            held_out,
            reward=self._reward,
            shows_steps=True,
            updates=config.policy.inner_updates + replays,
        )
        self.config, self.notes = self.groups.config, self.groups.notes
        self.state, self.evaluate = self.groups.state, self.groups.evaluate
        if replays:
            check_divides(mesh, self.settings.replay_batch, "rewrite.replay_batch")
        self._replay = make_update(
            make_loss(self.student.policy), self.groups.optimizer, self.state, self.student.base
        )

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Mines the failures, or takes every record; says what it found.

        Raises:
          InputError: nothing is left to rewrite.
        """
        said, failures = self.groups.prepare(folder), self.train
        if self.config.mining.questions:
            setting = f"mining.questions = {self.config.mining.questions}"
            train = common.in_order(self.train, setting, "mining.questions = 0")
            found = mine(self.student, self.config, self.mesh, train, folder)
            said, failures = (*said, str(found)), found.failures
        if isinstance(failures, list):
            usable = [record for record in failures if record.steps]
            if not usable:
                raise InputError(
                    f"None of {len(failures)} failures has a rationale to shorten. Give "
                    "rationales with at least one step (python -m cotjax.rationales)."
                )
            if len(usable) < len(failures):
                said = (*said, f"Left out {len(failures) - len(usable)} without a rationale.")
            failures = common.check_prompts(
                self.student, usable, self.config, self.config.data.path, rewrite_prompt
            )
        stream = prompt_stream(
            self.config,
            self.student,
            failures,
            lambda progress: RewritePrompt(self.student.prompts),
        )
        self.groups.data, self.data = stream, Accepted(stream)
        return said

    def next_step(self, params: Any, step: int) -> Step:
        """The groups of a step, and the rewrites to replay after it."""
        work, sampled = self.groups.sample_step(params, step)
        self.data.take(sampled)
        key = jax.random.fold_in(self.groups.root, step)
        rows = self.data.draw(
            self.settings.replay_batch, np.random.default_rng((self.config.seed, step))
        )
        replay = None
        if rows and self.settings.internalize:
            batch = self._rows(rows)
            replay = parallel.shard(self.mesh, batch), dropout_key(self.config, self.mesh, key)
        metrics = work.metrics | {"accepted": len(self.data.rewrites)}
        return dataclasses.replace(work, batch=[work.batch, replay], metrics=metrics)

    def update(self, state: Any, batch: list[Any]) -> tuple[Any, dict[str, Any]]:
        """The policy's inner updates, then one on the replayed rewrites."""
        micros, replay = batch
        for _ in range(self.config.policy.inner_updates - 1):
            state, _ = self.groups.update(state, micros)
        state, metrics = self.groups.update(state, micros)
        if replay is not None:
            state, replayed = self._replay(state, [replay])
            metrics = metrics | {"replay_loss": replayed["loss"]}
        return state, metrics

    def _reward(
        self, config: Config, record: Record, text: str, tokens: int
    ) -> tuple[float, dict[str, float]]:
        unit, solution = config.reward.unit, common.solution(record)
        counts = {
            "words": lambda: len(solution.split()),
            "tokens": lambda: len(
                self.student.tokenizer.encode(solution, add_special_tokens=False)
            ),
        }
        return rewrite_reward(
            text,
            gold=record.answer,
            teacher_length=counts[unit](),
            unit=unit,
            length=tokens if unit == "tokens" else None,
        )

    def _rows(self, rewrites: list[dict[str, Any]]) -> TokenBatch:
        """[R, S], one rewrite a row; rows that are missing are padding."""
        shape = self.settings.replay_batch, self.config.sft.sequence_length
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

    A rewrite is accepted if it is correct and well-formed, and the shortest of its group; of a
    question seen again the shorter one stays.

    Args:
      stream: of the failures.
    """

    def __init__(self, stream: LevelStream) -> None:
        self._stream = stream
        self.rewrites: dict[str, dict[str, Any]] = {}

    def take(self, sampled: Sampled) -> None:
        """Keeps the accepted rewrites of a step."""
        for record, group in zip(sampled.records, sampled.judged, strict=True):
            good = [
                one
                for one in group
                if one.ended and one.parts["correct"] and one.parts["well_formed"]
            ]
            if not good:
                continue
            best = min(good, key=lambda one: one.tokens)
            known = self.rewrites.get(record.id)
            if known is None or best.tokens < known["tokens"]:
                text = render_rationale(
                    normalize_rationale(parse_rationale(best.text, kind="numbered"))
                )
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


@dataclasses.dataclass(frozen=True)
class RewritePrompt:
    """The question and the teacher's steps, to be shortened; holds no model.

    The answer's line is not shown: a student that copies it, and nothing else, would be right.
    Nor are steps numbered: a small student would take the numbered ones for its own and go on with
    the answer.
    """

    prompts: Prompts

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The prompt's text."""
        del rng  # everything is shown
        return self.prompts.rewrite(record.question, self.prompts.listed(record.steps))


def rewrite_prompt(student: common.Student, record: Record) -> str:
    """The question and the teacher's steps, to be shortened."""
    return RewritePrompt(student.prompts)(record, np.random.default_rng(0))

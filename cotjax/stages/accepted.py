"""Accepted completions of a student's own, and their replay as supervised targets."""

from collections import Counter
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, RewriteConfig
from cotjax.cot import equations, normalize_rationale, parse_rationale, render_rationale
from cotjax.data.encode import encode_supervised
from cotjax.interfaces import DataStream, Record, TokenBatch
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages.supervised import dropout_key
from cotjax.student.groups import RolloutGroups
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import solution
from cotjax.training.evaluation import JudgedCompletion


class Accepted:
    """The accepted completions, beside the stream of prompts; both are the checkpoint's.

    A completion is accepted if it is right and well-formed, its equations are true (and, as the
    settings ask for, some are there, or each has a result of the teacher's), enough of its group
    are right, and no shorter one of its group is accepted; of a question seen again the shorter
    one stays.

    Args:
      stream: of the prompts.
      settings: what is asked of equations and groups.
    """

    def __init__(self, stream: DataStream, settings: RewriteConfig) -> None:
        self._stream, self._settings = stream, settings
        self.completions: dict[str, dict[str, Any]] = {}

    def take(self, groups: RolloutGroups) -> dict[str, float]:
        """Keeps the accepted completions of a step.

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
            texts = [(one, self._text(one.text)) for one in good]
            kept = [(one, text) for one, text in texts if self._is_sound(record, text)]
            refused["refused_equations"] += len(good) - len(kept)
            if kept:
                self._keep(record, *min(kept, key=lambda pair: pair[0].tokens))
        return dict(refused)

    def _text(self, completion: str) -> str:
        """A completion in cotjax's own layout."""
        return render_rationale(normalize_rationale(parse_rationale(completion, kind="numbered")))

    def _is_sound(self, record: Record, text: str) -> bool:
        """Whether the equations of a completion are as the settings ask for."""
        rule, found = self._settings.equations, equations(text)
        if rule == "ignore":
            return True
        if not (found or rule == "check") or not all(one.holds for one in found):
            return False
        if rule != "match":
            return True
        return {one.value for one in found} <= {one.value for one in equations(solution(record))}

    def _keep(self, record: Record, best: JudgedCompletion, text: str) -> None:
        known = self.completions.get(record.id)
        if known is None or best.tokens < known["tokens"]:
            self.completions[record.id] = {
                "id": record.id,
                "question": record.question,
                "text": text,
                "tokens": best.tokens,
            }

    def draw(self, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Some of them, without replacement; all if there are fewer."""
        every = list(self.completions.values())
        return [every[place] for place in rng.permutation(len(every))[:count]]

    def get_state(self) -> dict[str, Any]:
        """The stream's state and the completions, as JSON has them."""
        return {"stream": self._stream.get_state(), "rewrites": list(self.completions.values())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` stood."""
        self._stream.set_state(state["stream"])
        self.completions = {one["id"]: one for one in state["rewrites"]}


class Replay:
    """Draws batches of accepted completions, each a row behind its bare question.

    Args:
      config: of the run.
      mesh: devices.
      student: what the rows are for.

    Raises:
      InputError: the devices do not divide a batch.
    """

    def __init__(self, config: Config, mesh: Mesh, student: LoadedPolicy) -> None:
        check_divides(mesh, config.batch.size, "batch.size")
        self._config, self._mesh, self._student = config, mesh, student
        self._root = jax.random.key(config.seed)

    def batches(self, accepted: Accepted, step: int) -> tuple[list[tuple[TokenBatch, Any]], int]:
        """The batches of a step, as the loss takes them, and their tokens without padding.

        There is none as long as nothing is accepted.
        """
        config, key = self._config, jax.random.fold_in(self._root, step)
        rng, replays, tokens = np.random.default_rng((config.seed, step)), [], 0
        for turn in range(config.rewrite.updates if accepted.completions else 0):
            batch = self._rows(accepted.draw(config.batch.size, rng))
            tokens += int((batch.segment > 0).sum())
            own = jax.random.fold_in(key, turn) if turn else key
            placed = parallel.shard(self._mesh, batch)
            replays.append((placed, dropout_key(config, self._mesh, own)))
        return replays, tokens

    def _rows(self, completions: list[dict[str, Any]]) -> TokenBatch:
        """[R, S], one completion a row; rows that are missing are padding."""
        shape = self._config.batch.size, self._config.batch.sequence_length
        arrays = {
            "tokens": np.full(shape, self._student.pad_id, np.int32),
            "targets": np.full(shape, self._student.pad_id, np.int32),
            "weight": np.zeros(shape, np.float32),
        }
        segment = np.zeros(shape, np.int32)
        for row, one in enumerate(completions):
            encoded = encode_supervised(
                self._student.tokenizer,
                self._student.prompts.solve(one["question"]),
                one["text"],
                eos_id=self._student.eos_id,
                max_length=shape[1],
                name=one["id"],
            )
            size = len(encoded["tokens"])
            segment[row, :size] = 1
            for name, values in encoded.items():
                arrays[name][row, :size] = values
        positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        host: Any = {**arrays, "segment": segment, "positions": positions}
        return TokenBatch(**host)

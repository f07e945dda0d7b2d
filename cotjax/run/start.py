"""From a config to a run: `run` for the command line, `train` for Python."""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING

from cotjax.config import Config, change, check_plugins, with_objects
from cotjax.errors import InputError
from cotjax.run.early import check_run
from cotjax.run.explain import explain
from cotjax.run.handle import Run
from cotjax.run.mirrored import mirrored
from cotjax.run.one_stage import run_stage
from cotjax.run.resume import with_ended_stages
from cotjax.run.stage_list import run_list
from cotjax.startup import set_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jax import Array

    from cotjax.cot import Verifier
    from cotjax.interfaces import Completion, Record, Source
    from cotjax.run.printing import How

    Reward = Callable[[Completion, Record], float | Mapping[str, float]]


def train(
    config: Config,
    *,
    reward: Reward | str | None = None,
    verifier: Verifier | str | None = None,
    eval_verifier: Verifier | str | None = None,
    term: Callable[..., Array] | str | None = None,
    source: Source | str | None = None,
    difficulty: Callable[..., object] | str | None = None,
    schedule: Callable[[float, int], Sequence[float]] | str | None = None,
) -> Run:
    """Trains a student as the config says: one stage, or a list of stages in order.

    What is your own is given as an object here, or named in the config (`reward.function =
    "./file.py:name"`), so that the run can be resumed without Python.

    Args:
      config: from `Config.for_stage`, `Config.for_stages` or `cotjax.config.load`.
      reward: (Completion, Record) -> float, or dict of floats.
      verifier: has extract(text) -> str | None and equal(a, b) -> bool.
      eval_verifier: the same, of the evaluations alone.
      term: (logp, logp_old, advantage, mask, **settings) -> loss per token [B, G, T].
      source: random access to records: __len__() and __getitem__(index) -> Record.
      difficulty: (Record) -> float, or (student, records) -> [n].
      schedule: (progress, num_teachers) -> [N].

    Returns:
      the run: its folder, its numbers, and what was trained.

    Raises:
      InputError: before anything is compiled, if the input is wrong.
    """
    began = time.monotonic()
    if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(
            f"cotjax.train({config!r}): takes a Config. Write cotjax.train(Config.for_stage("
            '"grpo")), or a config of cotjax.config.load.'
        )
    set_up()
    given = {
        **{"reward": reward, "verifier": verifier, "term": term, "source": source},
        **{"eval_verifier": eval_verifier, "difficulty": difficulty, "schedule": schedule},
    }
    # Checked again, which a config that `dataclasses.replace` made is not.
    config = change(with_objects(config, **given), {}, "cotjax.train")
    return Run(run(config, began=began), objects=given)


def run(config: Config, *, began: float | None = None, how: How = "text") -> pathlib.Path:
    """Trains as a checked config says.

    Args:
      config: of one stage, or of a list.
      began: when the run's clock started, as `time.monotonic` counts; None is now.
      how: it says what it does, see `printing.open_printer`.

    Returns:
      the run folder, with config.toml, metrics.jsonl, completions.jsonl, checkpoints,
      parts.json, result.json and report.html; that of a list holds one such folder per stage. Of
      a run in a bucket it is the local copy.

    Raises:
      InputError: before anything is compiled, if the input is wrong.
    """
    began = time.monotonic() if began is None else began
    check_plugins(config)  # before the heavy imports
    with mirrored(config) as (folder, evaluated):
        check_run(config, folder)
        from cotjax.parallel import processes
        from cotjax.parallel.together import ending_together
        from cotjax.run.printing import open_printer

        processes.join()
        with ending_together():
            processes.wait("every process has looked at the folder")
            if config.stages and config.resume:
                config = with_ended_stages(config, folder)
            printer = open_printer(how)
            with printer.running():
                summary = explain(config, folder)
                printer.summary(summary.show, summary.about)
                act = run_list if config.stages else run_stage
                return act(config, folder, began=began, printer=printer, evaluated=evaluated)

"""How often a run calls a program: in a usual step, and beside its steps."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from cotjax.config import Config, stage_class
from cotjax.interfaces import Program
from cotjax.rollout.plan import make_plan

PHASES = ("rollout", "scoring", "update", "evaluation", "start")


@dataclasses.dataclass(frozen=True)
class Usage:
    """How often a program runs.

    Attributes:
      phase: one of `PHASES`; "start" is what a run does once.
      per_step: calls in a step.
      per_run: calls beside its steps.
    """

    phase: str
    per_step: float = 0.0
    per_run: float = 0.0


def usual_programs(programs: Sequence[Program]) -> list[Program]:
    """Of programs of one name the last, which nearly every step has; no parts of a whole update."""
    last = {program.name: program for program in programs}
    whole = "update" in last
    return [one for name, one in last.items() if not (whole and name.startswith("update: "))]


def usage(program: Program, stage: Any, config: Config) -> Usage:
    """How often a stage calls a program.

    Args:
      program: of `usual_programs`.
      stage: an open one.
      config: of the stage.
    """
    for pattern, phase, per_step, per_run in _RULES:
        if re.fullmatch(pattern, program.name):
            calls = _Calls(program, stage, config)
            return Usage(phase, per_step(calls), per_run(calls))
    return Usage("start", 0.0, 1.0)


def turns(program: Program) -> float:
    """How often the loop of a sampler turns at most; 1 for what does not sample.

    Every completion is counted at its longest: what really ends earlier is faster.
    """
    settings = program.kwargs.get("settings")
    if settings is None or not hasattr(settings, "max_new_tokens"):
        return 1.0
    plan = make_plan(_prompts(program), program.args[0].lanes, settings)
    return math.ceil(plan.jobs / plan.slots) * settings.max_new_tokens


def _prompts(program: Program) -> int:
    return len(program.args[2].tokens)


@dataclasses.dataclass(frozen=True)
class _Calls:
    """What the rules below ask."""

    program: Program
    stage: Any
    config: Config

    def reads(self, key: str) -> bool:
        return stage_class(self.config.stage).reads_key(key)

    @property
    def micros(self) -> float:
        """Micro-batches of a policy stage's step; 1 elsewhere."""
        size = getattr(self.stage, "micro_batch", 0)
        return self.config.rollout.prompts / size if size else 1.0

    @property
    def updates(self) -> float:
        """Of a step on its own batch."""
        if self.reads("policy.inner_updates"):
            return self.config.policy.inner_updates
        return self.config.rewrite.updates if self.reads("rewrite.updates") else 1.0

    @property
    def evaluations(self) -> float:
        """Of a run."""
        own, steps = self.config.eval, self.config.steps
        return 2 + len(own.at) + ((steps - 1) // own.every if own.every else 0)

    def calls_for(self, problems: int) -> float:
        """Calls that so many problems take, one sampler's batch each."""
        if self.program.name.endswith(": parameters"):
            return 1.0
        return math.ceil(problems / _prompts(self.program))

    @property
    def checks(self) -> float:
        """Of an adaptive schedule."""
        return self.config.steps / self.config.curriculum.check_every

    @property
    def own_text(self) -> float:
        """Share of a distillation's steps that sample."""
        return self.config.distill.on_policy

    @property
    def solution_rows(self) -> float:
        """Batches of the held-out solutions, no more than one to a row."""
        return math.ceil(self.config.eval.problems / max(self.config.batch.size, 1))


def _none(_: _Calls) -> float:
    return 0.0


def _once(_: _Calls) -> float:
    return 1.0


def _micros(calls: _Calls) -> float:
    return calls.micros


def _evaluated(calls: _Calls) -> float:
    return calls.evaluations * calls.calls_for(calls.config.eval.problems)


# Name, phase, calls per step, calls per run; the first that fits counts, others are called once.
_RULES: tuple[tuple[str, str, Callable[[_Calls], float], Callable[[_Calls], float]], ...] = (
    (r"rollout(: parameters)?", "rollout", _once, _none),
    (r"the student's own text(: parameters)?", "rollout", lambda c: c.own_text, _none),
    (r"texts of teacher .*", "rollout", _once, _none),
    (r"(the reference's |the teachers' )?log-probabilities", "scoring", _micros, _none),
    (r"teacher .*", "scoring", _micros, _none),
    (r"advantage|groups with a signal", "scoring", _once, _none),
    (r"update(: gradient)?", "update", lambda c: c.updates, _none),
    (r"update: .*", "update", lambda c: c.updates, _none),
    (r"update on the replay", "update", lambda c: c.config.rewrite.updates, _none),
    (r"evaluation(: parameters)?", "evaluation", _none, _evaluated),
    (
        *(r"loss of (held-out solutions|first answers)", "evaluation", _none),
        lambda c: c.evaluations * c.solution_rows,
    ),
    (r"held-out loss|the pass rate on .*", "evaluation", _none, lambda c: c.checks),
    (
        *(r"mining(: parameters)?", "start", _none),
        lambda c: c.calls_for(c.config.mining.questions),
    ),
)

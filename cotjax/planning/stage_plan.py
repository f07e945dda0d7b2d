"""One stage on a topology: its memory, its traffic and its time."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cotjax.config import Config, name_of, stage_class
from cotjax.planning import steps
from cotjax.planning.chips import Chip
from cotjax.planning.compiling import on_devices
from cotjax.planning.cost import Cost
from cotjax.planning.depth import Compiler
from cotjax.planning.memory import Memory, memory_of, resident
from cotjax.planning.opening import opened
from cotjax.planning.roofline import Roofline, at_least, together

Told = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a step, on each device.

    Attributes:
      cost: of a step, with the turns of its loops.
      time: at least.
      tokens: of a step, on all devices together; 0 where they are not counted.
    """

    cost: Cost
    time: Roofline
    tokens: int = 0


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What a stage needs.

    Attributes:
      name: of the stage.
      config: of it.
      steps: how many it takes.
      memory: of each program that was compiled.
      phases: of a step, by name.
      beside: seconds that a run takes beside its steps, at least: evaluations and what it begins
        with.
      compile_seconds: by program.
    """

    name: str
    config: Config
    steps: int
    memory: tuple[Memory, ...]
    phases: Mapping[str, Phase]
    beside: float
    compile_seconds: Mapping[str, float]

    @property
    def peak(self) -> Memory:
        """Of the program that needs most."""
        return max(self.memory, key=lambda one: one.total)

    @property
    def step_seconds(self) -> float:
        """Of a step, at least: the next one is sampled beside it where the config lets it."""
        whole = sum(phase.time.seconds for phase in self.phases.values())
        if not (self.config.rollout.off_policy_steps and self.config.mesh.rollout_devices):
            return whole
        sampling = self.phases["rollout"].time.seconds if "rollout" in self.phases else 0.0
        return max(sampling, whole - sampling)

    @property
    def seconds(self) -> float:
        """Of the stage, at least."""
        return self.steps * self.step_seconds + self.beside

    def fits(self, chip: Chip) -> bool:
        """Whether no program needs more than a device has."""
        return all(one.total <= chip.hbm and not one.refused for one in self.memory)


def plan_stage(
    config: Config,
    mesh: Any,
    chip: Chip,
    *,
    island: int = 0,
    steps_only: bool = False,
    exact: bool = False,
    estimate: bool = False,
    told: Told = lambda _: None,
) -> StagePlan:
    """Compiles what a stage runs, and adds it up.

    Args:
      config: of one stage, see `opening.stages_of`.
      mesh: of a topology's devices.
      chip: what one of them can do.
      island: devices that fast links join; 0 = all.
      steps_only: leave out what steps do not call.
      exact: compile every layer of samplers, see `depth`.
      estimate: compile nothing, see `estimate`.
      told: is given a sentence before each program that is compiled.

    Raises:
      InputError: see `opening.opened`.
    """
    dumped = chip.platform == "tpu"
    compiler = Compiler(config, mesh, island=island, dumped=dumped, exact=exact, estimate=estimate)
    with opened(config, mesh) as stage:
        name, held = name_of(config.stage), resident(stage)
        memory: list[Memory] = []
        seconds: dict[str, float] = {}
        parts: dict[str, list[tuple[Cost, Roofline]]] = {}
        beside = 0.0
        for program in steps.usual_programs(list(stage.programs())):
            use = steps.usage(program, stage, config)
            small = use.phase == "start" and "settings" not in program.kwargs  # and called once
            if small or not on_devices(program) or (steps_only and not use.per_step):
                continue
            told(f"{name}: {'counting' if estimate else 'compiling'} {program.name}")
            compiled = compiler(program)
            memory.append(memory_of(compiled, stage, config, held))
            seconds[program.name] = round(compiled.seconds, 1)
            turns = steps.turns(program)
            time = at_least(compiled.cost, chip, turns)
            beside += use.per_run * time.seconds
            if use.per_step:
                cost = compiled.cost.with_turns(turns).times(use.per_step)
                parts.setdefault(use.phase, []).append((cost, time.times(use.per_step)))
        phases = {phase: _phase(parts[phase]) for phase in steps.PHASES if phase in parts}
        counted = _tokens(stage, config, phases)
        return StagePlan(name, config, config.steps, tuple(memory), counted, beside, seconds)


def _phase(parts: Sequence[tuple[Cost, Roofline]]) -> Phase:
    cost = Cost()
    for one, _ in parts:
        cost += one
    return Phase(cost, together([time for _, time in parts]))


def _tokens(stage: Any, config: Config, phases: Mapping[str, Phase]) -> dict[str, Phase]:
    """The phases with the tokens of a step: every completion at its longest."""
    rollout, found = config.rollout, dict(phases)
    group = getattr(getattr(stage, "sampling", None), "group_size", 0)
    if "rollout" in found and group:
        written = rollout.prompts * group * rollout.max_new_tokens
        if stage_class(config.stage).reads_key("distill.on_policy"):
            written = round(written * config.distill.on_policy)  # that share of steps samples
        found["rollout"] = dataclasses.replace(found["rollout"], tokens=written)
    if "update" in found:
        trained = config.batch.size * config.batch.sequence_length
        if group and hasattr(stage, "micro_batch"):
            row = rollout.max_prompt_tokens + group * rollout.max_new_tokens
            trained = rollout.prompts * row
        found["update"] = dataclasses.replace(found["update"], tokens=trained)
    return found

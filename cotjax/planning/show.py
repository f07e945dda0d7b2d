"""A plan for people, and as JSON."""

import json
from collections.abc import Iterator
from typing import Any

from cotjax.planning.cost import Cost
from cotjax.planning.memory import PARTS, Memory
from cotjax.planning.run_plan import RunPlan
from cotjax.planning.search import Found
from cotjax.planning.stage_plan import StagePlan

GIB, MIB = 2**30, 2**20


def verdict(plan: RunPlan) -> str:
    """One sentence: fits, or the one change that helps most."""
    stage, peak = plan.tightest
    needs = f"{_gib(peak.total)} of {_gib(plan.chip.hbm)} GiB ({stage.name}, {peak.program})"
    if plan.fits:
        return f"fits: at most {needs} on each device"
    change = plan.change
    least = "at least " if peak.refused else ""
    told = f"does not fit: {least}{needs} on each device"
    if change is None:
        return f"{told}. Take more or larger devices."
    return f"{told}. {change}, which frees about {_gib(change.saves)} GiB."


def lines(plan: RunPlan) -> Iterator[str]:
    """The plan as text."""
    topology, chip = plan.topology, plan.chip
    axes = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    yield f"{topology.name}: {topology.size} × {chip.label}, {axes}"
    for stage in plan.stages:
        yield ""
        yield from _stage(stage, "counted" if plan.estimated else "compiled")
    yield ""
    yield (
        f"run: {_time(plan.seconds)}, {_amount(plan.chip_hours)} chip-hours at least"
        + (
            f", {_amount(plan.cost)} at {plan.price:g} per chip-hour"
            if plan.cost is not None
            else ""
        )
    )
    for note in plan.notes:
        yield f"note: {note}"
    yield verdict(plan)


def _stage(stage: StagePlan, how: str) -> Iterator[str]:
    yield f"{stage.name}: {stage.steps} steps of {_time(stage.step_seconds)} at least"
    yield "  memory of a device, GiB"
    for memory in stage.memory:
        parts = ", ".join(f"{kind} {_gib(memory.parts[kind])}" for kind in PARTS
                          if memory.parts.get(kind, 0) > MIB)  # fmt: skip
        took = stage.compile_seconds[memory.program]
        yield f"    {memory.program}: {_gib(memory.total)} ({parts}); {how} in {took} s"
    for name, phase in stage.phases.items():
        cost, time = phase.cost, phase.time
        speed = ""
        if phase.tokens and time.seconds:
            speed = f", {phase.tokens / time.seconds:,.0f} tokens/s"
        yield (
            f"  {name}: {_time(time.seconds)}, bound by {time.bound}{speed}; "
            f"{cost.flops / 1e12:,.3f} TFLOP and {cost.hbm / GIB:,.2f} GiB of memory traffic a "
            "device and step"
        )
        for (kind, over), one in sorted(cost.moved.items()):
            yield f"    {kind} over {over}: {one.count:,.0f}, {one.sent / MIB:,.2f} MiB sent"


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan as JSON holds it."""
    return {
        "topology": plan.topology.name,
        "devices": plan.topology.size,
        "chip": plan.chip.name,
        "hbm": plan.chip.hbm,
        "mesh": plan.mesh,
        "estimated": plan.estimated,
        "fits": plan.fits,
        "verdict": verdict(plan),
        "seconds": plan.seconds,
        "chip_hours": plan.chip_hours,
        "cost": plan.cost,
        "notes": list(plan.notes),
        "stages": [_stage_json(stage) for stage in plan.stages],
    }


def _stage_json(stage: StagePlan) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "steps": stage.steps,
        "step_seconds": stage.step_seconds,
        "seconds": stage.seconds,
        "memory": {one.program: _memory_json(one) for one in stage.memory},
        "compile_seconds": dict(stage.compile_seconds),
        "phases": {
            name: {
                "seconds": phase.time.seconds,
                "bound": phase.time.bound,
                "tokens": phase.tokens,
                **_cost_json(phase.cost),
            }
            for name, phase in stage.phases.items()
        },
    }


def _memory_json(memory: Memory) -> dict[str, Any]:
    return {"total": memory.total, "refused": memory.refused, "parts": dict(memory.parts)}


def _cost_json(cost: Cost) -> dict[str, Any]:
    moved = [
        {"kind": kind, "axes": axes, "count": one.count, "bytes": one.bytes, "sent": one.sent}
        for (kind, axes), one in sorted(cost.moved.items())
    ]
    return {"flops": cost.flops, "hbm": cost.hbm, "collectives": moved}


def compared(first: Found, best: Found) -> Iterator[str]:
    """What a search found, beside what was given."""
    for label, one in (("as given", first), ("found", best)):
        fits = f"short of {_gib(one.short)} GiB" if one.short else "fits"
        yield f"{label}: {fits}, steps of the run {_time(one.seconds)} at least"
    for section, settings in sorted(best.table.items()):
        for name, value in settings.items():
            yield f"  {section}.{name} = {json.dumps(value)}"


def _gib(size: float) -> str:
    return f"{size / GIB:,.2f}"


def _amount(number: float) -> str:
    """Two decimals, or two digits of what is smaller."""
    return f"{number:,.2f}" if number >= 0.1 or not number else f"{number:.2g}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:,.3g} ms"
    if seconds < 600:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 36000 else f"{seconds / 3600:,.1f} h"

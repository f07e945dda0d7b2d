"""Which program a run calls how often, and that every program of the package is known."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from cotjax.config import load
from cotjax.interfaces import Program
from cotjax.planning.steps import PHASES, turns, usage, usual_programs
from cotjax.rollout.plan import Sampling

ROOT = Path(__file__).parents[2]
# What a run does once, which no rule names.
ONCE = {
    *("the optimizer's first state", "the head of teacher {plan.name}", "the teachers' weights"),
    *("how likely rationales are", "the student's loss", "the student's pass rate"),
    *("finite numbers", "a copy of the start"),
}


def program(name, prompts=8, **settings):
    batch = SimpleNamespace(tokens=[None] * prompts)
    sampling = Sampling(1, 16, 0, 0, **settings)
    return Program(name, None, (SimpleNamespace(lanes=2), None, batch), {"settings": sampling})


def used(name, *flags, micro_batch=0, **more):
    config = load(["--name=plan", *flags])
    return usage(program(name, **more), SimpleNamespace(micro_batch=micro_batch), config)


@pytest.mark.parametrize(
    ("name", "flags", "phase", "per_step"),
    [
        ("rollout", ["--stage=grpo"], "rollout", 1),
        ("rollout: parameters", ["--stage=grpo"], "rollout", 1),
        ("update", ["--stage=sft"], "update", 1),
        ("update", ["--stage=grpo", "--policy.inner-updates=3"], "update", 3),
        ("update", ["--stage=rft", "--rewrite.updates=2"], "update", 2),
        ("update on the replay", ["--stage=rewrite", "--rewrite.updates=2"], "update", 2),
        ("log-probabilities", ["--stage=grpo", "--rollout.prompts=16"], "scoring", 4),
        ("teacher tiny", ["--stage=grpo", "--rollout.prompts=16"], "scoring", 4),
        ("advantage", ["--stage=grpo"], "scoring", 1),
    ],
)
def test_calls_in_a_step(name, flags, phase, per_step):
    found = used(name, *flags, micro_batch=4)
    assert (found.phase, found.per_step, found.per_run) == (phase, per_step, 0)


@pytest.mark.parametrize(
    ("name", "flags", "calls"),
    [
        ("evaluation", ["--eval.problems=20"], 2 * 3),
        ("evaluation", ["--eval.problems=20", "--steps=10", "--eval.every=5"], 3 * 3),
        ("evaluation: parameters", ["--eval.problems=20"], 2),
        ("the optimizer's first state", [], 1),
    ],
)
def test_calls_beside_the_steps(name, flags, calls):
    found = used(name, "--stage=grpo", *flags)
    assert found.per_step == 0 and found.per_run == calls


def test_mining_is_called_until_every_question_has_been_asked():
    found = used("mining", "--stage=rewrite", "--mining.questions=33")
    assert (found.phase, found.per_run) == ("start", 5)


def test_the_turns_of_a_sampler():
    assert turns(Program("update", None, ())) == 1
    assert turns(program("rollout")) == 16
    assert turns(program("rollout", rows=4)) == 2 * 16  # half of the completions at a time


def test_of_programs_of_one_name_the_last_counts():
    names = ["update", "evaluation", "update: gradient", "update", "update: new state"]
    programs = [Program(name, number, ()) for number, name in enumerate(names)]
    kept = {one.name: one.function for one in usual_programs(programs)}
    assert kept == {"update": 3, "evaluation": 1}
    assert [one.name for one in usual_programs(programs[2:3])] == ["update: gradient"]


def test_every_program_of_the_package_is_known():
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "cotjax").rglob("*.py"))
    call = r"(?:Program|programs)\(\s*(?:\*\(\s*)?f?\"([^\"]+)\""
    names = set(re.findall(call, text)) - ONCE
    names |= set(re.findall(r"name: str = \"(evaluation)\"", text))
    assert len(names) > 10
    config = load(["--stage=grpo", "--name=plan"])
    unknown = []
    for name in names:
        name = name.replace("{name}", "update").replace("{plan.name}", "tiny")
        found = usage(program(name), SimpleNamespace(micro_batch=4), config)
        assert found.phase in PHASES
        if found.phase == "start" and not name.startswith("mining"):
            unknown.append(name)
    assert not unknown

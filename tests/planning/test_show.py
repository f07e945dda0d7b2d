"""A plan as text and as JSON, with the same numbers."""

import dataclasses
import json

from cotjax.planning import show
from cotjax.planning.search import Found
from tests.planning.conftest import CHIP


def test_the_text_has_memory_phases_and_a_verdict(plan):
    text = "\n".join(show.lines(plan))
    assert text.startswith("cpu:8: 8 × a test's chip, replica 1 × data 2 × fsdp 4 × tensor 1")
    for part in ("update: ", "rollout: ", "chip-hours at least", "at 2 per chip-hour"):
        assert part in text
    assert text.splitlines()[-1].startswith("fits: at most ")


def test_a_short_run_is_not_told_to_be_free(plan):
    (run,) = (line for line in show.lines(plan) if line.startswith("run: "))
    assert plan.chip_hours < 0.005 and ", 0.00 " not in run
    assert f", {plan.chip_hours:.2g} chip-hours at least, {plan.cost:.2g} at 2 per" in run


def test_what_does_not_fit_names_the_change(plan):
    small = dataclasses.replace(plan, chip=dataclasses.replace(CHIP, hbm=1000))
    said = show.verdict(small)
    assert said.startswith("does not fit: ") and ". Set " in said and "which frees about" in said


def test_json_has_every_number(plan):
    told = json.loads(json.dumps(show.as_json(plan)))
    assert told["fits"] and told["devices"] == 8 and told["verdict"] == show.verdict(plan)
    (stage,) = told["stages"]
    own = plan.stages[0]
    assert stage["memory"]["update"]["total"] == sum(stage["memory"]["update"]["parts"].values())
    assert stage["phases"]["update"]["flops"] == own.phases["update"].cost.flops
    assert stage["phases"]["update"]["collectives"]


def test_a_search_is_compared_with_what_was_given(plan):
    config = plan.stages[0].config
    first, best = Found(config, {}, 2**30, 9.0), Found(config, {"mesh": {"fsdp": 8}}, 0, 5.0)
    assert list(show.compared(first, best)) == [
        "as given: short of 1.00 GiB, steps of the run 9.0 s at least",
        "found: fits, steps of the run 5.0 s at least",
        "  mesh.fsdp = 8",
    ]

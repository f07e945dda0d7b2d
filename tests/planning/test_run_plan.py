"""Stages together: hours, cost, what does not fit, and what cannot be split."""

import dataclasses
from unittest import mock

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.planning import run_plan
from cotjax.planning.chips import CHIPS
from cotjax.planning.memory import Memory
from cotjax.planning.opening import stages_of
from cotjax.planning.run_plan import chip_of, plan_run
from cotjax.planning.topologies import parse_topology
from cotjax.planning.verdict import best_change
from tests.planning.conftest import CHIP


def test_hours_and_cost(plan):
    assert plan.fits and plan.change is None
    assert plan.chip_hours == pytest.approx(plan.seconds * 8 / 3600)
    assert plan.cost == pytest.approx(2.0 * plan.chip_hours)
    assert plan.mesh == {"replica": 1, "data": 2, "fsdp": 4, "tensor": 1}


def test_two_stages_take_the_time_of_both(plan):
    twice = dataclasses.replace(plan, stages=plan.stages * 2, price=None)
    assert twice.seconds == pytest.approx(2 * plan.seconds) and twice.cost is None


def test_on_a_smaller_chip_it_does_not_fit_and_one_change_is_named(plan):
    small = dataclasses.replace(plan, chip=dataclasses.replace(CHIP, hbm=1000))
    assert not small.fits
    assert small.change is not None and 0 < small.change.saves < plan.tightest[1].total


def test_what_a_search_lacks_leaves_a_tenth_of_the_memory_to_an_estimate(plan):
    need = plan.tightest[1].total

    def short(hbm, *, estimated):
        chip = dataclasses.replace(CHIP, hbm=hbm)
        return dataclasses.replace(plan, chip=chip, estimated=estimated).short

    assert short(need, estimated=False) == 0
    assert short(need - 5, estimated=False) == 5
    assert short(need, estimated=True) == need - int(0.9 * need)
    assert short(need * 10 // 9 + 1, estimated=True) == 0
    stage = plan.stages[0]
    refused = dataclasses.replace(stage.memory[0], refused=True)
    broken = dataclasses.replace(plan, stages=(dataclasses.replace(stage, memory=(refused,)),))
    assert not broken.fits and broken.short == 1


def test_a_change_with_which_the_run_does_not_open_is_not_named(plan):
    (stage,) = plan.stages
    memory = Memory("rollout", {"sampling weights": 9000, "KV cache": 100})
    named = best_change(stage.config, memory, plan.mesh)
    assert named is not None and named.key == "mesh.rollout"  # of a model with one key head
    stage = dataclasses.replace(stage, memory=(memory,))
    small = dataclasses.replace(plan, stages=(stage,), chip=dataclasses.replace(CHIP, hbm=1000))
    assert small.change is not None and small.change.key == "rollout.cache_dtype"


def test_a_config_that_cannot_be_split_is_refused_before_anything_compiles(grpo):
    def told(text):
        raise AssertionError(text)

    mesh = dataclasses.replace(grpo.mesh, data=1, fsdp=1, tensor=8)
    config = dataclasses.replace(grpo, mesh=mesh)
    with pytest.raises(InputError, match="mesh.tensor = 8"):
        plan_run(stages_of(config), parse_topology("cpu:8"), chip=CHIP, told=told)
    rollout = dataclasses.replace(grpo.rollout, prompts=6)
    config = dataclasses.replace(grpo, rollout=rollout)
    with pytest.raises(InputError, match="rollout.prompts = 6: 8 devices cannot share it"):
        plan_run(stages_of(config), parse_topology("cpu:8"), chip=CHIP, told=told)


def test_hosts_that_only_sample_are_noted(grpo):
    mesh = dataclasses.replace(grpo.mesh, data=2, fsdp=2, rollout_devices=4)
    configs = stages_of(dataclasses.replace(grpo, mesh=mesh))
    own = dataclasses.replace(parse_topology("cpu:8"), name="two")

    def notes(hosts):
        with mock.patch.object(run_plan, "_hosts", lambda _: hosts):
            return plan_run(configs, own, chip=CHIP, estimate=True).notes

    assert len(notes(1)) == 1
    assert "needs one process, and two has 2 hosts" in notes(2)[-1]
    named = ("v5e:2x4", 1), ("v5e:4x4", 4), ("v5p-8", 1), ("h100:16", 2), ("l4:12", 2), ("cpu:8", 1)
    assert all(run_plan._hosts(parse_topology(name)) == hosts for name, hosts in named)


def test_a_chip_is_as_documented():
    assert chip_of(parse_topology("v5e:4x4")) is CHIPS["v5e"]


def test_stages_of_a_list_begin_with_one_model():
    configs = stages_of(load(["--stage=bridge", "--name=plan", "--model.path=tiny"]))
    assert [one.stage for one in configs] == ["reconstruct", "grpo", "rewrite"]
    assert {(one.model.path, one.model.init) for one in configs} == {("tiny", "random")}

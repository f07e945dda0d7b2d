"""What "auto" comes to on devices of one memory and another."""

import pytest

from cotjax.config import change
from cotjax.planning.chips import Chip
from cotjax.planning.opening import stages_of
from cotjax.planning.remat import FILLED, choose_remat, update_bytes
from cotjax.planning.run_plan import plan_run
from cotjax.planning.topologies import mesh_of, parse_topology


@pytest.fixture(scope="module")
def needs(grpo):
    """(bytes that an update needs with each value, the mesh)."""
    mesh = mesh_of(parse_topology("cpu:8"), grpo.mesh)
    return {
        remat: update_bytes(change(grpo, {"model": {"remat": remat}}, "a test"), mesh)
        for remat in ("none", "dots", "full")
    }, mesh


def test_what_is_computed_again_needs_less(needs):
    found, _ = needs
    assert found["none"] > found["dots"] > found["full"] > 0


@pytest.mark.parametrize("fits", ["none", "dots", "full"])
def test_the_fastest_that_fits_with_something_to_spare(fits, grpo, needs):
    found, mesh = needs
    auto = change(grpo, {"model": {"remat": "auto"}}, "a test")
    chosen = choose_remat(auto, mesh, int(found[fits] / FILLED) + 1)
    assert chosen.remat == fits and chosen.needed[fits] == found[fits]
    assert f'model.remat = "auto" is "{fits}"' in str(chosen)


def test_where_nothing_fits_what_needs_least(grpo, needs):
    found, mesh = needs
    auto = change(grpo, {"model": {"remat": "auto"}}, "a test")
    chosen = choose_remat(auto, mesh, 1)
    assert chosen.remat == "full" and chosen.needed == found


def test_a_stage_without_an_update_computes_nothing_again(grpo, monkeypatch, needs):
    monkeypatch.setattr("cotjax.planning.remat.usual_programs", lambda _: [])
    assert choose_remat(grpo, needs[1], 1).remat == "none"


def test_a_plan_says_what_it_takes(grpo, needs):
    found, _ = needs
    auto = change(grpo, {"model": {"remat": "auto"}}, "a test")
    chip = Chip("cpu", "a test's chip", "cpu", 1e9, int(found["dots"] / FILLED) + 1, 1e9, 1e8, 1e7)
    plan = plan_run(stages_of(auto), parse_topology("cpu:8"), chip=chip, estimate=True)
    assert plan.stages[0].config.model.remat == "dots"
    assert plan.notes[0].startswith('grpo: model.remat = "auto" is "dots": of ')

"""Seconds against closed forms: the slowest part bounds, loops count by their turns."""

import dataclasses

import pytest

from cotjax.planning.chips import Chip
from cotjax.planning.collectives import Traffic
from cotjax.planning.cost import Cost
from cotjax.planning.roofline import Roofline, at_least, together

CHIP = Chip("c", "C", "tpu", flops=100.0, hbm=1, hbm_rate=10.0, link=5.0, network=1.0)


@pytest.mark.parametrize(
    ("cost", "seconds", "bound"),
    [
        (Cost(flops=400.0, hbm=10.0), 4.0, "compute"),
        (Cost(flops=400.0, hbm=60.0), 6.0, "memory"),
        (Cost(hbm=10.0, moved={("all-gather", "fsdp"): Traffic(1, 20, 15)}), 3.0, "link"),
        (
            Cost(hbm=10.0, moved={("all-reduce", "data (network)"): Traffic(1, 9, 7)}),
            7.0,
            "network",
        ),
        (Cost(), 0.0, "compute"),
    ],
)
def test_the_slowest_part_bounds(cost, seconds, bound):
    found = at_least(cost, CHIP)
    assert (found.seconds, found.bound) == (seconds, bound)


def test_what_does_not_overlap_adds_up():
    found = at_least(Cost(flops=400.0, hbm=60.0), dataclasses.replace(CHIP, overlaps=False))
    assert (found.seconds, found.bound) == (10.0, "memory")


def test_a_loop_takes_its_time_in_every_turn():
    cost = Cost(flops=100.0, loops={"short": Cost(flops=1.0), "long": Cost(flops=200.0, hbm=50.0)})
    found = at_least(cost, CHIP, turns=3)
    assert found.seconds == 1 + 3 * 5
    assert found.compute == 1 + 3 * 2 and found.memory == 15


def test_one_after_the_other():
    assert together([]) == Roofline()
    both = together([Roofline(1, 1), Roofline(2, 0, 2)])
    assert both == Roofline(3, 1, 2) and both.times(2).seconds == 6

"""Hosts of a topology: chips over chips per host, and the names that clouds give them."""

import pytest

from cotjax.errors import InputError
from cotjax.planning.chips import CHIPS
from cotjax.planning.machines import machines_of
from cotjax.planning.topologies import SHAPES, parse_topology


def of(name):
    return machines_of(parse_topology(name))


# As Google Cloud documents them: hosts, chips, memory, machine type, accelerator type, GKE's label.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v4:2x2x2", (2, 4, 407, "ct4p-hightpu-4t", "v4-16", "tpu-v4-podslice")),
        ("v5e:1x1", (1, 1, 48, "ct5lp-hightpu-1t", "v5litepod-1", "tpu-v5-lite-podslice")),
        ("v5e:2x4", (1, 8, 384, "ct5lp-hightpu-8t", "v5litepod-8", "tpu-v5-lite-podslice")),
        ("v5e:4x4", (4, 4, 192, "ct5lp-hightpu-4t", "v5litepod-16", "tpu-v5-lite-podslice")),
        ("v5p-8", (1, 4, 448, "ct5p-hightpu-4t", "v5p-8", "tpu-v5p-slice")),
        ("v5p:2x2x4", (4, 4, 448, "ct5p-hightpu-4t", "v5p-32", "tpu-v5p-slice")),
        ("v6e:16x16", (64, 4, 720, "ct6e-standard-4t", "v6e-256", "tpu-v6e-slice")),
    ],
)
def test_tpus(name, expected):
    found = of(name)
    shown = (found.hosts, found.chips, found.memory)
    assert (*shown, found.machine, found.accelerator, found.label) == expected


@pytest.mark.parametrize(
    "name", [f"{chip}:{shape}*{n}" for chip in SHAPES for shape in SHAPES[chip] for n in (1, 2)]
)
def test_hosts_hold_all_chips_of_every_slice_that_is_rented(name):
    topology, found = parse_topology(name), of(name)
    assert found.all_hosts * found.chips == topology.size
    assert found.hosts * found.chips == topology.slice_size
    assert found.memory and found.runtime and found.machine.endswith(f"-{found.chips}t")


def test_gpus_come_in_hosts_of_eight():
    assert (of("h100:16").hosts, of("h100:16").chips, of("h100:16").accelerator) == (2, 8, "H100")
    assert (of("l4:2").hosts, of("l4:2").chips) == (1, 2)
    with pytest.raises(InputError, match=r"12 GPUs do not fill hosts of 8. Give 8 or 16\."):
        of("a100:12")


def test_every_gpu_that_is_planned_has_a_name_to_rent_it_by():
    for chip in CHIPS.values():
        if chip.platform == "gpu":
            assert of(f"{chip.name}:8").accelerator


def test_the_cpu_is_one_host():
    assert (of("cpu:8").all_hosts, of("cpu:8").chips) == (1, 8)

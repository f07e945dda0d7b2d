"""Which rows each of 64 hosts feeds and owns, simulated with the shardings of 256 devices."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import dataclasses, json, sys
import jax
from cotjax.parallel import processes
from cotjax.parallel.mesh import make_mesh

HOSTS, PER_HOST = 64, 4


@dataclasses.dataclass(frozen=True)
class Device:
    id: int

    @property
    def process_index(self):
        return self.id // PER_HOST


class Simulated:
    # A sharding as one of the hosts sees it.
    def __init__(self, sharding, host):
        self.sharding, self.host = sharding, host

    def devices_indices_map(self, shape):
        places = self.sharding.devices_indices_map(shape)
        return {Device(device.id): place for device, place in places.items()}

    def addressable_devices_indices_map(self, shape):
        places = self.devices_indices_map(shape).items()
        return {device: place for device, place in places if device.process_index == self.host}


batched, found = processes.batched, []
jax.process_count = lambda: HOSTS
for axes in [(256, 1, 1), (64, 4, 1), (32, 4, 2), (8, 16, 2)]:
    mesh = make_mesh(*axes)
    for host in range(HOSTS):
        processes.batched = lambda mesh: Simulated(batched(mesh), host)
        fed = processes.fed_rows(mesh, 512).tolist()
        owner = processes.owners(mesh, 512).tolist()
        found.append({"axes": axes, "host": host, "fed": fed, "owner": owner})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hosts():
    flags = "--xla_force_host_platform_device_count=256"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for row in json.loads(done.stdout):
        found.setdefault(tuple(row["axes"]), []).append(row)
    return found


def test_every_row_has_one_owner_who_feeds_it_and_all_own_as_many(hosts):
    assert len(hosts) == 4
    for axes, rows in hosts.items():
        owner = np.array(rows[0]["owner"])
        assert all(row["owner"] == rows[0]["owner"] for row in rows)  # the hosts agree
        owned = [set(np.flatnonzero(owner == row["host"])) for row in rows]
        assert sum(map(len, owned)) == 512 and set().union(*owned) == set(range(512))
        assert all(own <= set(row["fed"]) for own, row in zip(owned, rows, strict=True))
        sizes = {len(own) for own in owned if own}
        assert len(sizes) == 1, (axes, sizes)  # balanced among those that own any


@pytest.mark.parametrize(("axes", "each"), [((256, 1, 1), 8), ((64, 4, 1), 8), ((32, 4, 2), 8)])
def test_rows_that_the_hosts_split_are_fed_by_one_host_each(hosts, axes, each):
    fed = [row["fed"] for row in hosts[axes]]
    assert {len(rows) for rows in fed} == {each}
    assert sorted(row for rows in fed for row in rows) == list(range(512))

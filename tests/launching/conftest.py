"""Jobs to fill launch files in from, as `cotjax launch` makes them."""

import pytest

from cotjax.launching.bucket import parse_bucket
from cotjax.launching.job import Job
from cotjax.planning.machines import machines_of
from cotjax.planning.topologies import parse_topology

TEXT = 'stage = "grpo"  # it\'s a "run"\nsteps = 3\n'


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A function: a job on a topology; its config lies in the folder of the process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(TEXT)

    def make(topology=None, *, bucket="gs://my-runs/maths", **more):
        devices = parse_topology(topology) if topology else None
        settings = {
            "config": "run.toml",
            "text": TEXT,
            "name": "My_run.1",
            "topology": devices,
            "machines": machines_of(devices) if devices else None,
            "bucket": parse_bucket(bucket) if bucket else None,
        }
        return Job(**settings | more)

    return make

"""One process writes a run in a bucket; who was killed is waited for, but not for long."""

import datetime
import json
import os
import socket

import pytest

from cotjax.errors import InputError
from cotjax.remote import lease as leases
from cotjax.remote.lease import OWN, WRITER, Lease, LeaseLost, probe, writer_of
from cotjax.remote.place import open_remote
from tests.remote.buckets import Flaky, names, text

URL = "flaky://b/runs/one"


@pytest.fixture
def remote():
    return open_remote(URL, "output")


def test_it_says_who_writes(remote):
    assert Lease(remote, "me").take() == ""
    row = json.loads(text(URL, WRITER))
    assert (row["id"], row["host"], row["pid"]) == ("me", socket.gethostname(), os.getpid())
    assert not row["ended"] and names(URL) == {WRITER}, "the probe is removed"


def test_another_process_is_refused_and_hears_who_writes(remote):
    Lease(remote, "me").take()
    with pytest.raises(InputError) as error:
        Lease(remote, "other").take()
    assert f"{URL}: process {os.getpid()} on {socket.gethostname()} writes this" in str(error.value)
    assert "counts for 5 minutes" in str(error.value)
    assert writer_of(remote)["id"] == "me"


def test_one_that_was_killed_counts_for_some_minutes(remote, monkeypatch):
    Lease(remote, "me").take()
    later = datetime.timedelta(seconds=leases.STALE + 1)
    Flaky.store["/b/runs/one/" + WRITER].modified -= later
    assert Lease(remote, "other").take() == "me"
    assert writer_of(remote)["id"] == "other"


def test_without_a_clock_of_the_bucket_the_writers_own_counts(remote, monkeypatch):
    monkeypatch.setattr(type(remote), "modified", lambda self, name: None)
    Lease(remote, "me").take()
    with pytest.raises(InputError, match="writes this run"):
        Lease(remote, "other").take()
    row = writer_of(remote) | {"time": "2020-01-01T00:00:00+00:00"}
    remote.write(WRITER, json.dumps(row).encode())
    assert Lease(remote, "other").take() == "me"


def test_the_same_machine_goes_on_at_once(remote):
    Lease(remote, "me").take()
    assert Lease(remote, "me").take() == "me"


def test_one_that_was_given_back_is_free(remote):
    lease = Lease(remote, "me")
    lease.take()
    lease.release(begun=True)
    assert writer_of(remote)["ended"] and Lease(remote, "other").take() == "me"


def test_a_run_that_did_not_begin_leaves_nothing(remote):
    lease = Lease(remote, "me")
    lease.take()
    lease.release(begun=False)
    assert names(URL) == set()


def test_who_lost_it_is_told_and_does_not_write_it_again(remote):
    lease = Lease(remote, "me")
    lease.take()
    lease.check()
    remote.write(WRITER, json.dumps({"id": "other", "pid": 7, "host": "far"}).encode())
    with pytest.raises(LeaseLost, match="process 7 on far writes this run"):
        lease.check()
    lease.release(begun=True)
    assert writer_of(remote)["id"] == "other"


def test_the_slower_of_two_at_one_moment_is_refused(remote, monkeypatch):
    slow = Lease(remote, "slow")
    row = {"id": "fast", "pid": 7, "host": "far"}
    monkeypatch.setattr(
        leases.time, "sleep", lambda seconds: remote.write(WRITER, json.dumps(row).encode())
    )
    with pytest.raises(InputError, match="process 7 on far writes this run"):
        slow.take()


def test_it_is_written_again_and_again(remote, monkeypatch):
    monkeypatch.setattr(leases, "REFRESH", 0.01)
    lease = Lease(remote, "me")
    lease.take()
    Flaky.writes.clear()
    lease.keep()
    while len(Flaky.writes) < 3:
        assert lease._thread.is_alive()
    lease.release(begun=True)
    assert not lease._thread.is_alive() and writer_of(remote)["ended"]


def test_a_bucket_that_cannot_be_written(remote):
    Flaky.break_at("/b/", 0)
    with pytest.raises(InputError) as error:
        Lease(remote, "me").take()
    assert str(error.value) == (
        f'output = "{URL}": cannot be written (ConnectionError: the server is away). Correct the '
        "URL, or give this machine credentials that may read, write and remove there."
    )


def test_a_damaged_object_is_nobodys(remote):
    remote.write(WRITER, b"{")
    assert writer_of(remote) == {} and Lease(remote, "me").take() == ""


def test_the_probe_gives_the_time_and_goes(remote):
    assert abs((datetime.datetime.now(datetime.UTC) - probe(remote)).total_seconds()) < 60
    assert names(URL) == set() and WRITER in OWN

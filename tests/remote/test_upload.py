"""Whoever reads the bucket finds whole checkpoints, at any moment and whatever fails."""

import json
import shutil
import time

import pytest

from cotjax.checksums import FILE, damage
from cotjax.remote import upload
from cotjax.remote.fetch import local_copy
from cotjax.remote.lease import WRITER, Lease
from cotjax.remote.local import LocalCopy
from cotjax.remote.place import open_remote
from cotjax.remote.upload import Uploader
from tests.remote.buckets import Flaky, names, text, write_run, write_step

URL = "flaky://b/runs/one"


class Job:
    """A run that is uploaded while the test plays its training."""

    def __init__(self, keep=2):
        self.local, remote = LocalCopy(URL), open_remote(URL, "output")
        self.folder, self.warned = self.local.folder, []
        lease = Lease(remote, "me")
        lease.take()
        self.uploader = Uploader(
            *(remote, self.local, lease, remote.listing()), keep=keep, warn=self.warned.append
        )
        self.uploader.start()

    def close(self):
        return self.uploader.close()


def wait(until):
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end
        time.sleep(0.005)


def has(step):
    return lambda: f"checkpoints/{step}/{FILE}" in names(URL)


def order(*parts):
    """Where the first name with each part stands among what was written."""
    return [next(i for i, path in enumerate(Flaky.writes) if part in path) for part in parts]


def test_a_run_is_there_at_the_end():
    job = Job()
    write_run(job.folder, 3)
    (job.folder / ".lock").touch()
    assert job.close() == "" and job.warned == []
    files = (path.relative_to(job.folder) for path in job.folder.rglob("*") if path.is_file())
    assert names(URL) == ({path.as_posix() for path in files} - {".lock"}) | {WRITER}
    assert text(URL, "metrics.jsonl") == (job.folder / "metrics.jsonl").read_bytes()
    assert not job.local.scratch.exists()


def test_lines_go_before_the_checkpoint_and_its_checksums_last():
    job = Job()
    write_run(job.folder, 3)
    assert job.close() == ""
    own = [path for path in Flaky.writes if "/checkpoints/3/" in path]
    assert own[-1].endswith(FILE) and len(own) == 6
    lines, config, data = order("metrics.jsonl", "config.toml", "/checkpoints/3/")
    assert lines < config < data


def test_a_result_is_not_there_before_the_last_checkpoint():
    job = Job()
    write_run(job.folder)
    write_step(job.folder, 4)
    (job.folder / "result.json").write_text("{}")
    assert job.close() == ""
    checksums, result = order(f"/checkpoints/4/{FILE}", "result.json")
    assert checksums < result


def test_a_new_checkpoint_needs_no_word():
    job = Job()
    write_run(job.folder)
    assert "config.toml" not in names(URL)
    write_step(job.folder, 1)
    wait(has(1))
    assert "metrics.jsonl" in names(URL)
    job.close()


def test_an_evaluation_is_there_soon():
    job = Job()
    write_run(job.folder)
    job.uploader.notify()
    wait(lambda: "config.toml" in names(URL))
    before = len(Flaky.writes)
    with (job.folder / "metrics.jsonl").open("a") as file:
        file.write("more\n")
    job.uploader.notify()
    wait(lambda: text(URL, "metrics.jsonl").endswith(b"more\n"))
    assert [path.rpartition("/")[2] for path in Flaky.writes[before:]] == ["metrics.jsonl"]
    job.close()


def test_what_the_run_removed_goes_after_the_new_one_is_whole():
    job = Job(keep=1)
    write_run(job.folder, 1)
    wait(has(1))
    shutil.rmtree(job.folder / "checkpoints" / "1")
    time.sleep(0.05)
    assert has(1)(), "there is no other one yet"
    write_step(job.folder, 2)
    wait(lambda: not any(name.startswith("checkpoints/1/") for name in names(URL)))
    assert has(2)()
    job.close()


def test_a_resumed_run_keeps_what_it_did_not_fetch_until_there_are_enough():
    first = Job(keep=2)
    write_run(first.folder, 1, 2)
    first.close()
    shutil.rmtree(first.folder / "checkpoints" / "1")
    job = Job(keep=2)
    write_step(job.folder, 3)
    wait(has(3))
    assert job.close() == ""
    assert has(2)() and not has(1)() and job.folder.exists()


def test_a_checkpoint_that_is_removed_while_it_is_uploaded_gets_there(monkeypatch):
    put, removed = type(open_remote(URL, "output")).put, []

    def removing(self, file, name):
        if "checkpoints/1/" in name and not removed:
            removed.append(name)
            shutil.rmtree(job.folder / "checkpoints" / "1", ignore_errors=True)
        put(self, file, name)

    monkeypatch.setattr(type(open_remote(URL, "output")), "put", removing)
    job = Job()
    write_run(job.folder, 1)
    wait(has(1))
    assert job.close() == "" and removed


def test_an_upload_that_breaks_off_leaves_the_older_checkpoint_the_newest(machine):
    job = Job()
    write_run(job.folder, 1)
    wait(has(1))
    Flaky.break_at("/checkpoints/2/", 700)
    write_step(job.folder, 2)
    wait(lambda: job.warned)
    assert any(name.startswith("checkpoints/2/") for name in names(URL)) and not has(2)()
    assert "ConnectionError: the server is away" in job.close()
    machine("elsewhere")
    folder = local_copy(URL)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1"]
    assert not damage(folder / "checkpoints" / "1")


def test_a_server_that_comes_back_is_served(monkeypatch):
    monkeypatch.setattr(upload, "PAUSES", (0.01,) * 500)
    job = Job()
    write_run(job.folder, 1)
    wait(has(1))
    Flaky.break_at("/checkpoints/2/", 700)
    write_step(job.folder, 2)
    wait(lambda: any(name.startswith("checkpoints/2/") for name in names(URL)))
    Flaky.repair()
    wait(has(2))
    assert job.close() == "" and job.warned == []


def test_it_warns_once_and_again_with_the_next_checkpoint():
    job = Job()
    write_run(job.folder, 1)
    wait(has(1))
    Flaky.break_at("/b/runs", 0)
    write_step(job.folder, 2)
    wait(lambda: len(job.warned) == 1)
    tries = len(Flaky.writes)
    (job.folder / "metrics.jsonl").write_text("more\n")
    job.uploader.notify()
    time.sleep(0.2)
    assert len(job.warned) == 1 and tries == len(Flaky.writes)
    write_step(job.folder, 3)
    wait(lambda: len(job.warned) == 2)
    assert job.warned[0].startswith(f"{URL}: not uploaded (ConnectionError: the server is away)")
    assert str(job.folder) in job.warned[0]
    Flaky.repair()
    assert job.close() == "" and has(2)() and has(3)()


def test_who_lost_the_lease_uploads_nothing_more():
    job = Job()
    write_run(job.folder, 1)
    wait(has(1))
    open_remote(URL, "output").write(WRITER, json.dumps({"id": "other", "pid": 7}).encode())
    write_step(job.folder, 2)
    assert "process 7" in job.close() and not has(2)()


def test_a_checkpoint_that_was_made_again_replaces_the_other():
    first = Job()
    write_run(first.folder, 1)
    first.close()
    shutil.rmtree(first.folder / "checkpoints" / "1")
    write_step(first.folder, 1, salt="again")
    Flaky.writes.clear()
    job = Job()
    assert job.close() == ""
    assert text(URL, f"checkpoints/1/{FILE}") == (job.folder / "checkpoints/1" / FILE).read_bytes()
    assert not any("metrics" in path for path in Flaky.writes), "it was there already"


@pytest.mark.parametrize("stage", ["", "2-grpo/"])
def test_stages_of_a_list_have_their_own(stage):
    job = Job(keep=1)
    write_run(job.folder / "1-sft", 5)
    write_run(job.folder / stage, 1)
    assert job.close() == ""
    assert {f"1-sft/checkpoints/5/{FILE}", f"{stage}checkpoints/1/{FILE}"} <= names(URL)

"""What a URL names is fetched once, whole and checked; who has something newer keeps it."""

import json

import pytest

from cotjax.checksums import FILE, damage
from cotjax.errors import InputError
from cotjax.remote.fetch import begun_copy, bring, local_copy, newest_of_each, written_here
from cotjax.remote.lease import WRITER, Lease
from cotjax.remote.local import LocalCopy
from cotjax.remote.place import folder_of, open_remote
from cotjax.remote.upload import Uploader
from tests.remote.buckets import Flaky, text, write_run, write_step

URL = "flaky://b/runs/one"


def upload(url=URL, own="me"):
    """Everything of this machine's copy, as a run leaves it."""
    local, remote = LocalCopy(url), open_remote(url, "output")
    lease = Lease(remote, own)
    lease.take()
    uploader = Uploader(remote, local, lease, remote.listing(), keep=9, warn=pytest.fail)
    local.writer = own
    local.save()
    uploader.start()
    assert uploader.close() == ""
    lease.release(begun=True)
    return local.folder


@pytest.fixture
def run():
    """A run in the bucket, and its folder on the machine that wrote it."""
    write_run(folder_of(URL), 1, 2)
    return upload()


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*"))


def test_a_path_of_this_machine_is_not_touched(tmp_path):
    assert local_copy(tmp_path) == tmp_path and local_copy("tiny").name == "tiny"


def test_another_machine_gets_texts_and_the_newest_checkpoint(run, machine):
    machine("there")
    folder = local_copy(URL)
    assert folder != run and steps(folder) == [2] and not damage(folder / "checkpoints" / "2")
    for name in ("config.toml", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (run / name).read_bytes()
    written = (folder / "metrics.jsonl").stat().st_mtime
    assert abs(written - (run / "metrics.jsonl").stat().st_mtime) < 60
    assert not LocalCopy(URL).scratch.exists()


def test_what_is_not_needed_is_not_fetched(run, machine):
    machine("there")
    assert not (local_copy(URL, weights=False) / "checkpoints").exists()
    assert steps(local_copy(URL, below=2)) == [1]


def test_a_checkpoint_by_its_name(run, machine):
    machine("there")
    path = local_copy(f"{URL}/checkpoints/1")
    assert path.name == "1" and steps(path.parents[1]) == [1]


def test_a_step_that_is_not_there_fetches_none(run, machine):
    machine("there")
    assert not local_copy(f"{URL}/checkpoints/7").exists()


def test_it_is_fetched_once_and_then_what_changed(run, machine, monkeypatch):
    machine("there")
    folder, got = local_copy(URL), []
    kind = type(open_remote(URL, "output"))
    get = kind.get
    monkeypatch.setattr(kind, "get", lambda *args: got.append(args[1]) or get(*args))
    local_copy(URL, again=True)
    assert got == []
    machine("here")
    (run / "metrics.jsonl").write_text("more\n")
    write_step(run, 3)
    upload()
    machine("there")
    local_copy(URL)
    assert "metrics.jsonl" in got and "config.toml" not in got
    assert (folder / "metrics.jsonl").read_text() == "more\n" and steps(folder) == [2, 3]


def test_what_the_bucket_no_longer_has_is_not_kept(run, machine):
    machine("there")
    folder = local_copy(URL)
    open_remote(URL, "output").remove_folder("checkpoints/2")
    local_copy(URL, again=True)
    assert steps(folder) == [1]


def test_a_checkpoint_that_is_damaged_there_is_passed_over(run, machine, capsys):
    remote = open_remote(URL, "output")
    data = text(URL, "checkpoints/2/state/d/array")
    remote.write("checkpoints/2/state/d/array", b"X" + data[1:])
    machine("there")
    assert steps(local_copy(URL)) == [1]
    assert "state/d/array was changed: its SHA-256 is another" in capsys.readouterr().err


def test_one_that_was_cut_is_seen_before_it_is_fetched(run, machine, capsys):
    remote = open_remote(URL, "output")
    remote.write("checkpoints/2/state/d/array", b"X")
    remote.remove("checkpoints/1/run/metadata")
    machine("there")
    with pytest.raises(InputError) as error:
        local_copy(URL)
    assert "2: state/d/array has 1 bytes of" in str(error.value)
    assert "1: run/metadata is missing" in str(error.value)


def test_one_that_is_being_uploaded_or_removed_does_not_count(run, machine, capsys):
    open_remote(URL, "output").remove(f"checkpoints/2/{FILE}")
    machine("there")
    assert steps(local_copy(URL)) == [1] and capsys.readouterr().err == ""


def test_one_of_an_earlier_version_has_no_checksums(run, machine):
    remote = open_remote(URL, "output")
    for name in (FILE, "run/metadata"):
        remote.remove(f"checkpoints/2/{name}")
    machine("there")
    assert steps(local_copy(URL)) == [2]


def test_a_machine_that_wrote_the_run_last_keeps_its_own(run):
    (run / "metrics.jsonl").write_text("newer\n")
    write_step(run, 3)
    assert local_copy(URL, again=True) == run
    assert (run / "metrics.jsonl").read_text() == "newer\n" and steps(run) == [1, 2, 3]


def test_without_a_word_on_who_wrote_it_the_machine_that_did_keeps_its_own(run):
    open_remote(URL, "output").write(WRITER, b"")  # torn
    (run / "metrics.jsonl").write_text("newer\n")
    assert local_copy(URL, again=True) == run
    assert (run / "metrics.jsonl").read_text() == "newer\n"


def test_a_run_that_another_machine_went_on_with_is_set_aside_here(run, machine, capsys):
    write_step(run, 3)  # which never was uploaded
    machine("there")
    folder = local_copy(URL)
    (folder / "metrics.jsonl").write_text("of there\n")
    upload(own="other")
    machine("here")
    assert local_copy(URL) == run
    assert (run / "metrics.jsonl").read_text() == "of there\n" and steps(run) == [2]
    aside = run.with_name("one.aside-1")
    assert steps(aside) == [1, 2, 3]
    assert f"What was here is in {aside} now" in capsys.readouterr().err


def test_a_run_that_goes_on_here_is_newer_than_its_bucket(run):
    (run / "metrics.jsonl").write_text("newer\n")
    local = LocalCopy(URL)
    local.writer = ""  # even if nothing were known of it
    local.save()
    with local.locked(0), written_here("flaky://b/other"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cotjax.remote.fetch._WAIT", 0.01)
            assert local_copy(URL, again=True) == run
    assert (run / "metrics.jsonl").read_text() == "newer\n"


def test_a_run_of_this_process_is_not_looked_up(monkeypatch):
    monkeypatch.setattr("cotjax.remote.fetch.open_remote", lambda *_: pytest.fail("asked"))
    with written_here(URL):
        assert local_copy(f"{URL}/1-sft") == folder_of(URL) / "1-sft"


def test_a_list_of_stages(machine):
    write_run(folder_of(URL))
    write_run(folder_of(URL) / "1-sft", 4)
    write_run(folder_of(URL) / "2-grpo", 2)
    upload()
    machine("there")
    folder = local_copy(URL)
    assert steps(folder / "2-grpo") == [2] and not (folder / "1-sft/checkpoints").exists()
    assert local_copy(f"{URL}/1-sft") == folder / "1-sft" and steps(folder / "1-sft") == [4]
    machine("elsewhere")
    path = local_copy(f"{URL}/1-sft/checkpoints/4")
    assert steps(path.parents[1]) == [4]
    machine("last")
    bring(open_remote(URL, "output"), LocalCopy(URL), "output", newest_of_each)
    assert [steps(folder_of(URL) / name) for name in ("1-sft", "2-grpo")] == [[4], [2]]


def test_a_model_in_a_bucket_is_a_folder_of_files(machine):
    remote = open_remote("flaky://b/models/small", "output")
    remote.write("config.json", b"{}")
    remote.write("model.safetensors", b"x")
    names = {path.name for path in local_copy("flaky://b/models/small").iterdir()}
    assert names == {"config.json", "model.safetensors"}


def test_nothing_is_there():
    with pytest.raises(InputError, match=f"--checkpoint {URL}: there is nothing. Name the folder"):
        local_copy(URL)


def test_a_run_of_which_nothing_was_uploaded_is_here():
    write_run(folder_of(URL), 1)
    assert steps(local_copy(URL)) == [1]


def test_a_bucket_that_cannot_be_read(monkeypatch):
    def find(self, path, **_):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(Flaky, "find", find)
    with pytest.raises(InputError) as error:
        local_copy(URL, key="model.path")
    assert str(error.value).startswith(
        f'model.path = "{URL}": cannot be read (PermissionError: 403 Forbidden). Correct the URL'
    )


def test_a_run_to_go_on_with_needs_a_name(run, machine):
    machine("there")
    assert begun_copy("flaky://b/runs/") == folder_of("flaky://b/runs")
    assert (begun_copy(URL) / "config.toml").is_file()
    assert begun_copy("runs/one") == local_copy("runs/one")
    with pytest.raises(InputError, match='output = "flaky://b/runs/two": there is nothing'):
        begun_copy("flaky://b/runs/two")


def test_a_table_that_is_no_table(run, machine):
    open_remote(URL, "output").write(f"checkpoints/2/{FILE}", json.dumps([1]).encode())
    machine("there")
    assert steps(local_copy(URL)) == [1]

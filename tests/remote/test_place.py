"""URLs, where their folders lie on this machine, and what a bucket's folder can do."""

import datetime
import pathlib
import sys

import pytest

from cotjax.errors import InputError
from cotjax.remote.place import folder_of, inside, is_url, joined, open_remote, state_of


def test_what_is_a_url():
    urls = ["gs://a", "s3://a/b", "memory://a", "file:///a"]
    assert all(map(is_url, urls))
    assert not any(map(is_url, ["runs/a", "/a", "", "openai/gsm8k", "C:/a", pathlib.Path("a")]))


def test_a_path_of_this_machine_stays():
    assert folder_of("runs/a") == pathlib.Path("runs/a")
    assert joined("runs", "a") == "runs/a" and joined("runs/", "a") == "runs/a"
    assert joined("gs://a/", "b") == "gs://a/b"


def test_local_copies_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COTJAX_BUCKETS", str(tmp_path / "here"))
    assert folder_of("gs://My-runs/maths//x/") == tmp_path / "here/gs/My-runs/maths/x"
    monkeypatch.delenv("COTJAX_BUCKETS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert folder_of("GS://a/b") == tmp_path / "caches/cotjax/buckets/gs/a/b"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("file:///a/b") == tmp_path / ".cache/cotjax/buckets/file/a/b"


def test_what_is_known_of_a_copy_lies_outside_of_all_copies():
    assert folder_of("gs://a/b") not in state_of("gs://a/b").parents
    assert folder_of("gs://a") not in state_of("gs://a/b").parents


@pytest.mark.parametrize("url", ["gs://", "gs:///", "gs://a/../b", "memory://./a"])
def test_a_url_must_name_a_folder(url):
    with pytest.raises(InputError, match=r'output = ".*": names no folder of a bucket. Write \w+:'):
        folder_of(url)


def test_inside():
    assert inside("gs://a/b", "gs://a/b") and inside("gs://a/b/c", "gs://a/b/")
    assert not inside("gs://a/bc", "gs://a/b")


@pytest.fixture(params=["flaky://b/runs", "file"])
def remote(request, tmp_path):
    url = f"file://{tmp_path}/bucket/runs" if request.param == "file" else request.param
    return open_remote(f"{url}/one", "output")


def test_files_go_there_and_come_back(remote, tmp_path):
    assert remote.listing() == {} and remote.read("a") is None
    remote.write("a", b"1")
    (tmp_path / "b").write_bytes(b"22")
    remote.put(tmp_path / "b", "d/e/b")
    found = remote.listing()
    assert {name: one.size for name, one in found.items()} == {"a": 1, "d/e/b": 2}
    assert remote.listing() == found, "nothing was written"
    remote.get("d/e/b", tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").read_bytes() == b"22"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["y"]
    remote.write("a", b"3")
    assert remote.read("a") == b"3"
    assert remote.listing()["a"].mark != found["a"].mark and remote.listing()["a"].size == 1
    remote.remove("a")
    remote.remove_folder("d")
    remote.remove("a")
    remote.remove_folder("d")
    assert remote.listing() == {}


def test_the_buckets_clock(remote):
    remote.write("a", b"1")
    age = datetime.datetime.now(datetime.UTC) - remote.modified("a")
    assert abs(age.total_seconds()) < 60


def test_a_neighbour_of_a_like_name_is_not_inside(remote):
    other = open_remote(f"{remote.url}-more", "output")
    other.write("a", b"1")
    assert remote.listing() == {}


@pytest.mark.parametrize(
    ("url", "module", "fix"),
    [
        ("gs://my-runs/a", "gcsfs", 'pip install "cotjax[gcs]"'),
        ("s3://my-runs/a", "s3fs", 'pip install "cotjax[s3]"'),
    ],
)
def test_a_package_that_is_missing_is_named(url, module, fix, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as error:
        open_remote(url, "output")
    assert str(error.value).startswith(f'output = "{url}": the package for ')
    assert fix in str(error.value)


def test_an_unknown_protocol():
    with pytest.raises(InputError, match=r"--checkpoint nope://a/b: cannot be opened \(ValueError"):
        open_remote("nope://a/b", "--checkpoint")

"""Names on the hub: fetched once, and every way in which that fails is one sentence."""

import json

import pytest
from huggingface_hub import constants

from cotjax import hub as hub_names
from cotjax.errors import InputError
from cotjax.hub import CONVERTED, commits, fetch, is_id, listing, pin
from tests.fake_hub import FakeHub, point_at, serving

FILES = {"config.json": b"{}", "a.bin": b"12", "deep/config.json": b"{}"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with a model of two revisions, and a gated one."""
    hub = FakeHub()
    hub.add("owner/model", FILES)
    hub.add("owner/model", {"config.json": b"old"}, revision="v1")
    hub.add("owner/gated", FILES)
    hub.gated.add("owner/gated")
    with serving(hub) as address:
        point_at(monkeypatch, address, tmp_path / "cache")
        monkeypatch.setattr(hub_names, "_pinned", {})
        monkeypatch.setattr(hub_names, "_fetched", {})
        yield hub


def get(name, **more):
    return fetch(name, "model", "model.path", ["*.json"], **more)


def refused(name, call=get):
    with pytest.raises(InputError) as error:
        call(name)
    said = str(error.value)
    assert said.startswith(f'model.path = "{name}": ') and "\n" not in said
    return said


@pytest.mark.parametrize("name", ["a/b@c/d", "Qwen/Qwen2.5-0.5B-Instruct", "a_b/c-d.e"])
def test_a_name_of_the_hub(name):
    assert is_id(name)


@pytest.mark.parametrize("name", ["", "tiny", "./a", "../a", "/a/b", "~/a", "a/b/c", "a/b c", "a/"])
def test_no_name_of_the_hub(name):
    assert not is_id(name)


def test_files_are_fetched_by_pattern_and_once(hub):
    folder = get("owner/model")
    assert (folder / "config.json").read_bytes() == b"{}" and not (folder / "a.bin").exists()
    downloads = [path for path in hub.asked if "/resolve/" in path]
    assert get("owner/model") == folder
    assert [path for path in hub.asked if "/resolve/" in path] == downloads


def test_a_revision_stands_behind_the_name(hub):
    assert (get("owner/model@v1") / "config.json").read_bytes() == b"old"
    assert (get("owner/model", revision="v1") / "config.json").read_bytes() == b"old"
    said = refused("owner/model@v2")
    assert 'has no revision "v2" of this model' in said


def test_a_name_that_is_nowhere_says_that_both_were_tried(hub):
    said = refused("runs/frist")
    assert "no such file or folder here, and http://127.0.0.1:" in said
    assert "has no such model, or none that HF_TOKEN may see" in said


def test_a_gated_model_names_the_page_and_the_token(hub, monkeypatch):
    said = refused("owner/gated")
    assert f"Accept them at {constants.ENDPOINT}/owner/gated, and set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert (get("owner/gated") / "config.json").is_file()


def test_offline_takes_the_cache_or_says_so(hub, monkeypatch, tmp_path):
    folder = get("owner/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert get("owner/model") == folder and len(hub.asked) == asked
    said = refused("owner/other")
    assert "no such file or folder here, it is not in the cache" in said
    assert "HF_HUB_OFFLINE keeps this process from" in said


def test_a_hub_that_cannot_be_reached_is_said(hub, monkeypatch, tmp_path):
    folder = get("owner/model")
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert get("owner/model") == folder
    said = refused("owner/other")
    assert "http://127.0.0.1:9 cannot be reached (" in said and "is not in the cache" in said


# Lists of files.


def names(name, revision=""):
    return listing(name, "model", "model.path", ".json", revision)


def test_a_listing_downloads_nothing(hub):
    assert names("owner/model") == ["config.json", "deep/config.json"]
    assert not any("/resolve/" in path for path in hub.got)


def test_a_branch_that_is_not_there_is_none_and_a_repository_an_error(hub):
    assert names("owner/model", CONVERTED) is None
    assert "has no such model" in refused("owner/nothing", names)
    assert "accepted its terms" in refused("owner/gated", names)
    assert 'no revision "v2"' in refused("owner/model@v2", names)


def test_offline_a_listing_is_that_of_the_cache(hub, monkeypatch):
    fetch("owner/model", "model", "model.path", ["deep/*"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert names("owner/model") == ["deep/config.json"]
    assert names("owner/model", CONVERTED) is None
    assert "HF_HUB_OFFLINE" in refused("owner/other", names)


# The commits behind names, which a run that is resumed has again.


def begin_run(folder, *parts):
    """A run folder whose parts noted these commits."""
    folder.mkdir(exist_ok=True)
    (folder / "parts.json").write_text(json.dumps([{"hub": part} for part in parts]))
    return folder


def move(hub, kind, name, branch, files):
    """What a branch of a repository held gets a name of its own, and the branch other files."""
    then = hub.sha(kind, name, branch)
    old, usual = hub.repositories[kind, name][branch], hub.sha
    hub.add(name, old, kind=kind, revision="then")
    hub.add(name, files, kind=kind, revision=branch)
    shas = {"then": then, branch: "b" * 40}
    hub.sha = lambda k, n, one: shas.get(one) if (k, n) == (kind, name) else usual(k, n, one)


def test_a_run_has_again_what_its_names_stood_for(hub, tmp_path):
    began = get("owner/model").name
    get("owner/model@v1")
    noted = commits()
    assert noted["model owner/model"] == began and set(noted) == {
        "model owner/model",
        "model owner/model@v1",
    }
    move(hub, "models", "owner/model", "main", {"config.json": b"new"})
    assert get("owner/model").name == "b" * 40
    pin(begin_run(tmp_path / "run", noted, {"model owner/model": "c" * 40}), "model")
    assert get("owner/model").name == began, "the first part says with what it began"
    assert (get("owner/model") / "config.json").read_bytes() == b"{}"
    assert commits()["model owner/model"] == began


def test_a_commit_that_is_gone_is_told_and_no_other_one_taken(hub, tmp_path):
    pin(begin_run(tmp_path / "run", {"model owner/model": "c" * 40}), "model")
    assert f"no longer has the commit {'c' * 40} of this model" in refused("owner/model")
    branch = f"dataset owner/data@{CONVERTED}"
    hub.add("owner/data", {"a.parquet": b"1"}, kind="datasets")
    pin(begin_run(tmp_path / "run", {branch: "c" * 40}), "dataset")
    with pytest.raises(InputError, match="no longer has the commit c+ of this data set"):
        listing("owner/data", "dataset", "data.path", ".parquet", CONVERTED)


def test_a_conversion_that_came_later_is_not_taken(hub, tmp_path):
    hub.add("owner/data", {"a.parquet": b"1"}, kind="datasets")
    assert listing("owner/data", "dataset", "data.path", ".parquet", CONVERTED) is None
    fetch("owner/data", "dataset", "data.path", ["a.parquet"])
    run = begin_run(tmp_path / "run", commits())
    hub.add("owner/data", {"0.parquet": b"2"}, kind="datasets", revision=CONVERTED)
    assert listing("owner/data", "dataset", "data.path", ".parquet", CONVERTED) == ["0.parquet"]
    pin(run, "dataset")
    assert listing("owner/data", "dataset", "data.path", ".parquet", CONVERTED) is None
    assert listing("owner/data", "dataset", "data.path", ".parquet") == ["a.parquet"]


@pytest.mark.parametrize(
    "text", ["", "[1, null]", "{}", '[{"hub": 3}]', '[{"hub": {"model owner/model": "main"}}]']
)
def test_a_run_that_noted_nothing_pins_nothing(hub, tmp_path, text):
    run = begin_run(tmp_path / "run")
    (run / "parts.json").write_text(text)
    pin(run, "model", "dataset")
    pin(tmp_path / "nowhere", "model")
    pin(begin_run(tmp_path / "other", {"dataset owner/model": "c" * 40}), "model")
    assert get("owner/model").name == hub.sha("models", "owner/model", "main")

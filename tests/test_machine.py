"""What a machine has: told when it is there, and when it is missing, old, broken or full."""

import collections
import importlib.metadata
import shutil
import tomllib
from pathlib import Path

import pytest

from cotjax import machine
from cotjax.findings import Finding
from cotjax.machine import EXTRAS, SHOWN, hardware, install_line, requirements, software, unmet

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
DEVELOPERS = {"server", "docs", "parity", "test", "dev"}


def of(found, name):
    return [one for one in found if one.name == name]


def test_this_machine_is_told_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**31))
    (tmp_path / "program").write_bytes(bytes(3 * 2**20))
    found = [*software(str(tmp_path / "runs"))]
    names = [one.name for one in found if one.name != "extra"]
    assert names[:4] == ["python", "packages", "cache", "disk"] and "FAIL" not in {
        one.verdict for one in found
    }
    (packages,) = of(found, "packages")
    assert f"jax {importlib.metadata.version('jax')}, " in packages.says
    assert of(found, "cache") == [
        Finding("OK", "cache", f"{tmp_path}: 3 MiB of at most 2.0 GiB, can be written")
    ]
    assert of(found, "disk")[0].says.endswith(f" free where runs go, in {tmp_path}")
    assert [*tmp_path.iterdir()] == [tmp_path / "program"], "nothing is left behind"


def test_devices_and_memory():
    devices, memory = hardware()
    assert devices.verdict == memory.verdict == "OK"
    assert "8 × cpu (cpu)" in devices.says and memory.says.endswith(" free on the host")


def test_every_extra_of_a_user_is_known_and_names_what_installs_it():
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - DEVELOPERS
    assert install_line("gguf") == "pip install -e '.[gguf]'" and install_line() == (
        "pip install -e '.'"
    )


def test_outside_a_checkout_the_metadata_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    needs = ["jax>=0.10.2", 'gguf>=0.19; extra == "gguf"', "x>=1; extra == 'math'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    assert requirements() == ["jax>=0.10.2"] and requirements("gguf") == ["gguf>=0.19"]
    assert requirements("math") == ["x>=1"] and requirements("none") == []
    assert install_line("gguf") == "pip install 'cotjax[gguf]'"


def test_what_is_unmet_is_told():
    assert unmet("numpy>=1.0") == "" == unmet("numpy") == unmet('nothing; sys_platform == "none"')
    assert unmet("no-such-package>=1") == "no-such-package is not installed"
    version = importlib.metadata.version("numpy")
    assert unmet("numpy>=99") == f"numpy {version} is installed, and >=99 is needed"


def test_an_old_a_missing_and_a_mismatched_package_fail_with_their_reason(monkeypatch):
    real = machine._version
    old = {"optax": "0.1.0", "jaxlib": "0.4.0", "pebble": ""}
    monkeypatch.setattr(machine, "_version", lambda name: old.get(name, real(name)))
    monkeypatch.setattr(machine, "_broken", lambda module: "")
    failed = [one.says for one in of(software("."), "packages")]
    assert len(failed) == 3 and all(one.endswith(". Run pip install -e '.'.") for one in failed)
    assert any(
        one.startswith("optax 0.1.0 is installed, and >=0.2.8 is needed (older versions are not")
        for one in failed
    )
    assert any(one.startswith("pebble is not installed") for one in failed)
    assert any("jaxlib 0.4.0" in one and "JAX refuses a jaxlib" in one for one in failed)


def test_a_broken_package_is_installed_again(monkeypatch):
    monkeypatch.setattr(machine, "_broken", lambda module: "half" if module == "optax" else "")
    (failed,) = of(software("."), "packages")
    version = importlib.metadata.version("optax")
    assert failed.says == (
        f"optax {version} cannot be imported (half). Run pip install --force-reinstall optax."
    )


def test_an_extra_that_is_too_old_is_a_note(monkeypatch):
    real = machine._version
    monkeypatch.setattr(machine, "_broken", lambda module: "")
    monkeypatch.setattr(machine, "_version", lambda name: {"gguf": "0.1"}.get(name, real(name)))
    (note,) = [one for one in of(software("."), "extra") if one.verdict == "NOTE"]
    assert "[gguf] for GGUF files: pip install -e '.[gguf]' (gguf 0.1 is installed" in note.says


@pytest.mark.parametrize("folder", ["", "/proc"])
def test_a_cache_that_keeps_nothing_is_a_note(monkeypatch, folder):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    (note,) = machine._cache()
    assert note.verdict == "NOTE" and "every run compiles its own programs" in note.says
    assert "Set JAX_COMPILATION_CACHE_DIR to a folder that you may write to." in note.says


def test_a_full_disk_fails_and_says_what_to_do(monkeypatch, tmp_path):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 0))
    (found,) = machine._disk(str(tmp_path / "a" / "b"))
    assert found.verdict == "FAIL" and found.says.startswith("0 MiB of 1,024.0 GiB free")
    assert "Make space, or set --output to another disk." in found.says


def test_devices_that_are_not_there_fail(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr("cotjax.startup._has_plugin", lambda module: False)
    (found,) = hardware()
    assert found.verdict == "FAIL" and "no TPU plugin of JAX" in found.says


def test_an_accelerator_that_jax_does_not_use_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_ACCELERATORS", {"cuda": str(tmp_path)})
    _, note, _ = hardware()
    assert note.verdict == "NOTE" and note.says.endswith("Run pip install -e '.[cuda]'.")


def test_what_is_imported_of_each_package_is_known():
    modules = machine._modules()
    assert modules["rich"] == "rich" and modules["pyyaml"] == "yaml"
    assert set(SHOWN) <= set(modules) and len(modules) >= len(PROJECT["dependencies"])

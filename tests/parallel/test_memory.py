"""How much memory devices have left, as they say or as their host does."""

import pytest

from cotjax.parallel import memory
from cotjax.parallel.memory import free_bytes, host_free_bytes, unlimited
from cotjax.parallel.mesh import make_mesh


class Device:
    def __init__(self, limit=None, used=0):
        self._stats = None if limit is None else {"bytes_limit": limit, "bytes_in_use": used}

    def memory_stats(self):
        return self._stats


class Mesh:
    def __init__(self, *devices):
        self.local_devices = devices


def test_devices_that_tell_are_as_free_as_the_fullest_of_them():
    assert free_bytes(Mesh(Device(100, 10), Device(100, 30))) == 70  # pyright: ignore


def test_devices_that_do_not_tell_share_what_the_host_has(monkeypatch):
    monkeypatch.setattr(memory, "host_free_bytes", lambda: 800)
    assert free_bytes(Mesh(*[Device()] * 4)) == 200  # pyright: ignore[reportArgumentType]
    assert free_bytes(make_mesh(8)) == 100


def test_a_plan_finds_no_limit():
    with unlimited():
        assert free_bytes(Mesh(Device(100, 10))) > 2**60  # pyright: ignore
    assert free_bytes(Mesh(Device(100, 10))) == 90  # pyright: ignore


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host that says 1000 KiB are available, in a container without a limit."""
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable:    1000 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 102400\nfile 999999\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


def test_a_host_has_what_it_calls_available(host):
    assert host_free_bytes() == 1000 * 1024


def test_a_container_s_limit_counts_without_the_page_cache(host):
    (host / "memory.max").write_text("512000\n")
    assert host_free_bytes() == 512000 - 102400
    (host / "memory.max").write_text(f"{2**40}\n")
    assert host_free_bytes() == 1000 * 1024


def test_without_the_kernel_s_files_it_is_all_the_memory(host, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", host / "nowhere")
    monkeypatch.setattr(memory, "_CGROUP", host / "nowhere")
    assert host_free_bytes() > 2**28

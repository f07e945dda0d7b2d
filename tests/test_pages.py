"""A process starts anew with settings for malloc: once, and never over your own."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from cotjax.pages import use_large_pages
use_large_pages()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES")]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's settings are glibc's")
@pytest.mark.parametrize("mine", ["", "glibc.malloc.arena_max=1"])
def test_a_process_starts_anew_unless_malloc_is_configured(mine):
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    environment.pop("GLIBC_TUNABLES", None)
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)} | (
        {"GLIBC_TUNABLES": mine} if mine else {}
    )
    command = [sys.executable, "-c", PROGRAM, "--name=a b", "x"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    arguments, tunables = json.loads(done.stdout)
    assert arguments == ["--name=a b", "x"]
    assert tunables == (mine or "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=8000")

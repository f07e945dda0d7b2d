"""A process starts anew with settings for malloc: once, never over your own, and within bounds."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, os, sys
from cotjax.startup import use_large_pages
use_large_pages()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES")]))
"""

# Large blocks come and go as in training, and a few small ones outlive each step.
GROWTH = """
import json
from cotjax.startup import use_large_pages
use_large_pages()
import jax, jax.numpy as jnp, numpy as np

@jax.jit
def hidden(w, x):
    for k in range(4):
        x = jnp.tanh(x @ w + k)
    return x

@jax.jit
def update(w, x):
    def loss(w):
        y = x
        for _ in range(6):
            y = jnp.tanh(y @ w) + y
        return (y**2).sum()
    value, slope = jax.value_and_grad(loss)(w)
    return w - 1e-3 * slope, {"loss": value, "largest": slope.max()}

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

w, kept, sizes = jnp.ones((256, 256)) / 256, [], []
for step in range(40):
    x = jnp.asarray(np.random.rand(4096, 256).astype("f"))
    w, metrics = update(w, hidden(w, x))
    kept.append({k: float(v) for k, v in metrics.items()} if step % 3 else metrics)
    sizes.append(resident())
print(json.dumps(sizes))
"""


def run(program: str, *arguments: str, mine: str = "") -> Any:
    """What a program prints that finds malloc as the system left it, or as `mine` says."""
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    environment.pop("GLIBC_TUNABLES", None)
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    environment |= {"GLIBC_TUNABLES": mine} if mine else {}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's settings are glibc's")
@pytest.mark.parametrize("mine", ["", "glibc.malloc.arena_max=1"])
def test_a_process_starts_anew_unless_malloc_is_configured(mine):
    arguments, tunables = run(PROGRAM, "--name=a b", "x", mine=mine)
    assert arguments == ["--name=a b", "x"]
    assert tunables == (mine or "glibc.malloc.hugetlb=1")


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's settings are glibc's")
def test_memory_does_not_grow_with_the_number_of_steps():
    sizes = run(GROWTH)
    assert max(sizes) < 1.5 * max(sizes[:10])

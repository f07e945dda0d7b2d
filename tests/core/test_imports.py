"""A user who wants only the losses pays for nothing else."""

import subprocess
import sys

CHECK = """
import sys, time
import jax, jax.numpy
start = time.process_time()
import cotjax.core
seconds = time.process_time() - start
heavy = {"flax", "transformers", "grain", "optax", "orbax", "torch", "tensorflow"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert seconds < 1, seconds
"""


def test_importing_the_core_is_quick_and_imports_no_framework():
    subprocess.run([sys.executable, "-c", CHECK], check=True)

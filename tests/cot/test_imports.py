"""The text side stays light: a data worker or a notebook imports it without JAX."""

import subprocess
import sys


def test_cot_imports_nothing_heavy():
    heavy = {"jax", "numpy", "flax", "transformers", "grain", "torch"}
    code = f"import sys, cotjax.cot; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")

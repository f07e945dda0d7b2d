"""cotjax distils chain-of-thought reasoning into a small student: in JAX, TPU to laptop.

`cotjax.core` holds the losses as pure functions; `python -m cotjax.train` runs the stages.
"""

__version__ = "0.1.0"

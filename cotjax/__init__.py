"""cotjax distils chain-of-thought reasoning into a small student: in JAX, TPU to laptop.

    from cotjax import Config, train, load_records, mask_steps, evaluate, generate, plot

Each name is loaded on first use, so that `import cotjax` costs nothing. `cotjax.core` holds the
losses as pure functions; `cotjax train`, `cotjax evaluate` and the others are the command lines.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cotjax.config import Config as Config
    from cotjax.cot import mask_steps as mask_steps
    from cotjax.run import Run as Run
    from cotjax.run import evaluate as evaluate
    from cotjax.run import generate as generate
    from cotjax.run import load_records as load_records
    from cotjax.run import open_run as open_run
    from cotjax.run import plot as plot
    from cotjax.run import train as train

__version__ = "0.2.0"

_PLACES = {
    "Config": "cotjax.config",
    "mask_steps": "cotjax.cot",
    **dict.fromkeys(("Run", "open_run", "train", "load_records"), "cotjax.run"),
    **dict.fromkeys(("evaluate", "generate", "plot"), "cotjax.run"),
}
__all__ = ["Config", "Run", "evaluate", "generate", "load_records", "mask_steps"]
__all__ += ["open_run", "plot", "train"]


def _on_first_use(name: str) -> property:
    def load(_: types.ModuleType) -> Any:
        return getattr(importlib.import_module(_PLACES[name]), name)

    def keep(_: types.ModuleType, value: Any) -> None:
        # `cotjax.train` is also the module of a command. Importing that would replace the function.
        if not isinstance(value, types.ModuleType):
            raise AttributeError(f"cotjax.{name} cannot be set.")

    return property(load, keep)


class _Package(types.ModuleType):
    """The package as a module whose public names are properties."""

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


for _name in _PLACES:
    setattr(_Package, _name, _on_first_use(_name))
sys.modules[__name__].__class__ = _Package

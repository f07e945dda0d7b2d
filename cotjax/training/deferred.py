"""What of a data stream's state is made only if it is saved."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast


@dataclasses.dataclass(frozen=True)
class Deferred:
    """A part of a data stream's state that is made when a checkpoint is written.

    Attributes:
      make: gives it, as JSON holds it; may wait for what is under way.
    """

    make: Callable[[], Any]


def settled(state: Any) -> Any:
    """A data stream's state as JSON holds it, what was deferred made now."""
    if isinstance(state, Deferred):
        return settled(state.make())
    if isinstance(state, dict):
        parts = cast(dict[str, Any], state)
        return {name: settled(one) for name, one in parts.items()}
    return state

"""From hidden states to logits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cotjax.core.softcap import soft_cap
from cotjax.interfaces import Placement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """What turns hidden states into logits.

        z = hidden @ matrix.T;  with a soft cap c, c · tanh(z / c)

    Attributes:
      matrix: the unembedding.
      softcap: c; None = none (Gemma 2 has one).
      placement: how logits that are whole lie on a mesh; None leaves it to the compiler.
    """

    matrix: Float[Array, "V D"]
    softcap: float | None = dataclasses.field(default=None, metadata={"static": True})
    placement: Placement | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def size(self) -> int:
        """V."""
        return self.matrix.shape[0]

    def with_matrix(self, matrix: Float[Array, "W E"]) -> "Head":
        """The same cap on other columns or fewer tokens, wherever they lie."""
        return Head(matrix, self.softcap)

    def __call__(self, hidden: Float[Array, "L *N D"]) -> Float[Array, "L *N V"]:
        """All logits, in float32.

        Devices that split the vocabulary exchange parts of rows, so that each has some rows whole;
        all of them would be as many times more to send, to hold and to draw from.
        """
        if not self.placement:
            return soft_cap(self._product(hidden), self.softcap)
        keep, place, axes = jax.lax.with_sharding_constraint, self.placement, hidden.ndim - 2
        by_token = place.split(*(None,) * axes, place.heads)
        logits = keep(self._product(keep(hidden, place.split())), by_token)
        return soft_cap(keep(logits, place.split(place.heads)), self.softcap)

    def _product(self, hidden: Array) -> Any:
        return jnp.einsum("...d,vd->...v", hidden, self.matrix, preferred_element_type=jnp.float32)

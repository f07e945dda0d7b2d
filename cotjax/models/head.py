"""From hidden states to logits."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cotjax.interfaces import Placement


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: logits = hidden @ matrix.T.

    Attributes:
      matrix: the unembedding.
      placement: how logits that are whole lie on a mesh; None leaves it to the compiler.
    """

    matrix: Float[Array, "V D"]
    placement: Placement | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, hidden: Float[Array, "L N D"]) -> Float[Array, "L N V"]:
        """All logits, in float32.

        Devices that split the vocabulary exchange parts of rows, so that each has some rows whole;
        all of them would be as many times more to send, to hold and to draw from.
        """
        if not self.placement:
            return self._product(hidden)
        keep, place = jax.lax.with_sharding_constraint, self.placement
        logits = keep(self._product(keep(hidden, place.split())), place.split(None, place.heads))
        return keep(logits, place.split(place.heads))

    def _product(self, hidden: Array) -> Array:
        return jnp.einsum("lnd,vd->lnv", hidden, self.matrix, preferred_element_type=jnp.float32)

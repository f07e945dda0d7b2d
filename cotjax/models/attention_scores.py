"""How a layer scores a key, and how far back it sees; every `Attend` is given one."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a layer scores a key, and how far back it sees; static.

        score = scale · q·k;  with a soft cap c, score = c · tanh(scale · q·k / c)

    Attributes:
      window: a query sees itself and the window - 1 tokens before it; 0: all before it.
      scale: multiplies q·k; 0 = D^-1/2.
      softcap: c; 0 = none.
      dtype: in which products are summed and handed on.
    """

    window: int = 0
    scale: float = 0.0
    softcap: float = 0.0
    dtype: Any = jnp.float32

    def __call__(
        self, query: Float[Array, "*N Q D"], key: Float[Array, "*N D S"]
    ) -> Float[Array, "*N Q S"]:
        """Scores in float32."""
        return self.of_products(self.product(query, key), query.shape[-1])

    def of_products(self, products: Float[Array, "*N Q S"], width: int) -> Float[Array, "*N Q S"]:
        """Scores in float32 from q·k, given D."""
        scores = products.astype(jnp.float32) * (self.scale or width**-0.5)
        return self.softcap * jnp.tanh(scores / self.softcap) if self.softcap else scores

    def product(self, a: Float[Array, "*N I J"], b: Float[Array, "*N J L"]) -> Array:
        """[*N, I, L], a matrix product in `dtype`."""
        return jnp.matmul(a, b, preferred_element_type=self.dtype)

    def sees(self, distance: Int[Array, "*Q S"]) -> Bool[Array, "*Q S"]:
        """Whether a query sees a key so many tokens back; a negative distance lies ahead."""
        seen = distance >= 0
        return seen & (distance < self.window) if self.window else seen


EVERYTHING = Scoring()

"""LoRA: thin trainable matrices beside frozen projections.

    y = x W + (alpha / r) · drop(x) A B        W [in, out] frozen, A [in, r], B [r, out]

B starts at zero, so that a fresh adapter changes nothing. W + A B is never built while training:
the adapter costs two thin products per projection, and its gradient needs none of W's.

An adapter is its own tree of parameters, `layers.<projection>.lora_a` and `.lora_b`, which joins
the base's without a copy:

    policy, adapter = attach(policy, base, BRIDGE, key)
    gradient = jax.grad(lambda adapter: loss(policy, join_adapter(adapter, base)))(adapter)
    reference = policy.without_adapter                   # the same weights, the adapter off

Source: Hu et al. 2021, arXiv:2106.09685.
"""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cotjax.errors import InputError

if TYPE_CHECKING:
    from cotjax.models.policy import Policy

# The projections of a layer and their Hugging Face names.
PROJECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "out": "o_proj",
        "gate": "gate_proj",
        "up": "up_proj",
        "down": "down_proj",
    }
)
_LEAVES = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class Lora:
    """The settings of an adapter; static.

    Attributes:
      rank: r, columns of A and rows of B.
      alpha: the adapter's product is multiplied by alpha / r.
      dropout: probability with which a number that enters A is zeroed; the others are divided by
        1 - dropout. Only where a call is given a key.
      targets: regular expressions; a projection that one of them matches as a whole, by our name
        or Hugging Face's (query or q_proj), has an adapter.

    Raises:
      InputError: a value out of range, or a target that matches no projection.

    Example:
      >>> Lora(rank=8, alpha=16.0, dropout=0.0, targets=("(q|v)_proj", "down")).projections
      ('query', 'value', 'down')
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora.rank = {self.rank}: needs at least 1. Set lora.rank >= 1.")
        if not 0 < self.alpha < float("inf"):
            raise InputError(f"lora.alpha = {self.alpha}: out of range. Set lora.alpha > 0.")
        if not 0 <= self.dropout < 1:
            raise InputError(
                f"lora.dropout = {self.dropout}: out of range. Set 0 <= lora.dropout < 1."
            )
        if not self.targets:
            raise InputError("lora.targets is empty, so nothing would learn. " + _choices())
        for target in self.targets:
            if not any(_matches(target, name) for name in PROJECTIONS):
                raise InputError(f'lora.targets: "{target}" matches no projection. ' + _choices())

    @property
    def scale(self) -> float:
        """What multiplies A B: alpha / r."""
        return self.alpha / self.rank

    @property
    def projections(self) -> tuple[str, ...]:
        """The projections with an adapter, in the order in which a layer has them."""
        return tuple(
            name for name in PROJECTIONS if any(_matches(target, name) for target in self.targets)
        )


def _choices() -> str:
    names = ", ".join(f"{ours} ({theirs})" for ours, theirs in PROJECTIONS.items())
    return f"Name some of {names}, or a regular expression for them."


def _matches(target: str, projection: str) -> bool:
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise InputError(
            f'lora.targets: "{target}" is not a regular expression ({error}). ' + _choices()
        ) from error
    return any(pattern.fullmatch(name) for name in (projection, PROJECTIONS[projection]))


# As released with BRIDGE, arXiv:2602.17686.
BRIDGE = Lora(16, 32.0, 0.05, ("q_proj", "k_proj", "v_proj", "o_proj"))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a forward pass needs of an adapter: of all layers, or (indexed, scanned) of one.

    Attributes:
      weights: lora_a [L, in, r] and lora_b [L, r, out] by projection.
      keys: [L] a dropout key per layer; None leaves dropout off.
      lora: the settings.
    """

    weights: dict[str, dict[str, Array]]
    keys: Any
    lora: Lora = dataclasses.field(metadata={"static": True})

    @staticmethod
    def of(params: Any, lora: Lora, key: Any = None) -> "Adapter":
        """The adapter among parameters, with a dropout key folded per layer.

        Args:
          params: nested dicts; has lora_a and lora_b wherever `lora` says.
          lora: the settings.
          key: a `jax.random` key; None leaves dropout off.
        """
        weights = {
            name: {leaf: params["layers"][name][leaf] for leaf in _LEAVES}
            for name in lora.projections
        }
        if key is None or lora.dropout == 0:
            return Adapter(weights, None, lora)
        num_layers = weights[lora.projections[0]]["lora_a"].shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_layers))
        return Adapter(weights, keys, lora)

    def add(
        self, y: Float[Array, "*N O"], projection: str, x: Float[Array, "*N I"]
    ) -> Float[Array, "*N O"]:
        """Adds a layer's (alpha / r) · drop(x) A B to y, if the projection has an adapter.

        Args:
          y: [..., out], what the projection gives, in the format in which products are summed.
          projection: a name in `PROJECTIONS`.
          x: [..., in], what enters the projection, in the format of activations.
        """
        if projection not in self.weights:
            return y
        if self.keys is not None:
            place = list(PROJECTIONS).index(projection)
            keep = 1 - self.lora.dropout
            kept = jax.random.bernoulli(jax.random.fold_in(self.keys, place), keep, x.shape)
            x = jnp.where(kept, x / keep, 0)
        a, b = (self.weights[projection][leaf].astype(x.dtype) for leaf in _LEAVES)
        thin = jnp.matmul(x, a, preferred_element_type=y.dtype) * self.lora.scale
        return y + jnp.matmul(thin.astype(x.dtype), b, preferred_element_type=y.dtype)


def attach(
    policy: "Policy", params: Any, lora: Lora, key: Any, *, param_dtype: Any = jnp.float32
) -> tuple["Policy", dict[str, Any]]:
    """A policy with a fresh adapter, which changes nothing yet.

        A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0

    which is PEFT's Kaiming-uniform with a = sqrt(5).

    Args:
      policy: without an adapter.
      params: its parameters, or their shapes; only shapes are read.
      lora: the settings.
      key: a `jax.random` key.
      param_dtype: number format of the adapter; the base's may be narrower.

    Returns:
      (policy, adapter); the policy takes `join_adapter(adapter, params)`.

    Raises:
      InputError: a rank above the smaller side of a projection.
    """
    layers = {}
    for name in lora.projections:
        num_layers, size_in, size_out = params["layers"][name]["kernel"].shape
        check_rank(lora, name, size_in, size_out)
        own = jax.random.fold_in(key, list(PROJECTIONS).index(name))
        size, bound = (num_layers, size_in, lora.rank), size_in**-0.5
        layers[name] = {
            "lora_a": jax.random.uniform(own, size, jnp.float32, -bound, bound).astype(param_dtype),
            "lora_b": jnp.zeros((num_layers, lora.rank, size_out), param_dtype),
        }
    return dataclasses.replace(policy, lora=lora), {"layers": layers}


def check_rank(lora: Lora, projection: str, size_in: int, size_out: int) -> None:
    """Refuses a rank that a projection cannot have.

    Raises:
      InputError: names the projection, its sizes and what would fit.
    """
    limit = min(size_in, size_out)
    if lora.rank > limit:
        raise InputError(
            f"lora.rank = {lora.rank}: {projection} ({PROJECTIONS[projection]}) maps {size_in} to "
            f"{size_out} numbers, so its rank is at most {limit}. Set lora.rank <= {limit}, or "
            f"leave it out of lora.targets."
        )


def split_adapter(params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters as (adapter, base): nested dicts with the same leaves, nothing is copied."""
    adapter: dict[str, Any] = {}
    base: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            thin, rest = split_adapter(value)
            adapter |= {name: thin} if thin else {}
            base |= {name: rest} if rest else {}
        else:
            (adapter if name in _LEAVES else base)[name] = value
    return adapter, base


def join_adapter(adapter: Any, base: Any) -> dict[str, Any]:
    """Undoes `split_adapter`; the leaves are the same, nothing is copied."""
    joined = dict(base)
    for name, value in adapter.items():
        nested = isinstance(value, Mapping)
        joined[name] = join_adapter(value, base.get(name, {})) if nested else value
    return joined


def merge(params: Any, lora: Lora) -> dict[str, Any]:
    """The parameters of an ordinary decoder that computes what base and adapter compute.

        W + (alpha / r) · A B

    in float32, rounded to the base's format; a layer at a time, so that a bfloat16 base has no
    float32 copy.

    Args:
      params: of base and adapter together.
      lora: the adapter's settings.
    """
    adapter, base = split_adapter(params)

    def one(weights: tuple[Array, Array, Array]) -> Array:
        w, a, b = (x.astype(jnp.float32) for x in weights)
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        return (w + lora.scale * product).astype(weights[0].dtype)

    layers = dict(base["layers"])
    for name in lora.projections:
        thin = adapter["layers"][name]
        kernel = jax.lax.map(one, (layers[name]["kernel"], thin["lora_a"], thin["lora_b"]))
        layers[name] = layers[name] | {"kernel": kernel}
    return base | {"layers": layers}

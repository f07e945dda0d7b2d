"""A rollout before it runs: what it needs of a model, how it samples, how work is divided."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NARROW = 4  # the last loop has a quarter of the slots


class Decoder(Protocol):
    """What the engine needs of a model; `cotjax.models.policy.Policy` has it. Hashable."""

    @property
    def lanes(self) -> int:
        """Over how many groups of devices the batch is split."""
        ...

    def prefill(self, params: Any, prompt: Array, prompt_mask: Array) -> Any:
        """The prompts' caches."""
        ...

    def own_caches(
        self, prompt_caches: Any, *, rows: int, group: int, max_new_tokens: int, whole: bool = False
    ) -> Any:
        """Empty caches for the completions of `rows` prompts, `group` each; `whole` in one block.

        `decode` takes blocks, `decode_ahead` one.
        """
        ...

    def unstacked(self, params: Any, dtype: str = "auto") -> Any:
        """What a loop of `decode` computes of the parameters once, beforehand.

        With "int8" for a `dtype`, it computes matrices of integers.
        """
        ...

    def decode(
        self,
        params: Any,
        layers: Any,
        tokens: Int[Array, "B R"],
        prompt_mask: Bool[Array, "B P"],
        filled: Int[Array, " B"] | Int[Array, ""],
        clock: Int[Array, ""],
        caches: tuple[Any, Any],
    ) -> tuple[Float[Array, "B R D"], Any]:
        """Hidden states after one more token of every completion, and their own caches.

        `layers` is what `unstacked` gave; `filled` counts the tokens that the own caches hold
        already, one number for all where they began together.
        """
        ...

    def decode_ahead(
        self,
        params: Any,
        layers: Any,
        tokens: Int[Array, "B R Q"],
        prompt_mask: Bool[Array, "B P"],
        filled: Int[Array, "B R"],
        caches: tuple[Any, Any],
    ) -> tuple[Float[Array, "B R Q D"], Any]:
        """The same after Q more tokens of every completion, which have `filled` each."""
        ...

    def head(self, params: Any) -> Callable[[Float[Array, "L N D"]], Float[Array, "L N V"]]:
        """Hidden states of the rows of each lane -> their logits, in float32."""
        ...

    def keep(self, values: Array) -> Array:
        """Values [L, …], each lane's whole on all of its devices, however they were computed."""
        ...


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
      group_size: G, completions per prompt.
      max_new_tokens: T; a row that reaches it ends for its length.
      eos_id: ends a row; counts as part of it.
      pad_id: what stands after the end.
      temperature: 0 is greedy.
      greedy_first: completion 0 of every prompt is greedy, whatever the temperature.
      top_k: 0 keeps all.
      top_p: 1 keeps all.
      min_p: 0 keeps all.
      stop_ids: further tokens that end a row, as `eos_id` does.
      rows: completions decoded at once; 0 = all, which needs no refill.
      share: R, completions of one prompt in a slot, a divisor of G; 0 = G. Refill wastes least at
        1, where a slot holds a copy of its prompt's cache for every completion.
      draft_tokens: K, tokens guessed ahead for each pass of the decoder; see `speculation`.
      weights_dtype: "int8" decodes with the layers' matrices in int8; see `models.decode_weights`.
    """

    group_size: int
    max_new_tokens: int
    eos_id: int
    pad_id: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    greedy_first: bool = False
    stop_ids: tuple[int, ...] = ()
    rows: int = 0
    share: int = 0
    draft_tokens: int = 0
    weights_dtype: str = "auto"

    @property
    def filters(self) -> str:
        """The settings that leave some tokens out, as a config has them; empty without."""
        neutral = {"top_k": 0, "top_p": 1, "min_p": 0}
        given = {name: getattr(self, name) for name in neutral}
        return ", ".join(f"rollout.{k} = {v}" for k, v in given.items() if v != neutral[k])


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many of what; all per lane.

    Attributes:
      lanes: L.
      prompts: prompts of a lane.
      share: R.
      parts: jobs per prompt.
      slots: S, jobs that decode at once.
    """

    lanes: int
    prompts: int
    share: int
    parts: int
    slots: int

    @property
    def jobs(self) -> int:
        """J, jobs of a lane; the number J itself stands for no job."""
        return self.prompts * self.parts

    @property
    def refill(self) -> bool:
        """Whether jobs wait for slots."""
        return self.slots < self.jobs

    @property
    def in_place(self) -> bool:
        """Whether slot b decodes all completions of prompt b."""
        return self.parts == 1 and not self.refill


def make_plan(num_prompts: int, lanes: int, settings: Sampling) -> Plan:
    """Divides prompts and rows over lanes.

    Raises:
      ValueError: a share that does not divide the group, or prompts that do not divide over lanes.
    """
    share = settings.share or settings.group_size
    if settings.group_size % share:
        raise ValueError(f"share = {share} does not divide group_size = {settings.group_size}.")
    if num_prompts % lanes:
        raise ValueError(f"{num_prompts} prompts do not divide over {lanes} lanes.")
    prompts, parts = num_prompts // lanes, settings.group_size // share
    wanted = max(settings.rows // (share * lanes), 1) if settings.rows else prompts * parts
    return Plan(lanes, prompts, share, parts, min(wanted, prompts * parts))


def row_uniforms(
    key: Array, ids: Int[Array, " B"], group_size: int, length: int
) -> Float[Array, "B G T"]:
    """What every token is drawn with, in [0, 1): a matter of key, prompt id, completion and token.

        u = uniform(fold_in(fold_in(fold_in(key, id), completion number), token number))

    Computed over one long axis: over three short ones a CPU's compiler takes a second more.
    """
    shape = (len(ids), group_size, length)
    numbers = ids[:, None, None], jnp.arange(group_size)[:, None], jnp.arange(length)
    numbers = jnp.stack([jnp.broadcast_to(each, shape).reshape(-1) for each in numbers])

    def fold(keys: Array, numbers: Array) -> tuple[Array, None]:
        return jax.vmap(jax.random.fold_in)(keys, numbers), None

    keys, _ = jax.lax.scan(fold, jnp.broadcast_to(key, numbers.shape[1]), numbers)
    return jax.vmap(jax.random.uniform)(keys).reshape(shape)

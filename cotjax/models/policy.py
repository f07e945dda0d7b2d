"""The five ways the stages call a decoder, as pure functions of its parameters.

    rows          supervised rows -> hidden states
    completions   prompts and their G completions -> the hidden states that predict each token
    prefill       prompts -> what a decoder needs to continue them
    decode        one more token for each completion
    decode_ahead  several more, as unequally many as each completion has

All return hidden states, not logits: callers that need logits take the `head`, in chunks when the
vocabulary is large.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.interfaces import Placement, TokenBatch
from cotjax.models import kv_cache
from cotjax.models.attention import Causal, DecodeShared, SharedPrompt
from cotjax.models.attention_ahead import DecodeAhead
from cotjax.models.decode_weights import LayerWeights
from cotjax.models.head import Head
from cotjax.models.lora import Adapter, Lora, join_adapter, split_adapter
from cotjax.models.transformer import Transformer


def prompt_positions(mask: Bool[Array, "B P"]) -> Int[Array, "B P"]:
    """0 for the first real token of a left-padded prompt; padding repeats 0."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


LOGITS_AT_ONCE = 2**24  # numbers per device, 64 MiB in float32
CPU_LOGITS_AT_ONCE = 2**21  # less to walk through memory for, but
CPU_TOKENS_AT_ONCE = 128  # at least so many tokens meet an unembedding that is read for them
ONE_WALK_TOKENS = 512  # of a chunk: 2 products saved, at 200 Tflop/s, for 8 bytes, at 800 GB/s
CACHE_BLOCKS = 4  # a completion's cache is read as far as it is filled, in quarters
SMALL_CACHE = 2**20  # bytes of a layer's keys or values; less is read whole, in a shorter program


def _block_sizes(length: int, token_bytes: int) -> list[int]:
    """`length` in CACHE_BLOCKS parts at most, all but the last of one size; in one if it is small.

    Args:
      length: tokens.
      token_bytes: of one token's keys, of all rows together.
    """
    size = -(-length // (1 if length * token_bytes <= SMALL_CACHE else CACHE_BLOCKS))
    return [min(size, length - start) for start in range(0, length, size)]


@dataclasses.dataclass(frozen=True)
class Policy:
    """A decoder without its parameters: hashable, so it can be a static argument of `jax.jit`.

    Attributes:
      definition: the modules.
      placement: how activations lie on a mesh; None leaves it to the compiler.
      lora: the adapter that parameters hold beside the decoder's own; None: none, or off.
      cache_dtype: format of the caches, int8 among them; None: that of the activations.
    """

    definition: nnx.GraphDef
    placement: Placement | None = None
    lora: Lora | None = None
    cache_dtype: Any = None

    @staticmethod
    def split(model: Transformer) -> tuple["Policy", dict[str, Any]]:
        """A model as (policy, parameters); the parameters are nested dicts of arrays."""
        definition, params = nnx.split(model)
        return Policy(definition), nnx.to_pure_dict(params)

    @property
    def batch_devices(self) -> int:
        """Over how many devices tokens are split where a loss meets them."""
        return self.placement.mesh.size if self.placement else 1

    @property
    def on_cpu(self) -> bool:
        """Whether no accelerator computes."""
        if self.placement is None:
            return jax.default_backend() == "cpu"
        return self.placement.mesh.devices.flat[0].platform == "cpu"

    @property
    def batch_parts(self) -> int | None:
        """Over how many devices examples are split; None if devices share an example's tokens."""
        if self.placement is None:
            return 1
        sizes = self.placement.mesh.shape
        if sizes[self.placement.heads] > 1:
            return None
        return math.prod(sizes[axis] for axis in self.placement.batch)

    @property
    def without_adapter(self) -> "Policy":
        """The base alone, as a reference is; takes the same parameters, with or without adapter."""
        return dataclasses.replace(self, lora=None)

    def bind(self, params: Any) -> Transformer:
        """The model with these parameters, which hold no adapter: `lora.merge` takes it in."""
        return nnx.merge(self.definition, params)

    def join(self, trained: Any, base: Any) -> Any:
        """The parameters that every method takes: what is trained, beside what stays as it is.

        Args:
          trained: the decoder's parameters, or an adapter's.
          base: the decoder's beside an adapter; empty without one.
        """
        return join_adapter(trained, base)

    def _run(
        self,
        params: Any,
        *inputs: Any,
        layers: list[LayerWeights] | None = None,
        dropout_key: Any = None,
    ) -> tuple[Array, Any]:
        """Hidden states and caches, with the adapter if the policy has one."""
        model = self.bind(split_adapter(params)[1])
        adapter = self._adapter(params, dropout_key)
        return model(*inputs, layers=layers, adapter=adapter, placement=self.placement)

    def _adapter(self, params: Any, dropout_key: Any = None) -> Adapter | None:
        return Adapter.of(params, self.lora, dropout_key) if self.lora else None

    def unembed(self, params: Any, *, whole: bool = False) -> Float[Array, "V D"]:
        """The matrix for logits = hidden @ unembed.T, before a soft cap: see `head`.

        Args:
          params: the decoder's.
          whole: every device gets all of it, as a loss wants it that walks over the vocabulary
            for its own tokens (`rows` and `completions` give each device its own).
        """
        weight = self.bind(split_adapter(params)[1]).unembed
        if whole and self.placement:
            weight = jax.lax.with_sharding_constraint(weight, self.placement.whole())
        return weight

    def head(self, params: Any, *, whole: bool = False) -> Head:
        """For logits: `unembed` and the soft cap.

        Args:
          params: the decoder's.
          whole: see `unembed`.
        """
        cap = self.bind(split_adapter(params)[1]).shape.logit_softcap
        return Head(self.unembed(params, whole=whole), cap if cap else None, self.placement)

    def tokens_at_once(self, vocab_size: int) -> int:
        """How many tokens' logits a loss in chunks may hold, on all devices together."""
        if self.on_cpu:
            each = max(CPU_LOGITS_AT_ONCE // vocab_size, CPU_TOKENS_AT_ONCE)
            return each * self.batch_devices
        return max(LOGITS_AT_ONCE * self.batch_devices // vocab_size, 1)

    def parts_of_a_sum(self, vocab_size: int) -> int | None:
        """The `parts` of a loss's sum: `batch_parts`; None if its chunks are too small for that.

        One walk reads and writes a gradient [V, D] for every chunk; it pays for large chunks only.
        """
        at_once = self.tokens_at_once(vocab_size) // self.batch_devices
        return self.batch_parts if self.on_cpu or at_once >= ONE_WALK_TOKENS else None

    def head_logprobs(
        self,
        params: Any,
        hidden: Float[Array, "*B T D"],
        tokens: Int[Array, "*B T"],
        mask: Bool[Array, "*B T"],
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "*B T"], Float[Array, "*B T"]]:
        """Log-probabilities and entropies of tokens, a block of logits at a time, nats."""
        head = self.head(params, whole=True)
        return chunked_token_logprobs(
            hidden,
            head.matrix,
            tokens,
            chunk_size=self.tokens_at_once(head.size),
            temperature=temperature,
            softcap=head.softcap,
            mask=mask,
        )

    def keep(self, values: Float[Array, "L *N"]) -> Float[Array, "L *N"]:
        """The same values, each lane's whole on all of its devices."""
        if self.placement is None:
            return values
        return jax.lax.with_sharding_constraint(values, self.placement.split())

    def _own_tokens(self, hidden: Array) -> Array:
        """Splits tokens [B, …, T, D] over the devices that split heads, for a head without them."""
        if self.placement is None:
            return hidden
        between = (None,) * (hidden.ndim - 3)
        return jax.lax.with_sharding_constraint(
            hidden, self.placement.split(*between, self.placement.heads)
        )

    def rows(
        self, params: Any, batch: TokenBatch, *, dropout_key: Any = None
    ) -> Float[Array, "B S D"]:
        """Hidden states of packed rows; no segment sees another.

        With a `dropout_key` the adapter has dropout, drawn by layer and projection.
        """
        attend = Causal(batch.segment, placement=self.placement)
        hidden, _ = self._run(
            params, batch.tokens, batch.positions, attend, dropout_key=dropout_key
        )
        return self._own_tokens(hidden)

    def completions(
        self,
        params: Any,
        prompt: Int[Array, "B P"],
        prompt_mask: Bool[Array, "B P"],
        completion: Int[Array, "B G T"],
        *,
        dropout_key: Any = None,
    ) -> Float[Array, "B G T D"]:
        """Hidden states that predict each completion token; each prompt is computed once.

        Position t of the result has seen the prompt and completion tokens before t. With a
        `dropout_key` the adapter has dropout, drawn once for the prompt of a group.
        """
        batch, group, length = completion.shape
        start = prompt_mask.sum(axis=-1)
        own_positions = jnp.broadcast_to(
            start[:, None, None] + jnp.arange(length), completion.shape
        ).reshape(batch, -1)
        hidden, _ = self._run(
            params,
            jnp.concatenate([prompt, completion.reshape(batch, -1)], axis=1),
            jnp.concatenate([prompt_positions(prompt_mask), own_positions], axis=1),
            SharedPrompt(prompt_mask, group, placement=self.placement),
            dropout_key=dropout_key,
        )
        last_of_prompt = hidden[:, None, prompt.shape[1] - 1 : prompt.shape[1]]
        own = hidden[:, prompt.shape[1] :].reshape(batch, group, length, -1)
        first = jnp.broadcast_to(last_of_prompt, (batch, group, 1, own.shape[-1]))
        return self._own_tokens(jnp.concatenate([first, own[:, :, :-1]], axis=2))

    @property
    def lanes(self) -> int:
        """Over how many groups of devices a batch is split."""
        if self.placement is None:
            return 1
        return math.prod(self.placement.mesh.shape[axis] for axis in self.placement.batch)

    def prefill(
        self, params: Any, prompt: Int[Array, "B P"], prompt_mask: Bool[Array, "B P"]
    ) -> list[Any]:
        """What `decode` needs of the prompts: a cache for each layer."""
        attend = Causal(
            prompt_mask.astype(jnp.int32),
            keep_cache=True,
            cache_dtype=self.cache_dtype,
            placement=self.placement,
        )
        _, stacked = self._run(params, prompt, prompt_positions(prompt_mask), attend)
        layers = range(len(stacked[0].values))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in layers]

    def own_caches(
        self,
        prompt_caches: list[Any],
        *,
        rows: int,
        group: int,
        max_new_tokens: int,
        whole: bool = False,
    ) -> list[Any]:
        """Empty caches for the completions' own tokens, in blocks or `whole`, a list per layer."""
        caches = []
        for key, _ in prompt_caches:
            _, heads, width, _ = key.values.shape
            token_bytes = rows * heads * group * width * key.values.dtype.itemsize
            sizes = [max_new_tokens] if whole else _block_sizes(max_new_tokens, token_bytes)
            shapes = [(rows, heads, group, width, size) for size in sizes]
            empty = [jnp.zeros(shape) for shape in shapes]
            keep = functools.partial(kv_cache.keep, dtype=key.values.dtype)
            caches.append([(keep(own, axis=-2), keep(own.mT, axis=-1)) for own in empty])
        return caches

    def unstacked(self, params: Any, dtype: str = "auto") -> list[LayerWeights] | None:
        """Each layer's parameters, for a loop of `decode`; None where that would gain nothing.

        A CPU's products want each matrix by itself, and turned: a loop would cut it out of the
        stacked ones for every token. An accelerator's read it where it lies, and need no second
        copy; in int8 there is one, which is smaller.

        Args:
          params: the decoder's.
          dtype: "int8" for projections in int8, or "auto" as they are.
        """
        turned = self.placement is not None and self.placement.platform == "cpu"
        if not turned and dtype == "auto":
            return None
        model, adapter = self.bind(split_adapter(params)[1]), self._adapter(params)
        return model.layer_weights(adapter, turned=turned, int8=dtype == "int8")

    def decode(
        self,
        params: Any,
        layers: list[LayerWeights] | None,
        tokens: Int[Array, "B G"],
        prompt_mask: Bool[Array, "B P"],
        filled: Int[Array, " B"] | Int[Array, ""],
        clock: Int[Array, ""],
        caches: tuple[list[Any], list[Any]],
    ) -> tuple[Float[Array, "B G D"], list[Any]]:
        """The hidden states after one more token of every completion, and their own caches.

        Args:
          params: the decoder's.
          layers: what `unstacked` gives.
          tokens: [B, G].
          prompt_mask: [B, P].
          filled: tokens that each completion's own cache holds already: [B], or one for all.
          clock: scalar, the column of the own caches that this token takes; the columns before it,
            cyclically, hold the tokens before it.
          caches: the prompts', as `prefill` gives them, and the completions' own.
        """
        positions = jnp.broadcast_to((prompt_mask.sum(-1) + filled)[:, None], tokens.shape)
        attend = DecodeShared(prompt_mask, filled, clock, self.placement)
        both = [(*prompt, own) for prompt, own in zip(*caches, strict=True)]
        hidden, both = self._run(params, tokens, positions, attend, both, layers=layers)
        return hidden, [own for *_, own in both]

    def decode_ahead(
        self,
        params: Any,
        layers: list[LayerWeights] | None,
        tokens: Int[Array, "B G Q"],
        prompt_mask: Bool[Array, "B P"],
        filled: Int[Array, "B G"],
        caches: tuple[list[Any], list[Any]],
    ) -> tuple[Float[Array, "B G Q D"], list[Any]]:
        """The hidden states after Q more tokens of every completion, and their own caches.

        Args:
          params: the decoder's.
          layers: what `unstacked` gives.
          tokens: [B, G, Q], each after the one before it.
          prompt_mask: [B, P].
          filled: [B, G] tokens that each completion's own cache holds, in its first columns; what
            lies behind them is written over.
          caches: the prompts', as `prefill` gives them, and the completions' own, `whole`.
        """
        batch, group, size = tokens.shape
        positions = (prompt_mask.sum(-1)[:, None] + filled)[..., None] + jnp.arange(size)
        attend = DecodeAhead(prompt_mask, filled, size)
        both = [(*prompt, own) for prompt, own in zip(*caches, strict=True)]
        flat = (batch, group * size)
        hidden, both = self._run(
            *(params, tokens.reshape(flat), positions.reshape(flat), attend, both), layers=layers
        )
        return hidden.reshape(batch, group, size, -1), [own for *_, own in both]

"""The shape of a decoder: sizes and options, all of them static."""

import dataclasses
from typing import Literal

from cotjax.models.rope import Rope

LayerType = Literal["full_attention", "sliding_attention"]


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What differs from layer to layer.

    Attributes:
      rope: how positions turn queries and keys.
      window: a query sees itself and the window - 1 tokens before it; 0: all before it.
    """

    rope: Rope
    window: int = 0


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a decoder; sizes in units, not bytes.

    Attributes:
      family: name of the Hugging Face `model_type` that this shape is saved as.
      rope: rotary positions, except where `local_rope` says otherwise.
      norm_eps: added to the mean square in every RMS norm.
      tie_embeddings: the embedding is the unembedding too.
      qkv_bias: the query, key and value projections add a bias (Qwen2).
      qk_norm: each head's query and key pass an RMS norm before rotation (Qwen3, Gemma 3).
      max_positions: the longest text the model was made for.
      activation: of the gated MLP, in Hugging Face's name.
      scale_embeddings: embeddings are multiplied by sqrt(hidden_size) (Gemma).
      offset_norms: an RMS norm multiplies by 1 + its weight (Gemma).
      post_norms: attention and MLP have a norm behind them too (Gemma 2 and 3).
      query_scalar: attention scores are divided by its root; 0 = head_dim.
      attention_softcap: c in c · tanh(score / c); 0 = none (Gemma 2).
      logit_softcap: likewise for the logits; the head applies it (Gemma 2).
      layer_types: "sliding_attention" or "full_attention" for each layer; () = all full.
      sliding_window: what a query of a sliding layer sees, itself included, in tokens.
      local_rope: rotary positions of sliding layers; None = as the others (Gemma 3).
      nope_layers: numbers of the layers that turn nothing by position (SmolLM3).
      embedding_multiplier: what embeddings are multiplied by (Granite).
      attention_multiplier: what attention scores are multiplied by; 0 = by query_scalar (Granite).
      residual_multiplier: what attention and MLP add counts so many times (Granite).
      logits_scaling: what logits are divided by (Granite).
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope: Rope = Rope()
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 2048
    activation: Literal["silu", "gelu_pytorch_tanh"] = "silu"
    scale_embeddings: bool = False
    offset_norms: bool = False
    post_norms: bool = False
    query_scalar: int = 0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    layer_types: tuple[LayerType, ...] = ()
    sliding_window: int = 0
    local_rope: Rope | None = None
    nope_layers: tuple[int, ...] = ()
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 0.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, [L]; models have one or two."""
        full = LayerKind(self.rope)
        sliding = LayerKind(self.local_rope or self.rope, self.sliding_window)
        types = self.layer_types or ("full_attention",) * self.num_layers
        kinds = [sliding if one == "sliding_attention" else full for one in types]
        for i in self.nope_layers:
            kinds[i] = dataclasses.replace(kinds[i], rope=Rope(kind="none"))
        return tuple(kinds)

    def first_layers(self, number: int) -> "Architecture":
        """The same decoder with its first layers alone."""
        if number == self.num_layers:
            return self
        return dataclasses.replace(
            self,
            num_layers=number,
            layer_types=self.layer_types[:number],
            nope_layers=tuple(layer for layer in self.nope_layers if layer < number),
        )

    @property
    def score_scale(self) -> float:
        """What attention scores are multiplied by."""
        return self.attention_multiplier or (self.query_scalar or self.head_dim) ** -0.5

"""Losses over the vocabulary in blocks, so that no [B, T, V] array is ever built."""

from cotjax.core.chunked.losses import chunked_divergence as chunked_divergence
from cotjax.core.chunked.losses import chunked_topk_forward_kl as chunked_topk_forward_kl

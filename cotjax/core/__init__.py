"""The mathematics: pure functions of arrays, importing only jax, numpy and jaxtyping.

Dimensions, as every shape in this package names them:

    B  prompts                      V  vocabulary
    G  completions per prompt       K  kept teacher logits
    T  tokens                       N  teachers
    D  width of the hidden states   S  any shape

A star takes any number of leading axes: `[*B, T]` fits [T], [B, T] and [B, G, T].
Arrays are positional, settings keyword-only. Losses are per-token values to minimise; the caller
reduces them by name. A mask is boolean and True counts; a weight is a float.
"""

from cotjax.core.advantage import group_advantage as group_advantage
from cotjax.core.advantage import informative_groups as informative_groups
from cotjax.core.advantage import leave_one_out_advantage as leave_one_out_advantage
from cotjax.core.advantage import overlong_penalty as overlong_penalty
from cotjax.core.chunked import chunked_divergence as chunked_divergence
from cotjax.core.chunked import chunked_topk_forward_kl as chunked_topk_forward_kl
from cotjax.core.curriculum import assign_buckets as assign_buckets
from cotjax.core.curriculum import rank_fusion as rank_fusion
from cotjax.core.curriculum import teacher_weights as teacher_weights
from cotjax.core.distillation import distillation_advantage as distillation_advantage
from cotjax.core.distillation import forward_kl as forward_kl
from cotjax.core.distillation import jensen_shannon as jensen_shannon
from cotjax.core.distillation import reverse_kl as reverse_kl
from cotjax.core.distillation import skew_forward_kl as skew_forward_kl
from cotjax.core.distillation import skew_reverse_kl as skew_reverse_kl
from cotjax.core.distillation import total_variation as total_variation
from cotjax.core.divergences import divergence as divergence
from cotjax.core.grpo import bridge_release as bridge_release
from cotjax.core.grpo import cispo_surrogate as cispo_surrogate
from cotjax.core.grpo import clipped_surrogate as clipped_surrogate
from cotjax.core.grpo import importance_ratio as importance_ratio
from cotjax.core.grpo import sequence_ratio as sequence_ratio
from cotjax.core.grpo import sequence_surrogate as sequence_surrogate
from cotjax.core.grpo import truncated_importance_weight as truncated_importance_weight
from cotjax.core.logprobs import chunked_token_logprobs as chunked_token_logprobs
from cotjax.core.logprobs import entropy as entropy
from cotjax.core.logprobs import kl_k1 as kl_k1
from cotjax.core.logprobs import kl_k2 as kl_k2
from cotjax.core.logprobs import kl_k3 as kl_k3
from cotjax.core.logprobs import token_logprobs as token_logprobs
from cotjax.core.masking import fill_masked as fill_masked
from cotjax.core.masking import length_mean as length_mean
from cotjax.core.masking import length_sum_count as length_sum_count
from cotjax.core.masking import masked_mean as masked_mean
from cotjax.core.masking import masked_sum_count as masked_sum_count
from cotjax.core.masking import mean_from as mean_from
from cotjax.core.masking import sequence_mean as sequence_mean
from cotjax.core.masking import sequence_sum_count as sequence_sum_count
from cotjax.core.masking import token_mean as token_mean
from cotjax.core.masking import token_sum_count as token_sum_count
from cotjax.core.mixing import common_vocabulary as common_vocabulary
from cotjax.core.mixing import mix_teachers as mix_teachers
from cotjax.core.objectives import OBJECTIVES as OBJECTIVES
from cotjax.core.objectives import PRESETS as PRESETS
from cotjax.core.objectives import Objective as Objective
from cotjax.core.objectives import make_objective as make_objective
from cotjax.core.objectives import policy_advantage as policy_advantage
from cotjax.core.objectives import policy_loss as policy_loss
from cotjax.core.reconstruction import reconstruction_loss as reconstruction_loss
from cotjax.core.reconstruction import weighted_nll as weighted_nll
from cotjax.core.sampling import filter_logits as filter_logits
from cotjax.core.sampling import sample as sample
from cotjax.core.sampling import sample_at as sample_at
from cotjax.core.softcap import soft_cap as soft_cap
from cotjax.core.topk import topk_forward_kl as topk_forward_kl

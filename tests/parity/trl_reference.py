"""TRL's own losses, called without a model or a launcher. Needs torch and trl."""

import collections
import os
import types

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch  # noqa: E402
from trl.experimental.gkd.gkd_trainer import GKDTrainer  # noqa: E402
from trl.experimental.server_distillation.server_distillation_trainer import (  # noqa: E402
    _add_tail_bucket,
    _jsd_divergence,
)
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.utils import entropy_from_logits, selective_log_softmax  # noqa: E402

from tests.parity.cases import MAX_LENGTH  # noqa: E402


def tensor(array, *, slope=False):
    """Floats as float64, so that the reference is the more exact side."""
    out = torch.from_numpy(array)
    out = out.double() if out.is_floating_point() else out
    return out.requires_grad_(slope)


def policy(case, x):
    """`GRPOTrainer._compute_loss` on given log-probabilities."""
    logp = tensor(x["logp"], slope=True)
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (
        logp,
        torch.zeros_like(logp),
        None,
    )
    trainer.accelerator = types.SimpleNamespace(
        num_processes=1, gather=lambda y: y, reduce=lambda y, reduction: y
    )
    trainer.args = types.SimpleNamespace(
        delta=case.delta, use_bias_correction_kl=case.unbiased_kl, steps_per_generation=1
    )
    trainer.model = types.SimpleNamespace(training=True)
    trainer._metrics = {"train": collections.defaultdict(list)}
    trainer.loss_type = case.loss_type
    trainer.importance_sampling_level = case.level
    trainer.beta = case.beta
    trainer.epsilon_low, trainer.epsilon_high = case.epsilon_low, case.epsilon_high
    trainer.max_completion_length = MAX_LENGTH
    trainer.current_gradient_accumulation_steps = 1
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer.aux_loss_enabled = trainer._entropy_bonus_enabled = False
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = case.correction
    mask = tensor(x["mask"]).long()
    empty = torch.zeros((len(mask), 0), dtype=torch.long)
    loss = trainer._compute_loss(
        None,
        {
            "prompt_ids": empty,
            "prompt_mask": empty,
            "completion_ids": torch.zeros_like(mask),
            "completion_mask": mask,
            "advantages": tensor(x["advantage"]),
            "old_per_token_logps": tensor(x["logp_old"]),
            "ref_per_token_logps": tensor(x["logp_ref"]),
            "importance_sampling_ratio": tensor(x["weight"]),
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    return {"value": loss, "by_logp": logp.grad}


def jensen_shannon(case, x):
    """`GKDTrainer.generalized_jsd_loss`, its mean over the tokens that count."""
    beta, temperature = case
    student = tensor(x["student"], slope=True)
    labels = torch.where(tensor(x["mask"]), 0, -100)
    loss = GKDTrainer.generalized_jsd_loss(
        student, tensor(x["teacher"]), labels, beta=beta, temperature=temperature
    )
    loss.backward()
    return {"value": loss, "by_student": student.grad}


def head(case, x):
    """`ChunkedDivergenceFunction`, which computes in float32 whatever it is given."""
    beta, temperature = case
    hidden = torch.from_numpy(x["student_hidden"]).requires_grad_()
    matrix = torch.from_numpy(x["student_matrix"]).requires_grad_()
    teacher = torch.from_numpy(x["teacher_hidden"]), torch.from_numpy(x["teacher_matrix"])
    value, _ = ChunkedDivergenceFunction.apply(
        hidden, matrix, None, *teacher, None, beta, temperature
    )
    value.backward(torch.from_numpy(x["cotangent"]))
    return {"value": value, "by_hidden": hidden.grad, "by_matrix": matrix.grad}


def topk(case, x):
    """The top-k loss of server distillation at beta = 0: tail bucket, or renormalised."""
    student = tensor(x["student"], slope=True)
    logq = student.log_softmax(-1).gather(-1, tensor(x["topk_ids"]).long())
    logp = tensor(x["topk_logp"])
    stored = torch.ones_like(logp, dtype=torch.bool)
    if case == "bucket":
        logq, support = _add_tail_bucket(logq, stored)
        logp, _ = _add_tail_bucket(logp, stored)
    else:
        logq, logp, support = logq.log_softmax(-1), logp.log_softmax(-1), stored
    value = _jsd_divergence(logq, logp, 0, support).sum(-1)[tensor(x["mask"])].mean()
    value.backward()
    return {"value": value, "by_student": student.grad}


def logprobs(case, x):
    """`selective_log_softmax` and `entropy_from_logits`."""
    logits = tensor(x["logits"], slope=True)
    logp = selective_log_softmax(logits, tensor(x["tokens"]).long())
    entropy = entropy_from_logits(logits)
    (logp.sum() + entropy.sum()).backward()
    return {"logp": logp, "entropy": entropy, "by_logits": logits.grad}


REFERENCES = {
    "policy": policy,
    "jensen_shannon": jensen_shannon,
    "head": head,
    "topk": topk,
    "logprobs": logprobs,
}


def reference(family, case, inputs):
    """TRL's answer as numpy arrays."""
    outputs = REFERENCES[family](case, inputs)
    return {key: value.detach().numpy() for key, value in outputs.items()}

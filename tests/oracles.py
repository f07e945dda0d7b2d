"""The equations of the policy gradient as Python loops in float64.

Nothing here is vectorised or shared with the package. A row is one sequence (or one group): a
list of numbers. `rows` turns an array with any leading axes into a list of rows.
"""

import math

import numpy as np

SIMPLE = 1e-5  # one equation in float32
COMPOSED = 1e-4  # several, or a gradient against finite differences


def assert_close(actual, expected, tolerance=SIMPLE):
    """Equal within the tolerance, relative to the largest expected number (at least 1)."""
    expected = np.asarray(expected, np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, finite.max()) if finite.size else 1.0
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance * scale
    )


def rows(array):
    array = np.asarray(array)
    kind = bool if array.dtype == bool else float
    return [[kind(x) for x in row] for row in array.reshape(-1, array.shape[-1])]


def difference(function, values, step=1e-5):
    """Gradient of a function of a list of rows, by central differences."""
    gradient = []
    for i, row in enumerate(values):
        gradient.append([])
        for j in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(r) for r in values]
                moved[i][j] += sign * step
                ends.append(function(moved))
            gradient[i].append((ends[0] - ends[1]) / (2 * step))
    return gradient


# Distributions


def log_probs(logits, temperature=1.0):
    scaled = [z / temperature for z in logits]
    top = max(scaled)
    norm = top + math.log(math.fsum(math.exp(z - top) for z in scaled))
    return [z - norm for z in scaled]


def entropy(logits, temperature=1.0):
    total = 0.0
    for log_p in log_probs(logits, temperature):
        if log_p > -math.inf:
            total -= math.exp(log_p) * log_p
    return total


def kl_k1(logp, logp_ref):
    return logp - logp_ref


def kl_k2(logp, logp_ref):
    return (logp_ref - logp) ** 2 / 2


def kl_k3(logp, logp_ref):
    return math.exp(logp_ref - logp) - (logp_ref - logp) - 1


# Reductions


def kept(row, mask):
    return [x for x, m in zip(row, mask, strict=True) if m]


def mean(values):
    return math.fsum(values) / len(values) if values else 0.0


def sequence_mean(values, mask):
    return mean([mean(kept(r, m)) for r, m in zip(values, mask, strict=True) if any(m)])


def token_mean(values, mask):
    return mean([x for r, m in zip(values, mask, strict=True) for x in kept(r, m)])


def length_mean(values, mask, max_length):
    total = math.fsum(x for r, m in zip(values, mask, strict=True) for x in kept(r, m))
    sequences = sum(any(m) for m in mask)
    return total / (sequences * max_length) if sequences else 0.0


# Advantages


def std(values, ddof):
    if len(values) <= ddof:
        return 0.0
    centre = mean(values)
    return math.sqrt(math.fsum((x - centre) ** 2 for x in values) / (len(values) - ddof))


def group_advantage(reward, scale, ddof, eps, mask):
    everything = [x for r, m in zip(reward, mask, strict=True) for x in kept(r, m)]
    result = []
    for row, m in zip(reward, mask, strict=True):
        group = kept(row, m)
        centre = mean(group)
        divisor = {
            "std": std(group, ddof) + eps,
            "none": 1.0,
            "mean": abs(centre) + eps,
            "batch_std": std(everything, ddof) + eps,
        }[scale]
        result.append([(x - centre) / divisor if k else 0.0 for x, k in zip(row, m, strict=True)])
    return result


def leave_one_out_advantage(reward, mask):
    result = []
    for row, m in zip(reward, mask, strict=True):
        result.append([])
        for i, x in enumerate(row):
            others = [y for j, y in enumerate(row) if j != i and m[j]]
            result[-1].append(x - mean(others) if m[i] and others else 0.0)
    return result


# Per-token losses


def clip(x, low, high):
    return min(max(x, low), high)


def surrogate(ratio, advantage, clip_low, clip_high, dual_clip=None):
    gain = min(ratio * advantage, clip(ratio, 1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is not None and advantage < 0:
        gain = max(gain, dual_clip * advantage)
    return -gain


def sequence_ratio(logp, logp_old, mask):
    return math.exp(mean([a - b for a, b, m in zip(logp, logp_old, mask, strict=True) if m]))


def bridge_release(logp, logp_ref, advantage, mask, beta):
    own, reference = mean(kept(logp, mask)), mean(kept(logp_ref, mask))
    return -advantage * own + beta * abs(own - reference)


def policy_loss(objective, logp, old, ref, advantage, mask, max_length, weight, entropy, held):
    """The whole loss of a batch, from the words of an objective.

    Everything is a list of rows; `held` is what a stop-gradient holds: the value of `logp`.
    """
    loss = []
    for i, m in enumerate(mask):
        loss.append([])
        for t in range(len(m)):
            if not m[t]:
                loss[-1].append(math.nan)
                continue
            a = advantage[i][t]
            log_ratio = logp[i][t] - old[i][t]
            if objective.max_log_ratio is not None:
                log_ratio = clip(log_ratio, -objective.max_log_ratio, objective.max_log_ratio)
            clips = objective.clip_low, objective.clip_high
            if objective.term == "clipped":
                x = surrogate(math.exp(log_ratio), a, *clips, objective.dual_clip)
            elif objective.term == "sequence":
                x = surrogate(sequence_ratio(logp[i], old[i], m), a, *clips)
            elif objective.term == "cispo":
                x = -min(math.exp(held[i][t] - old[i][t]), objective.max_ratio) * a * logp[i][t]
            else:
                x = bridge_release(logp[i], ref[i], a, m, objective.beta)
            x *= weight[i][t]
            estimate = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3, "none": lambda *_: 0.0}[
                objective.kl
            ](logp[i][t], ref[i][t])
            if objective.max_kl is not None:
                estimate = clip(estimate, -objective.max_kl, objective.max_kl)
            x += objective.beta * estimate - objective.entropy_bonus * entropy[i][t]
            loss[-1].append(x)
    if objective.reduction == "sequence":
        return sequence_mean(loss, mask)
    if objective.reduction == "token":
        return token_mean(loss, mask)
    return length_mean(loss, mask, max_length)


# Sampling


def filter_logits(logits, temperature, top_k, top_p, min_p):
    """The surviving logits divided by the temperature, −inf elsewhere; ties stay."""
    scaled = [z / temperature for z in logits]
    if top_k:
        limit = sorted(scaled, reverse=True)[min(top_k, len(scaled)) - 1]
        scaled = [z if z >= limit else -math.inf for z in scaled]
    if top_p < 1:
        probability = [math.exp(x) for x in log_probs(scaled)]
        reached, limit = 0.0, math.inf
        for p, z in sorted(zip(probability, scaled, strict=True), reverse=True):
            if reached >= top_p:
                break
            reached, limit = reached + p, z
        scaled = [z if z >= limit else -math.inf for z in scaled]
    if min_p:
        probability = [math.exp(x) for x in log_probs(scaled)]
        limit = min_p * max(probability)
        scaled = [z if p >= limit else -math.inf for p, z in zip(probability, scaled, strict=True)]
    return scaled

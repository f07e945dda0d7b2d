"""The equations of distillation and curricula as Python loops in float64.

Nothing here is vectorised or shared with the package. Arrays go in and come out as numpy.
"""

import math

import numpy as np

TINY = float(np.finfo(np.float32).tiny)  # what a probability of 0 counts as inside a logarithm


def softmax(logits, temperature=1.0):
    scaled = [float(z) / temperature for z in logits]
    top = max(scaled)
    weights = [math.exp(z - top) for z in scaled]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * (math.log(a) - math.log(b if b > 0 else TINY))
    return total


def mixture(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def divergence_of(kind, p, q, beta=0.5, alpha=0.1):
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "jensen_shannon":
        if beta == 0:
            return kl(p, q)
        if beta == 1:
            return kl(q, p)
        middle = mixture(p, q, beta)
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)
    if kind == "skew_forward_kl":
        return kl(p, mixture(p, q, alpha))
    if kind == "skew_reverse_kl":
        return kl(q, mixture(p, q, 1 - alpha))
    if kind == "total_variation":
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    raise KeyError(kind)


def divergence(
    kind,
    teacher,
    student,
    *,
    temperature=1.0,
    teacher_temperature=None,
    scale_by_temperature=False,
    mask=None,
    **knobs,
):
    out = np.zeros(teacher.shape[:-1])
    hot = temperature if teacher_temperature is None else teacher_temperature
    for index in np.ndindex(*out.shape):
        if mask is not None and not mask[index]:
            continue
        p = softmax(teacher[index], hot)
        q = softmax(student[index], temperature)
        out[index] = divergence_of(kind, p, q, **knobs)
        if scale_by_temperature:
            out[index] *= temperature**2
    return out


def mix_teachers(logits, weight, *, space="probability", temperature=1.0):
    """[N, ..., V], [N] to probabilities [..., V]."""
    out = np.zeros(logits.shape[1:])
    for index in np.ndindex(*out.shape[:-1]):
        used = [n for n in range(len(weight)) if weight[n] > 0]
        if space == "probability":
            parts = [softmax(logits[(n, *index)], temperature) for n in used]
            for v in range(out.shape[-1]):
                out[(*index, v)] = sum(
                    weight[n] * part[v] for n, part in zip(used, parts, strict=True)
                )
        else:
            scores = []
            for v in range(out.shape[-1]):
                scores.append(sum(float(weight[n]) * logits[(n, *index, v)] for n in used))
            out[index] = softmax(scores, temperature)
    return out


def topk_forward_kl(topk_logp, topk_ids, student, *, tail="bucket", temperature=1.0):
    out = np.zeros(student.shape[:-1])
    for index in np.ndindex(*out.shape):
        stored = {}
        for logp, token in zip(topk_logp[index], topk_ids[index], strict=True):
            if logp > -math.inf:
                stored[int(token)] = math.exp(logp)
        total = sum(stored.values())
        if total > 1:
            stored = {token: p / total for token, p in stored.items()}
        q = softmax(student[index], temperature)
        p_list = list(stored.values())
        q_list = [q[token] for token in stored]
        if tail == "bucket":
            p_list.append(max(1 - total, 0.0))
            q_list.append(sum(b for token, b in enumerate(q) if token not in stored))
        if tail == "renormalise":
            p_sum, q_sum = sum(p_list), sum(q_list)
            p_list = [a / p_sum for a in p_list]
            q_list = [b / q_sum for b in q_list]
        out[index] = kl(p_list, q_list)
    return out


def reconstruction_loss(logits, targets, weight):
    out = np.zeros(targets.shape)
    for index in np.ndindex(*out.shape):
        if weight[index] > 0:
            out[index] = -weight[index] * math.log(softmax(logits[index])[targets[index]])
    return out


def rank_fusion(*difficulties, k=60):
    n = len(difficulties[0])
    out = np.zeros(n)
    for signal in difficulties:
        for i in range(n):
            harder = sum(signal[j] > signal[i] for j in range(n))
            equal = sum(signal[j] == signal[i] for j in range(n))
            ranks = [harder + 1 + step for step in range(equal)]
            out[i] += 1 / (k + sum(ranks) / len(ranks))
    return out


def teacher_weights(progress, num_teachers, kind):
    progress = min(max(progress, 0.0), 1.0)
    out = [0.0] * num_teachers
    if kind == "step":
        out[max(math.ceil(progress * num_teachers), 1) - 1] = 1.0
        return np.array(out)
    position = progress * (num_teachers - 1)
    lower = min(int(position), num_teachers - 1)
    share = position - lower
    if kind == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    out[lower] = 1 - share
    if lower + 1 < num_teachers:
        out[lower + 1] += share
    return np.array(out)


def slopes(function, x, step=1e-5):
    """Central differences of a function of one array to a number; −inf and NaN entries stay 0."""
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        if not math.isfinite(x[index]):
            continue
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        out[index] = (function(up) - function(down)) / (2 * step)
    return out

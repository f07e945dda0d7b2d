"""Every metric of metrics.jsonl with its unit, as one table; the documentation shows it as it is.

A name with `*` stands for names that a run makes: of its teachers, buckets and reward parts.
"""

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Group = Literal["learning", "sampling", "lengths", "data", "teachers", "speed", "evaluation"]

GROUPS: dict[Group, str] = {
    "learning": "The update",
    "sampling": "What was sampled",
    "lengths": "Lengths that are rewarded",
    "data": "Data and curriculum",
    "teachers": "Teachers",
    "speed": "Time and tokens",
    "evaluation": "Evaluations",
}


@dataclass(frozen=True)
class Metric:
    """One number of a line of metrics.jsonl.

    Attributes:
      name: as the file, the table of steps and the report have it; `*` stands for any end.
      unit: of the number; "0–1" is a share or an accuracy, "count" a whole number.
      what: what it is, as one clause.
      stages: whose steps have it; empty: those of all.
    """

    name: str
    unit: str
    what: str
    stages: tuple[str, ...] = ()


POLICY = ("grpo", "rewrite")
SAMPLED = ("grpo", "rewrite", "rft")
ROWS = ("sft", "reconstruct", "rft")

METRICS: dict[Group, tuple[Metric, ...]] = {
    "learning": (
        Metric("loss", "nats", "the loss of the update; of a policy stage in units of advantage"),
        Metric("grad_norm", "1", "global norm of the gradient, before it is scaled down"),
        Metric("skipped", "0–1", "share of the step's updates that were not finite, so not made"),
        Metric("entropy", "nats/token", "entropy of the student's next token",
               (*SAMPLED, *ROWS, "distill")),
        Metric("kl", "nats/token", "KL to the start (k3 in policy stages)", (*SAMPLED, *ROWS)),
        Metric("kl_old", "nats/token", "k3 from the policy that sampled", POLICY),
        Metric("ratio", "1", "mean of π/π_old over tokens; 1 on policy", POLICY),
        Metric("clip_fraction", "0–1", "share of tokens whose gradient a clip holds", POLICY),
        Metric("weight", "1", "mean weight for the sampler's numbers (sampler_correction)", POLICY),
        Metric("sampler_gap", "nats/token", "mean |sampler − trainer| of log π", POLICY),
        Metric("replay_*", "", "the same numbers of the supervised replay", ("rewrite",)),
    ),
    "sampling": (
        Metric("accuracy", "0–1", "share of completions whose answer is right", SAMPLED),
        Metric("reward", "reward", "mean reward of a completion", SAMPLED),
        Metric("reward_*", "reward", "mean of a named part of the reward", SAMPLED),
        Metric("well_formed", "0–1", "share with steps and an answer line", SAMPLED),
        Metric("completion_tokens", "tokens", "mean length, end token included", SAMPLED),
        Metric("truncated", "0–1", "share that the token limit cut off", SAMPLED),
        Metric("no_signal", "0–1", "share of groups whose rewards are equal", SAMPLED),
        Metric("repeated", "0–1", "share that says what another of its group says", SAMPLED),
        Metric("nonfinite", "count", "completions or texts that ended in a NaN"),
        Metric("unrewarded", "count", "completions that your reward failed on", SAMPLED),
        Metric("sampled_groups", "count", "groups sampled for the step (refill)", POLICY),
        Metric("dropped_groups", "count", "groups without a signal that nothing replaced", POLICY),
        Metric("accepted", "count", "questions with an accepted completion", ("rewrite", "rft")),
        Metric("refused_*", "count", "right ones not accepted, by the rule", ("rewrite", "rft")),
    ),
    "lengths": (
        Metric("limit", "tokens", "limit of a right answer (reward.length budget)", ("grpo",)),
        Metric("over_limit", "0–1", "share of completions beyond it", ("grpo",)),
        Metric("target_gap", "tokens", "mean distance from the length asked for", ("grpo",)),
    ),
    "data": (
        Metric("bucket", "number", "bucket of the curriculum, from 1", ("grpo", "distill")),
        Metric("masked_share", "0–1", 'share of masked steps (mask.rule "share")', ("grpo",)),
        Metric("examples", "count", "examples in the step's rows", ("distill",)),
        Metric("used", "0–1", "share of the rows that is no padding", ("distill", *ROWS)),
        Metric("own_text", "0–1", "1 where the student wrote the step's texts", ("distill",)),
        Metric("kept_texts", "0–1", "share of questions with a usable text", ("distill",)),
        Metric("refilled", "0–1", "share of places given to further questions", ("distill",)),
    ),
    "teachers": (
        Metric("divergence", "nats/token", "from the teachers, as distill.divergence says",
               ("distill", "grpo")),
        Metric("cross_entropy", "nats/token", "on the data's text (distill.alpha)", ("distill",)),
        Metric("alpha", "0–1", "share of that cross-entropy in the loss", ("distill",)),
        Metric("temperature", "1", "of teachers and student in the loss", ("distill",)),
        Metric("teacher_*", "0–1", "weight of a teacher, 1 the weakest", ("distill", "grpo")),
        Metric("held_out_divergence", "nats/token", "on monitored records (schedule adaptive)",
               ("distill",)),
        Metric("held_out_pass_rate", "0–1", "of these records", ("distill",)),
        Metric("handover_by_*", "1", "1 where the next teacher takes over, by the cause",
               ("distill",)),
    ),
    "speed": (
        Metric("step_s", "s", "the whole step"),
        Metric("update_s", "s", "its updates"),
        Metric("rollout_s", "s", "its sampling, rewards included", SAMPLED),
        Metric("tokens_per_pass", "tokens", "kept of a pass of the sampler (rollout.draft_tokens)",
               SAMPLED),
        Metric("rollout_wait_s", "s", "waited for completions of a step ahead", SAMPLED),
        Metric("data_wait_s", "s", "waited for data"),
        Metric("data_wait", "0–1", "the same as a share of the step"),
        Metric("update_tok_s", "tokens/s", "batch_tokens over update_s"),
        Metric("rollout_tok_s", "tokens/s", "completion tokens over rollout_s", SAMPLED),
        Metric("batch_tokens", "tokens", "tokens of the update, a prompt once per completion"),
        Metric("trained_tokens", "tokens", "trained on without padding, once per update", SAMPLED),
        Metric("sampled_tokens", "tokens", "sampled, each group's prompt once",
               (*SAMPLED, "distill")),
        Metric("mined_tokens", "tokens", "sampled to choose or order what is trained on",
               (*SAMPLED, "distill")),
        Metric("used_tokens", "tokens", "all of these since the run began (budget.tokens)"),
    ),
    "evaluation": (
        Metric("accuracy", "0–1", "greedy answers that are right"),
        Metric("accuracy_low", "0–1", "lower end of its 95 % interval (Wilson)"),
        Metric("accuracy_high", "0–1", "upper end of its 95 % interval"),
        Metric("tokens", "tokens", "mean length of greedy answers, end token included"),
        Metric("median_tokens", "tokens", "their median length"),
        Metric("correct_tokens", "tokens", "mean length of right ones; absent if none is"),
        Metric("truncated", "0–1", "share that the token limit cut off"),
        Metric("well_formed", "0–1", "share with steps and an answer line"),
        Metric("problems", "count", "held-out problems asked"),
        Metric("sampled_accuracy", "0–1", "mean over sampled answers"),
        Metric("sampled_tokens", "tokens", "their mean length"),
        Metric("pass_at_k", "0–1", "problems of which one of all samples is right"),
        Metric("pass_at_*", "0–1", "the same of so many samples, estimated without bias"),
        Metric("maj_at_*", "0–1", "problems whose most frequent answer of all samples is right"),
        Metric("samples", "count", "k"),
        Metric("solve_loss", "nats/token", "loss of held-out solutions", ("sft", "reconstruct")),
        Metric("drift", "nats/token", "how much less the student expects its own first answers",
               ("sft", "reconstruct", "rft", "distill")),
    ),
}  # fmt: skip


def described(name: str, kind: str) -> Metric | None:
    """The row of the table that a metric has; None if it has none.

    Args:
      name: of the metric.
      kind: "train" or "eval", as its line in metrics.jsonl says.

    Example:
      >>> described("teacher_2", "train").unit, described("teacher_2", "eval")
      ('0–1', None)
    """
    groups: Iterable[Group] = [one for one in GROUPS if (one == "evaluation") == (kind == "eval")]
    rows = [row for group in groups for row in METRICS[group]]
    return next((row for row in rows if fnmatch.fnmatchcase(name, row.name)), None)

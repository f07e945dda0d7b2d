"""The sections of a run's settings about teachers and the order of the data."""

from dataclasses import dataclass
from typing import Literal

from cotjax.config.ranges import (
    Count,
    DifficultyName,
    Divergence,
    Dtype,
    Natural,
    NotNegative,
    Positive,
    Ramp,
    ScheduleName,
    Share,
    ShareAbove0,
    ShareBelow1,
    Signal,
    Tail,
)  # fmt: skip


@dataclass(frozen=True)
class TeachersConfig:
    """The teachers of distillation, and the cache of their logits."""

    paths: tuple[str, ...] = ()  # Weak to strong: runs, models, .jsonl; @0.5: shown half the steps.
    dtype: Dtype = "float32"  # Number format of the teachers; bfloat16 suits TPUs and GPUs.
    cache: str = ""  # Folder that python -m cotjax.cache_logits wrote; empty = teachers are run.
    top_k: Count = 16  # Logits that a cache keeps per position.
    cache_dtype: Literal["float16", "uint8"] = "float16"  # Format of its log-probabilities.
    tail: Tail = "bucket"  # What a cache left out, in the loss.


@dataclass(frozen=True)
class DistillConfig:
    """The distance of the student from its teachers, as a loss."""

    target: Literal["distribution", "text"] = "distribution"  # What is learned of a teacher.
    filter_texts: bool = True  # Learn a teacher's text only if its answer is right ("text").
    divergence: Divergence = "forward_kl"  # Between the teachers' tokens and the student's.
    beta: Share = 0.5  # Weight of the teacher in jensen_shannon.
    skew: ShareBelow1 = 0.1  # Share of the other side in the two skew divergences.
    temperature: Positive = 1.0  # Divides the logits of teachers and student, at the start.
    temperature_end: Positive = 1.0  # The same at the end, unless temperature_schedule = constant.
    temperature_schedule: Ramp = "constant"  # How the temperature goes from start to end.
    scale_by_temperature: bool = False  # Multiply the divergence by the temperature's square.
    alpha: Share = 0.0  # Share of cross-entropy on the data's text in the loss, at the start.
    alpha_end: Share = 0.0  # The same at the end, unless alpha_schedule = constant.
    alpha_schedule: Ramp = "constant"  # How that share goes from start to end.
    on_policy: Share = 0.0  # Share of steps on texts that the student has just written.
    on_policy_loss: Literal["divergence", "policy_gradient"] = "divergence"  # Of those steps.
    coefficient: NotNegative = 0.0  # Weight of the teachers in --stage=grpo; 0 = none.


@dataclass(frozen=True)
class CurriculumConfig:
    """The order of the data, and the teachers' weights over a run."""

    examples: Natural = 4096  # Records taken from the source, to be ordered; 0 = all.
    difficulty: DifficultyName = "cot_steps"  # What makes a record hard; or your own function.
    signals: tuple[Signal, ...] = ("cot_steps", "student_loss")  # What rank_fusion fuses.
    samples: Count = 4  # Completions per record behind pass_rate.
    rescore: bool = False  # Measure student_loss or pass_rate again at the start of each bucket.
    buckets: Count = 1  # Parts of equal size, from easy to hard; 1 = all records at once.
    direction: Literal["easy_first", "hard_first", "shuffled"] = "easy_first"  # Order of the data.
    pacing: Literal["contiguous", "cumulative"] = "cumulative"  # One bucket, or all up to it.
    replay: ShareBelow1 = 0.0  # Share of examples drawn from earlier buckets.
    advance_accuracy: Share = 0.7  # Policy stages: mean accuracy that opens the next bucket.
    advance_window: Count = 4  # Steps of that mean.
    advance_after: Natural = 0  # Steps after which the next bucket opens anyway; 0 = never.
    schedule: ScheduleName = "step"  # The teachers' weights over a run; or your own function.
    mixing: Literal["probability", "logit"] = "probability"  # Where two teachers are averaged.
    teacher_weights: tuple[float, ...] = ()  # For schedule "fixed"; they sum to 1.
    check_every: Count = 10  # Steps between the measurements of schedule "adaptive".
    patience: Count = 3  # Measurements without progress before the next teacher takes over.
    min_progress: ShareBelow1 = 0.02  # What counts as progress, as a share of the held-out loss.
    pass_rate: ShareAbove0 = 1.0  # The next teacher also takes over above this pass rate; 1 = not.
    handover: Count = 10  # Steps over which "adaptive" passes from one teacher to the next.
    num_monitor: Count = 32  # Records kept out of training for those measurements.
    ranking_problems: Natural = 32  # Problems on which the order of teachers is checked; 0 = not.


@dataclass(frozen=True)
class RationalesConfig:
    """Who writes rationales, for python -m cotjax.rationales."""

    writer: Literal["data", "model", "server"] = "data"  # The data, model.path, or a server.
    url: str = ""  # Address of an OpenAI-compatible server, up to and with /v1.
    model: str = "default"  # Name of the model on the server.
    key_variable: str = "TEACHER_API_KEY"  # Environment variable that holds the key, if any.
    questions: Count = 1000  # Training records that get a rationale.
    attempts: Count = 1  # Answers per question; the first right one is kept.
    temperature: NotNegative = 0.7  # Of the answers; a model's first one is greedy.
    max_new_tokens: Count = 512  # Longest answer, in tokens.
    cache: str = "runs/teacher_cache.jsonl"  # Where a server's answers are kept.
    timeout: Positive = 120.0  # Seconds until a request is given up.
    retries: Natural = 5  # Further requests after one that failed.
    backoff: Positive = 1.0  # Seconds before the first of them; doubles each time.
    per_minute: Natural = 0  # Requests started a minute; 0 = no limit.

"""The values that settings may take: ranges of numbers, names, and references to a user's code."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """The values a number may take. NaN is in no range."""

    form: str  # How to write it, with {} for the key.
    holds: Callable[[float], bool]
    why: str = "out of range"


Natural = Annotated[int, Range("{} >= 0", lambda value: value >= 0)]
Count = Annotated[int, Range("{} >= 1", lambda value: value >= 1)]
AtMost1 = Annotated[int, Range("{} = 0 or 1", lambda value: value in (0, 1))]
NotNegative = Annotated[float, Range("{} >= 0", lambda value: 0 <= value < math.inf)]
Positive = Annotated[float, Range("{} > 0", lambda value: 0 < value < math.inf)]
Share = Annotated[float, Range("0 <= {} <= 1", lambda value: 0 <= value <= 1)]
ShareBelow1 = Annotated[float, Range("0 <= {} < 1", lambda value: 0 <= value < 1)]
ShareInside = Annotated[float, Range("0 < {} < 1", lambda value: 0 < value < 1)]
ShareAbove0 = Annotated[float, Range("0 < {} <= 1", lambda value: 0 < value <= 1)]
GroupSize = Annotated[
    int,
    Range(
        "{} >= 2",
        lambda value: value >= 2,
        "a group baseline needs at least 2 completions per prompt",
    ),
]
Rounds = Annotated[int, Range("{} >= 2", lambda value: value >= 2, "one limit never falls")]
RowLength = Annotated[
    int, Range("{} >= 2", lambda value: value >= 2, "a row's first token has no target")
]
AxisSize = Annotated[
    int,
    Range("{} >= 1, or -1 for the devices that are left", lambda value: value == -1 or value >= 1),
]


@dataclass(frozen=True)
class Named:
    """What a key names: something built in, or a user's own object.

    The value is a name, "package.module:name", "./file.py:name", or (from Python) the object.

    Attributes:
      known: the built-in names.
      takes: what a user's object is, as its signature.
      lists: whether a list from Python is such an object.
    """

    known: tuple[str, ...]
    takes: str
    lists: bool = False


Table = dict[str, Any]
TextTable = dict[str, str]
Auto = Literal["auto"]  # As policy.objective and policy.preset have it.
Equations = Literal["ignore", "check", "require", "match"]
Dtype = Literal["float32", "bfloat16"]
Objective = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "bridge_release"]
LayoutName = Literal["auto", "gsm8k", "bridge", "failures", "gym", "math", "choice", "messages"]
LengthReward = Literal["none", "bridge", "target", "group_relative", "budget"]
Preset = Literal["cotjax", "trl", "verl", "tunix", "bridge"]
Divergence = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]
TrackerName = Literal["trackio", "tensorboard", "wandb"]
Ramp = Literal["constant", "linear", "cosine"]
Tail = Literal["bucket", "renormalise", "drop"]
Signal = Literal["cot_steps", "cot_tokens", "cot_operations", "student_loss", "pass_rate"]
SIGNALS = ("cot_steps", "cot_tokens", "cot_operations", "student_loss", "pass_rate")
SOURCES = ("problems", "jsonl", "parquet", "array_record", "tfds", "hub", "reasoning_gym")
VERIFIERS = ("numeric", "math", "choice", "exact")
STAGES = ("sft", "grpo", "rft", "reconstruct", "rewrite", "distill", "bridge")
LIST = "list"  # the stage of a config that lists its own [[stages]]

# The keys of a file's row that its layout reads, as data.columns names them.
ROW_KEYS = (
    *("question", "answer", "solution", "choices", "rationale", "messages"),
    *("input", "target", "gold_answer", "teacher_cot"),
)
SCHEDULES = ("step", "linear", "cosine", "adaptive", "fixed")

StageName = Annotated[Any, Named((*STAGES, LIST), "a class with from_config(config, mesh)")]
SourceName = Annotated[
    Any, Named(SOURCES, "records: __len__() and __getitem__(index) -> Record", lists=True)
]
RewardName = Annotated[Any, Named(("bridge",), "(Completion, Record) -> float | dict[str, float]")]
_VERIFIER = "extract(text) -> str | None and equal(a, b) -> bool"
VerifierName = Annotated[Any, Named(VERIFIERS, _VERIFIER)]
EvalVerifierName = Annotated[Any, Named(("auto", *VERIFIERS), _VERIFIER)]
TermName = Annotated[
    Any,
    Named(("auto",), "(logp, logp_old, advantage, mask, **settings) -> loss [B, G, T]"),
]
DifficultyName = Annotated[
    Any,
    Named((*SIGNALS, "rank_fusion"), "(Record) -> float, or (student, records) -> [n]"),
]
ScheduleName = Annotated[Any, Named(SCHEDULES, "(progress, num_teachers) -> [N]")]

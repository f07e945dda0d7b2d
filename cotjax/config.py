"""The settings of a run: frozen dataclasses, filled from TOML and flags, checked once.

    stage's defaults  <  --config FILE  <  flags

Every bad value stops here, before anything compiles, with its key, its value and the fix.
The comment behind a field is its `--help` text; its type carries its range.

Example:
  >>> load(["--stage=grpo", "--name=demo", "--rollout.group-size", "4"]).rollout.group_size
  4
"""

import dataclasses
import datetime
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro

from cotjax.errors import InputError


@dataclass(frozen=True)
class Range:
    """The values a number may take. NaN is in no range."""

    form: str  # How to write it, with {} for the key.
    holds: Callable[[float], bool]
    why: str = "out of range"


Natural = Annotated[int, Range("{} >= 0", lambda value: value >= 0)]
Count = Annotated[int, Range("{} >= 1", lambda value: value >= 1)]
NotNegative = Annotated[float, Range("{} >= 0", lambda value: 0 <= value < math.inf)]
Positive = Annotated[float, Range("{} > 0", lambda value: 0 < value < math.inf)]
Share = Annotated[float, Range("0 <= {} <= 1", lambda value: 0 <= value <= 1)]
ShareBelow1 = Annotated[float, Range("0 <= {} < 1", lambda value: 0 <= value < 1)]
ShareAbove0 = Annotated[float, Range("0 < {} <= 1", lambda value: 0 < value <= 1)]
GroupSize = Annotated[
    int,
    Range(
        "{} >= 2",
        lambda value: value >= 2,
        "a group baseline needs at least 2 completions per prompt",
    ),
]
RowLength = Annotated[
    int, Range("{} >= 2", lambda value: value >= 2, "a row's first token has no target")
]
AxisSize = Annotated[
    int,
    Range("{} >= 1, or -1 for the devices that are left", lambda value: value == -1 or value >= 1),
]

Auto = Literal["auto"]  # As policy.objective and policy.preset have it.
StageName = Literal["sft", "grpo", "reconstruct", "rewrite", "bridge", "distill"]
SourceName = Literal["problems", "jsonl", "parquet", "array_record", "tfds", "reasoning_gym"]
Dtype = Literal["float32", "bfloat16"]
Objective = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "bridge_release"]
Preset = Literal["cotjax", "trl", "verl", "tunix", "bridge"]
Divergence = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]
Change = Literal["constant", "linear", "cosine"]
Signal = Literal["cot_steps", "cot_tokens", "cot_operations", "student_loss", "pass_rate"]


@dataclass(frozen=True)
class DataConfig:
    """Where questions, rationales and answers come from."""

    source: SourceName = "problems"  # Built-in word problems, a file, TFDS or reasoning-gym.
    path: str = ""  # Training records: file, TFDS folder, or the name of a reasoning-gym data set.
    mixture: str = ""  # Sources by weight, "problems=1, jsonl:a.jsonl=3"; replaces source and path.
    layout: Literal["auto", "gsm8k", "bridge", "failures", "gym"] = "auto"  # Keys of a row.
    split: str = "train"  # Which split of a TFDS data set.
    size: Count = 1000  # How many problems reasoning-gym makes.
    keep_calculator: bool = False  # Leave GSM8K's <<48/2=24>> marks in the steps.
    filter_teacher: bool = True  # Refuse rationales that end in another answer than the gold one.
    eval_path: str = ""  # Held-out records; empty = the last eval.problems records of data.path.
    min_steps: Count = 2  # Easiest built-in problem, in reasoning steps.
    max_steps: Count = 6  # Hardest built-in problem, in reasoning steps.
    concise_share: Share = 0.3  # Share of supervised targets in the concise style.
    on_bad_record: Literal["error", "skip"] = "error"  # What to do with an unusable record.
    prompt: Literal["auto", "plain", "chat"] = "auto"  # Layout; auto = the chat template if any.
    prompt_widths: Count = 1  # Lengths that prompts are padded to; more compile more, pad less.
    workers: Natural = 0  # Processes that prepare batches; 0 = a thread of this process.
    templates: str = "english"  # Wording: "english", "bridge" (as released), or a TOML file.
    start: Natural = 0  # Training records before this one are left to other stages.
    stop: Natural = 0  # So are those from this one on; 0 = the end.


@dataclass(frozen=True)
class ModelConfig:
    """The student and its number formats."""

    path: str = "tiny"  # "tiny", "smollm2-135m", a Hugging Face folder, a .gguf file, a run folder.
    init: Literal["pretrained", "random"] = "pretrained"  # The path's weights, or only its shape.
    param_dtype: Dtype = "float32"  # Format of weights and optimizer state.
    compute_dtype: Dtype = "float32"  # Format of activations; bfloat16 suits TPUs and GPUs.
    accumulate_dtype: Dtype = "float32"  # Format in which matrix products are summed.
    remat: Literal["none", "dots", "full"] = "none"  # What the backward pass computes again.
    attention: Literal["auto", "dense", "flash"] = "auto"  # auto = the flash kernel on TPUs.


@dataclass(frozen=True)
class LoraConfig:
    """A low-rank adapter beside a frozen model; the defaults are BRIDGE's."""

    rank: Natural = 0  # Columns of the thin matrices, BRIDGE has 16; 0 = train all parameters.
    alpha: Positive = 32.0  # The adapter's product counts alpha / rank times.
    dropout: ShareBelow1 = 0.05  # Of what enters the adapter, in supervised stages only.
    targets: str = "q_proj|k_proj|v_proj|o_proj"  # Regular expression for the projections.


@dataclass(frozen=True)
class RolloutConfig:
    """How the student writes completions while it trains."""

    prompts: Count = 16  # Prompts per step.
    group_size: GroupSize = 8  # Completions per prompt; their rewards are compared.
    max_prompt_tokens: Count = 80  # Longest prompt, in tokens.
    max_new_tokens: Count = 256  # Longest completion, in tokens, end token included.
    temperature: Positive = 1.0  # Divides the logits before sampling.
    stop: tuple[str, ...] = ()  # Texts that end a completion, also when evaluating.
    top_k: Natural = 0  # Sample among the k likeliest tokens; 0 = all.
    top_p: ShareAbove0 = 1.0  # Sample among the likeliest tokens of this total probability.
    min_p: ShareBelow1 = 0.0  # Drop tokens below this multiple of the likeliest one's probability.
    rows: Natural = 0  # Completions decoded at once; others wait for a free slot; 0 = all at once.
    share: Natural = 0  # Completions of a prompt that share a slot's cache; 0 = prompt's all.
    cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  # Of keys and values.
    on_nonfinite: Literal["stop", "count"] = "stop"  # A NaN in logits: end the run, or its row.
    max_sampler_gap: NotNegative | Auto = "auto"  # Most nats from sampler to trainer; 0 = any.


@dataclass(frozen=True)
class RewardConfig:
    """What a completion earns: correctness gates format, format gates brevity."""

    length_per_step: Positive = 35.0  # Length allowed per reference step, in reward.unit.
    unit: Literal["words", "tokens"] = "tokens"  # What a completion's length counts.
    monotone: bool = True  # No upward jump in the length penalty (BRIDGE as released has one).


@dataclass(frozen=True)
class PolicyConfig:
    """The policy-gradient loss and its conventions."""

    objective: Objective | Auto = "auto"  # Loss, by the name of its paper; auto = the preset's.
    preset: Preset = "cotjax"  # Whose conventions fill in what is "auto" below.
    clip_low: Share | Auto = "auto"  # The probability ratio counts down to 1 - clip_low.
    clip_high: NotNegative | Auto = "auto"  # The probability ratio counts up to 1 + clip_high.
    dual_clip: NotNegative | Auto = "auto"  # Bound > 1 on the loss of bad tokens; 0 = off.
    kl_estimator: Literal["auto", "k1", "k2", "k3"] = "auto"  # Estimator of the KL to a reference.
    kl_coefficient: NotNegative | Auto = "auto"  # Weight of that KL; 0 = no reference model.
    advantage_scale: Literal["auto", "std", "none", "mean", "batch_std"] = "auto"  # Its divisor.
    ddof: Literal["auto", 0, 1] = "auto"  # The group's variance divides by G - ddof.
    eps: NotNegative | Auto = "auto"  # Added to the advantage's divisor, in reward units.
    entropy_bonus: NotNegative | Auto = "auto"  # Weight of the entropy, which lowers the loss.
    inner_updates: Count = 1  # Optimizer updates per batch of completions.
    micro_batch: Natural = 2  # Prompts per device and pass, like lengths together; 0 = all.
    refill: Natural = 0  # Extra rollouts a step to replace groups of equal rewards; 0 = keep those.
    overlong: Literal["keep", "mask"] = "keep"  # mask = cut-off completions teach nothing.
    overlong_buffer: Natural = 0  # Tokens before the limit over which reward falls by 1; 0 = off.


@dataclass(frozen=True)
class MaskConfig:
    """What a policy stage's prompt shows of the teacher's steps."""

    rule: Literal["question", "bridge", "share"] = "question"  # Hide all, half, or a share.
    share_start: Share = 0.5  # Masked share of the steps on the first level ("share").
    share_end: Share = 1.0  # On the last; where all are masked, the question stands alone.
    token: str = "[MASK]"  # What stands for what is hidden.
    mode: Literal["scattered", "contiguous"] = "scattered"  # Which steps are masked.
    granularity: Literal["step", "equation", "number"] = "step"  # What of a masked step is hidden.
    keep_first: bool = False  # Never mask the first step.
    keep_last: bool = False  # Never mask the last step.


@dataclass(frozen=True)
class LevelsConfig:
    """Levels from easy to hard, advanced by success; a level keeps what came before it."""

    count: Count = 1  # Buckets of equal size; 1 = all problems from the beginning.
    signal: Literal["cot_steps", "cot_tokens", "cot_operations"] = "cot_steps"  # What is hard.
    pool: Count = 4096  # Records that are ordered; a longer source is cut there.
    cumulative: bool = True  # A level holds the easier buckets too, or its own alone.
    threshold: Share = 0.7  # Mean accuracy of the last steps that opens the next level.
    window: Count = 4  # Steps of that mean.
    patience: Natural = 0  # Steps after which the next level opens anyway; 0 = never.


@dataclass(frozen=True)
class ReconstructConfig:
    """Supervised prompts of shuffled, masked steps; the defaults are BRIDGE's."""

    mask_probability: Share = 0.7  # Chance that a prompt's steps are masked.
    mask_count: Count = 1  # Steps masked then; all of them if there are fewer.
    token: str = "[MASK]"  # What stands for what is hidden.
    mode: Literal["scattered", "contiguous"] = "scattered"  # Which steps are masked.
    granularity: Literal["step", "equation", "number"] = "step"  # What of a masked step is hidden.
    keep_first: bool = False  # Never mask the first step.
    keep_last: bool = False  # Never mask the last step.
    shuffle_probability: Share = 1.0  # Chance that the steps are shuffled.
    masked_weight: Positive = 1.0  # Weight of a masked step's tokens; others count 1.
    solve_share: Share = 0.0  # Share of prompts that are the question alone.


@dataclass(frozen=True)
class RewriteConfig:
    """Shorter solutions to the problems that the student fails."""

    internalize: bool = True  # Replay accepted rewrites as targets of the question alone.
    replay_batch: Count = 16  # Accepted rewrites replayed after each step.


@dataclass(frozen=True)
class MiningConfig:
    """Which problems are persistent failures: no attempt right, and one that ended."""

    questions: Natural = 512  # Training records tried; 0 = every record is a failure.
    attempts: Count = 4  # Per question; the first is greedy.
    max_new_tokens: Count = 512  # Longest attempt, in tokens.
    temperature: Positive = 0.7  # Of the other attempts.
    batch_size: Count = 256  # Attempts decoded at once.


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    learning_rate: NotNegative = 1e-4  # Peak learning rate.
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # What follows warm-up.
    warmup_steps: Natural = 0  # Steps over which the learning rate rises from 0.
    weight_decay: NotNegative = 0.01  # Decoupled, as a multiple of the learning rate.
    max_grad_norm: Positive = 1.0  # Gradients of a larger global norm are scaled down to it.
    b1: ShareBelow1 = 0.9  # Decay of the running mean of gradients.
    b2: ShareBelow1 = 0.99  # Decay of the running mean of squared gradients.


@dataclass(frozen=True)
class SftConfig:
    """Supervised batches: rationales packed into rows of equal length."""

    batch_size: Count = 16  # Packed rows per step.
    sequence_length: RowLength = 512  # Length of a packed row, in tokens.


@dataclass(frozen=True)
class DistillConfig:
    """What the teachers say about a text, and how far the student is from it."""

    teachers: tuple[str, ...] = ()  # Weak to strong: runs, model folders, .gguf; texts: .jsonl.
    target: Literal["distribution", "text"] = "distribution"  # What is learned of a teacher.
    filter_texts: bool = True  # Learn a teacher's text only if its answer is right ("text").
    teacher_dtype: Dtype = "float32"  # Number format of the teachers; bfloat16 suits TPUs and GPUs.
    store: str = ""  # Folder that python -m cotjax.teach wrote; empty = the teachers run beside.
    top_k: Count = 16  # Logits that a store keeps per position.
    store_dtype: Literal["float16", "uint8"] = "float16"  # Format of a store's log-probabilities.
    tail: Literal["bucket", "renormalise", "drop"] = "bucket"  # What a store left out, in the loss.
    divergence: Divergence = "forward_kl"  # Between the teachers' tokens and the student's.
    beta: Share = 0.5  # Weight of the teacher in jensen_shannon.
    skew: ShareBelow1 = 0.1  # Share of the other side in the two skew divergences.
    temperature: Positive = 1.0  # Divides the logits of teachers and student, at the start.
    temperature_end: Positive = 1.0  # The same at the end, unless temperature_schedule = constant.
    temperature_schedule: Change = "constant"  # How the temperature goes from start to end.
    scale_by_temperature: bool = False  # Multiply the divergence by the temperature's square.
    alpha: Share = 0.0  # Share of cross-entropy on the data's text in the loss, at the start.
    alpha_end: Share = 0.0  # The same at the end, unless alpha_schedule = constant.
    alpha_schedule: Change = "constant"  # How that share goes from start to end.
    on_policy: Share = 0.0  # Share of steps on texts that the student has just written.
    on_policy_loss: Literal["divergence", "policy_gradient"] = "divergence"  # Of those steps.
    coefficient: NotNegative = 0.0  # Weight of the teachers in --stage=grpo; 0 = none.


@dataclass(frozen=True)
class CurriculumConfig:
    """The order of the data, and which teacher teaches when."""

    examples: Natural = 4096  # Records taken from the source, to be ordered; 0 = all.
    difficulty: Signal | Literal["rank_fusion"] = "cot_steps"  # What makes a record hard.
    signals: tuple[Signal, ...] = ("cot_steps", "student_loss")  # What rank_fusion fuses.
    samples: Count = 4  # Completions per record behind pass_rate.
    rescore: bool = False  # Measure student_loss or pass_rate again at the start of each bucket.
    buckets: Count = 4  # Parts of equal size, from easy to hard, one after the other.
    direction: Literal["easy_first", "hard_first", "shuffled"] = "easy_first"  # Order of the data.
    pacing: Literal["contiguous", "cumulative"] = "contiguous"  # One bucket, or all up to it.
    replay: ShareBelow1 = 0.0  # Share of examples drawn from earlier buckets.
    schedule: Literal["step", "linear", "cosine", "adaptive", "fixed"] = "step"  # Of teachers.
    mixing: Literal["probability", "logit"] = "probability"  # Where two teachers are averaged.
    weights: tuple[float, ...] = ()  # Of the teachers, for schedule "fixed"; they sum to 1.
    check_every: Count = 10  # Steps between the measurements of schedule "adaptive".
    patience: Count = 3  # Measurements without progress before the next teacher takes over.
    min_progress: ShareBelow1 = 0.02  # What counts as progress, as a share of the held-out loss.
    pass_rate: ShareAbove0 = 1.0  # The next teacher also takes over above this pass rate; 1 = not.
    handover: Count = 10  # Steps over which "adaptive" passes from one teacher to the next.
    monitor: Count = 32  # Records kept out of training for those measurements.
    skill_problems: Natural = 32  # Problems on which the order of teachers is checked; 0 = not.


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation before, during and after training: greedy, then sampled."""

    problems: Count = 256  # Held-out problems.
    samples: Count = 4  # Sampled completions per problem.
    max_new_tokens: Count = 256  # Longest completion, in tokens, end token included.
    max_prompt_tokens: Natural = 0  # Longest prompt, in tokens; 0 = rollout.max_prompt_tokens.
    every: Natural = 0  # Steps between evaluations; 0 = only before and after.
    temperature: Positive = 1.0  # Temperature of the sampled completions.
    batch_size: Count = 320  # Completions decoded at once, greedy and sampled together.


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk to resume from."""

    every: Natural = 50  # Steps between checkpoints; 0 = only at the end.
    keep: Count = 2  # Newest checkpoints kept.


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged."""

    data: AxisSize = -1  # Copies of the model, each with a share of the batch; -1 = what is left.
    fsdp: AxisSize = 1  # Devices that split a copy's parameters, and share its batch.
    tensor: AxisSize = 1  # Devices that split each layer: heads, MLP columns, vocabulary.


@dataclass(frozen=True)
class TeacherConfig:
    """Who writes rationales, for python -m cotjax.rationales."""

    kind: Literal["data", "model", "server"] = "data"  # The data, model.path, or teacher.url.
    url: str = ""  # Address of an OpenAI-compatible server, up to and with /v1.
    model: str = "default"  # The name that the server knows.
    key_variable: str = "TEACHER_API_KEY"  # Environment variable that holds the key, if any.
    questions: Count = 1000  # Training records that it is asked for.
    attempts: Count = 1  # Answers per question; the first right one is kept.
    temperature: NotNegative = 0.7  # Of the answers; a model's first one is greedy.
    max_new_tokens: Count = 512  # Longest answer, in tokens.
    cache: str = "runs/teacher_cache.jsonl"  # Where a server's answers are kept.
    timeout: Positive = 120.0  # Seconds until a request is given up.
    retries: Natural = 5  # Further requests after one that failed.
    backoff: Positive = 1.0  # Seconds before the first of them; doubles each time.
    per_minute: Natural = 0  # Requests started a minute; 0 = no limit.


# A stage's own settings inside a bridge, nested as in a file.
Table = Annotated[dict[str, Any], tyro.conf.Suppress]


@dataclass(frozen=True)
class BridgeConfig:
    """What each stage of a bridge sets otherwise than the bridge; written in a file."""

    reconstruct: Table = field(default_factory=dict)
    grpo: Table = field(default_factory=dict)
    rewrite: Table = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A run: its stage and every setting that a stage reads."""

    stage: StageName = "grpo"  # How to train.
    name: str = ""  # Run folder; empty = stage and time. Name it when several hosts share a run.
    seed: Natural = 0  # Fixes data order, sampling and random weights.
    steps: Count = 60  # Batches to train on.
    output: str = "runs"  # Folder of the run folders.
    resume: bool = False  # Continue the named run from its newest checkpoint.
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    mining: MiningConfig = field(default_factory=MiningConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


# What a stage sets otherwise than `Config`; a bridge's stages start from the same tables.
TABLES: dict[str, dict[str, Any]] = {
    "grpo": {"distill": {"on_policy_loss": "policy_gradient"}},
    "sft": {
        "steps": 1000,
        "model": {"init": "random"},
        "optimizer": {"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 50},
        "checkpoint": {"every": 500},
    },
    "reconstruct": {
        "steps": 150,
        "reconstruct": {"solve_share": 0.3},
        "sft": {"batch_size": 16, "sequence_length": 576},
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 10},
        "checkpoint": {"every": 50},
    },
    "rewrite": {
        "steps": 20,
        "rollout": {"max_prompt_tokens": 320},
        "sft": {"sequence_length": 256},
        "mining": {"questions": 1024, "max_new_tokens": 256},
        "optimizer": {"learning_rate": 3e-5},
        "checkpoint": {"every": 10},
    },
    "distill": {
        "steps": 200,
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 10},
    },
}
MASKED_GRPO = {
    "steps": 60,
    "distill": {"on_policy_loss": "policy_gradient"},
    "rollout": {"max_prompt_tokens": 320},
    "mask": {"rule": "share"},
    "levels": {"count": 3, "patience": 10},
    "checkpoint": {"every": 20},
}
BRIDGE_STAGES = ("reconstruct", "grpo", "rewrite")


def _defaults() -> dict[str, Config]:
    stages = {
        name: _merge(Config(stage=typing.cast(StageName, name)), table, "")
        for name, table in TABLES.items()
    }
    tables = {name: TABLES[name] for name in BRIDGE_STAGES} | {"grpo": MASKED_GRPO}
    bridge = Config(stage="bridge", eval=EvalConfig(max_prompt_tokens=80))
    return stages | {"bridge": dataclasses.replace(bridge, bridge=BridgeConfig(**tables))}


@dataclass(frozen=True)
class _CommandLine:
    """Train a student. Defaults below are those of the stage and file that you name."""

    run: Annotated[Config, tyro.conf.arg(name="")]
    config: str = ""  # TOML file to read before the flags.


@dataclass(frozen=True)
class _FirstFlags:
    config: str = ""
    stage: str = ""


def load(argv: Sequence[str] | None = None) -> Config:
    """Resolves the stage's defaults, a TOML file and the flags into one checked config.

    Args:
      argv: flags such as `["--stage=grpo", "--rollout.group-size", "8"]`, with - or _;
        None reads the process's own. `--config FILE` names the TOML file.

    Returns:
      The config, with a name: `<stage>-<time>` if none was given.

    Raises:
      InputError: the file cannot be read, has an unknown key or a wrong type, or a value is out
        of range.
      SystemExit: an unknown flag or a flag of the wrong type (tyro prints it), or `--help`.
    """
    first, _ = tyro.cli(_FirstFlags, args=argv, return_unknown_args=True, add_help=False)
    table = _read_toml(first.config) if first.config else {}
    stage = first.stage
    if stage not in DEFAULTS:  # not given, or a value that tyro is about to refuse
        stage = _typed("stage", table.get("stage", Config.stage), StageName, first.config)
    base = _merge(DEFAULTS[stage], table, first.config)
    config = tyro.cli(
        _CommandLine,
        args=argv,
        default=_CommandLine(run=base, config=first.config),
        prog="python -m cotjax.train",
    ).run
    validate(config)
    if config.name:
        return config
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return dataclasses.replace(config, name=f"{config.stage}-{time}")


def stage_config(config: Config, stage: str) -> Config:
    """A stage's config inside a bridge: the bridge's, with the stage's own table over it.

    Raises:
      InputError: the table has an unknown key or a wrong value; the key begins with `bridge.`.
    """
    prefix = f"bridge.{stage}"
    plain = dataclasses.replace(config, stage=stage, bridge=BridgeConfig())
    merged = _merge(plain, getattr(config.bridge, stage), prefix)
    try:
        validate(merged)
    except InputError as error:
        raise InputError(f"[{prefix}] {error}") from error
    return merged


def to_toml(config: Config) -> str:
    """Writes every setting as TOML; `load(["--config", file])` gives the same config back."""
    return tomli_w.dumps(dataclasses.asdict(config))


def validate(config: Config) -> None:
    """Checks every range, and the settings that must agree with each other.

    Raises:
      InputError: names the key, its value, what is needed and what to set.
    """
    for key, hint, value in _settings(config):
        limits = (
            limit
            for part in (hint, *typing.get_args(hint))
            for limit in getattr(part, "__metadata__", ())
        )
        for limit in limits:
            if isinstance(limit, Range) and value != "auto" and not limit.holds(value):
                raise InputError(f"{key} = {value}: {limit.why}. Set {limit.form.format(key)}.")
    for message in _disagreements(config):
        raise InputError(message)


def _disagreements(config: Config) -> Iterator[str]:
    data, prompts, micro = config.data, config.rollout.prompts, config.policy.micro_batch
    if Path(config.name).name != config.name or config.name == "..":
        yield (
            f'name = "{config.name}": a run is one folder inside output = "{config.output}". '
            "Set name to a folder's name and output to where it lies."
        )
    if config.resume and not config.name:
        yield 'resume = true, name = "": which run? Set name to the folder of the run to continue.'
    if data.max_steps < data.min_steps:
        yield (
            f"data.max_steps = {data.max_steps}: below data.min_steps = {data.min_steps}. "
            f"Set data.max_steps >= {data.min_steps}."
        )
    yield from _source_disagreements(data)
    yield from _teaching(config)
    mesh = dataclasses.asdict(config.mesh)
    if len(open_axes := [axis for axis, size in mesh.items() if size == -1]) > 1:
        yield (
            f"mesh.{' = mesh.'.join(open_axes)} = -1: only one axis can take the devices that are "
            f"left. Set mesh.{open_axes[0]} >= 1."
        )
    group, share = config.rollout.group_size, config.rollout.share
    if share and group % share:
        yield (
            f"rollout.share = {share}: does not divide rollout.group_size = {group}. "
            f"Set rollout.share to a divisor of {group}, or to 0."
        )
    if config.policy.dual_clip != "auto" and 0 < config.policy.dual_clip <= 1:
        yield (
            f"policy.dual_clip = {config.policy.dual_clip}: a bound at or below 1 would stop all "
            "learning from bad tokens. Set policy.dual_clip > 1, or 0 to switch it off."
        )
    if micro and prompts % micro:
        yield (
            f"policy.micro_batch = {micro}: does not divide rollout.prompts = {prompts}. "
            f"Set policy.micro_batch to a divisor of {prompts}, or to 0."
        )


def _source_disagreements(data: DataConfig) -> Iterator[str]:
    if data.mixture:
        if data.path:
            yield (
                f'data.path = "{data.path}": data.mixture names its own paths. Leave data.path or '
                "data.mixture empty."
            )
        return
    if data.source == "problems" and (data.path or data.eval_path):
        yield (
            f'data.path = "{data.path}", data.eval_path = "{data.eval_path}": data.source = '
            '"problems" reads no file. Set data.source = "jsonl", or leave both empty.'
        )
    if data.source != "problems" and not data.path:
        names = {"tfds": "the folder of its version", "reasoning_gym": "a data set's name"}
        name = names.get(data.source, f"a .{data.source} file")
        yield f'data.path = "": data.source = "{data.source}" needs it. Set data.path to {name}.'


def _teaching(config: Config) -> Iterator[str]:
    """What is wrong with the teachers, if any teach."""
    if config.distill.coefficient:
        yield from _coaching(config)
    if config.stage == "distill" or config.distill.coefficient:
        yield from _weighing(config)
    if config.stage == "distill":
        yield from _distilling(config)


def _weighing(config: Config) -> Iterator[str]:
    curriculum, number = config.curriculum, len(config.distill.teachers)
    weights = curriculum.weights
    if (curriculum.schedule == "fixed") != bool(weights) or (weights and len(weights) != number):
        yield (
            f"curriculum.weights has {len(weights)} numbers for {number} teachers and schedule = "
            f'"{curriculum.schedule}": "fixed" needs one weight per teacher, the others need none.'
        )
    if weights and not (abs(sum(weights) - 1) <= 1e-6 and min(weights) >= 0):
        yield (
            f"curriculum.weights = {list(weights)}: they sum to {sum(weights):g}. "
            "Set weights >= 0 that sum to 1."
        )


def _coaching(config: Config) -> Iterator[str]:
    """What is wrong with teachers beside a policy loss."""
    distill, rollout = config.distill, config.rollout
    shown = f"distill.coefficient = {distill.coefficient}"
    if config.stage != "grpo":
        yield (
            f'{shown}: stage = "{config.stage}" adds no teachers to a policy loss. Set '
            'stage = "grpo", or distill.coefficient under [bridge.grpo.distill], or to 0.'
        )
    if distill.store:
        yield (
            f'{shown}, distill.store = "{distill.store}": a store holds what teachers say about '
            "the data's texts, and the student writes others. Set distill.store empty."
        )
    if config.curriculum.schedule == "adaptive":
        yield (
            f'{shown}, curriculum.schedule = "adaptive": it follows a held-out loss that only '
            '--stage=distill measures. Set curriculum.schedule to "step", "linear", "cosine" or '
            '"fixed".'
        )
    constant = distill.temperature_schedule == "constant"
    tempered = distill.temperature, distill.temperature_schedule
    if distill.on_policy_loss == "policy_gradient" and not (
        constant and distill.temperature == rollout.temperature
    ):
        yield (
            f'distill.temperature = {tempered[0]}, distill.temperature_schedule = "{tempered[1]}": '
            "the gap to the teachers is an advantage only at the temperature of the samples. Set "
            f"distill.temperature = {rollout.temperature} (rollout.temperature) and "
            'distill.temperature_schedule = "constant", or distill.on_policy_loss = "divergence".'
        )


def _distilling(config: Config) -> Iterator[str]:
    distill, curriculum = config.distill, config.curriculum
    if config.data.mixture:
        yield (
            f"data.mixture = {config.data.mixture}: a curriculum puts the records of one source in "
            "order. Set data.source and data.path, and leave data.mixture empty."
        )
    if distill.store and distill.temperature_schedule != "constant":
        yield (
            f'distill.temperature_schedule = "{distill.temperature_schedule}": a store has one '
            'temperature. Set distill.temperature_schedule = "constant", or distill.store empty.'
        )
    if distill.store and curriculum.rescore:
        yield (
            "curriculum.rescore = true: which teacher is asked about which example would only be "
            "known while training. Set curriculum.rescore = false, or distill.store empty."
        )
    if curriculum.examples and curriculum.buckets > curriculum.examples:
        yield (
            f"curriculum.buckets = {curriculum.buckets}: more stages than examples "
            f"(curriculum.examples = {curriculum.examples}). Set fewer buckets or more examples."
        )
    if distill.target == "text" and (distill.store or distill.on_policy):
        yield (
            f'distill.target = "text", distill.store = "{distill.store}", distill.on_policy = '
            f"{distill.on_policy}: texts of teachers are learned as they stand. Set distill.store "
            'empty and distill.on_policy = 0, or distill.target = "distribution".'
        )
    files = [name for name in distill.teachers if name.endswith(".jsonl")]
    if files and distill.target != "text":
        yield (
            f'distill.teachers: "{files[0]}" holds texts, which have no distribution. Set '
            'distill.target = "text", or name the model that wrote it.'
        )
    if distill.store and distill.on_policy:
        yield (
            f'distill.store = "{distill.store}": a store holds what teachers say about the data\'s '
            "texts, and the student writes others. Empty distill.store, or distill.on_policy = 0."
        )
    if distill.store and distill.divergence != "forward_kl":
        yield (
            f'distill.divergence = "{distill.divergence}": a store of top logits gives the forward '
            'KL. Set distill.divergence = "forward_kl", or distill.store empty.'
        )


def _settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every section and setting as (dotted key, type, value)."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        yield prefix + name, hint, value
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{prefix}{name}.")


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--config {path}: {error.strerror}. Name a TOML file that can be read."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}. Fix it there.") from error


def _merge(base: Any, table: dict[str, Any], path: str, prefix: str = "") -> Any:
    """Puts a TOML table's values over a dataclass's, section by section."""
    hints = typing.get_type_hints(type(base))
    changes = {}
    for name, value in table.items():
        key = prefix + name
        if name not in hints:
            raise InputError(f'{path}: unknown key "{key}". Did you mean "{_nearest(key)}"?')
        if hints[name] is _TABLE:
            changes[name] = _deep(getattr(base, name), value)
        elif not dataclasses.is_dataclass(hints[name]):
            changes[name] = _typed(key, value, hints[name], path)
        elif isinstance(value, dict):
            changes[name] = _merge(getattr(base, name), value, path, f"{key}.")
        else:
            raise InputError(f"{path}: {key} = {json.dumps(value)}: needs a section [{key}].")
    return dataclasses.replace(base, **changes)


_TABLE = typing.get_type_hints(BridgeConfig)["grpo"]  # the type without its annotation


def _deep(base: dict[str, Any], over: Any) -> dict[str, Any]:
    """One nested table over another."""
    if not isinstance(over, dict):
        raise InputError(f"[bridge]: {json.dumps(over, default=str)}: needs a section per stage.")
    both = {
        key: _deep(base[key], value) if isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {**base, **both}


_NEEDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _typed(key: str, value: Any, hint: Any, path: str) -> Any:
    """Returns `value` if it is what the key needs; a whole number may stand for a float."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{path}: {key} = {json.dumps(value, default=str)}: needs a list.")
        return tuple(_typed(key, one, typing.get_args(hint)[0], path) for one in value)
    choices: list[Any] = []
    types: list[type] = []
    for part in typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,):
        choices += typing.get_args(part)
        types += [part] if part in _NEEDS else []
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    if type(value) in types:
        return value
    if float in types and type(value) is int:
        return float(value)
    needs = [_NEEDS[kind] for kind in types]
    needs += ["one of " * (len(choices) > 1) + ", ".join(map(json.dumps, choices))] * bool(choices)
    shown = json.dumps(value, default=str)
    raise InputError(
        f"{path}: {key} = {shown} ({type(value).__name__}): needs {' or '.join(needs)}."
    )


def _nearest(key: str) -> str:
    """The known key most like an unknown one: alike as a whole, and in its last part."""

    def likeness(known: str) -> float:
        pairs = (known, key), (known.rpartition(".")[2], key.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max((known for known, _, _ in _settings(Config())), key=likeness)


DEFAULTS = _defaults()

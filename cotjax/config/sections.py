"""Every setting of a run: frozen dataclasses, a section each.

The comment behind a field is its `--help` text; its type carries its range.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro


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


def every_setting(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every section and setting as (dotted key, type, value)."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        yield prefix + name, hint, value
        if dataclasses.is_dataclass(value):
            yield from every_setting(value, f"{prefix}{name}.")

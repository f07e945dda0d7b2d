"""The sections of a run's settings that say what is trained on which data: frozen dataclasses.

The comment behind a field is its `--help` text; its type carries its range.
"""

from dataclasses import dataclass, field
from typing import Literal

from cotjax.config.ranges import (
    AtMost1,
    Auto,
    AxisSize,
    Count,
    Dtype,
    Equations,
    EvalVerifierName,
    GroupSize,
    LayoutName,
    LengthReward,
    Natural,
    NotNegative,
    Objective,
    Positive,
    Preset,
    RewardName,
    Rounds,
    RowLength,
    Share,
    ShareAbove0,
    ShareBelow1,
    ShareInside,
    SourceName,
    Table,
    TermName,
    TextTable,
    VerifierName,
)  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """Where questions, rationales and answers come from."""

    source: SourceName = "problems"  # Built-in problems, a file, TFDS, hub, reasoning-gym, or own.
    path: str = ""  # Training records: a file, a folder, or the name of a hub or gym data set.
    mixture: str = ""  # Sources by weight, "problems=1, jsonl:a.jsonl=3"; replaces source and path.
    layout: LayoutName = "auto"  # Keys of a row; auto = found by their names.
    columns: TextTable = field(default_factory=dict)  # A file's: { question = "prompt" }.
    split: str = "train"  # Which split of a data set of TFDS or the hub.
    eval_split: str = ""  # The split that is held out; empty = the last records of data.split.
    config: str = ""  # Which config of a data set of the hub, "main"; empty = its only one.
    size: Count = 1000  # How many problems reasoning-gym makes.
    keep_calculator: bool = False  # Leave GSM8K's <<48/2=24>> marks in the steps.
    filter_teacher: bool = True  # Refuse rationales that end in another answer than the gold one.
    eval_path: str = ""  # Held-out records; empty = the last eval.problems records of data.path.
    min_steps: Count = 2  # Easiest built-in problem, in reasoning steps.
    max_steps: Count = 6  # Hardest built-in problem, in reasoning steps.
    style: Literal["house", "concise", "deliberate"] = "house"  # Built-in rationales; house mixes.
    concise_share: Share = 0.3  # Share of concise rationales in the house style.
    new_share: Share = 0.0  # Share of built-in steps told in words that the student never read.
    on_bad_record: Literal["error", "skip"] = "error"  # What to do with an unusable record.
    on_duplicate: Literal["note", "drop", "error"] = "note"  # Of a question that is held out too.
    prompt: Literal["auto", "plain", "chat"] = "auto"  # Layout; auto = the chat template if any.
    chat_kwargs: Table = field(default_factory=dict)  # Variables of the chat template.
    prompt_widths: Count = 1  # Lengths that prompts are padded to; more compile more, pad less.
    workers: Natural = 0  # Processes that prepare batches; 0 = a thread of this process.
    templates: str = "english"  # Wording: "english", "bridge" (as released), or a TOML file.
    start: Natural = 0  # Training records before this one are left to other stages.
    stop: Natural = 0  # So are those from this one on; 0 = the end.


@dataclass(frozen=True)
class DeliberateConfig:
    """How often the built-in deliberate teacher digresses; the defaults are R1's manner."""

    wrong_try: Share = 0.4  # Before a step, up to two times: a wrong equation, taken back.
    what_if: Share = 0.35  # Behind a step, where it comes out: with another number.
    check: Share = 0.5  # Behind a step: by the inverse operation.
    recap: Share = 0.25  # Before a step: what there is so far.
    restate: Share = 0.15  # Before a step: what the question is.
    final: Share = 0.5  # Behind the last step: all equations again.


@dataclass(frozen=True)
class ModelConfig:
    """The student and its number formats."""

    path: str = "tiny"  # "tiny", a Hugging Face folder or Hub id, a .gguf file, a run folder.
    init: Literal["pretrained", "random"] = "pretrained"  # The path's weights, or only its shape.
    adapter: str = ""  # Folder of a PEFT adapter (LoRA) to merge into the path's weights.
    param_dtype: Dtype = "float32"  # Format of weights and optimizer state.
    compute_dtype: Dtype = "float32"  # Format of activations; bfloat16 suits TPUs and GPUs.
    accumulate_dtype: Dtype = "float32"  # Format in which matrix products are summed.
    remat: Literal["none", "dots", "full", "auto"] = "none"  # Computed again; auto = what must be.
    attention: Literal["auto", "dense", "flash", "cudnn"] = "auto"  # auto = a kernel, if it fits.


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
    max_concurrent: Natural = 0  # Completions decoded at once, others wait for a slot; 0 = all.
    completions_per_slot: Natural = 0  # Of one prompt, sharing a slot's cache; 0 = all of them.
    draft_tokens: Natural = 0  # Guessed ahead from prompt and text, a pass decodes all; 0 = none.
    cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"  # Of keys and values.
    weights_dtype: Literal["auto", "int8"] = "auto"  # Of layers' matrices while training samples.
    off_policy_steps: AtMost1 = 0  # 1 = sample the next step while this one learns.
    on_nonfinite: Literal["stop", "count"] = "stop"  # A NaN in logits: a bad step, or a lost row.
    max_sampler_gap: NotNegative | Auto = "auto"  # Most nats from sampler to trainer; 0 = any.


@dataclass(frozen=True)
class RewardConfig:
    """What a completion earns: correctness gates format, format gates brevity."""

    function: RewardName = "bridge"  # BRIDGE's reward of the stage, or your own function.
    workers: Natural = 1  # Processes that call your own function; 0 = the training process does.
    timeout: Positive = 30.0  # Seconds that such a call may take in a worker.
    memory: Positive = 4.0  # GiB that a worker may take beside what it needs to start; Linux.
    max_failed: Share = 0.1  # Share of a step's completions without a reward that ends the run.
    verifier: VerifierName = "numeric"  # Reads answers and compares them; or your own.
    tolerance: Positive | Auto = "auto"  # Numbers nearer are equal; auto = 0.01, at most 1 %.
    length_per_step: Positive = 35.0  # Length allowed per reference step, in reward.unit.
    unit: Literal["words", "tokens"] = "tokens"  # What a completion's length counts.
    monotone: bool = True  # No upward jump in the length penalty (BRIDGE as released has one).
    length: LengthReward = "bridge"  # GRPO's: none, BRIDGE's, L1's, Kimi's or ThinkPrune's.
    target_min: Count = 32  # Least tokens that a prompt asks for, drawn per question.
    target_max: Count = 192  # Most tokens that a prompt asks for.
    target_form: Literal["exact", "max"] = "max"  # As L1-Exact, or L1-Max: shorter is better.
    target_weight: Positive = 0.0003  # Reward per token away from the target.
    target_eval: Natural = 0  # Tokens that evaluations ask for; 0 = half-way from min to max.
    relative_weight: ShareAbove0 = 1.0  # Of the length against the group's right answers.
    limit_start: Natural = 0  # First token limit of a right answer; 0 = rollout.max_new_tokens.
    limit_end: Count = 64  # Last token limit.
    limit_steps: Natural = 0  # Steps over which the limit falls; 0 = the run's.
    limit_schedule: Literal["rounds", "linear", "cosine"] = "rounds"  # How it falls.
    limit_rounds: Rounds = 3  # Different limits, one after the other, if it falls in rounds.


@dataclass(frozen=True)
class PolicyConfig:
    """The policy-gradient loss and its conventions."""

    objective: Objective | Auto = "auto"  # Loss, by the name of its paper; auto = the preset's.
    term: TermName = "auto"  # Loss of a token; auto = the objective's.
    term_settings: Table = field(default_factory=dict)  # Keywords of your own term.
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
    sampler_correction: NotNegative = 0.0  # Cap of the weight for the sampler's numbers; 0 = off.
    inner_updates: Count = 1  # Optimizer updates per batch of completions.
    micro_batch: Natural = 2  # Prompts per device and pass, like lengths together; 0 = all.
    refill: Natural = 0  # Extra rollouts a step to replace groups of equal rewards; 0 = keep those.
    overlong: Literal["keep", "mask"] = "keep"  # mask = cut-off completions add no loss.
    overlong_buffer: Natural = 0  # Tokens before the limit over which reward falls by 1; 0 = off.


@dataclass(frozen=True)
class MaskConfig:
    """What a prompt hides of the teacher's steps."""

    rule: Literal["question", "bridge", "share"] = "question"  # GRPO: hide all, half, or a share.
    share_start: Share = 0.5  # Masked share of the steps in the first bucket ("share").
    share_end: Share = 1.0  # In the last; where all are masked, the question stands alone.
    token: str = "[MASK]"  # What stands for what is hidden.
    mode: Literal["scattered", "contiguous"] = "scattered"  # Which steps are masked.
    granularity: Literal["step", "equation", "number"] = "step"  # What of a masked step is hidden.
    keep_first: bool = False  # Never mask the first step.
    keep_last: bool = False  # Never mask the last step.


@dataclass(frozen=True)
class BatchConfig:
    """Supervised batches: rationales packed into rows of equal length."""

    size: Count = 16  # Packed rows per step.
    sequence_length: RowLength = 512  # Length of a packed row, in tokens.


@dataclass(frozen=True)
class SupervisedConfig:
    """What keeps supervised updates near the start of the run, and what ends them."""

    kl_coefficient: NotNegative = 0.0  # Weight of the KL to the start, on target tokens; 0 = off.
    patience: Natural = 0  # Evaluations without a lower solve_loss that end the run; 0 = off.


@dataclass(frozen=True)
class ReconstructConfig:
    """Supervised prompts of shuffled, masked steps; the defaults are BRIDGE's."""

    mask_probability: Share = 0.7  # Chance that a prompt's steps are masked.
    mask_count: Count = 1  # Steps masked then; all of them if there are fewer.
    shuffle_probability: Share = 1.0  # Chance that the steps are shuffled.
    masked_weight: Positive = 1.0  # Weight of a masked step's tokens; others count 1.
    solve_share: Share = 0.0  # Share of prompts that are the question alone.


@dataclass(frozen=True)
class RewriteConfig:
    """Which own short solutions `rewrite` and `rft` accept and train on."""

    internalize: bool = True  # Replay accepted rewrites, batch.size after each step, as targets.
    equations: Equations = "check"  # check = all true; require = and some; match = the teacher's.
    updates: Count = 1  # Of a step on accepted completions, each on batch.size of them.
    min_right: Count = 1  # Completions of a question that must be right to accept one of them.


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
class TrainingConfig:
    """What a run does about steps whose numbers are NaN or infinite: each of them is skipped."""

    max_bad_steps: Count = 3  # Such steps in a row that end the run, saved and with a bundle.


@dataclass(frozen=True)
class EvalConfig:
    """The evaluation before, during and after training: greedy, then sampled."""

    problems: Count = 256  # Held-out problems.
    start: Natural = 0  # Held-out problems before this one are left out, for other evaluations.
    samples: Natural = 4  # Sampled completions per problem; 0 = greedy alone.
    max_new_tokens: Count = 256  # Longest completion, in tokens, end token included.
    max_prompt_tokens: Natural = 0  # Longest prompt, in tokens; 0 = rollout.max_prompt_tokens.
    verifier: EvalVerifierName = "auto"  # Of what is reported; auto = reward.verifier.
    every: Natural = 0  # Steps between evaluations; 0 = only before and after.
    at: tuple[ShareInside, ...] = ()  # Shares of budget.tokens, or without of steps, such as 0.5.
    temperature: Positive = 1.0  # Temperature of the sampled completions.
    batch_size: Count = 320  # Most completions decoded at once, greedy and sampled together.


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may use beside its steps, so that runs can be compared."""

    tokens: Natural = 0  # Tokens trained on, sampled and mined that end the run; 0 = no limit.


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk to resume from."""

    every: Natural = 50  # Steps between checkpoints; 0 = only at the end.
    keep: Count = 2  # Newest checkpoints kept.
    grace: Positive = 30.0  # Seconds in which SIGTERM or SIGINT lets a step end and be saved.


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged."""

    replica: Natural = 0  # Slices that a slow network joins, each a copy; 0 = those of the TPU.
    data: AxisSize = -1  # Copies of the model, each with a share of the batch; -1 = what is left.
    fsdp: AxisSize = 1  # Devices that split a copy's parameters, and share its batch.
    tensor: AxisSize = 1  # Devices that split each layer: heads, MLP columns, vocabulary.
    rollout: str = ""  # Axes for sampling, "tensor=4" or "data=2,tensor=4"; "" = as above.
    rollout_devices: Natural = 0  # Devices that only sample, taken from the last; 0 = all do both.

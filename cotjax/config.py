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
StageName = Literal["sft", "grpo"]
Dtype = Literal["float32", "bfloat16"]
Objective = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "bridge_release"]
Preset = Literal["cotjax", "trl", "verl", "tunix", "bridge"]


@dataclass(frozen=True)
class DataConfig:
    """Where questions, rationales and answers come from."""

    source: Literal["problems", "jsonl"] = "problems"  # Built-in word problems, or a file.
    path: str = ""  # Training records, one JSON object a line (source "jsonl").
    eval_path: str = ""  # Held-out records; empty = the last eval.problems records of data.path.
    min_steps: Count = 2  # Easiest built-in problem, in reasoning steps.
    max_steps: Count = 6  # Hardest built-in problem, in reasoning steps.
    concise_share: Share = 0.3  # Share of supervised targets in the concise style.
    on_bad_record: Literal["error", "skip"] = "error"  # What to do with an unusable record.
    prompt: Literal["auto", "plain", "chat"] = "auto"  # Layout; auto = the chat template if any.


@dataclass(frozen=True)
class ModelConfig:
    """The student and its number formats."""

    path: str = "tiny"  # "tiny" (built in), "smollm2-135m", a Hugging Face folder or a .gguf file.
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
class EvalConfig:
    """The evaluation before, during and after training: greedy, then sampled."""

    problems: Count = 256  # Held-out problems.
    samples: Count = 4  # Sampled completions per problem.
    max_new_tokens: Count = 256  # Longest completion, in tokens, end token included.
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
    sft: SftConfig = field(default_factory=SftConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


DEFAULTS: dict[str, Config] = {
    "grpo": Config(stage="grpo"),
    "sft": Config(
        stage="sft",
        steps=1000,
        model=ModelConfig(init="random"),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        checkpoint=CheckpointConfig(every=500),
    ),
}


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
    if data.source == "jsonl" and not data.path:
        yield 'data.path = "": data.source = "jsonl" reads a file. Set data.path to a .jsonl file.'
    if data.source == "problems" and (data.path or data.eval_path):
        yield (
            f'data.path = "{data.path}", data.eval_path = "{data.eval_path}": data.source = '
            '"problems" reads no file. Set data.source = "jsonl", or leave both empty.'
        )
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
        if not dataclasses.is_dataclass(hints[name]):
            changes[name] = _typed(key, value, hints[name], path)
        elif isinstance(value, dict):
            changes[name] = _merge(getattr(base, name), value, path, f"{key}.")
        else:
            raise InputError(f"{path}: {key} = {json.dumps(value)}: needs a section [{key}].")
    return dataclasses.replace(base, **changes)


_NEEDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _typed(key: str, value: Any, hint: Any, path: str) -> Any:
    """Returns `value` if it is what the key needs; a whole number may stand for a float."""
    if typing.get_origin(hint) is tuple:
        return _strings(key, value, path)
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


def _strings(key: str, value: Any, path: str) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    shown = json.dumps(value, default=str)
    raise InputError(f'{path}: {key} = {shown}: needs a list of strings, as ["one", "two"].')


def _nearest(key: str) -> str:
    """The known key most like an unknown one: alike as a whole, and in its last part."""

    def likeness(known: str) -> float:
        pairs = (known, key), (known.rpartition(".")[2], key.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max((known for known, _, _ in _settings(Config())), key=likeness)

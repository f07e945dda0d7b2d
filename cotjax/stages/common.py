"""What every stage wires in the same way: the student, its problems, its judged completions."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, OptimizerConfig, RolloutConfig
from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.cot import (
    Rationale,
    answers_equal,
    completion_reward,
    gold_answer,
    parse_rationale,
    render_rationale,
)
from cotjax.data.curriculum import Subset
from cotjax.data.encode import encode_prompts
from cotjax.data.layouts import Reader
from cotjax.data.opening import HELD_OUT_SEED, open_split
from cotjax.data.prompts import Prompts, make_prompts
from cotjax.data.sources import Mixture
from cotjax.errors import InputError
from cotjax.interfaces import End, PromptBatch, Record, Rollout, Source
from cotjax.models.lora import attach, join_adapter
from cotjax.models.policy import Policy
from cotjax.parallel import processes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices
from cotjax.rollout.engine import generate
from cotjax.rollout.plan import Sampling
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.stages.opening import open_lora, open_model
from cotjax.training.evaluation import Completion, summarize

LOGITS_AT_ONCE = 2**24  # numbers per device, 64 MiB in float32
CPU_LOGITS_AT_ONCE = 2**22  # less to walk through memory for, but
CPU_TOKENS_AT_ONCE = 128  # at least so many tokens meet an unembedding that is read for them


@dataclasses.dataclass(frozen=True)
class Student:
    """The model that a stage trains, in functional form.

    Attributes:
      policy: how to call it.
      params: what is trained, at the start of the run and on the mesh: all its parameters, or an
        adapter's.
      base: the parameters beside an adapter, which stay as they are; empty without one.
      tokenizer: text to ids and back.
      eos_id: ends a completion.
      pad_id: fills rows.
      prompts: question to prompt text, per task.
      notes: what a reader of the run should know.
      stop_table: automaton of `rollout.stop`, as `generate` takes it; None without stop strings.
    """

    policy: Policy
    params: Any
    base: Any
    tokenizer: Any
    eos_id: int
    pad_id: int
    prompts: Prompts
    notes: tuple[str, ...]
    stop_table: Any = None

    @property
    def reference(self) -> Any:
        """The parameters of the model that the run began with: the same weights, no adapter."""
        return self.base or self.params


def open_student(config: Config, mesh: Mesh) -> Student:
    """Loads the student that the config names.

    Raises:
      InputError: see `open_model`.
    """
    model = config.model
    loaded = open_model(
        model,
        seed=config.seed,
        place=lambda shapes: parallel.param_shardings(mesh, shapes),
        accumulate_dtype=jnp.dtype(model.accumulate_dtype),
        remat=model.remat,
    )
    shape = loaded.model.shape
    parallel.check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    policy, params = Policy.split(loaded.model)
    flash = {"auto": None, "dense": False, "flash": True}[model.attention]
    cache = config.rollout.cache_dtype
    policy = dataclasses.replace(
        policy,
        placement=parallel.placement(mesh, flash=flash),
        cache_dtype=None if cache == "auto" else jnp.dtype(cache),
    )
    policy, params, base = attach_adapter(config, mesh, policy, params)
    return Student(
        policy,
        params,
        base,
        loaded.tokenizer,
        loaded.eos_id,
        loaded.pad_id,
        make_prompts(loaded.tokenizer, config.data.prompt, config.data.templates),
        loaded.notes,
        open_stops(loaded.tokenizer, shape.vocab_size, config.rollout.stop),
    )


def open_stops(
    tokenizer: Any, vocab_size: int, stops: Sequence[str], *, key: str = "rollout.stop"
) -> Any:
    """The automaton of stop strings, or None if there are none.

    Raises:
      InputError: see `rollout.stops.stop_table`.
    """
    return stop_table(token_bytes(tokenizer, vocab_size), stops, key=key) if stops else None


def attach_adapter(
    config: Config, mesh: Mesh, policy: Policy, params: Any
) -> tuple[Policy, Any, Any]:
    """(policy, what is trained, what stays): an adapter beside the parameters, if one is asked for.

    Raises:
      InputError: see `models.lora`.
    """
    if not config.lora.rank:
        return policy, params, {}
    lora = open_lora(config)
    policy, adapter = attach(policy, params, lora, jax.random.key(config.seed))
    return policy, parallel.shard_params(mesh, adapter), params


def tokens_at_once(policy: Policy, vocab_size: int) -> int:
    """How many tokens' logits a loss in chunks may hold, on all devices together."""
    if policy.on_cpu:
        each = max(CPU_LOGITS_AT_ONCE // vocab_size, CPU_TOKENS_AT_ONCE)
        return each * policy.batch_devices
    return max(LOGITS_AT_ONCE * policy.batch_devices // vocab_size, 1)


def head_logprobs(
    policy: Policy, params: Any, hidden: Array, tokens: Array, mask: Array, temperature: float = 1.0
) -> tuple[Array, Array]:
    """Log-probabilities and entropies of tokens from hidden states, a block of logits at a time."""
    head = policy.head(params, whole=True)
    return chunked_token_logprobs(
        hidden,
        head.matrix,
        tokens,
        chunk_size=tokens_at_once(policy, head.size),
        temperature=temperature,
        softcap=head.softcap,
        mask=mask,
    )


def open_records(config: Config, student: Student) -> tuple[Source | Mixture, list[Record]]:
    """Training records and held-out records, whose prompts fit; never one in both.

    Raises:
      InputError: a file that cannot be read, a prompt that is too long, or too few records to
        hold any out.
    """
    reader = Reader(
        gold_answer,
        parse_rationale,
        answers_equal,
        layout=config.data.layout,
        keep_calculator=config.data.keep_calculator,
        filter_teacher=config.data.filter_teacher,
    )
    train, held_out = open_split(
        config, reader, lambda records, path: check_prompts(student, records, config, path)
    )
    return own_part(config, train), held_out


def own_part(config: Config, train: Source | Mixture) -> Source | Mixture:
    """The records from data.start to data.stop; the others are for other stages."""
    start, stop = config.data.start, config.data.stop
    if not (start or stop):
        return train
    train = in_order(train, f"data.start = {start}, data.stop = {stop}", "both to 0")
    indices = np.arange(len(train))[start : stop or None]
    if not len(indices):
        raise InputError(
            f"data.start = {start}, data.stop = {stop}: none of {len(train)} training records. "
            f"Set data.start < {len(train)} and data.stop above it, or 0."
        )
    part = Subset(train, indices)
    return [part[i] for i in range(len(part))] if isinstance(train, list) else part


def in_order(train: Source | Mixture, setting: str, instead: str) -> Source:
    """The records of a source that has an order.

    Raises:
      InputError: a mixture, for which a setting has no meaning; says what to set instead.
    """
    if isinstance(train, Mixture):
        raise InputError(
            f"{setting}: the parts of data.mixture have no order among each other. Set {instead}."
        )
    return train


def solution(record: Record) -> str:
    """A record's own solution, as the student should write it."""
    return render_rationale(Rationale(steps=record.steps, answer=record.answer))


# A record to the text of its prompt.
PromptText = Callable[[Student, Record], str]


def solve_prompt(student: Student, record: Record) -> str:
    """The question alone, as every evaluation asks it."""
    return student.prompts.solve(record.question)


def check_prompts(
    student: Student,
    records: Sequence[Record],
    config: Config,
    path: str,
    text: PromptText = solve_prompt,
) -> list[Record]:
    """Records whose prompt fits; done once, before a run begins, for records of a file.

    Raises:
      InputError: a prompt is too long and `data.on_bad_record` is "error", or none fits.
    """
    limit, fits = config.rollout.max_prompt_tokens, []
    for record in records:
        size = len(student.tokenizer.encode(text(student, record), add_special_tokens=False))
        if size <= limit:
            fits.append(record)
        elif config.data.on_bad_record == "error":
            raise InputError(
                f"{record.id}: the prompt has {size} tokens, the limit is {limit}. Set "
                f'rollout.max_prompt_tokens >= {size} or data.on_bad_record = "skip".'
            )
    if not fits:
        raise InputError(
            f"rollout.max_prompt_tokens = {limit}: no prompt of {path} fits. Raise it."
        )
    return fits


def make_optimizer(config: OptimizerConfig, num_updates: int) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm; linear warm-up, then the schedule."""
    peak, warmup = config.learning_rate, config.warmup_steps
    decay = max(num_updates - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, decay),
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay),
    }[config.schedule]()
    rate = after
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
    )


def prompt_batch(
    student: Student,
    ids: Sequence[int],
    records: Sequence[Record],
    texts: Sequence[str],
    max_length: int,
) -> PromptBatch:
    """The prompt texts of records as a left-padded batch; `ids` decide the random numbers."""
    names = [record.id for record in records]
    return encode_prompts(student.tokenizer, texts, ids, max_length=max_length, names=names)


# (config, record, completion, its tokens without the end) to a reward and its named parts.
RewardFn = Callable[[Config, Record, str, int], tuple[float, dict[str, float]]]


def solve_reward(
    config: Config, record: Record, text: str, tokens: int
) -> tuple[float, dict[str, float]]:
    """The reward of a completion, and of every evaluation."""
    reward = config.reward
    return completion_reward(
        text,
        gold=record.answer,
        teacher_steps=record.difficulty,
        words_per_step=reward.length_per_step,
        monotone=reward.monotone,
        unit=reward.unit,
        length=tokens if reward.unit == "tokens" else None,
    )


def judge(
    student: Student,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: RewardFn = solve_reward,
) -> list[list[Completion]]:
    """Decodes and rewards a rollout (arrays on the host); B lists of G."""
    lengths = rollout.mask.sum(axis=-1)
    shown = lengths - (np.asarray(rollout.end) == End.EOS)  # without the end token
    flat = [
        row[:size]
        for rows, sizes in zip(rollout.tokens, shown, strict=True)
        for row, size in zip(rows, sizes, strict=True)
    ]
    texts = iter(student.tokenizer.batch_decode(flat, skip_special_tokens=False))
    judged = []
    for record, *rows in zip(records, lengths, shown, rollout.end, strict=True):
        group = []
        for size, own, end in zip(*rows, strict=True):
            text = next(texts)
            earned, parts = reward(config, record, text, int(own))
            group.append(Completion(text, int(size), End(end), earned, parts))
        judged.append(group)
    return judged


def judge_own(
    mesh: Mesh,
    student: Student,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: RewardFn = solve_reward,
) -> list[list[Completion]]:
    """`judge`, for which each process takes the rows that it owns and tells the others."""
    if jax.process_count() == 1:
        return judge(student, config, records, rollout, reward)
    owner = processes.owners(mesh, len(records))
    own = np.flatnonzero(owner == jax.process_index()).tolist()
    judged = judge(
        student,
        config,
        [records[row] for row in own],
        jax.tree.map(lambda leaf: leaf[own], rollout),
        reward,
    )
    told = processes.gather([[dataclasses.asdict(one) for one in group] for group in judged])
    groups: list[list[Completion]] = [[] for _ in records]
    for process, theirs in enumerate(told):
        rows = np.flatnonzero(owner == process).tolist()
        for row, group in zip(rows, theirs, strict=True):
            groups[row] = [Completion(**one | {"end": End(one["end"])}) for one in group]
    return groups


def completion_row(record: Record, completion: Completion) -> dict[str, Any]:
    """A line of completions.jsonl."""
    return {
        "id": record.id,
        "question": record.question,
        "gold": record.answer,
        "completion": completion.text,
        "reward": completion.reward,
        "parts": completion.parts,
        "tokens": completion.tokens,
        "end": End(completion.end).name.lower(),
    }


def evaluate(
    student: Student, config: Config, mesh: Mesh, params: Any, records: Sequence[Record]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Greedy and sampled accuracy on held-out records.

    Returns:
      the numbers of `summarize`, and one completions.jsonl row per greedy completion.
    """
    settings, size = evaluation_sampling(student, config), config.eval.batch_size
    judged = list(
        complete(student, config, mesh, params, records, settings=settings, completions=size)
    )
    greedy, sampled = [one[0] for one in judged], [one[1:] for one in judged]
    rows = [completion_row(record, one) for record, one in zip(records, greedy, strict=True)]
    return summarize(greedy, sampled), rows


def evaluation_sampling(student: Student, config: Config) -> Sampling:
    """How an evaluation samples: one greedy completion and `eval.samples` others."""
    return Sampling(
        group_size=1 + config.eval.samples,
        max_new_tokens=config.eval.max_new_tokens,
        eos_id=student.eos_id,
        pad_id=student.pad_id,
        temperature=config.eval.temperature,
        greedy_first=True,
    )


def rollout_sampling(
    config: RolloutConfig, *, eos_id: int, pad_id: int, in_groups: bool = True
) -> Sampling:
    """How a run samples while it trains.

    Args:
      config: of the rollouts.
      eos_id: ends a completion.
      pad_id: what stands after it.
      in_groups: groups of completions, by the engine's rows and share; or one for each prompt.
    """
    return Sampling(
        group_size=config.group_size if in_groups else 1,
        max_new_tokens=config.max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        rows=config.rows if in_groups else 0,
        share=config.share if in_groups else 0,
    )


def rollout_params(student: Student, config: Config, mesh: Mesh, params: Any) -> Any:
    """The parameters with which a student samples, its adapter joined; see `for_rollout`."""
    whole = join_adapter(params, student.base)
    return parallel.for_rollout(mesh, whole, config.model.compute_dtype)


def prompts_at_once(completions: int, group_size: int, mesh: Mesh) -> int:
    """Prompts that `complete` gives the sampler in one call."""
    size, parts = max(completions // group_size, 1), batch_devices(mesh)
    return -(-size // parts) * parts


def prompt_width(config: Config) -> int:
    """Tokens that the prompts of an evaluation are padded to."""
    return config.eval.max_prompt_tokens or config.rollout.max_prompt_tokens


def complete(
    student: Student,
    config: Config,
    mesh: Mesh,
    params: Any,
    records: Sequence[Record],
    *,
    settings: Sampling,
    completions: int,
    key: Array | None = None,
    first: int = 0,
) -> Iterator[list[Completion]]:
    """Judged completions of records; `settings.group_size` for each, batch by batch.

    Args:
      student: who writes.
      config: of the run.
      mesh: of the run.
      params: what is trained of the student.
      records: the problems, each asked by its question alone.
      settings: how to sample.
      completions: how many are decoded at once; a multiple of the group, or the next below it.
      key: of the random numbers; None: that of all evaluations of all runs, so that differences
        are the model's.
      first: number of the first record; with the key it decides the random numbers.
    """
    width, size = prompt_width(config), prompts_at_once(completions, settings.group_size, mesh)
    key = jax.random.key(HELD_OUT_SEED) if key is None else key
    params = rollout_params(student, config, mesh, params)
    for start in range(0, len(records), size):
        chunk = list(records[start : start + size])
        full = chunk + [chunk[-1]] * (size - len(chunk))  # one shape, one compilation
        texts = [solve_prompt(student, record) for record in full]
        ids = range(first + start, first + start + size)
        batch = parallel.shard(mesh, prompt_batch(student, ids, full, texts, width))
        rollout = generate(
            student.policy, params, batch, key, settings=settings, stop_table=student.stop_table
        )
        judged = judge_own(mesh, student, config, full, processes.fetch(rollout))
        yield from judged[: len(chunk)]

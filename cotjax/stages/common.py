"""What every stage wires in the same way: the student, its problems, its judged completions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, OptimizerConfig
from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.cot import (
    Rationale,
    answers_equal,
    gold_answer,
    parse_rationale,
    render_rationale,
)
from cotjax.data.curriculum import Subset
from cotjax.data.encode import encode_prompts
from cotjax.data.layouts import Reader
from cotjax.data.opening import open_split
from cotjax.data.prompts import Prompts, make_prompts
from cotjax.data.sources import Mixture
from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch, Record, Source
from cotjax.models.lora import attach
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.stages.opening import open_lora, open_model

LOGITS_AT_ONCE = 2**24  # numbers per device, 64 MiB in float32
CPU_LOGITS_AT_ONCE = 2**21  # less to walk through memory for, but
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

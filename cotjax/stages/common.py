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
from cotjax.cot import completion_reward, gold_answer
from cotjax.data.encode import encode_prompts
from cotjax.data.jsonl import read_records
from cotjax.data.problems import ProblemSource
from cotjax.data.prompts import make_prompt
from cotjax.errors import InputError
from cotjax.interfaces import End, PromptBatch, Record, Rollout, Source
from cotjax.models.load import load_student
from cotjax.models.lora import Lora, attach, join_adapter
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices
from cotjax.rollout.engine import Sampling, generate
from cotjax.rollout.stops import stop_table, token_bytes
from cotjax.training.evaluation import Completion, summarize

HELD_OUT_SEED = 0  # the built-in test problems are the same for every run
LOGITS_AT_ONCE = 2**24  # numbers per device, 64 MiB in float32


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
      prompt: question to prompt text.
      notes: what a reader of the run should know.
      stop_table: automaton of `rollout.stop`, as `generate` takes it; None without stop strings.
    """

    policy: Policy
    params: Any
    base: Any
    tokenizer: Any
    eos_id: int
    pad_id: int
    prompt: Callable[[str], str]
    notes: tuple[str, ...]
    stop_table: Any = None

    @property
    def reference(self) -> Any:
        """The parameters of the model that the run began with: the same weights, no adapter."""
        return self.base or self.params


def open_student(config: Config, mesh: Mesh) -> Student:
    """Loads the student that the config names.

    Raises:
      InputError: see `load_student`.
    """
    model = config.model
    loaded = load_student(
        model.path,
        init=model.init,
        param_dtype=jnp.dtype(model.param_dtype),
        compute_dtype=jnp.dtype(model.compute_dtype),
        seed=config.seed,
        place=lambda shapes: parallel.param_shardings(mesh, shapes),
        accumulate_dtype=jnp.dtype(model.accumulate_dtype),
        remat=model.remat,
    )
    shape = loaded.model.shape
    parallel.check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    policy, params = Policy.split(loaded.model)
    flash = {"auto": None, "dense": False, "flash": True}[model.attention]
    policy = dataclasses.replace(policy, placement=parallel.placement(mesh, flash=flash))
    policy, params, base = attach_adapter(config, mesh, policy, params)
    return Student(
        policy,
        params,
        base,
        loaded.tokenizer,
        loaded.eos_id,
        loaded.pad_id,
        make_prompt(loaded.tokenizer, config.data.prompt),
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


def open_lora(config: Config) -> Lora:
    """The adapter's settings; `lora.rank` is not 0."""
    settings = config.lora
    return Lora(settings.rank, settings.alpha, settings.dropout, (settings.targets,))


def head_logprobs(
    policy: Policy, params: Any, hidden: Array, tokens: Array, mask: Array, temperature: float = 1.0
) -> tuple[Array, Array]:
    """Log-probabilities and entropies of tokens from hidden states, a block of logits at a time."""
    unembed = policy.unembed(params, whole=True)
    return chunked_token_logprobs(
        hidden,
        unembed,
        tokens,
        chunk_size=max(LOGITS_AT_ONCE * policy.batch_devices // unembed.shape[0], 1),
        temperature=temperature,
        mask=mask,
    )


def open_records(config: Config, student: Student) -> tuple[Source, list[Record]]:
    """Training records and held-out records, whose prompts fit; never one in both.

    Raises:
      InputError: a file that cannot be read, a prompt that is too long, or too few records to
        hold any out.
    """
    data, held_out = config.data, config.eval.problems
    if data.source == "problems":
        shape = (data.min_steps, data.max_steps)
        test = ProblemSource("test", HELD_OUT_SEED, *shape)
        train = ProblemSource("train", config.seed, *shape, concise_share=data.concise_share)
        return train, [test[i] for i in range(held_out)]
    records = read_records(data.path, gold_answer, on_bad_record=data.on_bad_record)
    records = check_prompts(student, records, config)
    if data.eval_path:
        others = read_records(
            data.eval_path, gold_answer, key="data.eval_path", on_bad_record=data.on_bad_record
        )
        return records, check_prompts(student, others[:held_out], config)
    if len(records) <= held_out:
        raise InputError(
            f'data.path = "{data.path}": {len(records)} records, and the last eval.problems = '
            f"{held_out} are held out. Set eval.problems < {len(records)} or data.eval_path."
        )
    return records[:-held_out], records[-held_out:]


def check_prompts(student: Student, records: Sequence[Record], config: Config) -> list[Record]:
    """Records whose prompt fits; done once, before a run begins, for records of a file.

    Raises:
      InputError: a prompt is too long and `data.on_bad_record` is "error", or none fits.
    """
    limit, fits = config.rollout.max_prompt_tokens, []
    for record in records:
        size = len(
            student.tokenizer.encode(student.prompt(record.question), add_special_tokens=False)
        )
        if size <= limit:
            fits.append(record)
        elif config.data.on_bad_record == "error":
            raise InputError(
                f"{record.id}: the prompt has {size} tokens, the limit is {limit}. Set "
                f'rollout.max_prompt_tokens >= {size} or data.on_bad_record = "skip".'
            )
    if not fits:
        raise InputError(
            f"rollout.max_prompt_tokens = {limit}: no prompt of {config.data.path} fits. Raise it."
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
    student: Student, ids: Sequence[int], records: Sequence[Record], max_length: int
) -> PromptBatch:
    """Records as a left-padded batch; `ids` decide the random numbers."""
    texts = [student.prompt(record.question) for record in records]
    names = [record.id for record in records]
    return encode_prompts(student.tokenizer, texts, ids, max_length=max_length, names=names)


def judge(
    student: Student, config: Config, records: Sequence[Record], rollout: Rollout
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
            reward, parts = completion_reward(
                text,
                gold=record.answer,
                teacher_steps=record.difficulty,
                words_per_step=config.reward.length_per_step,
                monotone=config.reward.monotone,
                unit=config.reward.unit,
                length=int(own) if config.reward.unit == "tokens" else None,
            )
            group.append(Completion(text, int(size), End(end), reward, parts))
        judged.append(group)
    return judged


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
    # All evaluations of all runs draw with the same key, so differences are the model's.
    key = jax.random.key(HELD_OUT_SEED)
    group = 1 + config.eval.samples
    settings = Sampling(
        group_size=group,
        max_new_tokens=config.eval.max_new_tokens,
        eos_id=student.eos_id,
        pad_id=student.pad_id,
        temperature=config.eval.temperature,
        greedy_first=True,
    )
    size = max(config.eval.batch_size // group, 1)
    size = -(-size // batch_devices(mesh)) * batch_devices(mesh)
    params = parallel.for_rollout(mesh, join_adapter(params, student.base))
    judged: list[list[Completion]] = []
    for start in range(0, len(records), size):
        chunk = list(records[start : start + size])
        full = chunk + [chunk[-1]] * (size - len(chunk))  # one shape, one compilation
        batch = prompt_batch(
            student, range(start, start + size), full, config.rollout.max_prompt_tokens
        )
        rollout = generate(
            student.policy,
            params,
            parallel.shard(mesh, batch),
            key,
            settings=settings,
            stop_table=student.stop_table,
        )
        judged += judge(student, config, full, jax.tree.map(np.asarray, rollout))[: len(chunk)]
    greedy, sampled = [one[0] for one in judged], [one[1:] for one in judged]
    rows = [completion_row(record, one) for record, one in zip(records, greedy, strict=True)]
    return summarize(greedy, sampled), rows
